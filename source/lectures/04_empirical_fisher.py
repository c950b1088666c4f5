# %% [markdown]
# # 04 · The empirical Fisher fails
#
# **The question.** The natural gradient of unit 03 divides by the Fisher matrix $F$, whose $y$ come from the model. But
# you have labels already, and the gradient of every example at its label. Why not take those, average their outer
# products, and divide by that?
#
# The matrix you get is the *empirical Fisher* $\bar F$. Many programs compute it and call it "the Fisher". By the end
# you will know what it is, measure how far it is from $F$ in length and in direction, see an optimizer fail because of
# it, and know the cases in which it is the right matrix.
#
# **You will be able to**
#
# - tell apart matrices that are often confused, $F$, $\bar F$, the Hessian $H$ and the squared batch gradient, and
#   say over whose $y$ each one averages;
# - bound the ranks of $F$ and $\bar F$;
# - derive how $\bar F^{-\xi}\nabla h$ behaves near a minimum, and find its rate of convergence;
# - separate an error of *scale* from an error of *direction*, and repair the first or both;
# - say when $\bar F$ does no harm, and when sampling the labels does not help either.
#
# **You need** units 01 and 03 (score, Fisher, natural gradient, damping). **Time:** two and a half hours with all the
# code; what is marked ◇ may be skipped at first. The exercises take as long again.
#
# **Notation.** As in unit 01: $z=f(x;\theta)$, $p(y|x;\theta)=R(y|z)$, $s=\nabla_\theta\log p$ the score,
# $h(\theta)$ the mean negative log-likelihood, $g=\nabla h$. New: $\bar F$, and $S$ with $|S|=n$, the training set.
#
# **JAX and NumPy that unit 01 did not use:**
#
# | code | what it is |
# |---|---|
# | `jax.lax.scan` | a compiled loop: `scan(f, t, None, 9)` is nine times `t, _ = f(t, None)`; with `keys` for `None`, one a step |
# | `jax.nn.one_hot` | rows with a 1 in place $y$ |
# | `np.linalg.solve` | $A^{-1}g$ without the inverse |
# | `matrix_rank` | how many eigenvalues are not zero up to rounding |
# | `threadpool_limits` | one thread: with 172 unknowns, threads wait longer than they work |

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

from course_lib import data, plots
from course_lib.claims import verdict
from course_lib.curvature.matrices import (
    empirical_fisher,
    fisher,
    fisher_mc,
    gauss_newton,
    hessian,
)
from course_lib.likelihoods import Categorical, Normal
from course_lib.models import Model

jax.config.update("jax_enable_x64", True)
plots.use_style()
_ = threadpool_limits(1)

# %% [markdown]
# ## 1 · Four matrices
#
# The Fisher matrix was $F=\mathbb E_x\,\mathbb E_{y\sim p(\cdot|x;\theta)}[s\,s^\top]$ (equation 1.1). Replace the
# model's $y$ by the labels of the data, and leave the rest:
#
# $$\bar F(\theta)=\frac1{|S|}\sum_{(x,y)\in S}\nabla\log p(y|x;\theta)\,\nabla\log p(y|x;\theta)^\top. \tag{4.1}$$
#
# This is Martens (2020), §11. Nothing has to be sampled and nothing listed; the paper calls it "essentially free to
# compute, provided that one is already computing the gradient of $h$". (So it is if the gradient of every example is
# kept. A program that returns only their mean has thrown away what is needed.)
#
# Our model in this section is a small network for handwritten digits: the 8×8 pixels averaged in 2×2 blocks
# ($16$ inputs), six tanh units, ten classes. That makes $P=172$ parameters, few enough to form every matrix whole.

# %%
HIDDEN = 6
SIZES = np.array([16 * HIDDEN, HIDDEN, HIDDEN * 10, 10])
P = int(SIZES.sum())


def logits(theta, x):
    W, b, V, c = jnp.split(theta, np.cumsum(SIZES)[:-1])
    hidden = jnp.tanh(x @ W.reshape(16, HIDDEN) + b)
    return hidden @ V.reshape(HIDDEN, 10) + c


def start(key):
    """Standard deviation 1/4 = 1/√16 into the units, 1/√6 out of them."""
    scale = jnp.repeat(np.array([0.25, 0, HIDDEN**-0.5, 0]), SIZES)
    return scale * jax.random.normal(key, (P,))


net = Model(logits, Categorical())
loss_and_gradient = jax.jit(jax.value_and_grad(net.loss))

# %%
pixels, digit = data.digits().train
blocks = pixels.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
X = (blocks - blocks.mean(axis=0)) / blocks.std(axis=0)
print(f"{len(X)} digits, {X.shape[1]} inputs each, P = {P}")
assert (len(X), P) == (1077, 172)

# %% [markdown]
# Forty digits and one $\theta$ are enough to compare definitions. First (4.1): every row of `s` is a score, and
# `s.T @ s` adds up the outer products of its rows.

# %%
theta = start(jax.random.key(0))
x, y = X[:40], digit[:40]


def log_prob(theta, x, y):
    return -net.nll_one(theta, x, y)


scores = jax.jit(jax.vmap(jax.grad(log_prob), (None, 0, 0)))
s = scores(theta, x, y)  # (n, P)
F_bar = s.T @ s / len(x)
one_by_one = sum(np.outer(row, row) for row in np.asarray(s)) / len(x)
assert np.allclose(F_bar, one_by_one, atol=1e-13)
assert np.allclose(F_bar, empirical_fisher(net, theta, (x, y)), atol=1e-13)

# %% [markdown]
# The paper's definition has a line between: an expectation over $x$ of one over the labels that occur with that $x$. It
# says the same when one input comes with several labels. To see it: four inputs; the first has the labels 0, 0, 1, the
# second 3, the others 5 and 7.
#
# And the warning that follows there: "often incorrectly referred to as the Fisher, or even the Gauss-Newton". The
# relative difference of two matrices is $\|A-B\|/\|B\|$, with $\|A\|^2=\sum_{ij}A_{ij}^2$.


# %% tags=["claim:M-ef"]
def relative(A, B):
    return float(np.linalg.norm(A - B) / np.linalg.norm(B))


pairs_x = x[jnp.array([0, 0, 0, 1, 2, 3])]
pairs_y = jnp.array([0, 0, 1, 3, 5, 7])
r = np.asarray(scores(theta, pairs_x, pairs_y))
inner = (2 / 3 * np.outer(r[0], r[0]) + 1 / 3 * np.outer(r[2], r[2])) * 3 / 6
rest = sum(np.outer(a, a) for a in r[3:]) / 6  # one label: E[s sᵀ] is s sᵀ
gap = relative(inner + rest, r.T @ r / 6)
F = fisher(net, theta, (x, y))
G = gauss_newton(net, theta, (x, y))
to_F, to_G = relative(F_bar, F), relative(F_bar, G)
assert gap < 1e-14
assert min(to_F, to_G) > 0.5
assert np.linalg.eigvalsh(F_bar).min() > -1e-12  # PSD
verdict(
    "M-ef",
    "holds",
    f"its lines agree to {gap:.0e}, it is PSD; relative difference to F "
    f"{to_F:.2f}, to the Gauss-Newton {to_G:.2f}, at a random start",
)

# %% [markdown]
# ### The square of the batch gradient is yet another matrix
#
# A training loop has the gradient of the *mean* loss, $g=-\frac1n\sum_is_i$. Its outer product $gg^\top$ is not
# $\bar F$: the mean of squares is not the square of the mean. With $\bar s=\frac1n\sum_is_i=-g$,
#
# $$\bar F=\frac1n\sum_i(s_i-\bar s)(s_i-\bar s)^\top+g\,g^\top , \tag{4.2}$$
#
# because the mixed terms $\frac1n\sum_i s_i\bar s^\top$ and its transpose both equal $\bar s\bar s^\top$. So $gg^\top$
# leaves out the scatter of the gradients. It has rank one, and it is zero at a minimum, where the first term is not.
# What optimizers called "adaptive" average over time is the square of $g$ of a batch (unit 05).

# %%
g = loss_and_gradient(theta, (x, y))[1]
scatter = np.cov(s, rowvar=False, ddof=0)
assert np.allclose(s.mean(axis=0), -g, atol=1e-14)
assert np.allclose(F_bar, scatter + np.outer(g, g), atol=1e-13)
share = float(g @ g / np.trace(F_bar))
rank_gg = np.linalg.matrix_rank(np.outer(g, g), hermitian=True)
print(f"rank {rank_gg}; its trace is {share:.0%} of the trace of F̄")
assert rank_gg == 1
assert share < 0.3

# %% [markdown]
# ### $F$ and $H$ are one expectation under two distributions
#
# Write $H_L(x,y)$ for the Hessian in $\theta$ of the loss of one example, $L=-\log p(y|x;\theta)$. Unit 01 showed
# (1.3): $F=\mathbb E_x\mathbb E_{y\sim p(\cdot|x;\theta)}[H_L]$. The Hessian of a mean is the mean of the Hessians, so
# $H=\nabla^2h$ is the mean of $H_L$ over the data. Side by side:
#
# $$F=\frac1n\sum_i\sum_y p(y|x_i;\theta)\,H_L(x_i,y),\qquad H=\frac1n\sum_i\sum_y \hat q(y|x_i)\,H_L(x_i,y),
# \tag{4.3}$$
#
# where $\hat q(y|x_i)$ is 1 for the label that was observed and 0 for the others. The same matrices are averaged; only
# the weights differ. This is the sense in which $F$ approximates $H$ (Martens, §5). Is $\bar F$, whose $y$ are the
# data's, then the second of the two? No. (1.2) said $H_L=ss^\top-\nabla^2p/p$. Average it over the data:
#
# $$H=\bar F-\frac1n\sum_i\frac{\nabla^2p(y_i|x_i;\theta)}{p(y_i|x_i;\theta)} . \tag{4.4}$$
#
# Under the model's $y$ the last term averaged to zero. Under the data's $y$ nothing makes it vanish. So $\bar F$ takes
# one half of each: the *form* $ss^\top$ that equals a curvature only under the model, and the *labels* of the data.
#
# **Check by enumeration.** Twelve digits, ten classes, 120 Hessians.

