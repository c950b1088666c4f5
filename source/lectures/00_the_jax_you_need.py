# %% [markdown]
# # 00 · The JAX you need
#
# **The question.** A page of a paper has gradients, Hessians, expectations and a loop. How do you write it down so that
# the computer takes the derivatives for you, runs the formula over all examples at once, and runs it fast?
#
# JAX answers with a handful of functions that take a function and return another one. By the end you will have met
# those that this course uses, each on a formula of unit 01, and five traps that nearly everybody falls into once.
#
# **You will be able to**
#
# - get gradients, and products with a Jacobian or a Hessian, without writing a derivative;
# - run a function of one example over a batch, and a loop of steps as one compiled program;
# - draw random numbers that you can repeat, and that are not the same by accident;
# - say why an `if`, a `print`, or an assignment to an entry of an array does not do what you meant.
#
# **You need** Python with NumPy, and derivatives of functions of several variables. **Time:** twenty minutes if you
# read fast, forty with the code; the three self-checks at the end take twenty more. Nothing here is graded. If you know
# JAX, run the next cell and go on to [unit 01](01_likelihood_score_fisher.ipynb).
#
# ## 0 · Does your installation work?
#
# Run the cell below (Shift-Enter); you need not read it. Each line of its report starts with `ok`, or with `STOP` and
# then says what to do. Mend the first `STOP` first: others may come from it. No particular device is asked for: the
# report says what JAX found, and anything will do.

# %%
import sys

SETUP = (
    "run `make setup` in the course's folder, then `make lab`; elsewhere "
    "choose the kernel of its .venv; on Binder restart the server"
)


def report(what, probe, remedy=SETUP):
    """A line with what the probe found, or with what to do."""
    try:
        print(f"ok    {what}: {probe()}")
    except Exception as error:
        print(f"STOP  {what}: {type(error).__name__}: {error}. Do: {remedy}")


def python():
    version = sys.version.split()[0]
    assert sys.version_info >= (3, 11), f"{version} at {sys.executable}"
    return version


def jax_version():
    import jax

    assert jax.__version_info__ >= (0, 10), f"{jax.__version__} is too old"
    return jax.__version__


def devices():
    import jax

    found = jax.devices()
    return f"{len(found)} × {found[0].platform} ({found[0].device_kind})"


def float64():
    import jax

    jax.config.update("jax_enable_x64", True)
    one = jax.numpy.ones(())
    assert one + 1e-12 > 1, f"1 + 1e-12 is 1: numbers are {one.dtype}"
    return "on"


def course():
    from course_lib.checks.unit_00 import EXERCISES

    return f"found, with {len(EXERCISES)} checks for this page"


def figures():
    from course_lib import plots

    plots.use_style()
    fig, ax = plots.plt.subplots(figsize=(3, 1.8))
    ax.plot([0, 1])
    ax.set(title="Figures work", xlabel="x", ylabel="y")
    plots.show(fig, "A line that rises: where you see it, figures work.")
    return "you should see one that says so"


report("Python", python, f"install Python 3.11 or newer, then {SETUP}")
report("JAX", jax_version)
report("devices", devices, f"set JAX_PLATFORMS=cpu and restart, or {SETUP}")
report("64-bit numbers", float64, "restart the kernel, begin with this cell")
report("the course's library", course)
report("figures", figures)

# %% [markdown]
# All `ok`? Then the lectures run here. If you mended something, restart the kernel (menu *Kernel*) and run the
# cell again. `make setup` keeps a log in `.venv/setup.log`.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from course_lib import plots
from course_lib.checks import check

jax.config.update("jax_enable_x64", True)
plots.use_style()
COLORS = plots.OKABE_ITO

# %% [markdown]
# ## 1 · Arrays
#
# `jax.numpy`, here `jnp`, has NumPy's functions under NumPy's names. Our first formula: a classifier gives $k$ numbers
# $z$, one a class, called *logits*. The probabilities that it thereby claims, and the loss for the true class $y$, the
# *negative log-likelihood*, are
#
# $$p_i=\frac{e^{z_i}}{\sum_j e^{z_j}},\qquad \mathrm{nll}(z,y)=-\log p_y=\log\sum_j e^{z_j}-z_y. \tag{0.1}$$
#
# Unit 01 says where this comes from. Here it is something to compute. (`logsumexp` is the first term, written so that a
# large $z$ does not overflow.)


