# %% [markdown]
# # 01 · Likelihood, score, Fisher information
#
# **The question.** You move the weights of a model by a small step $d$. How much does the *model* change, and
# in which directions does it hardly change at all?
#
# The length of $d$ does not answer that. Of two steps of the same length, one can leave the model as it was and the
# other make it another model. By the end you will have the matrix that does answer it, three ways to
# compute it, and a use for it on real data: error bars for fitted weights.
#
# **You will be able to**
#
# - write a loss as a negative log-likelihood, and say which model a squared error or a cross-entropy assumes;
# - compute the score of every example, and prove and check that its expectation is zero;
# - compute the Fisher information as a covariance, as an expected Hessian and as the curvature of a
#   KL divergence, and say over *whose* $y$ the expectation runs;
# - turn it into standard errors, and say when those are wrong.
#
# **You need** derivatives of functions of several variables, matrices and eigenvectors, expectation and
# covariance, some Python. **Time:** two and a half hours with all the code; what is marked ◇ may be skipped at
# first. The exercises take as long again.
#
# **Notation.** $\theta$: parameters, a vector of $P$ numbers. $x$: an input, $y$: its target. $z=f(x;\theta)$: the
# model's output, $k$ numbers. $R(y|z)$: the distribution of $y$ that an output $z$ stands for. $p(y|x;\theta)$: what
# the model says about $y$. $\nabla$ and $\nabla^2$: gradient and Hessian in $\theta$. Logarithms are natural;
# amounts of information are then counted in *nats*, as they would be in bits with base 2.
#
# **The JAX used here**, to come back to:
#
# | code | what it is |
# |---|---|
# | `jax.grad(f)` | the gradient of `f`, a function, in its first argument; a function again |
# | `jax.jacobian(f)`, `jax.hessian(f)` | the matrix of first, of second derivatives |
# | `jax.vmap(f, (None, 0))` | `f` for every entry of the second argument, the first held fixed |
# | `jnp.einsum("nk,nkp->np", p, s)` | a sum over the letters missing on the right: $\sum_k p_{nk}s_{nkp}$ |
# | `jax.random.key(0)` | where random numbers come from. The same key gives the same numbers, so each is used once |
# | `jax.random.split(key, m)` | `m` new keys from one |
# | `jax.jit(f)`, `jax.lax.scan` | a compiled function, a compiled loop |
#
# A line like *Claim M-3: holds* is our verdict on a statement of the papers and slides that this course follows;
# `docs/CLAIMS.csv` lists them all.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from course_lib import plots
from course_lib.claims import verdict

jax.config.update("jax_enable_x64", True)
plots.use_style()
COLORS = plots.OKABE_ITO

# %% [markdown]
# The line about `x64` asks JAX for 64-bit numbers, 16 digits instead of 7. Training does well without them;
# checking an identity does not.
#
# ## 1 · A loss is a likelihood
#
# A network gives numbers $z=f(x;\theta)$. To compare them with a target $y$ we say what $z$ *means*: a
# distribution $R(y|z)$ over targets. The model is then
#
# $$p(y|x;\theta)=R\big(y\,|\,f(x;\theta)\big),$$
#
# a probability where $y$ is a class, a density where $y$ is a real number. Read as a function of $\theta$, with the data
# fixed, it is called the *likelihood*. For examples $(x_1,y_1),\dots,(x_n,y_n)$ that are independent given their inputs
# the likelihoods multiply. *Maximum likelihood* picks the $\theta$ that makes the product largest. The logarithm turns
# the product into a sum, and because it is increasing it leaves the best $\theta$ where it was; so does dividing by $n$.
# Minimising instead of maximising gives the minus sign:
#
# $$h(\theta)=\frac1n\sum_{i=1}^n -\log p(y_i|x_i;\theta).$$
#
# This $h$ is the *mean negative log-likelihood* (NLL). Three choices of $R$ give the three usual losses.
#
# **Real targets, $R(y|z)=\mathcal N(y;z,I)$.** The density of $k$ independent Normals with means $z_j$ and
# standard deviation 1 is $\prod_j (2\pi)^{-1/2}\exp(-\tfrac12(y_j-z_j)^2)$. Minus its logarithm is
#
# $$-\log R(y|z)=\tfrac12\|y-z\|^2+\tfrac k2\log 2\pi .$$
#
# So half the squared error is the NLL of a Normal with variance 1, up to a constant. (With standard deviation
# $\sigma$, the square is divided by $\sigma^2$ and each of the $k$ outputs adds $\log\sigma$.)
#
# **Classes, $R(y|z)=p_y$ with $p=\mathrm{softmax}(z)$**, that is $p_y=e^{z_y}/\sum_j e^{z_j}$:
#
# $$-\log R(y|z)=\log\sum_j e^{z_j}-z_y .$$
#
# This is what deep learning calls the cross-entropy loss. The outputs $z$ are called *logits*.
#
# **Yes or no, $y\in\{0,1\}$, one output.** $R(1|z)=\sigma(z)=1/(1+e^{-z})$, so
# $-\log R(y|z)=\log(1+e^z)-yz$. Section 5 uses it.


# %%
def nll_normal(z, y):
    return 0.5 * jnp.sum((y - z) ** 2) + 0.5 * z.size * jnp.log(2 * jnp.pi)


def nll_categorical(z, y):
    return jax.nn.logsumexp(z) - z[y]


# %% [markdown]
# Why the library's `logsumexp`? $e^{1000}$ is too large for a 64-bit number; the limit is near $e^{709}$. Because
# $\sum_j e^{z_j}=e^{t}\sum_j e^{z_j-t}$ for every $t$, we have $\log\sum_j e^{z_j}=t+\log\sum_j e^{z_j-t}$. With
# $t=\max_j z_j$ the largest term is $e^0=1$: nothing overflows, and the sum is at least 1, so its logarithm is
# fine too. That is what `logsumexp` does, and what you will write yourself in exercise 2.

# %%
large = jnp.array([1000.0, 990.0, 0.0])
naive = -jnp.log(jnp.exp(large)[1] / jnp.sum(jnp.exp(large)))
print(f"exp first: {naive}; logsumexp: {nll_categorical(large, 1):.6f}")
assert jnp.isnan(naive)
by_hand = 10 + np.log1p(np.exp(-10))  # divide by e^990: log(e^10 + 1)
assert abs(nll_categorical(large, 1) - by_hand) < 1e-9

# %% [markdown]
# **Check by brute force.** If $-\log R$ is right, $e^{-\mathrm{nll}}$ is a probability: it integrates to 1 over all $y$,
# or sums to 1 over all classes. For the integral, two outputs and a square grid of $y$, every point standing for a small
# square. Then both against another hand: SciPy's Normal, and the sum of minus the one-hot label times the log of the
# softmax.

# %% tags=["claim:SL-nll"]
z, y = jnp.array([0.3, -1.2]), jnp.array([1.0, 2.0])
axis = jnp.linspace(-9, 9, 361)
points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
densities = jnp.exp(-jax.vmap(nll_normal, (None, 0))(z, points))
over_y = jnp.sum(densities) * (axis[1] - axis[0]) ** 2
over_classes = sum(jnp.exp(-nll_categorical(z, y)) for y in range(2))
assert abs(over_y - 1) < 1e-9
assert abs(over_classes - 1) < 1e-12

scipys = -jax.scipy.stats.norm.logpdf(y, z).sum()
one_hot = jnp.array([0.0, 1.0])
cross_entropy = -jnp.sum(one_hot * jnp.log(jax.nn.softmax(z)))
gaps = nll_normal(z, y) - scipys, nll_categorical(z, 1) - cross_entropy
gap = max(abs(g) for g in gaps)
assert gap < 1e-14
verdict(
    "SL-nll", "holds", f"equal to SciPy and to the cross-entropy, {gap:.0e}"
)