# %%
few = x[:12], y[:12]
classes = jnp.arange(10)


def for_all(f):
    over_classes = jax.vmap(f, (None, None, 0))
    return jax.jit(jax.vmap(over_classes, (None, 0, None)))


H_L = for_all(jax.hessian(net.nll_one))(theta, few[0], classes)
p = jax.nn.softmax(logits(theta, few[0]))  # (12, 10)
q = jax.nn.one_hot(few[1], 10)


def weighted(weights, H_L):
    return np.einsum("nk,nkpq->pq", weights, H_L) / len(weights)


# %% tags=["claim:M-FH"]
gap_F = relative(weighted(p, H_L), fisher(net, theta, few))
H = hessian(net, theta, few)
gap_H = relative(weighted(q, H_L), H)
F_bar_few = empirical_fisher(net, theta, few)
not_H = relative(F_bar_few, H)
lowest = np.linalg.eigvalsh(H).min()
assert max(gap_F, gap_H) < 1e-13
assert not_H > 0.3
assert lowest < -0.01
verdict(
    "M-FH",
    "holds",
    f"model weights give F to {gap_F:.0e}, label weights give H to "
    f"{gap_H:.0e}; the empirical Fisher is {not_H:.0%} away from H",
)


# %% [markdown]
# Then (4.4), with the Hessian of $p$ itself. Note that $H$ may have negative eigenvalues, as here. $F$, $\bar F$ and
# $G$ cannot.


# %%
def curved(theta, x, y):
    prob = lambda t: jnp.exp(log_prob(t, x, y))  # noqa: E731
    return jax.hessian(prob)(theta) / prob(theta)


of_each = jax.jit(jax.vmap(curved, (None, 0, 0)))(theta, *few)
assert np.allclose(F_bar_few - of_each.mean(axis=0), H, atol=1e-12)
print(f"lowest eigenvalue of H: {lowest:.2f}")
del H_L, of_each  # 60 MB

# %% [markdown]
# ## 2 · How many directions each one sees
#
# $\bar F$ is a sum of $n$ outer products, and each has rank one. The rank of a sum is at most the sum of the ranks. So
# $\operatorname{rank}\bar F\le|S|$. By (1.4), $F$ is a sum of $n$ matrices $J_i^\top F_R(z_i)J_i$. Multiplying by a
# matrix never increases the rank, so each has at most the rank of $F_R$:
#
# $$\operatorname{rank}F\le|S|\operatorname{rank}F_R,\qquad \operatorname{rank}\bar F\le|S|. \tag{4.5}$$
#
# For ten classes $F_R=\mathrm{diag}(p)-pp^\top$ has rank 9: it sends the vector of ones to zero. With few examples
# $\bar F$ is blind in most directions, and $\bar F^{-1}$ does not exist: every use of it needs damping, and then the
# damping alone decides what happens in the blind directions.
#
# **Check with numeric ranks.** A third bound is $P$ itself. Here it can be sharpened: adding the same number to all ten
# biases, or to the ten weights that leave one hidden unit, adds the same to all logits. So $6+1$ directions are
# redundant, and no rank exceeds $172-7=165$.

# %%
J = np.asarray(jax.jit(jax.jacrev(logits))(theta, x))  # (40, 10, P)
F_R = np.asarray(jax.vmap(Categorical().fisher)(logits(theta, x)))
one_each = np.einsum("nkp,nkl,nlq->npq", J, F_R, J, optimize=True)
assert relative(one_each.mean(axis=0), F) < 1e-13
rank_R = np.linalg.matrix_rank(F_R[0])
assert rank_R == 9


def rank(A):
    return int(np.linalg.matrix_rank(A, hermitian=True))


# %% tags=["claim:M-rank", "nbval-check-output"]
print("  n   rank F  bound   rank F̄  bound")
for n in (1, 2, 3, 5, 7, 10, 30):
    bound = min(n * rank_R, P - HIDDEN - 1)
    row = rank(one_each[:n].mean(axis=0)), rank(s[:n].T @ s[:n] / n)
    print(f"{n:3d}{row[0]:9d}{bound:7d}{row[1]:9d}{n:7d}")
    assert row[0] <= bound
    assert row[1] <= n
    if n <= HIDDEN + 1:
        assert row == (bound, n)
verdict(
    "M-rank",
    "holds",
    "n from 1 to 30 digits, rank F_R = 9: neither bound is exceeded, and up "
    "to n = 7 both are met",
)

# %% [markdown]
# A bound need not be met. From $n=8$ on, the seven numbers that the last layer gets from a digit (six units and the
# bias) are linearly dependent between digits, and $F$ has fewer than $9n$ directions: 81 of 90 at $n=10$. Sampling one
# label for each example, section 7, also gives rank $n$ at most.
#
# ## 3 · One example is enough
#
# Martens (§11.1) gives the smallest possible example. One data point $(x,y)=(0,0)$, the model $f(x,\theta)=\theta$ with
# $R(y|z)=\mathcal N(z,1)$. Then $h(\theta)=\frac12\theta^2$ up to a constant, the score is $s=y-\theta=-\theta$, and
#
# $$g=\theta,\qquad F=1,\qquad \bar F=\theta^2 . $$
#
# The curvature is 1 everywhere. $\bar F$ says $\theta^2$: huge far away, zero at the minimum. Optimizers divide by a
# power of it, $\bar F^\xi$ with $\frac12\le\xi\le1$, mostly one of the two ends (unit 05). With step sizes $\alpha_k$,
# and since $(\theta^2)^{-\xi}\theta=|\theta|^{-2\xi}\theta$,
#
# $$\theta_{k+1}=\theta_k-\alpha_k(\theta_k^2)^{-\xi}\theta_k=\big(1-\alpha_k|\theta_k|^{-2\xi}\big)\,\theta_k .
# \tag{4.6}$$
#
# With $F$ it is $\theta_{k+1}=(1-\alpha)\theta_k$, so $|\theta_k|=|1-\alpha|^k|\theta_0|$: linear convergence with rate
# $|1-\alpha|$ for every $\alpha$ between 0 and 2. (As $F=1$, this is also plain gradient descent: $\bar F$ is
# worse here than doing nothing about curvature.)

# %%
model_1 = Model(lambda t, x: jnp.full((len(x), 1), t), Normal())
point = jnp.zeros((1, 1)), jnp.zeros((1, 1))
for t in (0.3, -2.0):
    assert np.isclose(fisher(model_1, t, point)[0, 0], 1)
    assert np.isclose(empirical_fisher(model_1, t, point)[0, 0], t**2)
    assert np.isclose(jax.grad(model_1.loss)(t, point), t)

alphas = np.array([0.1, 0.5, 0.9, 1.5, 1.9])
by_F = np.full(5, 2.0)
for _ in range(50):
    by_F = by_F - alphas * by_F
rate = np.abs(by_F / 2) ** (1 / 50)
print("α        ", alphas, "\nrate of F", np.round(rate, 6))
assert np.allclose(rate, np.abs(1 - alphas), rtol=1e-9)
assert np.isclose(by_F[1], 2 * 2.0**-50)

# %% [markdown]
# ### What (4.6) does near zero
#
# Let $u=|\theta|$. The step has length $\alpha u^{1-2\xi}$ and points to zero, so
#
# $$u_{k+1}=\big|\,u_k-\alpha_k u_k^{1-2\xi}\,\big| . \tag{4.7}$$
#
# - **$\xi=\frac12$:** every step has length $\alpha$. It is sign descent: it walks to within $\alpha$ of the minimum,
#   and from then on jumps over it, $u\to\alpha-u\to u\to\dots$
# - **$\xi>\frac12$:** the exponent $1-2\xi$ is negative. *The nearer the minimum, the longer the step.* From $u=\delta$
#   the iterate is thrown out to about $\alpha\delta^{1-2\xi}$.
#
# With fixed $\alpha$ there is one size that maps to itself (the sign of $\theta$ flips): $2u=\alpha u^{1-2\xi}$, so
# $u_*=(\alpha/2)^{1/(2\xi)}$. Is it attracting? On the overshooting side $u\mapsto\alpha u^{1-2\xi}-u$ has the
# derivative $(1-2\xi)\,\alpha u_*^{-2\xi}-1=2(1-2\xi)-1=1-4\xi$. That is $-1$ for $\xi=\frac12$: no attraction, no
# repulsion. For $\xi>\frac12$ it is below $-1$: even this two-cycle repels. So a fixed $\alpha$ never converges (but
# for the starts, a countable set, that land on 0 exactly, where (4.6) reads $0/0$).
#
# **What sets the size.** Put $\theta=\alpha^{1/(2\xi)}v$ into (4.7) with a fixed $\alpha$, and $\alpha$ cancels:
# $v_{k+1}=|v_k-v_k^{1-2\xi}|$. So the iterates live on the scale $\alpha^{1/(2\xi)}$. If $\alpha_k$ falls slowly, we
# expect them to follow it: a typical $|\theta_k|$ falls like
#
# $$\alpha_k^{1/(2\xi)},\qquad\text{that is}\quad\alpha_k\ (\xi=\tfrac12),\quad\alpha_k^{2/3}\ (\xi=\tfrac34).
# \tag{4.8}$$
#
# ◇ **It fails if an iterate that was thrown out takes too long to come back.** Far out a step lowers $|\theta|^{2\xi}$
# by about $2\xi\alpha_k$ (differentiate). So from $V$, on the scale of $v$, the way back takes about $V^{2\xi}$ steps.
# How often is one thrown out to $V$? A $v$ gets near 0 from near 1, where the map is smooth, so we take the places
# where it lands as spread evenly: it lands below $\delta$ with a probability proportional to $\delta$, and goes on to
# $V=\delta^{1-2\xi}$. An excursion longer than $T=V^{2\xi}$ has thus a probability that falls like $T^{-\beta}$,
# $\beta=1/(2\xi(2\xi-1))$. Its mean is finite if $\beta>1$, which is $\xi<\frac{1+\sqrt5}4\approx0.81$. For a larger
# $\xi$ the mean is infinite: the longest excursion so far takes up a fixed share of the time so far, however long that
# is. As $|\theta|^{2\xi}$ falls by $2\xi\alpha_k$ a step, that time is counted in $\sum\alpha_k$, and
#
# $$|\theta_k|^{2\xi}\sim\sum_{j\le k}\alpha_j\qquad(\xi>0.81) , \tag{4.8'}$$
#
# which falls with *no* schedule. For $\xi=1$, $v-1/v$ is a map that Boole studied in 1857; Adler and Weiss (1973)
# proved that almost every orbit spreads over the whole line. For the others this is an argument by scaling, no proof;
# the next cells test it.
#
# **Measure it.** 64 random starts in $[0.5,1.5]$, $2^{14}$ steps, four exponents, three schedules, all in one array.