# %%
def nll(z, y):
    return jax.nn.logsumexp(z) - z[y]


z = jnp.array([0.5, -1.0, 2.0])
p = jax.nn.softmax(z)
assert jnp.allclose(p, jnp.exp(z) / jnp.exp(z).sum())
assert jnp.allclose(nll(z, 1), -jnp.log(p[1]))

# %% [markdown]
# **Trap 1: arrays do not change.** Compiled code may reorder operations or drop them, which is safe only if no array
# changes on the way. So instead of changing an entry you make a new array. And an index that is out of range is *no
# error*: it is taken for the last one. Labels from 1 to $k$ where 0 to $k-1$ are meant give wrong losses without a
# word.

# %% tags=["nbval-check-output"]
try:
    z[0] = 9.0
except TypeError:
    print("TypeError: z[0] = 9.0 is refused")
moved = z.at[0].set(9.0)
print("z is still", z, "and the new array is", moved)
assert z[0] == 0.5
assert nll(z, 7) == nll(z, 2)  # three classes; there is no class 7

# %% [markdown]
# **Trap 2: numbers have 7 digits unless you ask for 16.** JAX starts with 32-bit floats; the line about `x64` above
# asks for 64 bits. Set it first: arrays that exist already keep their type. (`with jax.enable_x64(False):` is the same
# switch for a block.) Training does well with 32. Checking a formula does not: here is the derivative of (0.1) in $z_0$
# by a difference quotient with $h=10^{-5}$, which should be $p_0$, with both kinds of numbers. A rounding error of
# $10^{-7}$ divided by $h$ leaves $10^{-2}$.


# %%
def error_of_quotient(h):
    z = jnp.array([0.5, -1.0, 2.0])
    step = jnp.array([h, 0.0, 0.0])
    quotient = (nll(z + step, 1) - nll(z - step, 1)) / (2 * h)
    return abs(quotient - jax.nn.softmax(z)[0])


with jax.enable_x64(False):
    narrow = error_of_quotient(1e-5)
wide = error_of_quotient(1e-5)
print(f"32 bits: off by {narrow:.0e}; 64 bits: off by {wide:.0e}")
assert wide < 1e-9
assert narrow > 1e-5

# %% [markdown]
# ## 2 · `grad`: the gradient of a function, a function
#
# `jax.grad(f)` takes a function that returns *one number* and returns a function of the same arguments, whose value is
# the gradient in the first of them (`argnums=1` for the second). It is not a difference quotient: JAX applies the chain
# rule to every operation of `f`. By hand, differentiate (0.1): the logarithm gives $e^{z_i}/\sum_j e^{z_j}=p_i$, and
# $-z_y$ gives $-1$ in place $y$. With $e_y$ for the vector that has a 1 in place $y$ and zeros elsewhere,
#
# $$\nabla_z\,\mathrm{nll}(z,y)=p-e_y. \tag{0.2}$$

# %%
e_y = jnp.array([0.0, 1.0, 0.0])
assert jnp.allclose(jax.grad(nll)(z, 1), p - e_y, atol=1e-12)
value, gradient = jax.value_and_grad(nll)(z, 1)  # both, at the price of one
assert value == nll(z, 1)
assert jnp.allclose(gradient, p - e_y, atol=1e-12)

# %% [markdown]
# The model that goes with it: inputs $x$ of $d$ numbers, a $k\times d$ matrix $W$ and $z=Wx$. By the chain rule
# $\partial\,\mathrm{nll}/\partial W_{ij}=(p-e_y)_i\,x_j$. The *score* of an example, the gradient of its
# log-likelihood, is minus that:
#
# $$s(x,y)=(e_y-p)\,x^\top . \tag{0.3}$$


# %%
def log_prob(W, x, y):
    return -nll(W @ x, y)


W = jnp.array([[0.2, -0.5], [1.0, 0.3], [-0.4, 0.8]])
a = jnp.array([1.5, -2.0])
score = jax.grad(log_prob)(W, a, 1)
assert jnp.allclose(score, jnp.outer(e_y - jax.nn.softmax(W @ a), a))

