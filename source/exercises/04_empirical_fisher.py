# %% [markdown]
# # Exercise 04 · The empirical Fisher fails
#
# Six functions to write and one derivation. Lecture 04 has all the formulas: the § signs point there.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside ours.
# If the values differ and the mistake is one we know, it says which; otherwise it shows the input and both values.
# Check as often as you like. The cells that only say "points" are for grading: leave them, there other inputs are used,
# so write functions that use their arguments and not the example's names.
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
# ## 1 · ● The empirical Fisher from gradients (2 points)
#
# You have the gradient of the loss of every single example, at its label. Write $\bar F$ (§1, equation 4.1). (The loss
# is minus the log-probability, so a gradient is minus a score. Does that matter?)
#
# <details><summary>Hint</summary>
#
# One row is one example. The outer product of row $g_i$ with itself is (P, P). Average those over $i$; as a product of
# two matrices it is one line. Compare with the outer product of the average row: is it the same?
# </details>


# %% answer="empirical_fisher"
def empirical_fisher(gradients):
    """F̄, the mean of g_i g_iᵀ over the examples.

    gradients: (n, P), row i the gradient of example i's loss. Returns (P, P).
    """
    ### BEGIN SOLUTION
    return gradients.T @ gradients / gradients.shape[0]
    ### END SOLUTION


gradients = jnp.array([[1.0, 0.0], [-1.0, 2.0], [0.5, 1.0]])
empirical_fisher(gradients)

# %% check="empirical_fisher"
check(empirical_fisher, "04.empirical_fisher")

# %% hidden="empirical_fisher" points=2
# 2 points: empirical_fisher on hidden inputs.
### BEGIN HIDDEN TESTS
probe(empirical_fisher, "04.empirical_fisher")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● Ranks and their bounds (3 points)
#
# For $n$ examples you get the Jacobians $J_i=\partial z_i/\partial\theta$, the Fisher matrices of the outputs
# $F_R(z_i)$, all of the same rank, and the output scores $s_{z,i}=\nabla_z\log R(y_i|z_i)$ at the observed labels. Form
# $F=\frac1n\sum_iJ_i^\top F_R(z_i)J_i$ and $\bar F=\frac1n\sum_is_is_i^\top$ with $s_i=J_i^\top s_{z,i}$. Return four
# integers: the rank of $F$, the bound on it, the rank of $\bar F$, the bound on it. The bounds are those of (4.5), and
# no bound above $P$ says anything: never return more than $P$.
#
# <details><summary>Hint</summary>
#
# `jnp.einsum("nkp,nkl,nlq->pq", J, R, J)` adds up all the products, or use a loop. `jnp.linalg.matrix_rank(A)` counts
# what is not zero up to rounding. Do not assume that a bound is met: there may be equal examples among the $n$. For the
# rank of $F_R$ look at one of them.
# </details>


# %% answer="ranks"
def ranks(jacobians, output_fishers, output_scores):
    """rank F, its bound, rank F̄, its bound.

    jacobians: (n, k, P). output_fishers: (n, k, k), all of one rank. output_scores: (n, k).
    Returns four integers as a tuple (not a list or an array).
    """
    ### BEGIN SOLUTION
    n, _, size = jacobians.shape
    F = jnp.einsum("nkp,nkl,nlq->pq", jacobians, output_fishers, jacobians)
    s = jnp.einsum("nkp,nk->np", jacobians, output_scores)
    in_R = jnp.linalg.matrix_rank(output_fishers[0])
    return (
        jnp.linalg.matrix_rank(F),
        jnp.minimum(n * in_R, size),
        jnp.linalg.matrix_rank(s.T @ s),
        min(n, size),
    )
    ### END SOLUTION


p = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
fishers = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(p)
jacobians = jax.random.normal(jax.random.key(0), (2, 3, 7))
[int(r) for r in ranks(jacobians, fishers, jnp.eye(3)[:2] - p)]