# %%
XI = np.array([0.5, 0.75, 0.9, 1.0])
SCHEDULES = {
    "constant": lambda k: 0.1,
    "1/k": lambda k: 1 / k,
    "1/√k": lambda k: k**-0.5,
}


def iterate(theta, xi, alpha):
    """(4.6). At exactly 0, where it is 0/0, the step counts as positive."""
    sign = np.where(theta < 0, -1.0, 1.0)
    return theta - alpha * sign * np.abs(theta) ** (1 - 2 * xi)


# %%
def run(num_steps, num_starts=64, seed=0):
    """|θ_k|: (steps, exponents, schedules, starts)."""
    theta = np.random.default_rng(seed).uniform(0.5, 1.5, num_starts)
    theta = np.broadcast_to(theta, (4, 3, num_starts))
    xi = XI[:, None, None]
    sizes = np.empty((num_steps, *theta.shape), np.float32)
    for k in range(1, num_steps + 1):
        alpha = np.array([f(k) for f in SCHEDULES.values()])[:, None]
        theta = iterate(theta, xi, alpha)
        sizes[k - 1] = np.abs(theta)
    return sizes


# %% [markdown]
# For every octave of steps, from $k$ to $2k$, we take two numbers. "Typical" is the median of
# $\max(|\theta_k|,|\theta_{k+1}|)$ over the octave and the starts. (Of two iterates, since for $\xi=\frac12$ large and
# small ones take turns.) "Worst" is the largest $|\theta|$ of a run in the octave, in the median over the starts.

# %%
sizes = run(2**14)
octaves = 2.0 ** np.arange(7, 14)
windows = [sizes[int(k) - 1 : 2 * int(k) - 1] for k in octaves]
larger = [np.maximum(w[1:], w[:-1]) for w in windows]
typical = np.stack([np.median(w, axis=(0, 3)) for w in larger])
worst = np.stack([np.median(w.max(axis=0), axis=-1) for w in windows])
del sizes, windows, larger

# %% [markdown]
# The slope of the logarithm against $\log k$ is the rate. What (4.8) and (4.8') predict for it, from the same octaves:


# %%
def slope(values):  # (octaves, exponents, schedules) -> one for each pair
    flat = np.log(values).reshape(len(values), -1)
    return np.polyfit(np.log(octaves), flat, 1)[0].reshape(values.shape[1:])


k_all = np.arange(1, 2**14)
alpha_all = np.stack(
    [np.ones(len(k_all)) * f(k_all) for f in SCHEDULES.values()], axis=1
)
at_octaves = octaves.astype(int) - 1
falls = alpha_all[at_octaves][:, None] ** (1 / (2 * XI[:2, None]))  # (4.8)
total = alpha_all.cumsum(axis=0)[at_octaves]
grows = total[:, None] ** (1 / (2 * XI[2:, None]))  # (4.8')
expected = slope(np.concatenate([falls, grows], axis=1))
slopes, worst_slopes = slope(typical), slope(worst)

# %%
print("typical: measured (expected)")
print("ξ   " + "".join(f"{name:>14}" for name in SCHEDULES))
for xi, got, want in zip(XI, slopes, expected, strict=True):
    cells = [f" {a:5.2f} ({b:5.2f})" for a, b in zip(got, want, strict=True)]
    print(f"{xi:<4g}" + "".join(cells))

# %% [markdown]
# The paper says: the iteration fails to converge "unless $\xi<1$ and the step-size $\alpha_k$ goes to 0 sufficiently
# fast", and where it converges, the rate is "comparable to the speed at which $\alpha_k$ goes to 0".
#
# With a fixed $\alpha$, and with $\xi=1$, nothing converges here either. **But $\xi<1$ is not enough:** with $\xi=0.9$
# no schedule of ours brings the iterates to rest, as (4.8') says. The rate is exact for $\xi=\frac12$, with slopes $-1$
# and $-\frac12$. For $\xi=\frac34$ the typical size falls more slowly than $\alpha_k$, as (4.8) says. "Sufficiently
# fast" has a sharp side that you see in the worst case: with $1/\sqrt k$ and $\xi=\frac34$ the kicks get *larger* with
# time, though the typical iterate shrinks.
#
# ◇ Why: in $k$ steps the smallest $v$ is about $1/k$, and is thrown to $V=k^{1/2}$. Undone, that is
# $\alpha_k^{2/3}\sqrt k$, which falls only if $\alpha_k$ falls faster than $k^{-3/4}$. $1/k$ does (slope $-\frac16$),
# $1/\sqrt k$ does not ($+\frac16$).
#
# And there is a condition that the paper does not mention: not *too* fast. If the steps add up to less than the way,
# the iterate stops short.

# %% tags=["claim:M-ce"]
assert np.abs(slopes[0] - expected[0]).max() < 0.03  # ξ = ½
assert np.abs(slopes[1] - expected[1]).max() < 0.1  # ξ = ¾
assert np.abs(slopes[2:] - expected[2:]).max() < 0.25  # wide scatter
assert (typical[-1, :, 0] > 0.04).all()  # constant α: none converges
assert (worst[-1, 2:] > 1).all()  # ξ = 0.9 and 1: no schedule does
assert (slopes[2:] > -0.15).all()
assert worst_slopes[1, 1] < -0.1  # ξ = ¾, 1/k: it does
assert worst_slopes[1, 2] > 0.02  # ξ = ¾, 1/√k: it does not

too_fast = np.random.default_rng(0).uniform(0.5, 1.5, 64)
for k in range(1, 2001):
    too_fast = iterate(too_fast, 0.5, 0.1 / k**2)
assert np.abs(too_fast).min() > 0.3  # 0.5 - 0.1 π²/6 = 0.34
verdict(
    "M-ce",
    "in part",
    "F: rate |1-α| exactly. Empirical: a fixed α never converges, ξ = 1 with "
    f"no schedule; ξ = ½: slopes {slopes[0, 1]:.2f}, {slopes[0, 2]:.2f}. But "
    f"ξ = ¾: {slopes[1, 1]:.2f}, {slopes[1, 2]:.2f}, like α^(2/3) and not α, "
    "with 1/√k its largest iterates grow, and ξ = 0.9 < 1 converges with "
    "none of the schedules",
)

# %%
fig, axes = plt.subplots(2, 1, figsize=(5.2, 6.2), sharex=True)
for ax, j in zip(axes, (1, 2), strict=True):  # 1/k and 1/√k
    for i, xi in ((0, "½"), (1, "¾"), (3, "1")):
        marker = plots.MARKERS[i]
        line = ax.loglog(octaves, typical[:, i, j], marker=marker)[0]
        line.set_label(f"ξ = {xi}")
        style = {"linestyle": "none", "marker": marker, "fillstyle": "none"}
        ax.loglog(octaves, worst[:, i, j], color=line.get_color(), **style)
    plots.label_lines(ax)
    ax.set(ylabel="|θ| in steps k to 2k")
axes[0].set_title("α = 1/k: ξ = 1 does not converge,\nξ = ¾ slowly")
axes[1].set_title("α = 1/√k: for ξ = ¾ the worst rises")
axes[1].set_xlabel("number of steps k (filled: typical, hollow: worst)")
plots.show(
    fig,
    "Two log-log panels, step sizes 1/k and 1/√k: the size of theta against "
    "the number of steps. Joined markers are typical sizes, hollow ones "
    "the worst. For exponent one half both fall, together. For three "
    "quarters the joined ones fall less steeply and the hollow ones lie far "
    "above; for 1/√k they rise. For exponent one nothing falls.",
)

# %% [markdown]
# **Damping** changes the picture. With $(\bar F+\lambda)^{-1}$ the step is $\alpha\theta/(\theta^2+\lambda)$. Near zero
# that is $\frac\alpha\lambda\theta$: linear convergence with rate $|1-\alpha/\lambda|$ if $\alpha<2\lambda$. But then
# it is $\lambda$ that acts, not $\bar F$: this is gradient descent with step size $\alpha/\lambda$.

# %%
lam, alpha, t = 0.1, 0.05, 0.01
path = [t]
for _ in range(20):
    path.append(path[-1] - alpha * path[-1] / (path[-1] ** 2 + lam))
rates = np.array(path[1:]) / np.array(path[:-1])
assert np.abs(rates - (1 - alpha / lam)).max() < 1e-3

# %% [markdown]
# ## 4 · Along the training of a network
#
# One parameter has a scale and no direction. A network has both. We train the network of section 1 by plain gradient
# descent on two tasks and stop after 0, 10, 100, 1000 and 10 000 steps to compare the matrices:
#
# - **clean**: 384 digits with their labels. The network ends up almost certain of every one: near the optimum the
#   training loss is close to 0, it *interpolates*;
# - **noisy**: 1024 digits, and for 30 % of them the label was replaced by a random one. No network should be certain
#   there, and with 1024 examples this one cannot learn the wrong labels by heart.
#
# Five starts each.