# %% [markdown]
# ## 3 · `jvp` and `vjp`: products with a Jacobian
#
# Where a function returns a vector, its derivative is a matrix, the Jacobian $J$, here of $W\mapsto z$, with 3 rows
# and 6 columns. For a network it is too large to write down. The two products with it are not:
#
# - `jax.jvp(f, (w,), (v,))` gives $f(w)$ and $Jv$: how the output moves when $w$ moves along $v$, which has the shape
#   of $w$. (The tuples hold one entry for each argument of $f$; here there is one.)
# - `jax.vjp(f, w)` gives $f(w)$ and a function that takes $u$ to $u^\top J$: again a tuple with one entry for each
#   argument, each in that argument's shape, hence the `[0]` below. `grad` is this one with $u=1$.
#
# Each costs about as much as a few runs of `f`. **One of each makes a product with the Fisher matrix** $F=J^\top F_RJ$,
# $F_R=\mathrm{diag}(p)-pp^\top$. What it is for, unit 01 says: $F$ is the covariance of the score and $F_R$ that of
# $e_y$, when $y$ is drawn from $p$. For now it is a matrix to multiply with, from right to left:
# $v\to Jv\to F_RJv\to J^\top F_RJv$, and $F_Ru$ has the entries $p_iu_i-p_i\,p^\top u$. The six entries of $v$ stand in
# the shape of $W$; only the check lays them out as a vector.


# %%
def fisher_vector_product(W, x, v):
    z, Jv = jax.jvp(lambda W: W @ x, (W,), (v,))
    p = jax.nn.softmax(z)
    _, transposed = jax.vjp(lambda W: W @ x, W)
    return transposed(p * Jv - p * (p @ Jv))[0]


v = jnp.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
J = jnp.kron(jnp.eye(3), a)  # z_i = Σ_j W_ij x_j: row i has x in block i
p = jax.nn.softmax(W @ a)
F = J.T @ (jnp.diag(p) - jnp.outer(p, p)) @ J
by_matrix = (F @ v.ravel()).reshape(W.shape)
assert jnp.allclose(fisher_vector_product(W, a, v), by_matrix)

# %% [markdown]
# **A product with the Hessian** is the derivative of the gradient along $v$: `jvp` of `grad`. With $P$ parameters,
# nothing of size $P\times P$ is formed. Here the gradient of the loss is $(p-e_y)x^\top$. In it only $p$ moves with
# $W$. By the quotient rule $\partial p_i/\partial z_j$ is $p_i-p_i^2$ for $i=j$ and $-p_ip_j$ elsewhere: that is $F_R$.
# So $Hv=(F_R\,Jv)\,x^\top$. This is $Fv$, because $J^\top u=u\,x^\top$ for $z=Wx$: in this model the two matrices
# agree. (In general they do not: unit 03.)


# %%
def hessian_vector_product(f, w, v):
    return jax.jvp(jax.grad(f), (w,), (v,))[1]


def loss_at_a(W):
    return -log_prob(W, a, 1)


Hv = hessian_vector_product(loss_at_a, W, v)
assert jnp.allclose(Hv, by_matrix)
H = jax.hessian(loss_at_a)(W).reshape(6, 6)  # small: it may be formed
assert jnp.allclose(H, F)

# %% [markdown]
# ## 4 · `vmap`: one example, then all of them
#
# You write a function of one example. `jax.vmap(f, in_axes)` runs it over a batch: for every argument, `0` says "take
# its entries along axis 0 one by one", `None` says "the same for all", also for a whole dictionary. Without `in_axes`
# it is `0` for each. The result has one more axis, in front. So the scores of a batch, one row an example, are:

# %%
x = jnp.array([[1.5, -2.0], [0.3, 0.4], [-1.0, 1.0], [2.0, 0.1]])
y = jnp.array([1, 0, 2, 2])
scores = jax.vmap(jax.grad(log_prob), (None, 0, 0))(W, x, y)
assert scores.shape == (4, 3, 2)
for i in range(4):
    p_i = jax.nn.softmax(W @ x[i])
    assert jnp.allclose(scores[i], jnp.outer(jnp.eye(3)[y[i]] - p_i, x[i]))