# %% check="ranks"
check(ranks, "04.ranks")

# %% hidden="ranks" points=3
# 3 points: ranks on hidden inputs.
### BEGIN HIDDEN TESTS
probe(ranks, "04.ranks")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● The counterexample (2 points)
#
# One data point, $h(\theta)=\frac12\theta^2$, $\bar F=\theta^2$ (§3). Write the iteration
# $\theta_{k+1}=\theta_k-\alpha_k\,(\bar F(\theta_k)^\xi)^{-1}\,\nabla h(\theta_k)$ and return all iterates, the start
# first.
#
# <details><summary>Hint</summary>
#
# A Python loop over `alphas` will do. Two things to keep apart: the power $\xi$ stands over $\bar F=\theta^2$, which is
# never negative; the gradient $\theta$ keeps its sign.
# </details>


# %% answer="counterexample"
def counterexample(theta0, alphas, xi):
    """The iterates θ_0, θ_1, ..., θ_K of the empirical Fisher with power ξ.

    theta0: a number, not 0. alphas: (K,) step sizes. xi: the power. Returns (K + 1,).
    """
    ### BEGIN SOLUTION
    path = [theta0]
    for alpha in alphas:
        theta = path[-1]
        path.append(theta - alpha * theta / (theta**2) ** xi)
    return jnp.array(path)
    ### END SOLUTION


print(counterexample(1.2, jnp.full(6, 0.5), xi=0.5))
print(counterexample(1.2, jnp.full(6, 0.5), xi=0.75))

# %% check="counterexample"
check(counterexample, "04.counterexample")

# %% hidden="counterexample" points=2
# 2 points: counterexample on hidden inputs.
### BEGIN HIDDEN TESTS
probe(counterexample, "04.counterexample")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● The angle between two steps (3 points)
#
# Two matrices, one gradient. How much do the directions of their steps differ? Each step is damped relative to its own
# matrix, $d_A=(A+\lambda_AI)^{-1}g$ with $\lambda_A=\text{damping}\cdot\operatorname{tr}A/P$, and the same for $B$ with
# $\lambda_B$ (§4). Return the cosine of the angle between $d_A$ and $d_B$, in the ordinary Euclidean sense.
#
# <details><summary>Hint</summary>
#
# `jnp.linalg.solve(M, g)` is $M^{-1}g$, and `jnp.eye(len(g))` the identity. The cosine of $a$ and $b$ is
# $a^\top b/(\|a\|\,\|b\|)$. To test yourself: multiply $A$ by 100. The cosine must not change.
# </details>


# %% answer="step_cosine"
def step_cosine(A, B, g, damping):
    """Cosine of the angle between the damped steps of A and of B.

    A, B: (P, P), positive semi-definite. g: (P,). damping: relative to the mean eigenvalue of each matrix.
    Returns a scalar.
    """

    ### BEGIN SOLUTION
    def step(M):
        lam = damping * jnp.trace(M) / len(g)
        return jnp.linalg.solve(M + lam * jnp.eye(len(g), dtype=g.dtype), g)

    a, b = step(A), step(B)
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    ### END SOLUTION


A = jnp.array([[2.0, 0.5], [0.5, 1.0]])
B = jnp.array([[0.1, 0.0], [0.0, 0.4]])
g = jnp.array([1.0, 1.0])
print(step_cosine(A, B, g, 0.01), step_cosine(100 * A, B, g, 0.01))

# %% check="step_cosine"
check(step_cosine, "04.step_cosine")