# %%
STOPS = (0, 10, 100, 1000, 10_000)
who_key, what_key = jax.random.split(jax.random.key(1))
wrong = jax.random.uniform(who_key, digit.shape) < 0.3
random_digit = jax.random.randint(what_key, digit.shape, 0, 10)
TASKS = {
    "clean": (X[:384], digit[:384]),
    "noisy": (X[:1024], jnp.where(wrong, random_digit, digit)[:1024]),
}
starts = jax.vmap(start)(jax.random.split(jax.random.key(2), 5))


# %%
@jax.jit
def train(theta, batch):
    """θ at the stops, by gradient descent with step size 0.5: (5, P)."""

    def step(_, theta):
        return theta - 0.5 * jax.grad(net.loss)(theta, batch)

    def to_next_stop(theta, length):
        theta = jax.lax.fori_loop(0, length, step, theta)
        return theta, theta

    return jax.lax.scan(to_next_stop, theta, np.diff(STOPS, prepend=0))[1]


trained = {
    task: [train(theta, batch) for theta in starts]
    for task, batch in TASKS.items()
}

# %% [markdown]
# What to compare:
#
# - **relative error** $\|\bar F-F\|/\|F\|$;
# - **after the best scale**: the same with $c\bar F$ for the best number $c$. With the inner product
#   $\langle A,B\rangle=\sum_{ij}A_{ij}B_{ij}$ the smallest $\|c\bar F-F\|/\|F\|$ is $\sqrt{1-\kappa^2}$,
#   $\kappa=\langle\bar F,F\rangle/(\|\bar F\|\|F\|)$, as for two vectors. It is what no change of step size can mend;
# - **trace ratio** $\operatorname{tr}\bar F/\operatorname{tr}F$: the scale;
# - **cosine** of the steps $(\bar F+\bar\lambda I)^{-1}g$ and $(F+\lambda I)^{-1}g$, and the **ratio of their
#   lengths**. For a damping that treats both alike we take it relative to the mean eigenvalue,
#   $\lambda=10^{-2}\operatorname{tr}F/P$ and $\bar\lambda=10^{-2}\operatorname{tr}\bar F/P$. One $\lambda$ would be
#   small beside one matrix and large beside the other.
#
# Angles are those of Euclidean geometry in $\theta$. (In another, such as that of $F$, they are other numbers.)


# %%
def cosine(a, b):
    return float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def damped_step(A, g, damping):
    """(A + λI)⁻¹ g, λ = damping times the mean eigenvalue of A."""
    lam = damping * np.trace(A) / len(A)
    return np.linalg.solve(A + lam * np.eye(len(A)), g)


def compare(A, F, g):
    """relative error, after the best scale, trace ratio, cos, length ratio."""
    steps = damped_step(A, g, 1e-2), damped_step(F, g, 1e-2)
    length = np.linalg.norm(steps[0]) / np.linalg.norm(steps[1])
    off = np.sqrt(max(0, 1 - cosine(A, F) ** 2))
    trace_ratio = np.trace(A) / np.trace(F)
    return relative(A, F), off, trace_ratio, cosine(*steps), length


# %% [markdown]
# One compiled function has all the matrices: $F$, $\bar F$, and for section 7 $\bar F$ with labels that are drawn.


# %%
@jax.jit
def draw_labels(theta, x, key):
    return jax.random.categorical(key, logits(theta, x))


@jax.jit
def matrices(theta, batch, drawn):
    """h, g, F, F̄, and (4.10): F̄ with labels drawn from the model."""
    x, y = batch
    F_bars = jax.lax.map(
        lambda labels: empirical_fisher(net, theta, (x, labels)),
        jnp.stack([y, drawn]),
    )
    h, g = jax.value_and_grad(net.loss)(theta, batch)
    return h, g, fisher(net, theta, batch), *F_bars


def stage(theta, batch, key):
    out = matrices(theta, batch, draw_labels(theta, batch[0], key))
    h, g, F, F_bar, sampled = (np.asarray(a) for a in out)
    row = {"loss": float(h), "g": g, "F": F, "matrix": F_bar}
    row["F̄"] = compare(F_bar, F, g)
    return row | {"sampled": compare(sampled, F, g)}


# %%
stage_key = jax.random.key(3)
found = {}
for number, (task, batch) in enumerate(TASKS.items()):
    for i, stages in enumerate(trained[task]):
        for j, theta in enumerate(stages):
            key = jax.random.fold_in(stage_key, 100 * number + 10 * i + j)
            found[task, i, j] = stage(theta, batch, key)


def values(task, name):
    """(seeds, stops) or (seeds, stops, 5)."""
    seeds, stops = range(5), range(5)
    return np.array([[found[task, i, j][name] for j in stops] for i in seeds])


# %%
labels = ("rel. error", "after scale", "trace ratio", "cosine", "length")
for task in TASKS:
    bar, loss = values(task, "F̄"), values(task, "loss").mean(axis=0)
    print(f"{task}: mean and standard deviation of five starts")
    print("step       ", "".join(f"{stop:6d}" for stop in STOPS))
    print("loss       ", "".join(f"{h:6.2f}" for h in loss))
    both = bar.mean(axis=0).T, bar.std(axis=0, ddof=1).T
    for name, m, sd in zip(labels, *both, strict=True):
        print(f"{name:11}", "".join(f"{v:6.2f}" for v in m))
        print(" " * 10 + "±", "".join(f"{v:6.2f}" for v in sd))
    print()

# %% [markdown]
# Three things to read off.
#
# **At the start the direction is wrong**, in both tasks: the cosine is below 0.75. The step is also too short. That is
# the work of $gg^\top$, which is part of $\bar F$ (4.2): it shortens the step and does not turn it. For
# $C=\bar F-gg^\top+\lambda I$ the vector $C^{-1}g$, divided by $1+g^\top C^{-1}g$, solves $(C+gg^\top)d=g$ (insert it).
# The wrong direction comes from the scatter of the gradients.
#
# **Near the optimum of the clean task the scale is wrong**: a relative error of 0.9 or more, a trace below a tenth of
# $F$'s, steps ten times too long or longer. Section 8 says why. After the best scaling an error of more than a third
# remains, and yet the directions of the steps agree, cosine above 0.9.
#
# **In the noisy task $\bar F$ becomes good**: trace ratio between 0.7 and 1.1, cosine above 0.95, steps at most 1.6
# times too long.

# %%
clean, noisy = values("clean", "F̄"), values("noisy", "F̄")
for bar in (clean, noisy):
    assert (bar[:, 0, 3] < 0.75).all()
    assert (bar[:, 0, 4] < 0.7).all()
assert (clean[:, -1, 0] > 0.9).all()
assert (clean[:, -1, 1] > 1 / 3).all()
assert (clean[:, -1, 2] < 0.1).all()
assert (clean[:, -1, 3] > 0.9).all()
assert (clean[:, -1, 4] > 10).all()
assert (abs(noisy[:, -1, 2] - 0.9) < 0.2).all()
assert (noisy[:, -1, 3] > 0.95).all()
assert (noisy[:, -1, 4] < 1.6).all()

# %% [markdown]
# How much is that agreement worth? Two controls. First, with ten times less damping the cosine at the end of the clean
# task is lower. Second, the *plain gradient* has there a cosine with $(F+\lambda I)^{-1}g$ that is just as high. So
# what agrees is the direction that every method would take, and "mostly a matter of scale" holds at this damping and no
# more.


# %%
def controls(F, F_bar, g):
    """cos with less damping, cos of g; without g gᵀ: its length ratio, cos."""
    weak = cosine(damped_step(F_bar, g, 1e-3), damped_step(F, g, 1e-3))
    plain = cosine(damped_step(F, g, 1e-2), g)
    lam = 1e-2 * np.trace(F_bar) / P
    scatter = F_bar - np.outer(g, g)  # (4.2)
    without = np.linalg.solve(scatter + lam * np.eye(P), g)
    with_it = damped_step(F_bar, g, 1e-2)
    longer = np.linalg.norm(without) / np.linalg.norm(with_it)
    return weak, plain, longer, cosine(without, with_it)


# %%
three = [values("clean", name) for name in ("F", "matrix", "g")]
at_start, at_end = (
    np.array([controls(*(v[i, j] for v in three)) for i in range(5)]).T
    for j in (0, 4)
)
print(f"g gᵀ shortens the first step {at_start[2].mean():.1f} times")
print(f"cosine with less damping {at_end[0].mean():.2f}")
print(f"cosine of the gradient   {at_end[1].mean():.2f}")
assert (at_start[2] > 1.2).all()
assert np.allclose(at_start[3], 1, atol=1e-9)
assert (at_end[0] < clean[:, -1, 3]).all()
assert at_end[1].mean() > clean[:, -1, 3].mean() - 0.05

# %% [markdown]
# And the other two matrices: $G=F$ to rounding, as unit 03 proved for the softmax. $H$ is far from $F$ at the start,
# and within a quarter of it at the end of the clean task: where the residuals are small, so is what separates them.


# %%
@jax.jit
def G_and_H(theta):
    batch = TASKS["clean"]
    H = jax.hessian(net.loss)(theta, batch)
    return gauss_newton(net, theta, batch), H


def off_F(j):
    """‖G-F‖/‖F‖ and ‖H-F‖/‖F‖ at stop j: (seeds, 2)."""
    both = [G_and_H(trained["clean"][i][j]) for i in range(5)]
    F = three[0][:, j]
    return np.array([[relative(A, F[i]) for A in both[i]] for i in range(5)])


first, end = off_F(0), off_F(4)
print(f"‖G-F‖/‖F‖ at most {max(first[:, 0].max(), end[:, 0].max()):.0e}")
print(f"‖H-F‖/‖F‖ {first[:, 1].mean():.2f} at first, {end[:, 1].mean():.2f}")
assert max(first[:, 0].max(), end[:, 0].max()) < 1e-12
assert (first[:, 1] > 1).all()
assert (end[:, 1] < 0.25).all()

# %%
fig, axes = plt.subplots(2, 1, figsize=(5.2, 6.2), sharex=True)
for ax, j in zip(axes, (0, 4), strict=True):
    for name, which, marker in (("F", "F", "o"), ("F̄", "matrix", "s")):
        top = np.linalg.eigvalsh(found["clean", 0, j][which])[::-1][:60]
        ax.semilogy(
            np.arange(1, 61), top, marker=marker, markersize=3, label=name
        )
    plots.label_lines(ax)
    ax.set(ylabel="eigenvalue", ylim=(1e-4, 2))