# %% [markdown]
# `grad` of the mean loss would give minus the mean of these rows, and once averaged they cannot be had back. Two
# `vmap`s, one inside the other, give every class at every input: enough for an expectation by enumeration. Unit 01
# proves that the expected score is zero if $y$ comes from the model, $\sum_y p(y|x)\,s(x,y)=0$:

# %%
all_classes = jax.vmap(jax.grad(log_prob), (None, None, 0))
table = jax.vmap(all_classes, (None, 0, None))(W, x, jnp.arange(3))
assert table.shape == (4, 3, 3, 2)  # example, class, then like W
probabilities = jax.nn.softmax(x @ W.T)
expected = jnp.einsum("ny,nyij->nij", probabilities, table)
assert np.abs(expected).max() < 1e-12

# %% [markdown]
# ## 5 · Pytrees: parameters with names
#
# A network's parameters are a dictionary of arrays, or a list of dictionaries. JAX calls any such nest a *pytree*, and
# all its functions take and return them: the gradient of a dictionary is a dictionary with the same keys.
# `jax.tree.map(f, a, b)` applies `f` to the arrays at equal places.


# %%
def mean_loss(params, x, y):
    z = x @ params["W"].T + params["b"]
    return jnp.mean(jax.vmap(nll)(z, y))


params = {"W": W, "b": jnp.zeros(3)}
grads = jax.grad(mean_loss)(params, x, y)
residual = jax.nn.softmax(x @ W.T) - jnp.eye(3)[y]  # p - e_y, (n, k)
assert jnp.allclose(grads["W"], residual.T @ x / 4)
assert jnp.allclose(grads["b"], residual.mean(axis=0))
after = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
assert mean_loss(after, x, y) < mean_loss(params, x, y)

# %% [markdown]
# A matrix such as $F$ needs an order of the $P$ parameters. `ravel_pytree` gives one: all arrays as one vector, the
# keys sorted as text (capitals first), and a function that puts a vector back into the nest. What is written for a
# vector then serves any model.

# %% tags=["nbval-check-output"]
from jax.flatten_util import ravel_pytree

theta, unravel = ravel_pytree(params)
print(theta.size, "parameters; the last three are b:", theta[-3:])


def loss_of_vector(theta):
    return mean_loss(unravel(theta), x, y)


assert unravel(theta).keys() == params.keys()
by_vector = jax.grad(loss_of_vector)(theta)
assert jnp.allclose(by_vector, ravel_pytree(grads)[0])

# %% [markdown]
# ## 6 · `jit`: compiled
#
# `jax.jit(f)` runs `f` once with placeholders instead of numbers, *tracers*, that know a shape and a type and nothing
# else. What was done to them is compiled, and kept for every later call with the same shapes and types. (`@jax.jit`
# above a `def` does the same.) The compiled program computes the same function. Here the Kullback–Leibler divergence of
# unit 01 between the models with logits $z$ and $z'$, $\mathrm{KL}=\sum_i p_i(\log p_i-\log p'_i)$. (By hand, for two
# classes, $z=(0,0)$ and $z'=(1,0)$: $p_i=\frac12$, the logarithms of $p'$ are $1-L$ and $-L$ with $L=\log(1+e)$, so the
# divergence is $L-\frac12-\log2=\log\cosh\frac12$.)


# %% tags=["nbval-check-output"]
def kl(z, other):
    print("traced for shape", z.shape)
    log_p, log_q = jax.nn.log_softmax(z), jax.nn.log_softmax(other)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


compiled = jax.jit(kl)
first = compiled(z, z + jnp.array([0.1, 0.0, 0.0]))
second = compiled(z, z + jnp.array([0.0, 0.2, 0.0]))
third = compiled(jnp.zeros(2), jnp.array([1.0, 0.0]))
print(f"{first:.6f} {second:.6f} {third:.6f} nats")
assert jnp.allclose(third, jnp.log(jnp.cosh(0.5)))  # two classes, by hand

