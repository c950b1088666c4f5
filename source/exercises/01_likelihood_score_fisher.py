# %% [markdown]
# # Exercise 01 · Likelihood, score, Fisher information
#
# Seven functions to write and one derivation. They build on one another; take them in order.
# Lecture 01 has all the formulas: the § signs point there.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside ours. If
# the values differ and the mistake is one we know, it says which; otherwise it shows the input and both values. Check as
# often as you like. The cells that only say "points" are for grading: leave them, there other inputs and other models are
# used, so write functions that use their arguments and not the example's names.
#
# Difficulty: ● easy, ●● core, ●●● stretch. Until a function is written, its cell stops with `NotImplementedError`: that
# is meant so; in the menu, *Run all* stops there too.

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import check, probe

# 64-bit numbers, so that a check sees mistakes and not rounding
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## 1 · ● The loss of a Normal (2 points)
#
# A model predicts $k$ numbers $z$; the targets $y$ scatter around them independently, each with the same known standard
# deviation. Write the negative log-likelihood $-\log\mathcal N(y;z,\text{scale}^2I)$, with all its constants.
#
# <details><summary>Hint</summary>
#
# The density of one Normal is $\frac{1}{\sqrt{2\pi}\,\sigma}\exp\big(-\frac{(y-z)^2}{2\sigma^2}\big)$. Take minus its
# logarithm on paper, then add up the $k$ outputs. §1 has the case $\sigma=1$.
# </details>


# %% answer="nll_normal"
def nll_normal(z, y, scale):
    """-log N(y; z, scale² I) in nats.

    z, y: (k,) arrays. scale: a standard deviation > 0, in the unit of y. Returns a scalar.
    """
    ### BEGIN SOLUTION
    return 0.5 * jnp.sum(((y - z) / scale) ** 2) + z.size * (
        jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi)
    )
    ### END SOLUTION


nll_normal(jnp.array([0.0, 1.0]), jnp.array([0.5, 1.0]), scale=0.5)

# %% check="nll_normal"
check(nll_normal, "01.nll_normal")

# %% hidden="nll_normal" points=2
# 2 points: nll_normal on hidden inputs.
### BEGIN HIDDEN TESTS
probe(nll_normal, "01.nll_normal")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● The loss of a classifier (2 points)
#
# Write $-\log\mathrm{softmax}(z)_y$ for logits $z$ and the class $y$, from `jnp.exp` and `jnp.log` (in real code you would
# call `jax.nn.logsumexp`). The logits may be in the thousands, of either sign: your function must be right there too.
#
# <details><summary>Hint</summary>
#
# Write the logarithm of the quotient as a difference on paper. That alone still overflows. Then §1:
# $\log\sum_je^{z_j}=t+\log\sum_je^{z_j-t}$ for every $t$. Which $t$ keeps every exponent at or below 0? Do not forget to
# add it again.
# </details>


# %% answer="nll_categorical"
def nll_categorical(z, y):
    """-log softmax(z)_y in nats, without overflow.

    z: (k,) logits. y: an integer class in 0..k-1. Returns a scalar.
    """
    ### BEGIN SOLUTION
    top = jnp.max(z)
    return top + jnp.log(jnp.sum(jnp.exp(z - top))) - z[y]
    ### END SOLUTION


nll_categorical(jnp.array([2.0, 0.0, -1.0]), 1)

# %% check="nll_categorical"
check(nll_categorical, "01.nll_categorical")

# %% hidden="nll_categorical" points=2
# 2 points: nll_categorical on hidden inputs.
### BEGIN HIDDEN TESTS
probe(nll_categorical, "01.nll_categorical")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● The Fisher matrix of the softmax (2 points)
#
# For one example with logits $z$, write $F_R=\mathbb E_{y\sim\mathrm{softmax}(z)}[s_zs_z^\top]$, where
# $s_z=\nabla_z\log\mathrm{softmax}(z)_y$ is the score in the outputs (§3, "through the outputs").
#
# <details><summary>Hint</summary>
#
# First find $s_z$ on paper: it is the one-hot vector of $y$ minus something. Then take the expectation of the outer
# product over all $k$ classes, as a formula or as a loop. The rows of the result sum to zero; do yours?
# </details>