axes[0].set_title("At the start: F̄ is larger, then smaller")
axes[1].set_title("After 10 000 steps: F̄ is far below F")
axes[1].set_xlabel("rank of the eigenvalue, largest first")
plots.show(
    fig,
    "The sixty largest eigenvalues of F and of the empirical Fisher on the "
    "clean task, on a logarithmic axis. At the start the empirical Fisher "
    "has the larger ones among the first fifteen, then the smaller. After "
    "10,000 steps all its eigenvalues lie far below those of F.",
)

# %% [markdown]
# ## 5 · Linear regression: scale, direction, and who wins
#
# A line through points, $z=wx+b$, the model's noise with standard deviation 1. In this section $x_i$ is the whole row
# $(x_i,1)$, the rows are the matrix $X$ (`A` in the code), and $\delta=\theta-\theta_*$ is the distance from the
# least-squares solution. Then
#
# $$g=F\delta,\qquad F=H=\tfrac1nX^\top X,\qquad
# \bar F=\tfrac1n\sum_i\big(e_i-x_i^\top\delta\big)^2x_ix_i^\top , \tag{4.9}$$
#
# $e_i$ being the residuals at $\theta_*$. (The residual at $\theta$ is $y_i-x_i^\top\theta=e_i-x_i^\top\delta$; the
# score is residual times $x_i$; and $g=-\frac1n\sum_i x_i(e_i-x_i^\top\delta)=F\delta$, because $\sum_ie_ix_i=0$ at the
# solution.)
#
# - *Near*, where $|x_i^\top\delta|$ is small beside the residuals: if they do not depend on $x$ and have the variance
#   $\sigma^2$, then $\bar F\approx\sigma^2F$. Right direction, and the wrong scale unless $\sigma=1$, the noise that
#   the model says.
# - *Far*, the residual is $-x_i^\top\delta$: $\bar F\approx\frac1n\sum_i(x_i^\top\delta)^2x_ix_i^\top$ grows with
#   $\|\delta\|^2$. The step $\bar F^{-1}g$ shrinks like $1/\|\delta\|$, and its direction is another.
#
# **Drag the sliders.** The lines follow the direction field of each method from five starts to the minimum (the dot),
# in steps of equal length. $F$ goes straight, whatever you do: here it is Newton's method. The gradient takes the
# valley's walls first. Watch $\bar F$: with much noise its lines straighten, with little they are bent far out. Damping
# bends both towards the gradient. The numbers below compare the undamped steps. The next cells compute it all.

# %%
inputs = np.random.default_rng(0).normal(1.0, 1.0, 60)
A = np.stack([inputs, np.ones(60)], axis=1)  # rows (x_i, 1)
noise = np.random.default_rng(1).normal(size=60)
noise -= A @ np.linalg.lstsq(A, noise)[0]  # θ* stays where it is
noise /= noise.std()
F_line = A.T @ A / 60
BEST = np.array([0.0, 0.0])  # w and b are counted from the solution


def F_bar_line(delta, sigma):
    """(4.9) for points delta (..., 2)."""
    r = sigma * noise - delta @ A.T
    return np.einsum("...n,ni,nj->...ij", r**2, A, A) / 60


line = Model(lambda t, x: (x @ t)[:, None], Normal())
at, sigma = np.array([0.5, -1.0]), 0.7
points = A, jnp.asarray(sigma * noise)[:, None]
g_line, H_line = jax.jit(jax.grad(line.loss)), jax.jit(jax.hessian(line.loss))
assert np.allclose(F_bar_line(at, sigma), empirical_fisher(line, at, points))
assert np.allclose(F_line, fisher(line, at, points))
assert np.allclose(F_line, H_line(at, points))
assert np.allclose(F_line @ at, g_line(at, points))

# %%
from course_lib.explorables import (
    Curve,
    Panel,
    Points,
    Readout,
    Slider,
    explorable,
)

SIGMA = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0])
LAMBDA = np.array([0, 0.01, 0.1, 0.3, 1.0])
START = np.array([[2, -0.6], [1.5, 1.8], [-2, 1.5], [0.3, -1.9], [-1.8, -1.2]])


# %%
def follow(matrix):
    """Flow lines (*grid, starts, points, 2) of -(matrix(δ) + λI)⁻¹ F δ."""
    delta = np.broadcast_to(START, (len(SIGMA), len(LAMBDA), 5, 2)).copy()
    shift = LAMBDA[:, None, None, None] * np.eye(2)
    points = [delta.copy()]
    for _ in range(150):
        step = np.linalg.solve(
            matrix(delta) + shift, (delta @ F_line)[..., None]
        )[..., 0]
        length = np.linalg.norm(step, axis=-1, keepdims=True)
        left = np.linalg.norm(delta, axis=-1, keepdims=True)
        delta = delta - np.minimum(0.04, 0.2 * left) * step / length
        points.append(delta.copy())
    return np.stack(points[::6], axis=-2)


# %%
by_sigma = SIGMA[:, None, None, None]
flows = {
    "Gradient descent": follow(lambda d: 0 * d[..., None] + np.eye(2)),
    "Fisher": follow(lambda d: 0 * d[..., None] + F_line),
    "Empirical Fisher": follow(lambda d: F_bar_line(d, by_sigma)),
}
ends = flows["Fisher"][:, 0, :, -1]
assert np.linalg.norm(ends, axis=-1).max() < 0.1


# %%
def panel(name):
    lines = flows[name]
    if name == "Gradient descent":  # no slider moves it
        lines = lines[:1, :1]
    if name == "Fisher":  # σ does not move it
        lines = lines[:1]
    items = [
        Curve(letter, lines[..., i, :, 0], lines[..., i, :, 1])
        for i, letter in enumerate("abcde")
    ]
    items.append(Points("θ*", np.array([0.0]), np.array([0.0]), color="black"))
    alt = f"{name}: five lines from starts a to e to the minimum."
    labels = ("w − w*, the slope", "b − b*, the intercept")
    return Panel(name, *labels, (-2.2, 2.2), (-2.2, 2.2), items, alt=alt)


# %%
def ratio_and_angle(delta):
    """Of the undamped F̄ step and the F step, which is δ: (sigmas, 1)."""
    steps = [
        np.linalg.solve(F_bar_line(delta, v), F_line @ delta) for v in SIGMA
    ]
    size = [np.linalg.norm(s) / np.linalg.norm(delta) for s in steps]
    angle = [np.degrees(np.arccos(cosine(s, delta))) for s in steps]
    return np.array(size)[:, None], np.array(angle)[:, None]


far, near = ratio_and_angle(START[0]), ratio_and_angle(START[0] / 100)

# %%
explorable(
    "Three direction fields",
    "Lines from five starts to the minimum: along the gradient, along the "
    "Fisher step and along the empirical Fisher step. More noise straightens "
    "the lines of the empirical Fisher; damping bends the lines of both "
    "towards those of the gradient.",
    [
        Slider("σ, noise of the data (the model says 1)", SIGMA, start=2),
        Slider("λ, damping", LAMBDA, start=0),
    ],
    [panel(name) for name in flows],
    [
        Readout("length F̄/F at a", far[0]),
        Readout("length F̄/F close to θ*", near[0]),
        Readout("angle at a", far[1], unit="°", format=".1f"),
        Readout("angle close to θ*", near[1], unit="°", format=".1f"),
    ],
)

# %% [markdown]
# The lengths tell the story of the scale: close to $\theta_*$ the step of $\bar F$ is about $1/\sigma^2$ times as long
# as it should be (within 40 %: the residuals are one sample of 60), and at $a$ it is less than a tenth of the way to
# the minimum for every $\sigma$ of the slider. No fixed step size serves both. And the direction: at $a$ the two steps
# are almost at a right angle for $\sigma=0.05$, and nearly parallel for $\sigma=3$.

# %%
scaled = near[0][2:, 0] * SIGMA[2:] ** 2
print("close to θ*, length times σ²:", np.round(scaled, 2))
assert np.allclose(scaled, 1, atol=0.4)
assert (far[0] < 0.1).all()
assert 80 < far[1][0, 0] < 90
assert far[1][-1, 0] < 10

# %% [markdown]
# ### Counting steps
#
# Now four weights, 200 points, ten random problems. Every method starts at 0, at the same distance from the solution as
# measured by $F$, and has its step size tuned on each problem for the fewest steps until $h-h_{\min}$ is a millionth of
# what it was: GD among 13 step sizes up to $2/L$ ($L$ is the largest eigenvalue of $F$), $\bar F$ among 30 from 0.001
# up to 3. The inputs have unequal variances; $\kappa$ is their ratio, about the condition number of $F$. A fourth
# column is $\bar F$ with an *exact line search*: along $d$ the quadratic $h(\theta-\alpha d)$ is smallest at
# $\alpha=g^\top d/d^\top Fd$ (set the derivative $-g^\top d+\alpha d^\top Fd$ to zero). That takes the error of scale
# away and leaves the direction.


# %%
def problem(seed, kappa, sigma, n=200, d=4):
    """X, F and the residuals e at θ*; the start is δ, with δᵀFδ ≈ 4."""
    rng = np.random.default_rng(seed)
    widths = np.sqrt(np.geomspace(1, 1 / kappa, d))
    X = rng.normal(size=(n, d)) * widths
    delta, e = rng.normal(size=d), sigma * rng.normal(size=n)
    e -= X @ np.linalg.lstsq(X, e)[0]
    return X, X.T @ X / n, e, -2 * delta / np.linalg.norm(delta) / widths


def direction(method, X, F, e, delta):
    """(step sizes, d) for δ (step sizes, d)."""
    if method == "GD":
        return delta @ F
    if method == "F":
        return delta  # F⁻¹ F δ
    r = e - delta @ X.T
    F_bar = np.einsum("an,ni,nj->aij", r**2, X, X) / len(X)
    return np.linalg.solve(F_bar, (delta @ F)[..., None])[..., 0]