# %% [markdown]
# **Trap 3: `print` inside `jit`.** Three calls, and `print` ran twice: once for each *shape*, while JAX was tracing.
# The second call ran compiled code, where no `print` is left. Whatever Python does beside returning a value (printing,
# adding to a list, reading a clock) happens at the tracing alone. To see values, use `jax.debug.print`.
#
# **Trap 4: `if` on a traced value.** Python's `if` needs a yes or a no; a tracer has no value yet. Choose between
# *values* with `jnp.where`, which computes both. To run one of two *functions*, use `jax.lax.cond`. What counts is
# whether the value comes from an *argument* of the compiled function: those become tracers, also Python numbers. An
# `if` on a shape, on an outer variable, or on an argument that `jax.jit(f, static_argnames="n")` names is fine: those
# are known, and another value is compiled anew.


# %% tags=["nbval-check-output"]
@jax.jit
def hinge_by_if(t):
    return t if t > 0 else 0.0


@jax.jit
def hinge_by_where(t):
    return jnp.where(t > 0, t, 0.0)


try:
    hinge_by_if(1.5)
except jax.errors.TracerBoolConversionError as error:
    print(type(error).__name__)
print(hinge_by_where(1.5), hinge_by_where(-1.5))
assert hinge_by_where(1.5) == 1.5
assert hinge_by_where(-1.5) == 0

# %% [markdown]
# ## 7 · `scan`: a compiled loop
#
# A Python loop under `jit` is unrolled: a thousand steps are a thousand copies to compile.
# `jax.lax.scan(step, start, xs, length)` compiles one step and repeats it. `step(carry, x)` gets what the step before
# it carried on, and the next entry of `xs` (with `xs=None` there is none, and `length` says how often). It returns two
# things: the new *carry*, of the same shape and type, and an output. Scan returns the last carry and *all outputs,
# stacked*.
#
# Gradient descent, $\theta_{t+1}=\theta_t-\alpha\nabla h(\theta_t)$, on a linear regression with two weights and
# targets $t$: $h(\theta)=\frac1{2n}\|X\theta-t\|^2$. (The random keys are section 8's.)

# %%
data_key, noise_key = jax.random.split(jax.random.key(0))
mix = jnp.array([[1.0, 0.8], [0.0, 0.5]])
X = jax.random.normal(data_key, (40, 2)) @ mix
target = X @ jnp.array([1.0, -0.5]) + jax.random.normal(noise_key, (40,))


def h(theta):
    return 0.5 * jnp.mean((X @ theta - target) ** 2)


def descend(theta, learning_rate, num_steps):
    def step(theta, _):
        new = theta - learning_rate * jax.grad(h)(theta)
        return new, new  # carry, output

    return jax.lax.scan(step, theta, None, num_steps)[1]


start = jnp.array([-2.0, 2.0])
path = descend(start, 1.0, 30)
assert path.shape == (30, 2)

# %% [markdown]
# **Checked by hand.** The gradient is $\nabla h=H(\theta-\theta_*)$, with $H=\frac1nX^\top X$ and $\theta_*$ the
# minimum, where $H\theta_*=\frac1nX^\top t$. Subtract $\theta_*$ from both sides of the step: every step multiplies the
# error by the same matrix, so
#
# $$\theta_t-\theta_*=(I-\alpha H)^t\,(\theta_0-\theta_*). \tag{0.4}$$
#
# In the figure after it, the error along one eigenvector of $H$ changes its sign at every step, $1-\alpha\lambda<0$
# there: the path jumps across the valley. Along the other $1-\alpha\lambda$ is just below 1: it creeps.

# %%
H = X.T @ X / len(X)
best = jnp.linalg.solve(H, X.T @ target / len(X))
shrink = np.eye(2) - 1.0 * np.asarray(H)
by_power = [
    best + np.linalg.matrix_power(shrink, t) @ (start - best)
    for t in range(1, 31)
]
assert jnp.allclose(path, jnp.stack(by_power), atol=1e-10)
small, large = 1 - 1.0 * np.linalg.eigvalsh(H)
assert large < 0 < 0.8 < small < 1
assert jnp.linalg.norm(path[-1] - best) < 0.1