# %% [markdown]
# `course_lib` has all three, as `Normal()`, `Categorical()` and `Bernoulli()`. Such an object has three methods: `nll`,
# a `sample`, and a `fisher` that section 3 explains. `Model(apply, likelihood)` puts a function and a likelihood
# together: `apply(theta, x)` takes a whole batch, and `model.loss(theta, (x, y))` is $h$.

# %%
from course_lib.likelihoods import Bernoulli, Categorical, Normal
from course_lib.models import Model

assert jnp.allclose(Normal().nll(z, y), nll_normal(z, y))
one = jnp.array(1)
assert jnp.allclose(Categorical().nll(large, one), nll_categorical(large, 1))

# %% [markdown]
# ## 2 · The score
#
# The *score* of an example is the gradient of its log-likelihood in the parameters:
#
# $$s(x,y)=\nabla_\theta\log p(y|x;\theta)=\frac{\nabla_\theta\,p(y|x;\theta)}{p(y|x;\theta)} .$$
#
# It points where $\theta$ would have to go to make this $y$ likelier. The gradient of the loss is minus the
# mean score over the data, $\nabla h=-\frac1n\sum_i s(x_i,y_i)$.
#
# **By hand: counts.** Let $y$ be a count, Poisson with mean $\lambda$ (here the only parameter, and no $x$):
# $p(y;\lambda)=\lambda^ye^{-\lambda}/y!$. Then $\log p=y\log\lambda-\lambda-\log y!$, and the score is
# $s=\frac y\lambda-1$: positive if the count was larger than expected. Since $\mathbb E[y]=\lambda$, its mean is zero.
# That is no accident.
#
# **The expected score is zero, if $y$ comes from the model itself.** Fix $x$. For a $y$ that takes finitely many
# values,
#
# $$\mathbb E_{y\sim p(\cdot|x;\theta)}[s]=\sum_y p(y|x;\theta)\,\frac{\nabla_\theta\,p(y|x;\theta)}{p(y|x;\theta)}
# =\sum_y\nabla_\theta\,p(y|x;\theta)=\nabla_\theta\sum_y p(y|x;\theta)=\nabla_\theta 1=0 .$$
#
# The second step cancels $p$; we assume $p>0$ for every $y$, as a softmax has it. The third exchanges a
# finite sum and a derivative. The fourth uses that probabilities sum to 1 for *every* $\theta$.
#
# ◇ For infinitely many $y$ the sum is a series or an integral. The exchange is allowed if the set of possible $y$ does not
# depend on $\theta$ and if there is one function $g(y)$ with a finite integral that bounds the size of $\nabla p(y|x;\theta')$
# for all $\theta'$ near $\theta$. The Poisson and the Normal are so. Equation (1.3) below asks the same of $\nabla^2p$, and
# (1.5) of the third derivatives of $\log p$, weighted by $p$. Section 6 shows a distribution for which it fails.
#
# Our example is a softmax regression: $k=3$ classes, $x$ of two numbers, $z=Wx$, and $\theta$ the $P=6$ entries
# of $W$, row by row.

# %%
NUM_CLASSES = 3


def log_prob(theta, x, y):
    W = theta.reshape(NUM_CLASSES, -1)
    return -nll_categorical(W @ x, y)


def score(theta, x, y):
    return jax.grad(log_prob)(theta, x, y)


x_key, theta_key, draw_key = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(x_key, (20, 2))
theta = jax.random.normal(theta_key, (6,))

# %% [markdown]
# **Check by enumeration.** Three classes can be listed. For each $x$ we add up $p(y|x)\,s(x,y)$ over them. The inner
# `vmap` runs over the classes, the outer one over the inputs.

# %%
classes = jnp.arange(NUM_CLASSES)


def for_all(f):
    """f(theta, x, y) for every input and every class: (n, k, ...)."""
    over_classes = jax.vmap(f, (None, None, 0))
    return jax.jit(jax.vmap(over_classes, (None, 0, None)))


s = for_all(score)(theta, x, classes)  # (n, k, P)
p = jnp.exp(for_all(log_prob)(theta, x, classes))  # (n, k)
expected_score = jnp.einsum("nk,nkp->np", p, s)
largest = np.abs(expected_score).max()
print(f"largest entry of a score: {np.abs(s).max():.1f}")
print(f"largest entry of E[s] over the 20 inputs: {largest:.0e}")
assert largest < 1e-14

# %% [markdown]
# **Check by sampling.** When $y$ cannot be listed we draw it. A mean of $M$ draws of something with mean zero is not
# zero. It is off, typically, by its *standard error*, the standard deviation of one draw divided by $\sqrt M$. So two things
# are to be seen: the error is of the size of the standard error, and it falls as $M^{-1/2}$, a line of slope $-\frac12$
# when both axes are logarithmic. We watch the mean of the first $M$ draws as $M$ grows, for sixteen random seeds; every
# draw has a key of its own. (With one key for two draws the two would be equal, and $M$ smaller than we think.)

# %%
NUM_DRAWS = 4**7


def scores_of_draws(key):
    keys = jax.random.split(key, NUM_DRAWS)
    z = theta.reshape(NUM_CLASSES, -1) @ x[0]
    drawn = jax.vmap(lambda k: jax.random.categorical(k, z))(keys)
    return jax.vmap(score, (None, None, 0))(theta, x[0], drawn)


sampled = jax.jit(jax.vmap(scores_of_draws))(jax.random.split(draw_key, 16))
sizes = 4 ** np.arange(2, 8)
means = jnp.stack([sampled[:, :m].mean(axis=1) for m in sizes])
errors = np.asarray(jnp.linalg.norm(means, axis=2))  # (sizes, seeds)

# %% [markdown]
# The points of one seed share their first draws. Over repetitions of all this the measured slope scatters by a few hundredths;
# we ask for $-\frac12$ within a tenth.

# %% tags=["claim:SL-score0"]
rms = np.sqrt(np.mean(errors**2, axis=1))  # over the seeds
slope = np.polyfit(np.log(sizes), np.log(rms), 1)[0]
one_draw = sampled.std(axis=1, ddof=1)  # (seeds, P)
predicted = np.sqrt(np.mean(np.sum(one_draw**2, axis=1)) / NUM_DRAWS)
assert abs(slope + 0.5) < 0.1
assert 0.6 < rms[-1] / predicted < 1.6  # the mean of 16 squares scatters
verdict(
    "SL-score0",
    "holds",
    f"E[s] = 0 to {largest:.0e} by enumeration; sampled, the error falls "
    f"with slope {slope:.2f} and is {rms[-1] / predicted:.2f} times its "
    "standard error (16 seeds)",
)

# %%
fig, ax = plt.subplots()
dots = {"linestyle": "none", "marker": "o", "markersize": 4}
ax.loglog(sizes, errors, color=COLORS["sky"], **dots)
ax.loglog(sizes, rms, color=COLORS["blue"], marker="s")
start = predicted * np.sqrt(NUM_DRAWS / sizes[0])
plots.slope_guide(ax, sizes, start, -0.5, "standard\nerror")
ax.set(xlabel="number of draws M", ylabel="norm of the mean score")
ax.set_title("The mean score goes to zero as 1/√M")
plots.show(
    fig,
    "Log-log plot: the norm of the sampled mean score against the number of "
    "draws. Sixteen seeds are dots, their root mean square is squares joined "
    "by a line, which falls along the dashed line of the standard error.",
)

# %% [markdown]
# ## 3 · The Fisher information matrix
#
# The score has mean zero. How much it *varies* says how much a draw of $y$ tells about $\theta$: where the score is
# always near zero, no $y$ would make us change $\theta$; where it is large, now in one direction and now in the
# other, every $y$ pulls hard. The *Fisher information matrix* is the covariance of the score:
#
# $$F(\theta)=\mathbb E_x\,\mathbb E_{y\sim p(\cdot|x;\theta)}\big[s\,s^\top\big]\qquad(P\times P). \tag{1.1}$$
#
# No mean has to be subtracted, because it is zero. The outer expectation is over the inputs; with a data set, it is
# the average over its $x_i$. The inner expectation is over **the model's** $y$. The labels of the data set do not
# occur in (1.1).
#
# **By hand: counts.** The score was $s=\frac y\lambda-1$. The variance of a Poisson count is $\lambda$, so
# $F(\lambda)=\lambda/\lambda^2=1/\lambda$. One more expected event matters less where many are expected.
#
# For the softmax regression, with all classes listed:


# %%
def fisher_as_covariance(theta, x):
    s = for_all(score)(theta, x, classes)
    p = jnp.exp(for_all(log_prob)(theta, x, classes))
    return jnp.einsum("nk,nkp,nkq->pq", p, s, s) / len(x)


F_softmax = fisher_as_covariance(theta, x)
print(np.round(F_softmax, 2))

# %% [markdown]
# ### The same matrix is the expected Hessian
#
# Differentiate $-\log p$ twice. The first derivative is $-\nabla p/p$. For the second, the quotient rule on each
# entry gives
#
# $$\nabla^2(-\log p)=-\frac{\nabla^2 p}{p}+\frac{\nabla p\,\nabla p^\top}{p^2}=-\frac{\nabla^2 p}{p}+s\,s^\top .
# \tag{1.2}$$
#
# Take the expectation over the model's $y$. In the first term $p$ cancels, as it did for the score:
#
# $$\mathbb E_y\Big[\frac{\nabla^2 p}{p}\Big]=\sum_y\nabla^2 p(y|x;\theta)=\nabla^2\sum_y p(y|x;\theta)=\nabla^2 1=0 ,$$
#
# so
#
# $$F(\theta)=\mathbb E_x\,\mathbb E_{y\sim p(\cdot|x;\theta)}\big[\nabla^2(-\log p(y|x;\theta))\big]. \tag{1.3}$$
#
# **By hand: counts.** $-\log p=\lambda-y\log\lambda+\log y!$ has the second derivative $y/\lambda^2$, with expectation
# $\lambda/\lambda^2=1/\lambda$. The same.
#
# First (1.2) for single pairs $(x,y)$, with each derivative taken by JAX.


# %%
def prob(theta, x, y):
    return jnp.exp(log_prob(theta, x, y))


def nll_hessian(theta, x, y):
    return -jax.hessian(log_prob)(theta, x, y)


def right_side(theta, x, y):
    s = score(theta, x, y)
    curved = jax.hessian(prob)(theta, x, y) / prob(theta, x, y)
    return -curved + jnp.outer(s, s)


# %%
left = for_all(nll_hessian)(theta, x, classes)
gap_12 = np.abs(left - for_all(right_side)(theta, x, classes)).max()
assert gap_12 < 1e-12

# %% [markdown]
# Then (1.3): weighted by $p$ and averaged over the inputs, the Hessians give $F$.

# %% tags=["claim:SL-hess", "claim:M-4"]
F_as_hessian = jnp.einsum("nk,nkpq->pq", p, left) / len(x)
gap = np.abs(F_softmax - F_as_hessian).max()
assert gap < 1e-14
sides = f"both sides of (1.2) agree to {gap_12:.0e} at 60 pairs (x, y)"
verdict("SL-hess", "holds", f"{sides}, their expectation is F to {gap:.0e}")
verdict("M-4", "holds", f"covariance and expected Hessian agree to {gap:.0e}")

# %% [markdown]
# ### In closed form: through the outputs
#
# Listing all $y$ is impossible for a Normal and slow for many classes. But the parameters act on $y$ only through $z$.
# With $J=\partial z/\partial\theta$ (a $k\times P$ matrix, the Jacobian), the chain rule gives $s=J^\top s_z$, where
# $s_z=\nabla_z\log R(y|z)$ is the score in the outputs. $J$ does not depend on $y$ and leaves the inner expectation:
#
# $$F=\mathbb E_x\big[J^\top F_R\,J\big],\qquad F_R=\mathbb E_{y\sim R(\cdot|z)}\big[s_z s_z^\top\big]\quad(k\times k).
# \tag{1.4}$$
#
# $F_R$ has a closed form. For the Normal with standard deviation 1, $s_z=y-z$, whose covariance is $I$.
#
# For classes, write $e_y$ for the vector with a 1 in place $y$ and zeros elsewhere. Since
# $\partial\log\sum_j e^{z_j}/\partial z_i=p_i$, the score is $s_z=e_y-p$. Its mean is zero, because $\mathbb E[e_y]=p$.
# Multiply out, take expectations, and use that $e_ye_y^\top$ has a single 1, in place $(y,y)$, so that
# $\mathbb E[e_ye_y^\top]=\mathrm{diag}(p)$:
#
# $$F_R=\mathbb E\big[(e_y-p)(e_y-p)^\top\big]=\mathbb E[e_ye_y^\top]-p\,p^\top-p\,p^\top+p\,p^\top=
# \mathrm{diag}(p)-p\,p^\top .$$
#
# For yes or no, $s_z=y-\sigma(z)$, and $F_R$ is the variance of $y$: $\sigma(z)(1-\sigma(z))$.


# %%
def fisher_through_outputs(theta, x):
    def of_one(a):
        def outputs(t):
            return t.reshape(NUM_CLASSES, -1) @ a

        J = jax.jacobian(outputs)(theta)  # (k, P)
        return J.T @ Categorical().fisher(outputs(theta)) @ J

    return jax.vmap(of_one)(x).mean(axis=0)


# %% [markdown]
# `course_lib` computes $F$ so, for any model and likelihood. The batch's $y$ is not read, so `(x, None)` will do.

# %% tags=["claim:M-3"]
from course_lib.curvature.matrices import (
    empirical_fisher,
    fisher,
    fisher_mc,
    hessian,
)


def logits(theta, x):
    return x @ theta.reshape(NUM_CLASSES, -1).T


regression = Model(logits, Categorical())
closed = fisher_through_outputs(theta, x)
gap = np.abs(F_softmax - closed).max()
assert gap < 1e-14
assert jnp.allclose(fisher(regression, theta, (x, None)), closed, atol=1e-14)
verdict("M-3", "holds", f"E[s sᵀ] by listing y is E[Jᵀ F_R J] to {gap:.0e}")

# %% [markdown]
# ### ◇ The joint distribution of $x$ and $y$
#
# Some texts write $F$ with the joint density $p(x,y|\theta)=p(y|x;\theta)\,q(x)$. It is the same matrix: $q(x)$ does
# not depend on $\theta$, so $\nabla_\theta\log p(x,y|\theta)=\nabla_\theta\log p(y|x;\theta)+0$, and the expectation over
# the joint is the one over $x$ of the one over $y$. To see it, let $x$ take four values with unequal probabilities,
# and sum over all twelve pairs.

# %% tags=["claim:M-cond"]
q = jnp.array([0.1, 0.2, 0.3, 0.4])


def log_joint(theta, i, y):
    return log_prob(theta, x[i], y) + jnp.log(q[i])


def joint_fisher(q):
    weights = jnp.exp(for_all(log_joint)(theta, jnp.arange(4), classes))
    s = for_all(jax.grad(log_joint))(theta, jnp.arange(4), classes)
    return jnp.einsum("nk,nkp,nkq->pq", weights, s, s)


each = [fisher(regression, theta, (x[i : i + 1], None)) for i in range(4)]
conditional = jnp.einsum("n,npq->pq", q, jnp.stack(each))
gap = np.abs(joint_fisher(q) - conditional).max()
assert gap < 1e-14

q = jnp.full(4, 0.25)  # the data set's own x
empirical = fisher(regression, theta, (x[:4], None))
gap = np.maximum(gap, np.abs(joint_fisher(q) - empirical).max())
assert gap < 1e-14
verdict(
    "M-cond", "holds", f"joint and averaged conditional agree to {gap:.0e}"
)

