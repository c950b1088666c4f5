# %% [markdown]
# # Exercise 05 · Adam is a diagonal empirical Fisher
#
# Seven functions to write and one derivation. Lecture 05 has all the formulas: the § signs point there. The first five
# need no JAX beyond arrays: plain arithmetic, which acts entry by entry.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside ours.
# If the values differ and the mistake is one we know, it says which; otherwise it shows the input and both values.
# Check as often as you like. The cells that only say "points" are for grading: leave them, there other inputs and other
# models are used, so write functions that use their arguments and not the example's names.
#
# Difficulty: ● easy, ●● core, ●●● stretch. Until a function is written, its cell stops with `NotImplementedError`: that
# is meant so; in the menu, *Run all* stops there too.

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import check, probe  # probe: for the grading cells

# 64-bit numbers, so that a check sees mistakes and not rounding
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## 1 · ● Bias correction (2 points)
#
# You have the gradients of all steps so far, one row a step. Run the average $m\leftarrow b\,m+(1-b)\,g$ over them from
# $m_0=0$, and return the corrected $\hat m_t$ after the last row (§3).
#
# <details><summary>Hint</summary>
#
# A loop `for g in gradients` will do. What do the weights that the rows have in $m_t$ sum to? To test yourself: if all
# rows are equal, the result is that row.
# </details>


# %% answer="bias_corrected"
def bias_corrected(gradients, b):
    """The bias-corrected exponential average after all rows, from m_0 = 0.

    gradients: (t, P), t >= 1, the oldest first. b: the decay, the lecture's β, in [0, 1). Returns (P,).
    """
    ### BEGIN SOLUTION
    m = jnp.zeros_like(gradients[0])
    for g in gradients:
        m = b * m + (1 - b) * g
    return m / (1 - b ** len(gradients))
    ### END SOLUTION


bias_corrected(jnp.array([[1.0, 0.0], [1.0, 2.0]]), b=0.9)

# %% check="bias_corrected"
check(bias_corrected, "05.bias_corrected")

# %% hidden="bias_corrected" points=2
# 2 points: bias_corrected on hidden inputs.
### BEGIN HIDDEN TESTS
probe(bias_corrected, "05.bias_corrected")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● ε outside, λ inside (2 points)
#
# Adam divides by $\sqrt B+\varepsilon$. Somebody's code has only $\sqrt{B+\lambda}$. Which $\lambda$, for each entry of
# $B$, makes the two equal (§4)? (There is no bias correction here.)
#
# <details><summary>Hint</summary>
#
# Set them equal and square both sides. Look at the unit of your answer: $B$ is a squared gradient. What is it where
# $B=0$?
# </details>


# %% answer="equal_damping"
def equal_damping(B, eps):
    """The λ of each entry with sqrt(B + λ) = sqrt(B) + eps.

    B: (P,), none negative. eps: a number > 0, in the unit of sqrt(B). Returns (P,).
    """
    ### BEGIN SOLUTION
    return 2 * eps * jnp.sqrt(B) + eps**2
    ### END SOLUTION


equal_damping(jnp.array([0.0, 1.0, 4.0]), eps=0.5)

# %% check="equal_damping"
check(equal_damping, "05.equal_damping")

# %% hidden="equal_damping" points=2
# 2 points: equal_damping on hidden inputs.
### BEGIN HIDDEN TESTS
probe(equal_damping, "05.equal_damping")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● The family (3 points)
#
# Write one step of (5.4) with bias correction of both averages (§2, §3):
#
# $$m\leftarrow b_1m+(1-b_1)g,\quad B\leftarrow b_2B+(1-b_2)g^2,\quad
# \theta\leftarrow\theta-\alpha\,\frac{\hat m}{(\hat B+\lambda)^\xi+\varepsilon}.$$
#
# $b_2=1$ means AdaGrad: $B\leftarrow B+g^2$, and no correction of $B$ (that of $m$ stays). `t` is the number of this
# step and counts from 1. Return $\theta$ and the two averages as they are to be stored.
#
# <details><summary>Hint</summary>
#
# `b2` is a Python number, so an ordinary `if b2 == 1` is fine. Which $m$ does the next step need, the corrected one or
# the other?
# </details>