# %%
fig, ax = plots.plt.subplots()
axes = jnp.linspace(-2.4, 3, 60), jnp.linspace(-2.4, 2.6, 60)
grid = jnp.stack(jnp.meshgrid(*axes), axis=-1)
heights = jax.vmap(jax.vmap(h))(grid)
ax.contour(*axes, heights, 15, colors="0.75", linestyles="-", linewidths=1)
dots = jnp.concatenate([start[None], path])
ax.plot(dots[:, 0], dots[:, 1], color=COLORS["blue"], marker="o", markersize=4)
ax.plot(*best, color=COLORS["vermillion"], marker="X", markersize=10)
ax.annotate("start", start, xytext=(-6, -16), textcoords="offset points")
ax.annotate("minimum", best, xytext=(8, 8), textcoords="offset points")
ax.set(xlabel="first weight", ylabel="second weight")
ax.set_title("Thirty steps, one call of scan")
plots.show(
    fig,
    "Contour lines of the loss over two weights, inclined ellipses. Dots "
    "joined by a line start at the upper left, jump from side to side of the "
    "valley, less each time, and creep along it to a cross at the minimum.",
)

# %% [markdown]
# ## 8 · Random keys
#
# JAX's random functions have no hidden state. Each takes a *key* and is an ordinary function of it: the same key, the
# same numbers. `jax.random.split(key, m)` makes `m` new keys and uses `key` up; `jax.random.fold_in(key, t)` makes the
# `t`-th of as many as you like and does not, as long as each `t` is used once and nothing else is drawn from `key`.
#
# **Trap 5: a key used twice.** The second draw is the first again, and no error is seen. So: **use a key once**. Split
# first, draw from the parts. JAX can watch for you: with `debug_key_reuse` it raises an error, and this course's
# notebooks are tested so. (It watches the object: that `key(7)`, written twice, is twice the same key it does not see.)

# %% tags=["nbval-check-output"]
key = jax.random.key(7)
with jax.debug_key_reuse(False):
    same = [jax.random.normal(key) for _ in range(2)]
print(f"one key twice: {same[0]:.3f} {same[1]:.3f}")

watched = jax.random.key(7)
with jax.debug_key_reuse(True):
    jax.random.normal(watched)
    try:
        jax.random.normal(watched)
    except jax.errors.KeyReuseError as error:
        print("when watched:", type(error).__name__)

split = [jax.random.normal(k) for k in jax.random.split(jax.random.key(7))]
print(f"split first:   {split[0]:.3f} {split[1]:.3f}")
assert same[0] == same[1]
assert split[0] != split[1]

# %% [markdown]
# What it does to an estimate. The divergence of section 6 is an expectation over $y$ drawn from $p$, so a mean over
# draws of $\log p_y-\log p'_y=\mathrm{nll}(z',y)-\mathrm{nll}(z,y)$ estimates it, and the spread of the draws says how
# sure we are: the standard error is their standard deviation over $\sqrt M$. `jax.random.categorical` takes logits, not
# probabilities. With one key for all $M$ draws, every draw is the same, and the standard error claims certainty.


# %%
def log_ratio(key, z, other):
    y = jax.random.categorical(key, z)
    return nll(other, y) - nll(z, y)


z, other = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.0, 0.5, 1.0])
p, q = jax.nn.softmax(z), jax.nn.softmax(other)
exact = jnp.sum(p * jnp.log(p / q))

root = jax.random.key(3)
keys = jax.vmap(lambda t: jax.random.fold_in(root, t))(jnp.arange(4000))
draws = jax.vmap(log_ratio, (0, None, None))(keys, z, other)
error = draws.std() / len(draws) ** 0.5
print(f"exact {exact:.3f}, sampled {draws.mean():.3f} ± {error:.3f}")
assert abs(draws.mean() - exact) < 5 * error

# %%
with jax.debug_key_reuse(False):
    one_key = jnp.stack([log_ratio(root, z, other) for _ in range(20)])
print(f"one key: {one_key.mean():.3f} ± {one_key.std():.3f}, and wrong")
assert one_key.std() < 1e-12
assert abs(one_key.mean() - exact) > 5 * error

# %% [markdown]
# ## 9 · Three checks of yourself
#
# Replace `raise NotImplementedError` with your answer, run the cell, then run the check below it. The check calls your
# function on random inputs beside ours. If the values differ and the mistake is a known one, it says which. A solution
# is folded up under each.
#
# **One.** The norm of every example's gradient, over all parameters together: which examples pull hardest?