# %% [markdown]
# ### Whose $y$?
#
# Replace the model's $y$ in (1.1) by the labels of a data set, and you get another matrix,
# $\bar F=\frac1n\sum_i s(x_i,y_i)\,s(x_i,y_i)^\top$, the *empirical Fisher*. It is often called "the Fisher", and it is
# not. The quickest way to tell them apart: give the examples other labels. $F$ cannot notice, since nothing in it reads them.

# %%
labels = jax.random.categorical(jax.random.key(1), logits(theta, x))
others = (labels + 1) % NUM_CLASSES


def moved(matrix):
    before = matrix(regression, theta, (x, labels))
    after = matrix(regression, theta, (x, others))
    return float(jnp.linalg.norm(after - before) / jnp.linalg.norm(before))


print(f"other labels move the Fisher by {moved(fisher):.0%},")
print(f"the empirical Fisher by {moved(empirical_fisher):.0%}")
assert moved(empirical_fisher) > 0.5

# %% [markdown]
# Unit 04 shows what goes wrong when one optimizes with $\bar F$.
#
# **Sampling $F$.** When $y$ cannot be listed and there is no closed form, draw it from the model. One draw for every
# example gives the matrix $\hat F_m=\frac1n\sum_i s(x_i,y_i)\,s(x_i,y_i)^\top$, whose expectation over the draws is (1.1), word for
# word. Take $M$ such matrices. Their mean is the estimate. The spread between them, entry by entry, tells how good it
# is: the sample standard deviation over the $M$ draws (dividing by $M-1$, because the mean was fitted to the same
# draws), divided by $\sqrt M$, is the standard error.
#
# `fisher_mc` does the drawing, with a key for every example and draw. Again sixteen seeds, and the mean of the first
# $M$ matrices.


# %%
def draw(key):
    return fisher_mc(regression, theta, (x, None), key)


keys = jax.random.split(jax.random.key(2), (16, 1024))
matrices = jax.jit(jax.vmap(jax.vmap(draw)))(keys)  # (seeds, draws, P, P)
counts = 4 ** np.arange(0, 6)
off = [matrices[:, :m].mean(axis=1) - F_softmax for m in counts]
relative = jnp.linalg.norm(jnp.stack(off), axis=(2, 3))
relative = relative / jnp.linalg.norm(F_softmax)  # (counts, seeds)
print("draws   relative error, mean ± standard deviation of 16 seeds")
for m, row in zip(counts, relative, strict=True):
    print(f"{m:5d}   {row.mean():.3f} ± {row.std(ddof=1):.3f}")
rms = np.sqrt(np.mean(relative**2, axis=1))
slope = np.polyfit(np.log(counts), np.log(rms), 1)[0]
print(f"slope {slope:.2f}")
assert abs(slope + 0.5) < 0.1

# %% [markdown]
# ## 4 · The curvature of the model's change
#
# Back to the question. How different are the models at $\theta$ and at $\theta+d$? Models are distributions, and the
# *Kullback–Leibler divergence* measures how different two distributions are,
#
# $$\mathrm{KL}(\theta\,\|\,\theta+d)=\mathbb E_x\,\mathbb E_{y\sim p(\cdot|x;\theta)}
# \big[\log p(y|x;\theta)-\log p(y|x;\theta+d)\big]\quad\text{(nats per example)} .$$
#
# To get a feeling for a nat: between a fair coin and one that shows heads six times in ten it is 0.020 nats, between a
# fair coin and one that shows heads nine times in ten, 0.51. It is never negative: $\log t\le t-1$ with $t=q/p$ gives
# $\mathbb E_p[-\log(q/p)]\ge\mathbb E_p[1-q/p]=0$, with equality only where $q=p$. And it does not care how the
# model is parametrised: only probabilities of $y$ occur in it.
#
# For a small step, expand $-\log p(y|x;\theta+d)$ in a Taylor series around $\theta$:
#
# $$-\log p(y|x;\theta+d)=-\log p(y|x;\theta)-d^\top s+\tfrac12\,d^\top\,\nabla^2(-\log p)\,d+O(\|d\|^3).$$
#
# Insert it. The terms of order zero cancel. The first-order term is $-d^\top\mathbb E[s]=0$, by section 2. In the
# second-order term the expectation of the Hessian is $F$, by (1.3). So
#
# $$\mathrm{KL}(\theta\,\|\,\theta+d)=\tfrac12\,d^\top F(\theta)\,d+O(\|d\|^3). \tag{1.5}$$
#
# **This answers the question: a step $d$ changes the model by $\frac12d^\top Fd$ nats per example, up to third order.** The Fisher information is the
# curvature of the divergence, its Hessian in $d$ at $d=0$.
#
# **By hand: counts.** $\mathrm{KL}=\mathbb E[y\log\lambda-\lambda-y\log(\lambda+d)+\lambda+d]=
# d-\lambda\log(1+d/\lambda)$. With $\log(1+u)=u-\frac{u^2}2+\dots$ this is $\frac{d^2}{2\lambda}-\dots$: the curvature is
# $1/\lambda$, for the third time.

# %%
LAM = 4.0
counts_y = jnp.arange(200.0)  # beyond 200 the probability is below 1e-200


def log_poisson(lam, y):
    return y * jnp.log(lam) - lam - jax.scipy.special.gammaln(y + 1)


weights = jnp.exp(log_poisson(LAM, counts_y))
scores = jax.jit(jax.vmap(jax.grad(log_poisson), (None, 0)))(LAM, counts_y)
as_variance = jnp.sum(weights * scores**2)
second = jax.vmap(jax.hessian(log_poisson), (None, 0))(LAM, counts_y)
as_hessian = -jnp.sum(weights * second)
as_curvature = jax.hessian(lambda d: d - LAM * jnp.log(1 + d / LAM))(0.0)
print(as_variance, as_hessian, as_curvature)
assert jnp.allclose(jnp.array([as_variance, as_hessian, as_curvature]), 0.25)
assert abs(jnp.sum(weights * scores)) < 1e-14
coins = [0.5 * np.log(0.25 / (p * (1 - p))) for p in (0.6, 0.9)]
assert np.allclose(coins, [0.020, 0.51], atol=0.005)

# %% [markdown]
# In the other direction, $\mathrm{KL}(\theta+d\,\|\,\theta)$, the same argument around $\theta+d$ gives
# $\frac12d^\top F(\theta+d)\,d$, and $F(\theta+d)=F(\theta)+O(\|d\|)$: the same quadratic, another term of order three.
# Martens (2020, §6) writes it this way round, and for the joint distribution of $x$ and $y$; $q(x)$ cancels in
# $\log p(x,y|\theta+d)-\log p(x,y|\theta)$, so it is this divergence.
#
# **Check.** If the error is of third order, halving $d$ divides it by 8; on two logarithmic axes it is a line of slope
# 3. We measure the slope in both directions, for ten random directions $d$.


# %%
def kl(theta, other, x):
    log_p = for_all(log_prob)(theta, x, classes)
    log_q = for_all(log_prob)(other, x, classes)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1))


def error(length, direction):
    d = length * direction
    quadratic = 0.5 * d @ F_softmax @ d
    both = jnp.stack([kl(theta, theta + d, x), kl(theta + d, theta, x)])
    return jnp.abs(both - quadratic)


lengths = jnp.logspace(-2.5, -0.5, 9)
directions = jax.random.normal(jax.random.key(3), (10, 6))
norms = jnp.linalg.norm(directions, axis=1, keepdims=True)
over_lengths = jax.vmap(error, (0, None))
over_both = jax.jit(jax.vmap(over_lengths, (None, 0)))
gaps = over_both(lengths, directions / norms)
gaps.shape  # directions, lengths, which way round

# %%
change = jax.jit(jax.hessian(lambda d: kl(theta, theta + d, x)))
curvature = change(jnp.zeros(6))
assert jnp.allclose(curvature, F_softmax, atol=1e-14)