# %% answer="family_step"
def family_step(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
    """One step of the family, with bias correction.

    theta, m, B, g: (P,); m and B are from before the step. t: 1 at the first step. alpha, b1, b2, xi, lam, eps:
    numbers, 0 <= b1 < 1, 0 <= b2 <= 1. Returns (theta, m, B), all (P,).
    """
    ### BEGIN SOLUTION
    m = b1 * m + (1 - b1) * g
    m_hat = m / (1 - b1**t)
    if b2 == 1:
        B = B + g**2
        B_hat = B
    else:
        B = b2 * B + (1 - b2) * g**2
        B_hat = B / (1 - b2**t)
    theta = theta - alpha * m_hat / ((B_hat + lam) ** xi + eps)
    return theta, m, B
    ### END SOLUTION


zero = jnp.zeros(2)
start = jnp.array([1.0, -1.0])
family_step(
    start, zero, zero, jnp.array([0.5, 0.1]), 1, 0.1, 0.9, 0.999, 0.5, 0.0, 0.0
)  # Adam's first step: 0.1 against the sign of each gradient

# %% check="family_step"
check(family_step, "05.family_step")

# %% hidden="family_step" points=3
# 3 points: family_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(family_step, "05.family_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● What Adam averages (2 points)
#
# You have the gradients of all $n$ examples, one row an example; there are no others. A batch is $b$ of them, drawn
# independently (an example may come twice), and $\bar g$ is the batch's mean. Return $\mathbb E[\bar g^2]$, entry by
# entry (§6). No sampling is needed.
#
# <details><summary>Hint</summary>
#
# $\mathbb E[X^2]=(\mathbb E X)^2+\mathrm{Var}(X)$. What is the variance of a mean of $b$ independent draws? To test
# yourself: for $b=1$ it is the mean of the squares; for very large $b$ the square of the mean.
# </details>


# %% answer="adams_square"
def adams_square(gradients, b):
    """The expectation of the squared mean gradient of a batch of b draws with replacement.

    gradients: (n, P), one row an example. b: the batch size, an integer >= 1. Returns (P,).
    """
    ### BEGIN SOLUTION
    return gradients.mean(axis=0) ** 2 + gradients.var(axis=0) / b
    ### END SOLUTION


adams_square(jnp.array([[1.0, 2.0], [3.0, -2.0]]), b=2)

# %% check="adams_square"
check(adams_square, "05.adams_square")

# %% hidden="adams_square" points=2
# 2 points: adams_square on hidden inputs.
### BEGIN HIDDEN TESTS
probe(adams_square, "05.adams_square")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●● Decoupled weight decay (2 points)
#
# Write one step of AdamW (§9): Adam with bias correction and $\varepsilon$ outside the root, and a weight decay that
# does not go through the preconditioner. The decay is multiplied by the learning rate, and is that of the $\theta$ from
# before the step.
#
# <details><summary>Hint</summary>
#
# Write Adam first, then subtract one more term from $\theta$. To test yourself: with $g=m=v=0$ every weight is
# multiplied by $1-\alpha w$, and `m` and `v` stay 0.
# </details>


# %% answer="adamw_step"
def adamw_step(theta, m, v, g, t, alpha, b1, b2, eps, w):
    """One step of AdamW.

    theta, m, v, g: (P,); m and v are from before the step. t: 1 at the first step. alpha, b1, b2, eps: Adam's numbers.
    w: the weight decay. Returns (theta, m, v), all (P,), m and v without correction.
    """
    ### BEGIN SOLUTION
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    direction = (m / (1 - b1**t)) / (jnp.sqrt(v / (1 - b2**t)) + eps)
    return theta - alpha * direction - alpha * w * theta, m, v
    ### END SOLUTION


adamw_step(start, zero, zero, zero, 1, 0.1, 0.9, 0.999, 1e-8, w=0.5)

# %% check="adamw_step"
check(adamw_step, "05.adamw_step")

# %% hidden="adamw_step" points=2
# 2 points: adamw_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(adamw_step, "05.adamw_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● A step with the Fisher's diagonal (3 points)
#
# The model is a function `log_prob(theta, x, y)`, the log-probability of one target given one input, and
# `sample(key, theta, x)` draws one target from it. This one, a softmax regression with three classes, is to try things
# on; the checks bring others.


# %%
def log_prob(theta, x, y):
    """log p(y|x;θ): theta (6,), x (2,), y an integer in 0..2. Returns a scalar."""
    return jax.nn.log_softmax(theta.reshape(3, 2) @ x)[y]


def sample(key, theta, x):
    """One class drawn from the model."""
    return jax.random.categorical(key, theta.reshape(3, 2) @ x)


theta = jnp.array([0.5, -1.0, 0.0, 2.0, -0.5, 0.3])
x = jnp.array([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.3], [2.0, -1.0]])
y = jnp.array([0, 1, 1, 2])