# %%
def gradient_norms(loss, params, x, y):
    """‖∇ loss(params, x_i, y_i)‖₂ for every example, not squared.

    loss: (params, one x, one y) -> one number. params: a pytree of arrays.
    x: (n, d). y: (n,), any numbers. Returns (n,).
    """
    raise NotImplementedError


# %%
check(gradient_norms, "00.gradient_norms")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 4 for the gradients, section 5 for "all parameters together". One norm over all arrays is the norm of one
# vector.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def gradient_norms(loss, params, x, y):
#     def norm(a, b):
#         vector, _ = ravel_pytree(jax.grad(loss)(params, a, b))
#         return jnp.linalg.norm(vector)
#
#     return jax.vmap(norm)(x, y)
# ```
# </details>
#
# **Two.** The curvature of $f$ along a direction $v$: the number $v^\top Hv$, with $H$ the Hessian of $f$ at $\theta$,
# not formed. ($v$ need not have length 1, and is not to be shortened. Use derivatives by JAX: a difference quotient has
# too few digits for the check, and none in 32 bits, which it tries too.)


# %%
def curvature_along(f, theta, v):
    """vᵀ H v, one number: H is the Hessian of f at theta.

    f: (P,) -> one number. theta, v: (P,).
    """
    raise NotImplementedError


# %%
check(curvature_along, "00.curvature_along")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 3 has $Hv$. Or look at the function of one number $t\mapsto f(\theta+tv)$: what is its second derivative at 0?
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def curvature_along(f, theta, v):
#     Hv = jax.jvp(jax.grad(f), (theta,), (v,))[1]
#     return v @ Hv
# ```
# </details>
#
# **Three.** The losses along a gradient descent, as one compiled loop: before the first step, after the first, and so
# on to the last.


# %%
def descent_losses(f, theta, learning_rate, num_steps):
    """f(θ_0), f(θ_1), ... of θ_{t+1} = θ_t - learning_rate ∇f(θ_t).

    f: (P,) -> one number. theta: (P,), is θ_0. Returns (num_steps + 1,).
    """
    raise NotImplementedError


# %%
check(descent_losses, "00.descent_losses")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Let `step` return the new point as the carry, and the loss at the *old* one as the output. How often must it then run?
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def descent_losses(f, theta, learning_rate, num_steps):
#     def step(theta, _):
#         value, gradient = jax.value_and_grad(f)(theta)
#         return theta - learning_rate * gradient, value
#
#     return jax.lax.scan(step, theta, None, num_steps + 1)[1]
# ```
#
# It runs one step more than was asked for and throws the last point away: the losses are then the right ones, with one
# place where `f` is called.
# </details>
#
# ## 10 · What you have now
#
# | on paper | in JAX | shown on |
# |---|---|---|
# | $\nabla f$ | `jax.grad(f)`, `jax.value_and_grad(f)` | (0.2), the score (0.3) |
# | $Jv$, $u^\top J$ | `jax.jvp`, `jax.vjp` | $Fv$ |
# | $Hv$ | `jvp` of `grad` | section 3 |
# | for every $i$, for every $y$ | `jax.vmap` | scores; $\mathbb E[s]=0$ |
# | $\theta$, a vector or a nest | pytrees, `ravel_pytree` | section 5 |
# | $t=1,2,\dots$ | `jax.lax.scan` | (0.4) |
# | $y\sim p$ | `jax.random`, one key a draw | KL by sampling |
# | fast | `jax.jit` | KL |
#
# **The traps:** arrays do not change, and a wrong index is no error; 32 bits unless asked; `print` runs while tracing;
# no `if` on a traced value; a key is used once.
#
# ### Further reading
#
# - *JAX documentation*, https://docs.jax.dev: "The Autodiff Cookbook", and "JAX – The Sharp Bits" for more traps.
# - A. Griewank, A. Walther, *Evaluating Derivatives*, SIAM 2008: why a gradient costs a few function calls.
#
# **Next:** [unit 01](01_likelihood_score_fisher.ipynb), where these formulas come from.
#
# *This notebook is built from* `source/lectures/00_the_jax_you_need.py`. *Change and run it as you like: what you
# change here stays yours, and the next build of the course overwrites it. To change the course, see* `CONTRIBUTING.md`.