# %% tags=["claim:SL-kl", "claim:M-kl", "nbval-check-output"]
short = slice(0, 5)  # longer steps feel the fourth order too
log_gaps = np.log(gaps[:, short])
slopes = np.stack(
    [
        np.polyfit(np.log(lengths[short]), log_gaps[:, :, way].T, 1)[0]
        for way in (0, 1)
    ]
)
mean, sd = slopes.mean(axis=1), slopes.std(axis=1, ddof=1)
print(f"KL(θ‖θ+d): slope {mean[0]:.2f}; KL(θ+d‖θ): slope {mean[1]:.2f}")
assert np.abs(mean - 3).max() < 0.05
for way, claim in enumerate(["SL-kl", "M-kl"]):
    phrase = f"slope of the error {mean[way]:.3f} ± {sd[way]:.3f}"
    verdict(claim, "holds", f"{phrase}, ten directions")

# %%
forward = gaps[:, :, 0]
fig, ax = plt.subplots()
ax.loglog(lengths, forward.T, color=COLORS["sky"], linestyle="-", linewidth=1)
ax.loglog(lengths, forward.mean(axis=0), color=COLORS["blue"], marker="s")
plots.slope_guide(ax, lengths, 3 * forward[:, 0].mean(), 3, "slope 3")
ax.set(xlabel="length of the step d", ylabel="|KL − ½ dᵀF d|  (nats)")
ax.set_title("The error is of third order")
plots.show(
    fig,
    "Log-log plot of the difference between the KL divergence and its "
    "quadratic against the length of the step: ten thin lines, one a "
    "direction, and their mean. Short steps run along a dashed line of "
    "slope three; for long ones a thin line or two bend away.",
)

# %% [markdown]
# (A thin line that bends at the right belongs to a direction in which the third-order term is small and the fourth
# cancels it at that length.)
#
# **Drag the sliders** of the figure below, or focus one and use the arrow keys. In the first panel,
# $p=\mathcal N(0,1)$ and a second Normal $q$ whose mean is moved by $d_\mu$ and the logarithm of whose standard
# deviation is moved by $d_s$; these two numbers are the parameters here. In the second, the divergence as $d_\mu$
# varies, and the quadratic $\frac12d^\top Fd$ with $F=\mathrm{diag}(1,2)$. With $d_s=0$ the two curves are one: for the
# mean of a Normal the quadratic is exact. It is the change of the standard deviation that has terms of higher order.
# (Where $q$ is narrow and far away the divergence exceeds 4 nats and leaves the panel; the number is still shown.)
#
# Where $F$ comes from: $\log q=-\log\sigma-\frac{(y-\mu)^2}{2\sigma^2}+\text{const}$. At $\mu=0$, $\sigma=1$, with
# $\theta=(\mu,\log\sigma)$, the score is $(y,\;y^2-1)$. For a standard Normal $\mathbb E[y^2]=1$, $\mathbb E[y^3]=0$ and
# $\mathbb E[y^4]=3$, so the covariance has the entries $1$, $\mathbb E[y(y^2-1)]=0$ and $\mathbb E[(y^2-1)^2]=3-2+1=2$.
# The divergence is the expectation of $\log p-\log q$ under $y\sim p$:
# $\mathrm{KL}=d_s+\frac{1+d_\mu^2}{2e^{2d_s}}-\frac12$.
#
# The next five cells compute the figure and lay it out; you may skip to it.


# %%
def kl_normal(d_mu, d_s):
    """KL(N(0, 1) ‖ N(d_mu, exp(d_s)²)) in nats."""
    return d_s + (1 + d_mu**2) / (2 * jnp.exp(2 * d_s)) - 0.5


def quadratic(d_mu, d_s):
    return 0.5 * (d_mu**2 + 2 * d_s**2)


at_zero = jax.hessian(lambda d: kl_normal(*d))(jnp.zeros(2))
assert jnp.allclose(at_zero, jnp.diag(jnp.array([1.0, 2.0])))
shifts = jnp.linspace(-2, 2, 41)
assert jnp.allclose(kl_normal(shifts, 0.0), quadratic(shifts, 0.0))

# %%
from course_lib.explorables import (
    Curve,
    Panel,
    Points,
    Readout,
    Slider,
    explorable,
)

scales = jnp.linspace(-0.8, 0.8, 33)
mu, ds = shifts[:, None], scales[None, :]  # a grid of slider positions
t = jnp.linspace(-5, 5, 121)
exact, approximate = kl_normal(mu, ds), quadratic(mu, ds)


def density(t, s):
    return jnp.exp(-0.5 * (t / jnp.exp(s)) ** 2 - s) / jnp.sqrt(2 * jnp.pi)


# %%
two_normals = Panel(
    "Two Normals",
    "y",
    "density",
    xlim=(-5, 5),
    ylim=(0, 0.95),
    items=[
        Curve("p", t, density(t, 0.0)),
        Curve("q", t + mu[..., None], density(t, ds[..., None])),
    ],
    alt="Two bell curves: p with mean 0 and deviation 1, and q, which moves.",
)

# %%
divergence = Panel(
    "Their divergence",
    "dμ, the shift of the mean",
    "nats",
    xlim=(-2, 2),
    ylim=(0, 4),
    items=[
        Curve("KL", shifts, kl_normal(shifts, ds[..., None])),
        Curve("½ dᵀFd", shifts, quadratic(shifts, ds[..., None])),
        Points("here", mu[..., None], exact[..., None], color="black"),
    ],
    alt="The divergence and its quadratic over the shift of the mean.",
)

# %%
explorable(
    "How far does the quadratic reach?",
    "p is the standard Normal. dμ shifts q, ds widens or narrows it. The "
    "second panel has the exact divergence and the quadratic ½ dᵀFd; they "
    "agree near zero and part as q gets narrower or wider.",
    [
        Slider("dμ, shift of the mean", shifts, start=28),
        Slider("ds, change of log σ", scales, start=10),
    ],
    [two_normals, divergence],
    [
        Readout("KL", exact, unit="nats"),
        Readout("½ dᵀFd", approximate, unit="nats"),
        Readout("difference", exact - approximate, unit="nats"),
    ],
)

# %% [markdown]
# ### Two steps of the same length
#
# Which directions change the model? Write $d$ in the eigenvectors of $F$: a step of length $\ell$ along an eigenvector
# with eigenvalue $\lambda$ changes the model by about $\frac12\lambda\ell^2$. So the changes of two short steps of the same
# length are about in the ratio of their eigenvalues. Back to the softmax regression, six steps of length 0.3:

# %% tags=["nbval-check-output"]
eigenvalues, eigenvectors = np.linalg.eigh(F_softmax)
eigenvalues = np.maximum(eigenvalues, 0)  # -1e-17 is rounding
print("eigenvalue   ½ λ ℓ²      KL")
for value, vector in zip(eigenvalues, eigenvectors.T, strict=True):
    change = max(kl(theta, theta + 0.3 * vector, x), 0)
    print(f"{value:10.3f}{0.5 * value * 0.09:9.4f}{change:8.4f}")
    assert abs(change - 0.5 * value * 0.09) < 0.15 * change + 1e-12

# %% [markdown]
# Two of the six directions change nothing. They add the same vector to every row of $W$, which adds the same number to
# every logit, and the softmax does not see that. $F$ has found a redundancy of the parametrisation: its rank here is at
# most $(k-1)\cdot 2=4$.

# %%
same_row = jnp.tile(jnp.array([0.7, -0.4]), NUM_CLASSES)
assert abs(kl(theta, theta + same_row, x)) < 1e-14
assert np.abs(F_softmax @ same_row).max() < 1e-14
assert np.linalg.matrix_rank(F_softmax) == 4