# %% answer="output_fisher"
def output_fisher(z):
    """F_R(z), the covariance of the score in the outputs when y is drawn from softmax(z).

    z: (k,) logits. Returns (k, k).
    """
    ### BEGIN SOLUTION
    p = jax.nn.softmax(z)
    return jnp.diag(p) - jnp.outer(p, p)
    ### END SOLUTION


output_fisher(jnp.array([2.0, 0.0, -1.0]))

# %% check="output_fisher"
check(output_fisher, "01.output_fisher")

# %% hidden="output_fisher" points=2
# 2 points: output_fisher on hidden inputs.
### BEGIN HIDDEN TESTS
probe(output_fisher, "01.output_fisher")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● The score of every example (2 points)
#
# From here on the model is a function `log_prob(theta, x, y)`: the log-probability of *one* target given *one* input.
# This one is a softmax regression with three classes and two inputs, to try things on; the checks bring others.


# %%
def log_prob(theta, x, y):
    """log p(y|x;θ): theta (6,), x (2,), y an integer in 0..2. Returns a scalar."""
    return jax.nn.log_softmax(theta.reshape(3, 2) @ x)[y]


theta = jnp.array([0.5, -1.0, 0.0, 2.0, -0.5, 0.3])
x = jnp.array([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.3], [2.0, -1.0]])
y = jnp.array([0, 1, 1, 2])

# %% [markdown]
# Write the scores of a whole batch: row $i$ is $\nabla_\theta\log p(y_i|x_i;\theta)$ (§2).
#
# <details><summary>Hint</summary>
#
# `jax.grad(log_prob)` is the gradient in the first argument, for one example. `jax.vmap(f, in_axes=(None, 0, 0))` calls
# `f` for every example with the same first argument. A loop with `jnp.stack` is right too, only slower.
# </details>


# %% answer="score"
def score(log_prob, theta, x, y):
    """The score of every example.

    log_prob(theta, x_i, y_i) -> scalar. theta: (P,). x: (n, d). y: (n,) integers. Returns (n, P).
    """
    ### BEGIN SOLUTION
    return jax.vmap(jax.grad(log_prob), in_axes=(None, 0, 0))(theta, x, y)
    ### END SOLUTION


score(log_prob, theta, x, y)

# %% check="score"
check(score, "01.score")

# %% hidden="score" points=2
# 2 points: score on hidden inputs.
### BEGIN HIDDEN TESTS
probe(score, "01.score")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●● The Fisher matrix by enumeration (3 points)
#
# Write $F(\theta)=\frac1n\sum_i\sum_y p(y|x_i;\theta)\,s(x_i,y)\,s(x_i,y)^\top$, the sum running over all classes (§3,
# equation 1.1). No labels are given, and none are needed.
#
# <details><summary>Hint</summary>
#
# Two loops, over `x` and over `range(num_classes)`, are fine. In the inner one you need the probability
# `jnp.exp(log_prob(theta, x_i, y))` and the outer product of a gradient with itself, `jnp.outer`.
# </details>


# %% answer="fisher_enumerated"
def fisher_enumerated(log_prob, theta, x, num_classes):
    """The Fisher information matrix, the expectation over y taken by adding up all classes.

    log_prob(theta, x_i, y) -> scalar. theta: (P,). x: (n, d). num_classes: k, the classes are 0..k-1.
    Returns (P, P).
    """
    ### BEGIN SOLUTION
    labels = jnp.arange(num_classes)
    over_classes = jax.vmap(
        jax.value_and_grad(log_prob), in_axes=(None, None, 0)
    )
    log_p, s = jax.vmap(over_classes, in_axes=(None, 0, None))(
        theta, x, labels
    )  # (n, k) and (n, k, P)
    return jnp.einsum("nk,nkp,nkq->pq", jnp.exp(log_p), s, s) / len(x)
    ### END SOLUTION


jnp.round(fisher_enumerated(log_prob, theta, x, num_classes=3), 3)

# %% check="fisher_enumerated"
check(fisher_enumerated, "01.fisher_enumerated")