# %% [markdown]
# Write the step $\theta-\alpha\,g/(B+\lambda)$, entry by entry. $g$ is the gradient of the mean negative log-likelihood
# at the observed labels. $B$ is one draw of the diagonal of the Fisher: the mean over the examples of the squared
# scores, at labels drawn from the model (§7). `keys[i]` is the key for the label of example `i`.
#
# <details><summary>Hint</summary>
#
# `jax.vmap(jax.grad(log_prob), in_axes=(None, 0, 0))(theta, x, labels)` has the scores of all examples as rows. You
# need it for two sets of labels. What is the sign of the score, and what that of the gradient of the loss? A loop is
# right too.
# </details>


# %% answer="sampled_step"
def sampled_step(log_prob, sample, theta, x, y, keys, alpha, lam):
    """theta - alpha g / (B + lam), B one draw of the diagonal of the Fisher.

    log_prob(theta, x_i, y_i) -> scalar. sample(key, theta, x_i) -> y_i. theta: (P,). x: (n, d). y: (n,) observed.
    keys: (n,) typed keys. alpha, lam: numbers. Returns (P,).
    """
    ### BEGIN SOLUTION
    scores = jax.vmap(jax.grad(log_prob), in_axes=(None, 0, 0))
    drawn = jax.vmap(sample, in_axes=(0, None, 0))(keys, theta, x)
    g = -scores(theta, x, y).mean(axis=0)
    B = (scores(theta, x, drawn) ** 2).mean(axis=0)
    return theta - alpha * g / (B + lam)
    ### END SOLUTION


keys = jax.random.split(jax.random.key(0), len(x))
sampled_step(log_prob, sample, theta, x, y, keys, alpha=0.1, lam=0.01)

# %% check="sampled_step"
check(sampled_step, "05.sampled_step")

# %% hidden="sampled_step" points=3
# 3 points: sampled_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(sampled_step, "05.sampled_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●●● Does it depend on the axes? (2 points)
#
# An optimizer without memory is a function `update(g)`, the step for a gradient. With $\theta=Q\varphi$, $Q^\top Q=I$,
# it can be used in the coordinates $\varphi$: it then sees another gradient, and its step has to be brought back to
# $\theta$ (§10). Return how far the result is from `update(g)`: the Euclidean length of the difference over the length
# of `update(g)`.
#
# <details><summary>Hint</summary>
#
# §10 has the gradient in $\varphi$. A step $d_\varphi$ in $\varphi$ is the step $Q\,d_\varphi$ in $\theta$. To test
# yourself: for `lambda g: -0.1 * g` the gap is 0, up to rounding.
# </details>