# %% [markdown]
# ## 5 · On real data: how sure is a fitted weight?
#
# Steps that hardly change the model are also steps that the data can hardly object to. So $F$ should tell how precisely
# each weight is determined. Here is the argument.
#
# Let the model be right: $y_i\sim p(\cdot|x_i;\theta_*)$ for some $\theta_*$, independently, with the $x_i$ held fixed, section 2's
# conditions, and $F(\theta_*)$ invertible. Let $\hat\theta$ be the maximum-likelihood estimate, where
# $\nabla h(\hat\theta)=0$, near $\theta_*$ because there are many examples. Write $H=\nabla^2h(\theta_*)$ and expand the gradient
# around $\theta_*$ to first order:
#
# $$0=\nabla h(\hat\theta)\approx\nabla h(\theta_*)+H\,(\hat\theta-\theta_*)
# \quad\Longrightarrow\quad \hat\theta-\theta_*\approx-H^{-1}\nabla h(\theta_*)=H^{-1}\,\frac1n\sum_i s(x_i,y_i).$$
#
# - $H$ is an average over $n$ examples of $\nabla^2(-\log p)$ at labels drawn from the model. By the law of large numbers
#   it is close to the expectation over such labels, which by (1.3) is $F$. (In the logistic regression below the
#   Hessian does not contain $y$: there $H=F$ exactly.)
# - The scores are independent with mean zero, so the covariance of $\frac1n\sum_i s(x_i,y_i)$ is $\frac1{n^2}$ times the
#   sum of their covariances. By (1.1) that sum is $nF$. The result is $F/n$.
# - A constant matrix $A$ turns the covariance $C$ of a random vector into $ACA^\top$; here $A=F^{-1}$, which is symmetric.
#
# $$\mathrm{Cov}(\hat\theta)\approx F^{-1}\,\frac Fn\,F^{-1}=\frac1n F^{-1},\qquad
# \text{standard error of }\hat\theta_j\approx\sqrt{\tfrac1n(F^{-1})_{jj}} . \tag{1.6}$$
#
# $F$ occurs in both its roles: as an expected Hessian (twice) and as a covariance (once). Since $\theta_*$ is not known, one
# takes $F$ at $\hat\theta$.
#
# The data: 341 tumours (the training part of 569), malignant or benign, with four measurements of each. A measurement is
# centred, and divided by its standard deviation over these tumours. Why four, where the data set has thirty? With all
# thirty some $\theta$ classifies every one of the 341 rightly. Then $2\theta$ is likelier still, and $3\theta$: the likelihood
# has no maximum, and (1.6) means nothing. The model: logistic regression, $z=b+w^\top x$ and
# $p(\text{malignant})=\sigma(z)$, with $\theta=(b,w_1,\dots,w_4)$.

# %%
from course_lib import data

MEASURED = ("texture", "smoothness", "compactness", "symmetry")
tumours = data.breast_cancer(features=[f"mean {m}" for m in MEASURED])
x, y = tumours.train[0], tumours.train[1][:, None]
NAMES = ("intercept", *MEASURED)


def log_odds(theta, x):
    return theta[0] + x @ theta[1:, None]


logistic = Model(log_odds, Bernoulli())
print(f"{len(x)} tumours, {float(y.mean()):.0%} malignant")
assert len(x) == 341

# %% [markdown]
# To fit, we solve $\nabla h=0$ by repeating $\theta\leftarrow\theta-F^{-1}\nabla h$; units 02 and 03 explain why that
# works so well, and the assert below shows that it has. With $X$ the inputs and a column of ones, the output is
# $z=X\theta$, its Jacobian is $X$, and (1.4) with $F_R=\sigma(1-\sigma)$ reads
# $F=\frac1nX^\top\mathrm{diag}\big(\sigma(1-\sigma)\big)X$. We write it out, because the bootstrap below fits four
# thousand times.


# %%
def fit(x, y, num_steps=12):
    X = jnp.concatenate([jnp.ones((len(x), 1)), x], axis=1)

    def step(theta, _):
        p = jax.nn.sigmoid(X @ theta)
        gradient = X.T @ (p - y[:, 0]) / len(x)
        F = (X.T * (p * (1 - p))) @ X / len(x)
        return theta - jnp.linalg.solve(F, gradient), None

    start = jnp.zeros(X.shape[1])
    return jax.lax.scan(step, start, None, num_steps)[0]


def standard_errors(covariance, n):
    return np.sqrt(np.diag(covariance) / n)


fitted = fit(x, y)
assert np.abs(jax.grad(logistic.loss)(fitted, (x, y))).max() < 1e-12
F_fitted = fisher(logistic, fitted, (x, y))
assert jnp.allclose(hessian(logistic, fitted, (x, y)), F_fitted)
from_fisher = standard_errors(np.linalg.inv(F_fitted), len(x))

# %% [markdown]
# And the claim about all thirty measurements: six steps from zero already find such a $\theta$.

# %%
x30 = data.breast_cancer().train[0]
separating = fit(x30, y, num_steps=12)
assert jnp.all((log_odds(separating, x30) > 0) == (y == 1))

# %% [markdown]
# **Check by brute force: the bootstrap.** A standard error is the spread of $\hat\theta$ over repetitions of the
# experiment. We cannot repeat it, but the computer can imitate that in two ways.
#
# - *Parametric*: keep $x$, draw new labels from the fitted model, fit again. This is the world in which (1.6) was
#   derived.
# - *Pairs*: draw $n$ tumours with replacement from the data, fit again. This does not believe the model, and it varies
#   the inputs too.
#
# Weights and errors are in log-odds per standard deviation of the measurement.


# %%
def parametric(key):
    p = jax.nn.sigmoid(log_odds(fitted, x))
    return fit(x, jax.random.bernoulli(key, p))


def pairs(key):
    rows = jax.random.randint(key, (len(x),), 0, len(x))
    return fit(x[rows], y[rows])


def spread(refit, key):
    """Standard deviation of 400 fits, for each of five seeds: (5, P)."""
    keys = jax.random.split(key, (5, 400))
    fits = jax.jit(jax.vmap(jax.vmap(refit)))(keys)
    return np.asarray(fits.std(axis=1, ddof=1))


boot_keys = jax.random.split(jax.random.key(6))
by_model = spread(parametric, boot_keys[0])
by_pairs = spread(pairs, boot_keys[1])

# %% tags=["nbval-check-output"]
print(f"{'':12}{'weight':>8}{'√(F⁻¹/n)':>10}{'parametric':>12}{'pairs':>7}")
table = zip(
    NAMES, fitted, from_fisher, by_model.mean(0), by_pairs.mean(0), strict=True
)
for name, weight, *errors in table:
    print(f"{name:12}{weight:8.2f}{errors[0]:10.2f}", end="")
    print(f"{errors[1]:12.2f}{errors[2]:7.2f}")

# %% [markdown]
# Read it so: one standard deviation more of compactness adds $2.2\pm0.3$ to the log-odds of malignancy. The weight of
# symmetry is smaller than its error: these data do not even tell its sign, given the other three.
#
# Now the ratio of each bootstrap to (1.6), with the spread over the five seeds.

# %%
fig, ax = plt.subplots()
rows = np.arange(len(NAMES))
looks = [
    ("parametric", by_model, "blue", "o", -0.1),
    ("pairs", by_pairs, "vermillion", "s", 0.1),
]
for name, values, color, marker, shift in looks:
    r = values / from_fisher
    style = {"color": COLORS[color], "marker": marker, "linestyle": "none"}
    ax.errorbar(
        r.mean(0), rows + shift, xerr=r.std(0, ddof=1), label=name, **style
    )
ax.axvline(1, color="black", linestyle=":")
ax.set_yticks(rows, NAMES)
ax.set(xlabel="bootstrap standard error / √(F⁻¹/n)", ylabel="parameter")
ax.set_title("The bootstrap against √(F⁻¹/n)")
ax.legend(title="bootstrap", loc="lower right")
plots.show(
    fig,
    "For five parameters, the bootstrap standard error divided by the one "
    "from the inverse Fisher; bars are the standard deviation over five "
    "bootstrap seeds. The parametric bootstrap lies up to a tenth above 1 for "
    "all five; the bootstrap of pairs stands out for smoothness alone.",
)