# %% hidden="fisher_enumerated" points=3
# 3 points: fisher_enumerated on hidden inputs.
### BEGIN HIDDEN TESTS
probe(fisher_enumerated, "01.fisher_enumerated")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● The divergence and its quadratic (3 points)
#
# Return two numbers, both in nats an example: the divergence $\mathrm{KL}(\theta\,\|\,\theta+d)$ (y drawn from the model at
# $\theta$), averaged over the inputs, and the quadratic $\frac12d^\top F(\theta)d$ (§4). For a small step they are close. You may
# use your function of exercise 5.
#
# <details><summary>Hint</summary>
#
# For one input, KL is $\sum_y p(y)\,(\log p(y)-\log q(y))$ with $p$ at $\theta$ and $q$ at $\theta+d$. To test yourself:
# halve $d$; the difference of your two numbers should shrink about eightfold. Return them as a tuple, `return a, b`.
# </details>


# %% answer="kl_and_quadratic"
def kl_and_quadratic(log_prob, theta, d, x, num_classes):
    """KL(p(.|x;θ) ‖ p(.|x;θ+d)) and ½ dᵀ F(θ) d, both the mean over the inputs, in nats.

    log_prob(theta, x_i, y) -> scalar. theta, d: (P,). x: (n, d_in). num_classes: k. Returns (scalar, scalar).
    """

    ### BEGIN SOLUTION
    def table(t):
        return jax.vmap(
            lambda a: jnp.stack(
                [log_prob(t, a, y) for y in range(num_classes)]
            )
        )(x)

    log_p, log_q = table(theta), table(theta + d)
    exact = jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1))
    return exact, 0.5 * d @ fisher_enumerated(
        log_prob, theta, x, num_classes
    ) @ d
    ### END SOLUTION


d = jnp.array([0.1, -0.1, 0.0, 0.1, 0.0, -0.1])
kl_and_quadratic(log_prob, theta, d, x, num_classes=3)

# %% check="kl_and_quadratic"
check(kl_and_quadratic, "01.kl_and_quadratic")

# %% hidden="kl_and_quadratic" points=3
# 3 points: kl_and_quadratic on hidden inputs.
### BEGIN HIDDEN TESTS
probe(kl_and_quadratic, "01.kl_and_quadratic")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●●● The Fisher matrix by sampling (3 points)
#
# When the targets cannot be listed, one draws them. You are given `sample(key, theta, x_i)`, which draws one $y$ from the
# model, and an array `keys` of random keys of shape $(M,n)$: `keys[m, i]` is for draw $m$ of example $i$, so that every draw is
# independent of every other.
#
# One draw of the whole batch gives one matrix, $\hat F_m=\frac1n\sum_i s(x_i,y_{m,i})\,s(x_i,y_{m,i})^\top$. Return the
# mean of the $M$ matrices and its standard error, entry by entry: the sample standard deviation of the $\hat F_m$ (with
# $M-1$ in the denominator) over $\sqrt M$. The inputs stay as they are; only $y$ is random.
#
# The labels `y` of the data set are passed too, since you would have them. Whether they are needed is for you to decide.
#
# <details><summary>Hint</summary>
#
# Write one draw first: labels by `jax.vmap(sample, in_axes=(0, None, 0))(keys[m], theta, x)`, then your `score`, then
# $S^\top S/n$ for the $(n,P)$ matrix $S$ of scores. Stack the $M$ results; `matrices.std(axis=0, ddof=1)` has $M-1$.
# To test yourself: the example below prints the first row of your estimate, its standard error, and the exact row from
# exercise 5. Are they as far apart as the error says?
# </details>


# %%
def sample(key, theta, x):
    """One class drawn from the model of exercise 4."""
    return jax.random.categorical(key, theta.reshape(3, 2) @ x)


# %% answer="fisher_sampled"
def fisher_sampled(log_prob, sample, theta, x, y, keys):
    """An estimate of the Fisher matrix from M draws of y at every input, and its standard error.

    log_prob(theta, x_i, y_i) -> scalar. sample(key, theta, x_i) -> y_i. theta: (P,). x: (n, d). y: (n,) observed.
    keys: (M, n) typed keys, M >= 2. Returns ((P, P), (P, P)).
    """

    ### BEGIN SOLUTION
    def one_draw(row):
        drawn = jax.vmap(sample, in_axes=(0, None, 0))(row, theta, x)
        s = score(log_prob, theta, x, drawn)
        return s.T @ s / len(x)

    matrices = jnp.stack([one_draw(row) for row in keys])
    return matrices.mean(axis=0), matrices.std(axis=0, ddof=1) / jnp.sqrt(
        len(keys)
    )
    ### END SOLUTION