# %% answer="rotation_gap"
def rotation_gap(update, g, Q):
    """The relative distance of the step taken in the coordinates phi, theta = Q phi, from that taken in theta.

    update(g) -> (P,), the step. g: (P,), the gradient in theta. Q: (P, P) orthogonal. Returns a scalar.
    """
    ### BEGIN SOLUTION
    step = update(g)
    turned = Q @ update(Q.T @ g)
    return jnp.linalg.norm(turned - step) / jnp.linalg.norm(step)
    ### END SOLUTION


turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])
rotation_gap(lambda g: -0.1 * jnp.sign(g), jnp.array([1.0, 0.1]), turn)

# %% check="rotation_gap"
check(rotation_gap, "05.rotation_gap")

# %% hidden="rotation_gap" points=2
# 2 points: rotation_gap on hidden inputs.
### BEGIN HIDDEN TESTS
probe(rotation_gap, "05.rotation_gap")
### END HIDDEN TESTS

# %% [markdown]
# ## 8 · ●● A derivation, graded by hand (5 points)
#
# Take $\beta_1=0$, so that the step of a weight is $-\alpha\,g_t/(\sqrt{\hat B_t}+\varepsilon)$ with
# $\hat B_t=\frac{1-\beta_2}{1-\beta_2^t}\sum_{i=1}^t\beta_2^{t-i}g_i^2$.
#
# Gradients that are all exactly 0 up to a step (0/0 with $\varepsilon=0$) are left aside.
#
# 1. The loss is multiplied by $k>0$. Show that with $\varepsilon=0$ no step changes (use induction: the next gradient
#    is taken where the step before led). With $\varepsilon>0$: by which $\varepsilon'$ must it be replaced so that none
#    changes?
# 2. Show that with $\varepsilon=0$ no step is longer than $\alpha\sqrt{\frac{1-\beta_2^t}{1-\beta_2}}$. For which
#    sequence of gradients is it as long as that? What is the bound for $\beta_2=0.999$ and large $t$?
# 3. Now there is a weight decay $w$: L2 inside the gradient, or decoupled. The loss (without the decay) is multiplied
#    by $k$, with $\varepsilon=0$. By what must $w$ be replaced in each case so that the path stays the same?
# 4. In two or three sentences: what does 1 say about SGD in the place of Adam, and what about somebody who sums the
#    loss over a batch of 64 where another takes the mean?
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="scaling" points=5
# ### BEGIN SOLUTION
# **1.** Every $g_i$ becomes $kg_i$, so $\hat B_t$ becomes $k^2\hat B_t$ and $\sqrt{\hat B_t}$ becomes
# $k\sqrt{\hat B_t}$: the quotient stays. The gradients of later steps are taken at the same $\theta$, so this holds for
# all steps, by induction. With $\varepsilon$:
# $\frac{kg}{k\sqrt{\hat B}+\varepsilon'}=\frac{g}{\sqrt{\hat B}+\varepsilon'/k}$, so $\varepsilon'=k\varepsilon$. (2
# points)
#
# **2.** All terms of the sum are $\ge0$; keep the one with $i=t$: $\hat B_t\ge\frac{1-\beta_2}{1-\beta_2^t}g_t^2$.
# Hence $\frac{|g_t|}{\sqrt{\hat B_t}}\le\sqrt{\frac{1-\beta_2^t}{1-\beta_2}}$. Equality where the others are 0: all
# earlier gradients are zero and the last is not. For $\beta_2=0.999$ the bound goes to $\sqrt{1000}\approx31.6$ times
# $\alpha$. (1 point)
#
# **3.** L2: the gradient is $kg+w'\theta$, which is $k$ times the old $g+w\theta$ if $w'=kw$; then 1 applies.
# Decoupled: the first part of the step does not change, the second is $\alpha w\theta$ without the loss: $w'=w$. (1
# point)
#
# **4.** SGD's step is multiplied by $k$: its learning rate has to be divided by $k$, Adam's not (it is $\varepsilon$
# that has to be multiplied by $k$). A sum over 64 in the place of the mean is $k=64$: with SGD it is a 64-fold learning
# rate, with Adam almost nothing; with L2 the decay is in effect 64 times weaker. (1 point)
# ### END SOLUTION