# %% [markdown]
# With labels drawn from the model, (1.6) is right to within a tenth, and slightly too small. That should be the price of
# the first-order expansion: then it must shrink with more data. We give the model four copies of every tumour's
# measurements and draw labels for all of them.

# %%
r = (by_model / from_fisher).mean(0)
assert (r > 1).all()
assert (r < 1.1).all()
X4 = jnp.tile(x, (4, 1))


def larger(key):
    p = jax.nn.sigmoid(log_odds(fitted, X4))
    return fit(X4, jax.random.bernoulli(key, p))


by_larger = spread(larger, jax.random.key(7))
excess = r.mean() - 1
excess_larger = (by_larger / (from_fisher / 2)).mean() - 1  # √4 = 2
print(f"too small by {excess:.1%} at n = 341, {excess_larger:.1%} at n = 1364")
assert 0.02 < excess < 0.1
assert abs(excess_larger) < 0.03

# %% [markdown]
# The bootstrap of pairs agrees with (1.6) to within a tenth for four of the five parameters. For smoothness it finds
# about a fifth more. Section 6 comes back to it.
#
# ## 6 · Where it breaks
#
# **A wrong model.** The equality of covariance and expected Hessian needs $y$ from the model. Take a linear regression
# whose noise has standard deviation 2, and a model that says 1, $R(y|z)=\mathcal N(z,1)$. Write $r=y-w^\top x$ for the
# residual. The score is $r\,x$, the Hessian of $-\log p$ is $xx^\top$. Under the *data's* distribution the covariance
# of the score, $C$, is $4\,\mathbb E[xx^\top]$, and the expected Hessian, $H$, is $\mathbb E[xx^\top]$: under the data's
# $y$ the two are no longer the same matrix. In (1.2) it is the term $\nabla^2p/p$ that no longer averages to zero.
# $F$ itself, (1.1) or (1.3), does not notice: its $y$ is the model's.
#
# What is then the standard error? Let $\theta_*$ now be the parameter with the smallest expected loss, where the scores
# have mean zero on average over $(x,y)$. The derivation of (1.6) goes through with $H$ for the two outer factors and $C$
# in the middle: $\mathrm{Cov}(\hat\theta)\approx\frac1nH^{-1}CH^{-1}$, the *sandwich*. If the model is right, $C=H=F$ and
# (1.6) is back; a wrong model gives no such guarantee. At the estimate, $C$ is the empirical Fisher: this is a use for
# which it is the right matrix.

# %%
linear = Model(lambda w, x: x @ w[:, None], Normal())
truth = jnp.array([1.0, -2.0, 0.5])
input_key, noise_key, repeat_key = jax.random.split(jax.random.key(4), 3)
X = jax.random.normal(input_key, (400, 3))


def experiment(key):
    return X @ truth[:, None] + 2 * jax.random.normal(key, (400, 1))


def least_squares(y):  # the maximum-likelihood estimate
    return jnp.linalg.solve(X.T @ X, X.T @ y)[:, 0]


once = (X, experiment(noise_key))
w = least_squares(once[1])
H, C = hessian(linear, w, once), empirical_fisher(linear, w, once)
assert jnp.allclose(H, fisher(linear, w, once))
print(f"trace of C over trace of F: {np.trace(C) / np.trace(H):.2f}")
assert abs(np.trace(C) / np.trace(H) - 4) < 0.6  # 4 ± 0.28: 400 squares

# %% [markdown]
# This time the experiment *can* be repeated: two thousand times, with new noise.

# %%
inverse = np.linalg.inv(H)  # = F⁻¹
claimed = standard_errors(inverse, 400)
sandwich = standard_errors(inverse @ C @ inverse, 400)
repeats = jax.vmap(experiment)(jax.random.split(repeat_key, 2000))
true_spread = jax.jit(jax.vmap(least_squares))(repeats).std(axis=0)
print("true spread / √(F⁻¹/n): ", np.round(true_spread / claimed, 2))
print("true spread / sandwich: ", np.round(true_spread / sandwich, 2))
assert np.abs(true_spread / claimed - 2).max() < 0.15
assert np.abs(true_spread / sandwich - 1).max() < 0.15

# %% [markdown]
# The error bars from $F^{-1}$ are half as long as they should be, and the fitted weights do not show it: they are the same
# whatever noise is assumed. The residuals do (their variance is near 4), and so does $C$ beside $F$.
#
# And the tumours? Their sandwich needs no repetition of the experiment.


# %%
@jax.jit
def sandwich_ratio(x, y):
    """Standard errors of the sandwich over those of F⁻¹, for a new fit."""
    X = jnp.concatenate([jnp.ones((len(x), 1)), x], axis=1)
    p = jax.nn.sigmoid(X @ fit(x, y))
    F = (X.T * (p * (1 - p))) @ X / len(x)
    C = (X.T * (y[:, 0] - p) ** 2) @ X / len(x)  # the score is (y - p) X
    inverse = jnp.linalg.inv(F)
    return jnp.sqrt(jnp.diag(inverse @ C @ inverse) / jnp.diag(inverse))


ratio = sandwich_ratio(x, y)
by_rows = (by_pairs / from_fisher).mean(0)
C = empirical_fisher(logistic, fitted, (x, y))
inverse = np.linalg.inv(F_fitted)
from_sandwich = standard_errors(inverse @ C @ inverse, len(x))
assert np.allclose(ratio, from_sandwich / from_fisher)
for name, a, b in zip(NAMES, ratio, by_rows, strict=True):
    print(f"{name:12} sandwich {a:.2f}   pairs {b:.2f}   (over √(F⁻¹/n))")
SMOOTHNESS = NAMES.index("smoothness")
assert jnp.argmax(ratio) == np.argmax(by_rows) == SMOOTHNESS
assert np.abs(np.delete(by_rows, SMOOTHNESS) - 1).max() < 0.1
assert 1.1 < ratio[SMOOTHNESS] < by_rows[SMOOTHNESS] < 1.3

# %% [markdown]
# The sandwich singles out smoothness too. Is the logistic model wrong there? Three more looks, before we say so:
# without the one tumour that the model finds strangest; in data that the fitted model itself made; and on
# other splits of the data.

# %%
p_fitted = jax.nn.sigmoid(log_odds(fitted, x))
strangest = int(jnp.argmax(jnp.abs(y - p_fitted)))
assert y[strangest] == 0
assert p_fitted[strangest] > 0.95
rest = jnp.delete(jnp.arange(len(x)), strangest)
without = sandwich_ratio(x[rest], y[rest])[SMOOTHNESS]


def largest_by_chance(key):
    return sandwich_ratio(x, jax.random.bernoulli(key, p_fitted)).max()


chance_keys = jax.random.split(jax.random.key(8), 500)
largest = jax.jit(jax.vmap(largest_by_chance))(chance_keys)
share = jnp.mean(largest >= ratio.max())
print(f"without tumour {strangest}: {without:.2f}")
print(f"a ratio this large, if the model is true: {share:.1%} of data sets")
assert without < 1.1
assert 0.01 < share < 0.08

# %%
for seed in range(1, 6):
    split = data.breast_cancer(seed, [f"mean {m}" for m in MEASURED]).train
    r = sandwich_ratio(split[0], split[1][:, None])
    worst = NAMES[int(jnp.argmax(r))]
    print(f"split {seed}: smoothness {r[SMOOTHNESS]:.2f}, largest for {worst}")

# %% [markdown]
# Most of it is one tumour: benign, and the model is almost sure that it is not. Were the model true, a ratio as
# large as this for at least one of the five parameters would still turn up in a few of a hundred data sets; and other
# splits of the same data give other numbers. So there is some evidence against the model, and no proof. What remains is
# the honest reading of (1.6): *standard errors from $F^{-1}$ are those of a world in which the model is true.*
#
# **A support that moves.** Let $y$ be uniform on $[0,\theta]$, so $p=1/\theta$ there. For every possible $y$ the score is
# $-1/\theta$. Its expectation is not zero, because the end of the interval moves with $\theta$ and the derivative may
# not be taken inside the integral. Now the three roads of this lecture part. The variance of the score is 0. The
# expected Hessian of $-\log p=\log\theta$ is $-1/\theta^2$. And the divergence, for a step $d>0$, is
# $\log(\theta+d)-\log\theta\approx d/\theta$: not quadratic at all; for $d<0$ it is infinite.