keys = jax.random.split(jax.random.key(0), (50, len(x)))
estimate, standard_error = fisher_sampled(log_prob, sample, theta, x, y, keys)
print("estimate", jnp.round(estimate[0], 3))
print("error   ", jnp.round(standard_error[0], 3))
print("exact   ", jnp.round(fisher_enumerated(log_prob, theta, x, 3)[0], 3))

# %% check="fisher_sampled"
check(fisher_sampled, "01.fisher_sampled")

# %% hidden="fisher_sampled" points=3
# 3 points: fisher_sampled on hidden inputs.
### BEGIN HIDDEN TESTS
probe(fisher_sampled, "01.fisher_sampled")
### END HIDDEN TESTS

# %% [markdown]
# ## 8 · ●● A derivation, graded by hand (5 points)
#
# A coin shows $y=1$ with probability $\varphi$ and $y=0$ otherwise: $p(y;\varphi)=\varphi^y(1-\varphi)^{1-y}$, with
# $0<\varphi<1$.
#
# 1. Find the score in $\varphi$ and show that its expectation is zero.
# 2. Show that the Fisher information is $F(\varphi)=\frac1{\varphi(1-\varphi)}$, once as the variance of the score and
#    once as the expected second derivative of $-\log p$.
# 3. Now describe the same coin by its log-odds $\theta=\log\frac{\varphi}{1-\varphi}$. Find $F(\theta)$. (One way: the
#    chain rule for the score, with $\frac{d\varphi}{d\theta}=\varphi(1-\varphi)$; show that too.)
# 4. Near $\varphi=0$ and $\varphi=1$, $F(\varphi)$ grows without bound while $F(\theta)$ goes to zero. Take $\varphi=0.01$ and the
#    step from 0.01 to 0.012. How long is the same step in $\theta$? Compare $\frac12F\cdot(\text{step})^2$ in both, and explain
#    in two or three sentences how both matrices describe one and the same coin.
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="coin" points=5
# ### BEGIN SOLUTION
# **1.** $\log p=y\log\varphi+(1-y)\log(1-\varphi)$, so
# $s=\frac y\varphi-\frac{1-y}{1-\varphi}=\frac{y-\varphi}{\varphi(1-\varphi)}$. Since $\mathbb E[y]=\varphi$,
# $\mathbb E[s]=0$. (1 point)
#
# **2.** Variance of the score: $\mathrm{Var}(y)=\varphi(1-\varphi)$, so
# $\mathbb E[s^2]=\frac{\varphi(1-\varphi)}{\varphi^2(1-\varphi)^2}=\frac1{\varphi(1-\varphi)}$. Second derivative:
# $-\frac{d^2}{d\varphi^2}\log p=\frac y{\varphi^2}+\frac{1-y}{(1-\varphi)^2}$, with expectation
# $\frac1\varphi+\frac1{1-\varphi}=\frac1{\varphi(1-\varphi)}$. (2 points)
#
# **3.** $\varphi=1/(1+e^{-\theta})$, so $\frac{d\varphi}{d\theta}=\frac{e^{-\theta}}{(1+e^{-\theta})^2}=\varphi(1-\varphi)$.
# By the chain rule $s_\theta=\frac{d\varphi}{d\theta}\,s_\varphi=y-\varphi$, and
# $F(\theta)=\mathrm{Var}(y)=\varphi(1-\varphi)$; equally $F(\theta)=\big(\frac{d\varphi}{d\theta}\big)^2F(\varphi)$. (1 point)
#
# **4.** In $\varphi$ the step is $0.002$ and $\frac12F\cdot\text{step}^2=\frac12\cdot\frac{0.002^2}{0.0099}=2.0\cdot10^{-4}$ nats.
# In $\theta$ it is about $0.002/0.0099=0.202$ (exactly $0.184$), and $\frac12\cdot0.0099\cdot0.202^2=2.0\cdot10^{-4}$ nats. $F$
# belongs to a parametrisation; the divergence does not: a step $\Delta\theta$ is the step
# $\Delta\varphi\approx\varphi(1-\varphi)\,\Delta\theta$, so $\frac12F(\varphi)\Delta\varphi^2\approx\frac12F(\theta)\Delta\theta^2$. Near
# $\varphi=0$ a small step in probability changes the coin much, and a small step in log-odds hardly moves $\varphi$. (1 point)
# ### END SOLUTION