# %% [markdown]
# The library's $\bar F$ gives the same direction:

# %%
small = problem(0, 10, 0.1)
batch = small[0], jnp.asarray(small[2])[:, None]  # residuals: θ* is 0
one_step = np.linalg.solve(
    empirical_fisher(line, small[3], batch), g_line(small[3], batch)
)
assert np.allclose(direction("F̄", *small[:3], small[3][None])[0], one_step)


# %%
def steps_needed(method, alphas, seed, kappa, sigma):
    """The fewest, over the step sizes; None is the exact line search."""
    X, F, e, start = problem(seed, kappa, sigma)
    delta = np.tile(start, (1 if alphas is None else len(alphas), 1))
    goal = 1e-6 * start @ F @ start
    for k in range(3000):
        if (np.einsum("ai,ij,aj->a", delta, F, delta) < goal).any():
            return k
        step = direction(method, X, F, e, delta)
        alpha = alphas
        if alphas is None:
            slope = np.sum((delta @ F) * step, axis=1)
            alpha = slope / np.einsum("ai,ij,aj->a", step, F, step)
        delta = np.clip(delta - alpha[:, None] * step, -1e6, 1e6)
    raise ValueError("not there after 3000 steps")


# %%
def count(kappa, sigma):
    """Steps (seeds, methods)."""
    rows = []
    for seed in range(10):
        L = np.linalg.eigvalsh(problem(seed, kappa, sigma)[1])[-1]
        tries = [
            ("F", np.array([0.5, 1, 1.5])),
            ("GD", np.linspace(0.8, 2, 13) / L),
            ("F̄", np.geomspace(0.001, 3, 30)),
            ("F̄", None),
        ]
        rows.append([steps_needed(*t, seed, kappa, sigma) for t in tries])
    return np.array(rows)


little, as_said = count(10, 0.1), count(30, 1.0)

# %%
print("steps: median (range) of ten problems")
for name, table in (("κ = 10, σ = 0.1", little), ("κ = 30, σ = 1", as_said)):
    print(name)
    for column, method in enumerate(("F", "GD", "F̄", "F̄, line search")):
        c = table[:, column]
        print(f"   {method:16}{np.median(c):5.0f}  ({c.min()} to {c.max()})")
assert (little[:, 0] == 1).all()
assert (as_said[:, 0] == 1).all()
assert (3 * little[:, 1] < little[:, 2]).all()  # F̄ far behind GD
assert (2 * as_said[:, 2] < as_said[:, 1]).all()  # and far before it
for table in (little, as_said):
    assert (table[:, 3] < 15).all()
    assert (table[:, 3] < table[:, 1]).all()  # before GD

# %% [markdown]
# With little noise the order is $F$, then GD, then $\bar F$, in all ten problems, as the theory says: near the solution
# $\bar F$ needs $\alpha\approx\sigma^2=0.01$, and far away that is a hundredth of too short a step.
#
# **With $\sigma=1$, what the model says, and $\kappa=30$, $\bar F$ beats GD**, in all ten. Its near field is right, and
# it does not mind $\kappa$: if $\theta=T\theta'$, scores become $T^\top s$, so $\bar F'=T^\top\bar FT$ and
# $T\bar F'^{-1}g'=\bar F^{-1}g$. It is as invariant under linear changes of the parameters as $F$ is (unit 03).
#
# **And with a line search it needs a handful of steps in both.** What failed here is the scale, as Martens says of his
# own example (§11.2). But section 4 had cosines below 0.75: direction fails too.
#
# ## 6 · Where $\bar F$ is the right matrix
#
# **A true model, its true parameter, many examples.** If $y_i\sim p(\cdot|x_i;\theta_*)$, then at $\theta_*$ each term
# $s_is_i^\top$ has the expectation that makes $F$. $\bar F-F$ is a mean of $n$ independent terms with mean zero, and
# falls as $1/\sqrt n$. Elsewhere, or for a wrong model, it tends to something else:
#
# - at $\theta\ne\theta_*$ to $\mathbb E_x\mathbb E_{y\sim p(\cdot|x;\theta_*)}[ss^\top]$;
# - in the linear regression with noise $\sigma=2$ and a model that says 1 (unit 01, §6) to $\sigma^2F$ at $\theta_*$, a
#   relative error of $\sigma^2-1=3$.
#
# We measure all three, with the softmax regression of unit 01 (three classes, two inputs), sixteen seeds.


# %%
def relative_errors(s, F_sums, sizes):
    """‖F̄-F‖/‖F‖ for the first n examples, n in sizes. s: (n, P)."""
    bar = np.cumsum(s[:, :, None] * s[:, None, :], axis=0)
    return [relative(bar[n - 1], F_sums[n - 1]) for n in sizes]


def softmax_scores(W, x, y):
    """Rows (e_y - p) ⊗ x, and the running sums of F: (n, 6), (n, 6, 6)."""
    z = np.exp(x @ W.T)
    p = z / z.sum(axis=1, keepdims=True)
    s = ((np.eye(3)[y] - p)[:, :, None] * x[:, None, :]).reshape(-1, 6)
    F_R = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]
    F = np.einsum("nij,nk,nl->nikjl", F_R, x, x).reshape(-1, 6, 6)
    return s, np.cumsum(F, axis=0)


# %%
W_true = np.random.default_rng(10).normal(size=(3, 2))
sample_sizes = 4 ** np.arange(2, 8)


def three_errors(seed, n=4**7):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = np.argmax(x @ W_true.T + rng.gumbel(size=(n, 3)), axis=1)
    true, elsewhere = W_true, W_true + np.array([[1.0, -1], [0, 1], [-1, 0]])
    noise = 2 * rng.normal(size=(n, 1))  # the model says 1
    F_linear = np.cumsum(x[:, :, None] * x[:, None, :], axis=0)
    return [
        relative_errors(*softmax_scores(true, x, y), sample_sizes),
        relative_errors(*softmax_scores(elsewhere, x, y), sample_sizes),
        relative_errors(noise * x, F_linear, sample_sizes),
    ]


errors = np.array([three_errors(seed) for seed in range(16)])

# %% [markdown]
# (Adding Gumbel noise to the logits and taking the largest draws from the softmax; `jax.random.categorical` does it
# so.) First the formulas in `softmax_scores` against the library.

# %%
s1, F1 = softmax_scores(W_true, np.array([[1.0, 2.0]]), np.array([2]))
small = Model(lambda t, x: x @ t.reshape(3, 2).T, Categorical())
pair = jnp.array([[1.0, 2.0]]), jnp.array([2])
assert np.allclose(s1, small.score(jnp.asarray(W_true.ravel()), pair))
assert np.allclose(F1[0], fisher(small, jnp.asarray(W_true.ravel()), pair))

# %%
rms = np.sqrt(np.mean(errors**2, axis=0))  # (cases, sizes)
fit = np.polyfit(np.log(sample_sizes), np.log(rms[0]), 1)[0]
print(f"true model at θ*: slope {fit:.2f}")
print(f"elsewhere: {rms[1, -1]:.2f} at n = {sample_sizes[-1]}")
print(f"wrong noise: {rms[2, -1]:.2f}")
assert abs(fit + 0.5) < 0.1
assert rms[1, -1] > 10 * rms[0, -1]
assert abs(rms[1, -1] / rms[1, -2] - 1) < 0.2
assert abs(rms[2, -1] - 3) < 0.2

# %%
fig, ax = plt.subplots()
names = ("true model, at θ*", "true model, other θ", "wrong noise, at θ*")
for name, row, marker in zip(names, rms, plots.MARKERS, strict=False):
    ax.loglog(sample_sizes, row, marker=marker, label=name)
ax.legend(loc="lower left", fontsize=10)
ax.set(xlabel="number of examples n", ylabel="‖F̄ − F‖ / ‖F‖")
ax.set_title("F̄ tends to F in one case of three")
plots.show(
    fig,
    "Log-log plot of the relative error of the empirical Fisher against the "
    "number of examples. For the true model at its parameter it falls along "
    "a straight line of slope minus one half. For another parameter and for "
    "a model with the wrong noise it levels off, the last one at three.",
)

# %% [markdown]
# **The covariance of gradients.** $\bar F$ is exactly right when what you want is not the curvature but the *noise*: by
# (4.2) $\bar F-gg^\top$ is the covariance of the gradient of one example drawn at random, and a batch of $B$ drawn with
# replacement has that over $B$. No model needs to be true for this. The sandwich $\frac1nH^{-1}\bar FH^{-1}$ of unit 01
# (§6) is the same use. Checked by drawing batches of eight from the forty digits of section 1:

# %%
g40 = np.asarray(g)
rng = np.random.default_rng(5)
rows = rng.integers(0, 40, size=(4000, 8))
batch_gradients = -np.asarray(s)[rows].mean(axis=1)
drawn = np.cov(batch_gradients, rowvar=False)
predicted = (np.asarray(F_bar) - np.outer(g40, g40)) / 8
print(f"difference {relative(drawn, predicted):.3f}")
assert relative(drawn, predicted) < 0.15

# %% [markdown]
# ## 7 · The repair: sample the labels
#
# $\bar F$ is wrong because of its labels. So draw others: for every example one $\tilde y_i\sim p(\cdot|x_i;\theta)$,
# and use its score,
#
# $$\hat F=\frac1n\sum_is(x_i,\tilde y_i)\,s(x_i,\tilde y_i)^\top,\qquad \mathbb E[\hat F]=F . \tag{4.10}$$
#
# That is the last matrix of section 4, and `fisher_mc` with one draw. It needs one score for each example, as $\bar F$
# does; but $\bar F$ gets its scores from the backward pass that the gradient needs anyway, and $\hat F$ needs a second
# one, with the labels changed. The most likely class instead of a draw is not enough: then there is no randomness to
# average, and no reason why $F$ should come out.
#
# The price is noise. Here are the errors of $\hat F$ beside those of $\bar F$, from the stops of section 4.