# %%
def log_uniform(theta):
    return -jnp.log(theta)  # for every y in [0, theta]


at = 2.0
score_u = jax.grad(log_uniform)(at)  # the same for every y
hessian_u = -jax.hessian(log_uniform)(at)
divergences = [np.log((at + d) / at) for d in (0.02, 0.01)]
print(f"E[s] = {score_u}, Var(s) = 0, E[∇²(-log p)] = {hessian_u}")
print(f"halving d divides KL by {divergences[0] / divergences[1]:.2f}, not 4")
assert score_u == -0.5
assert hessian_u == -0.25
assert abs(divergences[0] / divergences[1] - 2) < 0.01

# %% [markdown]
# **A matrix that cannot be inverted.** The softmax of section 4 has directions in which the model does not change. There
# $F$ has eigenvalue zero and (1.6) divides by it: the data cannot determine those directions at all. Remove the redundancy
# (fix one row of $W$). Adding a little to the diagonal, *damping*, gives numbers too; they are no standard errors, but
# unit 03 will use it for steps. Look at the spectrum before you invert: in floating-point numbers a zero eigenvalue is $10^{-17}$ of either sign, and `inv`
# returns numbers without complaint.

# %%
inverse = np.linalg.inv(F_softmax)
print(f"largest entry of inv(F): {np.abs(inverse).max():.0e}")
assert np.linalg.cond(F_softmax) > 1e14

# %% [markdown]
# ## 7 · Change the code
#
# *The last of these three cells needs a running kernel.* A coin shows heads with a probability that the slider sets. It is described by a
# parameter $\theta$: here the log-odds, so `prob_of_heads` is the sigmoid. The figure shows the divergence of the coin from
# itself after a step $d$ in $\theta$, and the quadratic. By (1.4), with one output and $J=d\varphi/d\theta$ for the
# probability $\varphi$, and with the Fisher information $\frac1{\varphi(1-\varphi)}$ of a coin in its own probability
# (exercise 8), $F(\theta)=\frac{(d\varphi/d\theta)^2}{\varphi(1-\varphi)}$.
#
# Describe the same coin by its probability: swap the commented line in. Steps that leave $(0,1)$ are not drawn. For which
# coins is the quadratic now worse? Then try the angle with $\varphi=\sin^2\theta$: what does $F$ do as you move the slider?

# %%
from ipywidgets import FloatSlider, interact

prob_of_heads, theta_of = jax.nn.sigmoid, jax.scipy.special.logit
# prob_of_heads, theta_of = (lambda t: t), (lambda p: p)
# prob_of_heads, theta_of = (lambda t: jnp.sin(t) ** 2), (lambda p: jnp.arcsin(jnp.sqrt(p)))


# %%
def coin(p):
    d = jnp.linspace(-1, 1, 401)
    theta = theta_of(p)
    q = prob_of_heads(theta + d)
    q = jnp.where((q > 0) & (q < 1), q, jnp.nan)  # nan is not drawn
    exact = p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))
    return d, exact, jax.grad(prob_of_heads)(theta) ** 2 / (p * (1 - p))


def draw_coin(p):
    d, exact, F = coin(p)
    fig, ax = plt.subplots()
    ax.plot(d, exact, label="KL")
    ax.plot(d, 0.5 * F * d**2, label="½ F d²")
    ax.set(xlabel="step d in θ", ylabel="nats", ylim=(0, 0.5))
    ax.set_title(f"A coin with p = {p:.2f}: F = {F:.3f}")
    ax.legend()
    plots.show(fig, f"KL and its quadratic over the step, for p = {p:.2f}.")


# %%
p_slider = FloatSlider(value=0.2, min=0.02, max=0.98, step=0.02)
_ = interact(draw_coin, p=p_slider)

# %% [markdown]
# ## 8 · What you have now
#
# | | in words | equation | checked by |
# |---|---|---|---|
# | score | gradient of $\log p$ in $\theta$; mean zero over the model's $y$ | §2 | enumeration, sampling |
# | Fisher | covariance of the score | (1.1) | by hand, enumeration |
# | | expected Hessian of $-\log p$ | (1.3) | enumeration |
# | | curvature of the KL divergence | (1.5) | slope 3 |
# | | $\mathbb E_x[J^\top F_RJ]$ | (1.4) | enumeration |
# | its inverse over $n$ | covariance of the estimate, *if the model is right* | (1.6) | bootstrap |
#
# **The answer.** A step $d$ changes the model by $\frac12d^\top F d$ nats per example, up to third order. Along an
# eigenvector of $F$ with a large eigenvalue a short step is felt; along one with eigenvalue
# zero the change is of third order or smaller (in the softmax, where the direction is a redundancy, it is zero).
#
# ### Check yourself
#
# <details><summary>1. Someone computes the outer products of the gradients of their training loss, one for each example and its
# label, averages them and calls the result the Fisher. What did they compute, and when is it close to $F$?</summary>
#
# The empirical Fisher: the inner expectation is over the data's $y$, not the model's. If the model is right and
# $\theta=\theta_*$, the labels *are* draws from it, and with many examples the two agree. For a model that is wrong, or not
# yet fitted, they need not. Unit 04 measures it.
# </details>
#
# <details><summary>2. The gradient of the loss is zero at the optimum. Is the score zero there? Is the Fisher?</summary>
#
# The *mean* of the scores over the data is zero. A single score usually is not. The Fisher is an expectation over the model's
# $y$ and does not know where the loss has its minimum; it is zero only where no $y$ has a score.
# </details>
#
# <details><summary>3. You measure every weight in another unit, $\theta=2\theta'$. What happens to $F$, and to the change of the
# model that one and the same change of the function causes?</summary>
#
# By the chain rule $s'=2s$, so $F'=4F$. The step is $d'=d/2$, and $\frac12d'^\top F'd'=\frac12d^\top Fd$. The matrix
# changes, the answer does not.
# </details>
#
# <details><summary>4. Why does the error of the quadratic vanish entirely for the mean of a Normal?</summary>
#
# $-\log p$ is itself quadratic in the mean: its Taylor series ends after the second order.
# </details>
#
# <details><summary>5. One draw of $y$ for each example gives an estimate of $F$ without bias. Why would one take more?</summary>
#
# For its variance: the error falls as $1/\sqrt M$ with $M$ draws. More examples lower it as well.
# </details>
#
# ### Further reading
#
# - J. Martens, *New Insights and Perspectives on the Natural Gradient Method*, JMLR 21 (2020), sections 4 to 6.
# - S. Amari, *Natural Gradient Works Efficiently in Learning*, Neural Computation 10 (1998).
# - H. White, *Maximum Likelihood Estimation of Misspecified Models*, Econometrica 50 (1982): the sandwich.
# - F. Kunstner, L. Balles, P. Hennig, *Limitations of the Empirical Fisher Approximation for Natural Gradient
#   Descent*, NeurIPS 2019.
# - A. W. van der Vaart, *Asymptotic Statistics*, Cambridge 1998, chapter 5: (1.6), with every condition.
# - B. Efron, *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 7 (1979).
#
# **Next:** the exercises,
# [exercises/01_likelihood_score_fisher](../exercises/01_likelihood_score_fisher/01_likelihood_score_fisher.ipynb). Unit 02
# will use curvature to take steps: Newton's method.
#
# *This notebook is built from* `source/lectures/01_likelihood_score_fisher.py`. *Change and run it as you like: what you
# change here stays yours, and the next build of the course overwrites it. To change the course, see* `CONTRIBUTING.md`.