# %% hidden="step_cosine" points=3
# 3 points: step_cosine on hidden inputs.
### BEGIN HIDDEN TESTS
probe(step_cosine, "04.step_cosine")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●●● The best scale along a step (3 points)
#
# The direction $d=(\bar F+\lambda I)^{-1}g$ may be fair and its length useless. On the quadratic with curvature $F$,
#
# $$q(\alpha)=h(\theta)-\alpha\,g^\top d+\tfrac12\alpha^2\,d^\top Fd ,$$
#
# find the $\alpha$ with the smallest value, and how far the quadratic falls to there, $q(0)-q(\alpha)$ (§5). Return
# both. Here $\lambda$ is a plain number and not relative.
#
# <details><summary>Hint</summary>
#
# Set $q'(\alpha)=0$. Insert the $\alpha$ that you find into $q(0)-q(\alpha)$ and simplify on paper. Which matrix makes
# the direction, and which one is the curvature? To test yourself: with $\bar F=F$ and $\lambda=0$ the best $\alpha$ is
# 1; with $100\,F$ in place of $\bar F$ it is 100, and the decrease is the same.
# </details>


# %% answer="best_scale"
def best_scale(F_bar, F, g, lam):
    """(α, decrease) of the best step along -(F̄ + λI)⁻¹ g on the quadratic with curvature F.

    F_bar, F: (P, P). g: (P,). lam: λ >= 0. Returns (scalar, scalar); the decrease is positive.
    """
    ### BEGIN SOLUTION
    d = jnp.linalg.solve(F_bar + lam * jnp.eye(len(g), dtype=g.dtype), g)
    alpha = g @ d / (d @ F @ d)
    return alpha, 0.5 * alpha * (g @ d)
    ### END SOLUTION


print(best_scale(A, A, g, 0.0))
print(best_scale(100 * A, A, g, 0.0))
print(best_scale(B, A, g, 0.0))

# %% check="best_scale"
check(best_scale, "04.best_scale")

# %% hidden="best_scale" points=3
# 3 points: best_scale on hidden inputs.
### BEGIN HIDDEN TESTS
probe(best_scale, "04.best_scale")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● The repair: sample the labels (3 points)
#
# For a softmax classifier you get the logits and the Jacobians of a batch. Draw *one* label for each example from the
# model, $\tilde y_i=$ `sample(keys[i], logits[i])`, and return $\hat F=\frac1n\sum_is_is_i^\top$ with
# $s_i=J_i^\top(e_{\tilde y_i}-p_i)$, $p_i=\mathrm{softmax}(z_i)$ (§7, equation 4.10).
#
# The observed labels `y` are passed too, since you would have them. Whether they are needed is for you to decide.
#
# <details><summary>Hint</summary>
#
# `jax.vmap(sample)(keys, logits)` draws all labels, each with its own key. `jax.nn.one_hot(labels, k)` are the rows
# $e_{\tilde y_i}$. `jnp.einsum("nkp,nk->np", J, errors)` are the scores; the rest is exercise 1.
# </details>


# %%
def sample(key, z):
    """One class, drawn from softmax(z)."""
    return jax.random.categorical(key, z)


# %% answer="sampled_fisher"
def sampled_fisher(sample, logits, jacobians, y, keys):
    """An unbiased estimate of F from one label for each example.

    sample(key, z) -> an integer class. logits: (n, k). jacobians: (n, k, P). y: (n,) observed. keys: (n,) typed keys.
    Returns (P, P).
    """
    ### BEGIN SOLUTION
    labels = jax.vmap(sample)(keys, logits)
    errors = jax.nn.one_hot(labels, logits.shape[1]) - jax.nn.softmax(logits)
    return empirical_fisher(jnp.einsum("nkp,nk->np", jacobians, errors))
    ### END SOLUTION


z_key, label_key = jax.random.split(jax.random.key(1))
z = jax.random.normal(z_key, (2, 3))
keys = jax.random.split(label_key, 2)
sampled_fisher(sample, z, jacobians[:, :, :2], jnp.array([0, 0]), keys)

# %% check="sampled_fisher"
check(sampled_fisher, "04.sampled_fisher")