# %%
sampled = {task: values(task, "sampled").mean(axis=0) for task in TASKS}
bars = {task: values(task, "F̄").mean(axis=0) for task in TASKS}
for task in TASKS:
    print(f"{task}: relative error   cosine of steps")
    print(" step   F̄   one draw     F̄   one draw")
    for j, stop in enumerate(STOPS):
        a, b = bars[task][j], sampled[task][j]
        print(f"{stop:5d} {a[0]:.2f} {b[0]:8.2f} {a[3]:9.2f} {b[3]:8.2f}")

# %% [markdown]
# At the start one draw is much nearer to $F$ than $\bar F$, in error and in direction. At the end of the noisy task the
# two are about equal: there $\bar F$'s labels *are* nearly draws from the model. And at the end of the clean task one
# draw has a relative error of around 1 or above, no better than $\bar F$: section 8 again.

# %%
for task in TASKS:
    mc, bar = values(task, "sampled")[:, 0], values(task, "F̄")[:, 0]
    assert (mc[:, 0] < 0.6 * bar[:, 0]).all()
    assert mc[:, 3].mean() > bar[:, 3].mean() + 0.1
last = values("noisy", "sampled")[:, -1], noisy[:, -1]
assert 0.5 < last[0][:, 0].mean() / last[1][:, 0].mean() < 2
assert (last[0][:, 3] > 0.95).all()
assert values("clean", "sampled")[:, -1, 0].mean() > 0.8

# %% [markdown]
# **And the most likely class?** The three choices of $y$ at the start of the clean task, for the first of the five
# starts. The average of many draws shows that $\hat F$ has no bias; the others stay where they are.

# %%
batch = TASKS["clean"]
theta = starts[0]
F0 = found["clean", 0, 0]["F"]
likely = jnp.argmax(logits(theta, batch[0]), axis=1)
with_likely = matrices(theta, batch, likely)[4]
draws = fisher_mc(net, theta, batch, jax.random.key(8), 64)
by_argmax, by_draws = relative(with_likely, F0), relative(draws, F0)
by_labels = found["clean", 0, 0]["F̄"][0]
print(f"labels {by_labels:.2f}, argmax {by_argmax:.2f}", end="")
print(f", 64 draws {by_draws:.2f}")
assert min(by_labels, by_argmax) > 0.5
assert by_draws < 0.15

# %% [markdown]
# ### The effect on optimization
#
# The clean task, 40 steps $\theta\leftarrow\theta-\alpha(A+\lambda I)^{-1}g$ with $A=F$, $\bar F$ and $\hat F$ (new
# labels in every step). $\alpha$ and $\lambda$ are chosen for each method from the same grid, by the *worst* final
# training loss of four starts, since a constant step that is safe from one start may throw out another. The winner then
# runs from five other starts. Gradient descent is tuned too. It is the training loss that we compare: the question is
# optimization, not generalization.

# %%
EXACT = {"F": fisher, "F̄": empirical_fisher}


def losses(method):
    """A compiled function (α, λ, start, keys) -> losses before each step."""

    def step(theta, key, alpha, lam):
        h, g = jax.value_and_grad(net.loss)(theta, batch)
        if method == "GD":
            return theta - alpha * g, h
        if method == "sampled":
            A = fisher_mc(net, theta, batch, key)
        else:
            A = EXACT[method](net, theta, batch)
        d = jnp.linalg.solve(A + lam * jnp.eye(P), g)
        return theta - alpha * d, h

    return jax.jit(
        lambda alpha, lam, theta, keys: jax.lax.scan(
            lambda t, key: step(t, key, alpha, lam), theta, keys
        )[1]
    )


# %%
run_starts = jax.vmap(start)(jax.random.split(jax.random.key(4), 11))
run_key = jax.random.key(5)
TRAIN = {method: losses(method) for method in ("F", "F̄", "sampled", "GD")}


def curve(method, pair, i, attempt):
    """Losses (41,) of start i."""
    key = jax.random.fold_in(run_key, 20 * attempt + i)
    return TRAIN[method](*pair, run_starts[i], jax.random.split(key, 41))


def others(method, pair):
    """Losses (5, 41) of the starts that were not used for tuning."""
    return np.stack([curve(method, pair, i, 0) for i in range(6, 11)])


# %%
def tune_and_run(method, alphas, lambdas):
    """The best pair, and its losses (5 starts, 41)."""
    best, least = None, np.inf
    pairs = [(a, lam) for lam in lambdas for a in alphas]
    for n, pair in enumerate(pairs, start=1):
        worst = 0.0
        for i in (5, 4, 3, 2):
            final = float(curve(method, pair, i, n)[-1])
            if not final < least:  # also if it is nan: pair is beaten
                break
            worst = max(worst, final)
        else:
            best, least = pair, worst
    return best, others(method, best)


grid = (0.3, 0.2, 0.1, 0.5), (1e-3, 1e-2)
results = {m: tune_and_run(m, *grid) for m in ("F", "F̄", "sampled")}
results["GD"] = tune_and_run("GD", (4.0, 2.0, 1.0, 6.0, 8.0), (0.0,))

# %%
print("             mean loss after")
print("method     α     λ    5   10   20   40 steps")
for method, ((alpha, lam), curves) in results.items():
    at = curves[:, [5, 10, 20, 40]].mean(axis=0)
    cells = "".join(f"{h:5.2f}" for h in at)
    print(f"{method:8}{alpha:4.1f}{lam:6.3f}{cells}")
    assert method == "GD" or alpha in (0.2, 0.3)  # inside the grid
after = {m: curves for m, (_, curves) in results.items()}
last = {m: np.exp(np.log(c[:, 40]).mean()) for m, c in after.items()}
assert last["F"] < 0.5 * min(last["F̄"], last["sampled"])
assert last["F̄"] < 0.8 * last["GD"]
assert last["sampled"] < last["GD"]
for k in (5, 40):
    ratio = after["sampled"][:, k].mean() / after["F̄"][:, k].mean()
    assert 0.4 < ratio < 2.5

# %%
fig, ax = plt.subplots(figsize=(5.2, 3.8))
order = ("F", "sampled", "F̄", "GD")
for method, marker in zip(order, plots.MARKERS, strict=False):
    c = np.log(after[method])
    mean, sd = np.exp(c.mean(axis=0)), c.std(axis=0, ddof=1)
    line = ax.semilogy(
        mean, label=method, marker=marker, markevery=5, markersize=5
    )[0]
    low, high = mean * np.exp(-sd), mean * np.exp(sd)
    ax.fill_between(
        range(41), low, high, color=line.get_color(), alpha=0.15, linewidth=0
    )
ax.legend()
ax.set(xlabel="number of steps", ylabel="training loss (nats)")
ax.set_title("The exact F is ahead; F̄ and the samples tie")
plots.show(
    fig,
    "Training loss on a logarithmic axis against forty steps for F, the "
    "sampled Fisher, the empirical Fisher and gradient descent, mean and "
    "spread of five starts. F ends far below the others, gradient descent "
    "above them; the sampled and the empirical Fisher end close together.",
)

# %% [markdown]
# In the geometric mean of the five runs the exact $F$ ends lowest, by a wide margin, and $\bar F$ beats tuned gradient
# descent. No winner's $\alpha$ is at the edge of the grid; the $\lambda$ of $F$ is, and a smaller one could only put
# $F$ further ahead. **At the end one sampled label for each example does not clearly beat $\bar F$**: the mean losses
# are within a factor of 2.5. We expected more of the repair. 384 draws for a matrix of 172 rows are noisy, and the more
# so the better the fit (section 8). In practice the samples of many steps are averaged (unit 06).
#
# In the first steps $\hat F$ is ahead of $\bar F$. But the tuning looked at the end only. With $\alpha=0.5$, from the
# same five starts, $\bar F$ ends where it did, and most of that lead is gone: its steps at the start are too short
# (section 4), and a larger $\alpha$ mends that. The last lines say why we took the worst of four starts: two of them,
# and $F$ with $\alpha=0.5$.

# %%
bold = others("F̄", (0.5, 1e-2)).mean(axis=0)
tuned = after["F̄"].mean(axis=0)
print("mean loss after  5   40 steps")
print(f"F̄, tuned      {tuned[5]:.2f} {tuned[40]:.2f}")
print(f"F̄, α = 0.5    {bold[5]:.2f} {bold[40]:.2f}")
assert bold[5] < min(0.8 * tuned[5], 1.3 * after["sampled"][:, 5].mean())
assert 0.7 < bold[40] / tuned[40] < 1.4
for i in (4, 5):
    h = curve("F", (0.5, 1e-3), i, 0)[40]
    print(f"F, α = 0.5, start {i}: {h:.2f}")

# %% [markdown]
# So: take the expectation over the model's $y$, exactly where you can; and do not trust a comparison of optimizers
# whose tuning you have not seen. "Fails" in the title means: fails to be what it is taken for. It does not mean that
# nothing can be trained with it.
#
# ## 8 · Where it breaks
#
# **When the fit is perfect.** Take one example that the model gets nearly right: two classes, $p(y_i)=1-\varepsilon$.
# The score in the outputs is $\pm\varepsilon$. So
#
# $$g\propto\varepsilon,\qquad \bar F\propto\varepsilon^2,\qquad F\propto\varepsilon(1-\varepsilon),\qquad
# F^{-1}g=O(1),\qquad \bar F^{-1}g\propto\frac1\varepsilon . \tag{4.11}$$
#
# The better the fit, the longer the step of $\bar F$. It was the same in section 3, with $\theta$ for $\varepsilon$.
#
# On real data: the thirty measurements of breast_cancer let a logistic model classify all of the training tumours
# rightly (unit 01, §5). Take such weights $u$ and look along the ray $\theta=cu$, a model with the single parameter
# $c$. As $c$ grows the fit becomes perfect.

# %%
x30, malignant = data.breast_cancer().train
sign = np.where(malignant == 1, 1.0, -1.0)
X30 = np.column_stack([np.ones(len(x30)), x30])
u = np.zeros(31)
for _ in range(9):  # Newton steps
    prob = 1 / (1 + np.exp(-X30 @ u))
    F30 = (X30.T * (prob * (1 - prob))) @ X30 / len(X30) + 1e-6 * np.eye(31)
    u -= np.linalg.solve(F30, X30.T @ (prob - (sign > 0)) / len(X30))
margin = sign * (X30 @ u)  # z for class 1, -z for class 0
assert (margin > 0).all()


# %%
def slope_along(c):
    return -np.mean(margin * np.exp(-np.logaddexp(0, c * margin)))


print("    c    mean loss      |g/F|      |g/F̄|")
ray = []
for c in np.array([1, 2, 4, 8, 16]) * 3 / margin.min():
    eps = np.exp(-np.logaddexp(0, c * margin))  # missing to certainty
    slope_c = -np.mean(eps * margin)
    F_c = np.mean(eps * (1 - eps) * margin**2)
    F_bar_c = np.mean(eps**2 * margin**2)
    ends = slope_along(1.0001 * c), slope_along(0.9999 * c)
    assert np.isclose(F_c, (ends[0] - ends[1]) / (2e-4 * c), rtol=1e-3)  # H
    h_c = np.mean(np.log1p(np.exp(-c * margin)))
    ray.append((h_c, -slope_c / F_c, -slope_c / F_bar_c))
    print(f"{c:8.2f} {h_c:10.1e} {ray[-1][1]:10.3f} {ray[-1][2]:10.1e}")

# %%
ray = np.array(ray)
blow_up = np.polyfit(np.log(ray[2:, 0]), np.log(ray[2:, 2]), 1)[0]
print(f"slope of log |g/F̄| against log loss: {blow_up:.2f}")
assert abs(blow_up + 1) < 0.1
assert ray[2:, 1].max() / ray[2:, 1].min() < 1.5

# %% [markdown]
# **The repair breaks there too.** At the same place a sampled label is nearly always the observed one. Only now and
# then, with probability $\varepsilon$, it is another, and its score is of size 1. One draw is a mean of $n$ terms, each
# about 1 with probability $\varepsilon$: mean $\varepsilon$, standard deviation $\sqrt{\varepsilon/n}$, relative error
# about $1/\sqrt{n\varepsilon}$. If $n\varepsilon$ is well below 1, most draws see no such event and give far too
# little; a few give far too much. That is why, at the end of the clean task, one draw was no better than $\bar F$. The
# closed form (1.4) has no such noise. In numbers, for $n=384$ equal examples as in (4.11), the error of $\hat F/F$ over
# many draws:

# %%
rng = np.random.default_rng(6)
print("  ε   no event   F̄/F  rms error  1/√(nε)")
for eps in (1e-1, 1e-2, 1e-3, 1e-4):
    events = rng.binomial(384, eps, size=100_000)  # labels that differ
    draw = (events * (1 - eps) ** 2 + (384 - events) * eps**2) / 384
    ratio = draw / (eps * (1 - eps))
    error = np.sqrt(np.mean((ratio - 1) ** 2))
    law = 1 / np.sqrt(384 * eps)
    none, bar = np.mean(events == 0), eps / (1 - eps)  # ε² / (ε(1-ε))
    print(f"{eps:.0e} {none:6.2f} {bar:9.1e} {error:7.2f} {law:9.2f}")
    assert 0.75 < error / law < 1.25
assert abs(np.mean(ratio) - 1) < 0.1  # unbiased all the same
assert np.mean(events == 0) > 0.9

# %% [markdown]
# **A wrong model.** With noise that depends on $x$, $\bar F$ near the solution is $\mathbb E[\sigma(x)^2xx^\top]$, and
# not a multiple of $F$: now the direction is wrong close to the solution too, and no step size mends it. $F$ knows
# nothing of the noise; for the step it need not.

# %%
lever = 0.2 + inputs**2  # a deviation that grows with x
e = np.random.default_rng(7).normal(size=60) * lever
e -= A @ np.linalg.lstsq(A, e)[0]
F_wrong = np.einsum("n,ni,nj->ij", e**2, A, A) / 60
angles = np.linspace(0, np.pi, 181)
ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # steps of F
turned = [cosine(np.linalg.solve(F_wrong, F_line @ d), d) for d in ring]
largest = np.degrees(np.arccos(np.min(turned)))
print(f"largest angle between the steps close to the solution: {largest:.0f}°")
assert largest > 15

# %% [markdown]
# **Where $\bar F$ did as well or better**, in the cells above: near the optimum of the noisy task it equals one sampled
# draw; on a regression with the noise that the model says and unequal inputs it beats tuned gradient descent, and with
# a line search in both cases; in the 40 steps of section 7 it is level with the samples, and ends before gradient
# descent; for the noise of gradients and for standard errors it is simply the right matrix.
#
# ## 9 · Change the code
#
# *The last of these two cells needs a running kernel.* It draws the iterates of (4.6) for the $\xi$ and the step size
# that you set. Near $\xi=\frac12$ the iterates hop between two values; raise $\xi$ slowly. Then change the schedule:
# (4.8') says that none brings $\xi=0.9$ to rest; try to find one. What does damping do, if you put
# $(\theta^2+\lambda)^{-\xi}\theta$ in?

# %%
from ipywidgets import FloatSlider, interact

schedule = SCHEDULES["constant"]
# schedule = SCHEDULES["1/√k"]


def draw_iterates(xi, log_alpha):
    theta, path = 1.03, []
    for k in range(1, 301):
        path.append(abs(theta))
        step = 10**log_alpha * schedule(k) / 0.1
        theta = float(iterate(theta, xi, step))
    fig, ax = plt.subplots()
    ax.semilogy(path, marker="o", markersize=3, linestyle="none")
    ax.set(xlabel="number of steps", ylabel="|θ|", ylim=(1e-5, 1e3))
    ax.set_title(f"ξ = {xi:.2f}, α = {10**log_alpha:.3f}")
    plots.show(fig, f"Size of theta over 300 steps, exponent {xi:.2f}.")


# %%
xi_slider = FloatSlider(value=0.75, min=0.3, max=1, step=0.05)
alpha_slider = FloatSlider(value=-1, min=-3, max=0, step=0.25)
_ = interact(draw_iterates, xi=xi_slider, log_alpha=alpha_slider)

# %% [markdown]
# ## 10 · What you have now
#
# | matrix | the mean of | it is |
# |---|---|---|
# | $F$ | $ss^\top$ or $H_L$, all $y$ of the model | curvature of the KL |
# | $\hat F$ | $ss^\top$, one $y$ of the model | $F$, no bias, but noise |
# | $\bar F$ | $ss^\top$, the data's $y$ | second moment of the gradients |
# | $H$ | $H_L$, the data's $y$ | curvature of the loss |
# | $gg^\top$ | $s$, the data's $y$, then squared | rank one, zero at a minimum |
#
# **The answer.** You may, but it is not the natural gradient. Far from the optimum the direction of $\bar F^{-1}g$ is
# wrong; near it the scale is: $\bar F$ follows the residuals, and not the curvature. Where the labels look like draws
# from the model, $\bar F$ comes close to $F$. Where you need $F$, take the expectation over the model's $y$: in closed
# form if you can, by samples if you must.
#
# ### Check yourself
#
# <details><summary>1. A library computes "the Fisher" from the gradients that <code>loss.backward()</code> left for
# every example. What did it compute? How would you test that without reading its code?</summary>
#
# The empirical Fisher. Change the labels and call it again: $F$ cannot change.
# </details>
#
# <details><summary>2. Your labels are noisy and the model is large. It fits every one of them. Is $\bar F$ near $F$,
# since there is noise?</summary>
#
# No. What counts is the noise that the *model* sees. Fitted perfectly, $p(y_i|x_i)\approx1$, the residuals vanish, and
# so does $\bar F$: (4.11).
# </details>
#
# <details><summary>3. In the counterexample a friend uses $\xi=\frac12$ and $\alpha_k=1/k$ and says: "it converges, so
# where is the problem?" Compare with $F$ and $\alpha=\frac12$ after 50 steps.</summary>
#
# $|\theta_{50}|$ is up to $1/50$; with $F$ it is $2^{-50}|\theta_0|$, about $10^{-15}$.
# </details>
#
# <details><summary>4. You damp $\bar F$ with $\lambda=10^{-3}$ and $F$ with the same $\lambda$, late in training on
# clean data, and find a cosine of 1.00 between the steps. What have you shown?</summary>
#
# Perhaps only that $\lambda$ is larger than both matrices there: then both steps are $g/\lambda$. Use a damping
# relative to each matrix, and look at the cosine of both with $g$.
# </details>
#
# <details><summary>5. Why does one not simply rescale $\bar F$ to have the trace of $F$?</summary>
#
# It mends the scale and not the direction; and the trace of $F$ has to be known, for which one needs samples or the
# closed form. If you have those you can use them for the whole matrix, or its diagonal (unit 05).
# </details>
#
# ### Further reading
#
# - J. Martens, *New Insights and Perspectives on the Natural Gradient Method*, JMLR 21 (2020), sections 5 and 11.
# - F. Kunstner, L. Balles, P. Hennig, *Limitations of the Empirical Fisher Approximation for Natural Gradient
#   Descent*, NeurIPS 2019: the direction fields of section 5, and more data.
# - N. Schraudolph, *Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent*, Neural Computation 14
#   (2002).
# - N. Le Roux, P.-A. Manzagol, Y. Bengio, *Topmoumoute Online Natural Gradient Algorithm*, NIPS 2007: the covariance of
#   gradients used as such.
# - R. Adler, B. Weiss, *The ergodic, infinite measure preserving transformation of Boole*, Israel J. Math. 16 (1973):
#   the map behind $\xi=1$.
#
# **Next:** the exercises, [exercises/04_empirical_fisher](../exercises/04_empirical_fisher/04_empirical_fisher.ipynb).
# Unit 05 shows that Adam is a diagonal empirical Fisher with $\xi=\frac12$, and what follows from that.
#
# *This notebook is built from* `source/lectures/04_empirical_fisher.py`. *To change the course, see* `CONTRIBUTING.md`.