# %% hidden="sampled_fisher" points=3
# 3 points: sampled_fisher on hidden inputs.
### BEGIN HIDDEN TESTS
probe(sampled_fisher, "04.sampled_fisher")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●●● A derivation, graded by hand (6 points)
#
# Logistic regression with a single example, $x=1$, $y=1$, and one parameter:
# $p(1|\theta)=\sigma(\theta)=1/(1+e^{-\theta})$. Write $\varepsilon=1-\sigma(\theta)$ for what is missing to certainty.
# The loss is $h(\theta)=-\log\sigma(\theta)$.
#
# 1. Show $g=-\varepsilon$, $H=F=\varepsilon(1-\varepsilon)$ and $\bar F=\varepsilon^2$. How large are the two terms on
#    the right of $H=\bar F-\nabla^2p/p$ (4.4) when $\varepsilon$ is small, and which of them carries $H$?
# 2. Find the steps $-F^{-1}g$ and $-\bar F^{-1}g$ in terms of $\varepsilon$, and what they tend to as
#    $\varepsilon\to0$. Then the step $-\bar F^{-\xi}g$: for which $\xi$ does it grow without bound, for which does it
#    stay bounded?
# 3. The loss near $\varepsilon=0$ is about $e^{-\theta}$. How many steps $\theta\leftarrow\theta-F^{-1}g$ take it from
#    $10^{-2}$ to about $10^{-6}$? What does one step $\theta\leftarrow\theta-\bar F^{-1}g$ from $\varepsilon=10^{-2}$
#    do, and why is it no comfort that the loss falls?
# 4. With damping the step is $\varepsilon/(\varepsilon^2+\lambda)$. For which $\varepsilon$ is it longest, and how long
#    is it there? What is it for $\varepsilon$ far below that, and what method is this?
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="perfect_fit" points=6
# ### BEGIN SOLUTION
# **1.** $\sigma'=\sigma(1-\sigma)$, so $g=-\sigma'/\sigma=-(1-\sigma)=-\varepsilon$. Again:
# $H=dg/d\theta=\sigma'=\varepsilon(1-\varepsilon)$. The score for $y=1$ is $\varepsilon$, for $y=0$ it is
# $-\sigma=-(1-\varepsilon)$, so
# $F=(1-\varepsilon)\varepsilon^2+\varepsilon(1-\varepsilon)^2=\varepsilon(1-\varepsilon)$. The observed label is 1:
# $\bar F=\varepsilon^2$. In (4.4) $p=\sigma$, $p''=\sigma'(1-2\sigma)$, so
# $-p''/p=-\varepsilon(1-2\sigma)=\varepsilon(1-2\varepsilon)$: of first order, and $\bar F$ of second. Nearly all of
# $H$ is in the term that $\bar F$ leaves out. (2 points)
#
# **2.** $-F^{-1}g=\frac1{1-\varepsilon}\to1$. $-\bar F^{-1}g=\frac1\varepsilon\to\infty$.
# $-\bar F^{-\xi}g=\varepsilon^{1-2\xi}$: it grows without bound for $\xi>\frac12$, is 1 for $\xi=\frac12$, and goes to
# zero for $\xi<\frac12$. (1 point)
#
# **3.** A step of $F$ adds about 1 to $\theta$ and divides the loss by about $e$: $\log(10^4)\approx9.2$, so nine or
# ten steps. $\bar F$ adds 100: the loss becomes about $10^{-2}e^{-100}$, and the next step would have the length
# $e^{100}$ or so. It falls because this loss has its minimum at infinity, and any long step to the right lowers it.
# With a minimum at a finite place, or another example that pulls the other way, a step of length $1/\varepsilon$ throws
# the iterate out, as in §3. (2 points)
#
# **4.** The derivative of $\varepsilon/(\varepsilon^2+\lambda)$ is zero where $\varepsilon^2+\lambda=2\varepsilon^2$:
# at $\varepsilon=\sqrt\lambda$, with length $\frac1{2\sqrt\lambda}$. Far below, it is $\varepsilon/\lambda=-g/\lambda$:
# gradient descent with step size $1/\lambda$. (1 point)
# ### END SOLUTION
