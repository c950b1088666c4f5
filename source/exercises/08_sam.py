# %% [markdown]
# # Exercise 08 · Sharpness-aware minimisation
#
# Seven functions to write and one derivation. The first three make up a SAM step; the others measure. Lecture 08 has
# all the formulas: the § signs point there.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside ours.
# If the values differ and the mistake is one we know, it says which; otherwise it shows the input and both values.
# Check as often as you like. The cells that only say "points" are for grading: leave them, there other inputs and other
# functions are used, so write functions that use their arguments and not the example's names.
#
# Some arguments are functions: `grad(w)` gives a gradient, `loss(w)` a loss. They take and return JAX arrays. No part
# of the exercises needs a loop over parameters.
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
# ## 1 · ● The perturbation of a network (2 points)
#
# A layer has weights and a bias, with the gradients `g_w` and `g_b`. Write SAM's perturbation for $p=2$,
# $\hat\varepsilon=\rho\,g/\|g\|_2$, for both (§3).
#
# <details><summary>Hint</summary>
#
# Think of all parameters as one long vector $g$. What is $\|g\|_2^2$ in terms of the entries of `g_w` and of `g_b`? Return
# a tuple, `return a, b`. To test yourself: the squares of all entries you return add up to $\rho^2$.
# </details>


# %% answer="perturbation"
def perturbation(g_w, g_b, rho):
    """The perturbation ρ g/‖g‖₂ of the two leaves.

    g_w: (a, b), g_b: (b,): the gradient, not zero. rho: the radius > 0. Returns ((a, b), (b,)).
    """
    ### BEGIN SOLUTION
    size = jnp.sqrt(jnp.sum(g_w**2) + jnp.sum(g_b**2))
    return rho * g_w / size, rho * g_b / size
    ### END SOLUTION


perturbation(jnp.array([[3.0, 0.0], [0.0, 0.0]]), jnp.array([0.0, -4.0]), 0.1)

# %% check="perturbation"
check(perturbation, "08.perturbation")

# %% hidden="perturbation" points=2
# 2 points: perturbation on hidden inputs.
### BEGIN HIDDEN TESTS
probe(perturbation, "08.perturbation")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● The worst point of any ball (3 points)
#
# Write the $\varepsilon$ with $\|\varepsilon\|_p\le\rho$ and the largest $\varepsilon^\top g$, for every $p$ from 1 to
# $\infty$ (§3, equation 8.8). For $p=\infty$ the argument is `jnp.inf`. For $p=1$ no two entries of `g` have the same
# magnitude.
#
# <details><summary>Hint</summary>
#
# First the dual exponent: $q=p/(p-1)$; for $p=\infty$ it is 1. Then the formula, entry by entry. For $p=1$, $q$ is
# infinite: treat that case on its own, with an `if`. To test yourself: `jnp.linalg.norm(eps, p)` is $\rho$, and
# `eps @ g` is $\rho$ times `jnp.linalg.norm(g, q)`.
# </details>


# %% answer="dual_norm_perturbation"
def dual_norm_perturbation(g, rho, p):
    """The ε with ‖ε‖_p <= ρ and the largest εᵀg.

    g: (P,), no entry 0. rho: the radius > 0. p: a Python number in [1, jnp.inf]. Returns (P,).
    """
    ### BEGIN SOLUTION
    size = jnp.abs(g)
    if p == 1:
        return rho * jnp.sign(g) * (size == jnp.max(size))
    q = 1.0 if p == jnp.inf else p / (p - 1)
    return rho * jnp.sign(g) * size ** (q - 1) / jnp.sum(size**q) ** (1 / p)
    ### END SOLUTION


for p in (1, 2, 4, jnp.inf):
    print(p, dual_norm_perturbation(jnp.array([2.0, -1.0, 0.5]), 0.3, p))

# %% check="dual_norm_perturbation"
check(dual_norm_perturbation, "08.dual_norm_perturbation")

# %% hidden="dual_norm_perturbation" points=3
# 3 points: dual_norm_perturbation on hidden inputs.
### BEGIN HIDDEN TESTS
probe(dual_norm_perturbation, "08.dual_norm_perturbation")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● A step of SAM (3 points)
#
# Write one step of SAM ($p=2$) around gradient descent with weight decay. The base takes a gradient $d$ and goes to
# $w-\alpha\,(d+\lambda w)$; SAM hands it the gradient of equation (8.10). The decay belongs to the base (§4).
#
# <details><summary>Hint</summary>
#
# Three lines: the gradient at `w`; the perturbation from it; the step. At which point is the second gradient taken, and
# from which point does the step start? Which weights does the decay shrink?
# </details>


# %% answer="sam_step"
def sam_step(grad, w, rho, lr, decay):
    """The weights after one step of SAM, p = 2, around w <- w - lr (d + decay w).

    grad(w) -> (P,). w: (P,). rho: the radius > 0, lr: the learning rate, decay: the weight decay. Returns (P,).
    """
    ### BEGIN SOLUTION
    g = grad(w)
    far = grad(w + rho * g / jnp.sqrt(jnp.sum(g**2)))
    return w - lr * (far + decay * w)
    ### END SOLUTION


def bowl_gradient(w):
    return jnp.array([10.0, 1.0]) * w


sam_step(bowl_gradient, jnp.array([1.0, 1.0]), rho=0.1, lr=0.05, decay=0.01)

# %% check="sam_step"
check(sam_step, "08.sam_step")

# %% hidden="sam_step" points=3
# 3 points: sam_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(sam_step, "08.sam_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● Every group its own perturbation (3 points)
#
# Write the gradient that SAM with $m$-sharpness hands to its base: cut the batch into groups of $m$ *consecutive*
# examples; each group has its own $\hat\varepsilon$ ($p=2$), from its own gradient, and its own gradient at
# $w+\hat\varepsilon$. Return the mean over the groups (§6).
#
# <details><summary>Hint</summary>
#
# Rows `x[i : i + m]` for `i` in `range(0, len(x), m)` are the groups; a loop is fine. Or reshape and `jax.vmap`. How many
# groups are there?
# </details>


# %% answer="m_sam_gradient"
def m_sam_gradient(grad, w, x, y, rho, m):
    """The mean over groups of m consecutive examples of the group's SAM gradient, p = 2.

    grad(w, x, y) -> (P,), a mean over the examples given. w: (P,). x: (n, d). y: (n,). rho: the radius > 0.
    m: examples a group; it divides n. Returns (P,).
    """

    ### BEGIN SOLUTION
    def one(a, b):
        g = grad(w, a, b)
        return grad(w + rho * g / jnp.sqrt(jnp.sum(g**2)), a, b)

    groups = x.reshape(-1, m, x.shape[1]), y.reshape(-1, m)
    return jax.vmap(one)(*groups).mean(axis=0)
    ### END SOLUTION


def regression_gradient(w, x, y):
    return x.T @ (x @ w - y) / len(x)


x = jnp.array([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.3], [2.0, -1.0]])
y = jnp.array([1.0, 0.0, 2.0, -1.0])
m_sam_gradient(regression_gradient, jnp.array([0.1, 0.2]), x, y, 0.1, m=2)

# %% check="m_sam_gradient"
check(m_sam_gradient, "08.m_sam_gradient")

# %% hidden="m_sam_gradient" points=3
# 3 points: m_sam_gradient on hidden inputs.
### BEGIN HIDDEN TESTS
probe(m_sam_gradient, "08.m_sam_gradient")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●● The sharpness (3 points)
#
# Write $h_\rho(w)=\max_{\|\varepsilon\|_2\le\rho}h(w+\varepsilon)-h(w)$, with the maximum replaced by the highest loss
# met in `num_steps` steps of equation (8.14): $\varepsilon_0=0$, and $\varepsilon_{k+1}=\rho\,g/\|g\|$ with $g$ at
# $w+\varepsilon_k$. The loss is looked at after each step, at $w+\varepsilon_1,w+\varepsilon_2,\dots$ (§5).
#
# <details><summary>Hint</summary>
#
# A Python loop. Keep the highest loss so far in a variable, `jnp.maximum(highest, …)`. Every $\varepsilon_k$ starts from $w$, not from
# the last point. And what is subtracted at the end?
# </details>


# %% answer="sharpness"
def sharpness(loss, grad, w, rho, num_steps):
    """The highest loss at w + ε_1, ..., w + ε_num_steps, less the loss at w.

    loss(w) -> scalar. grad(w) -> (P,), its gradient. w: (P,). rho: the radius > 0. num_steps: at least 1.
    Returns a scalar, in the unit of the loss.
    """
    ### BEGIN SOLUTION
    epsilon, highest = jnp.zeros_like(w), -jnp.inf
    for _ in range(num_steps):
        g = grad(w + epsilon)
        epsilon = rho * g / jnp.sqrt(jnp.sum(g**2))
        highest = jnp.maximum(highest, loss(w + epsilon))
    return highest - loss(w)
    ### END SOLUTION


def bowl(w):
    return 0.5 * jnp.sum(jnp.array([10.0, 1.0]) * w**2)


for num_steps in (1, 2, 10):  # near the minimum: what does it approach?
    print(
        sharpness(bowl, bowl_gradient, jnp.array([1e-3, 0.1]), 0.1, num_steps)
    )

# %% check="sharpness"
check(sharpness, "08.sharpness")

# %% hidden="sharpness" points=3
# 3 points: sharpness on hidden inputs.
### BEGIN HIDDEN TESTS
probe(sharpness, "08.sharpness")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● Power iteration (2 points)
#
# Replace $v$ by $Av/\|Av\|_2$, `num_steps` times. Then return the eigenvalue estimate $v^\top Av$, for which one more
# product is needed, and $v$ (§7). $A$ is symmetric and given by its products alone; its eigenvalue of largest magnitude
# may be negative.
#
# <details><summary>Hint</summary>
#
# `matvec(v)` is $Av$. The start vector need not have length 1. Return a tuple. To test yourself: in the example, $A$ has the
# eigenvalues 1 and −3.
# </details>


# %% answer="power_iteration"
def power_iteration(matvec, v, num_steps):
    """(vᵀAv, v) after num_steps products with A, each followed by a normalisation.

    matvec(v) -> (P,), a symmetric matrix times v. v: (P,), the start, not zero. num_steps: at least 1.
    Returns (scalar, (P,)), the vector of length 1.
    """
    ### BEGIN SOLUTION
    for _ in range(num_steps):
        image = matvec(v)
        v = image / jnp.sqrt(jnp.sum(image**2))
    return v @ matvec(v), v
    ### END SOLUTION


A = jnp.array([[-1.0, 2.0], [2.0, -1.0]])
power_iteration(lambda v: A @ v, jnp.array([1.0, 0.0]), num_steps=10)

# %% check="power_iteration"
check(power_iteration, "08.power_iteration")

# %% hidden="power_iteration" points=2
# 2 points: power_iteration on hidden inputs.
### BEGIN HIDDEN TESTS
probe(power_iteration, "08.power_iteration")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●●● A network with a state (3 points)
#
# A network with batch norm has a *state*, running averages that it will use when it is tested. Every pass gives a new
# one: here `loss(w, state, x, y)` returns the pair (value, new state). The value does not depend on the state that goes
# in. SAM makes two passes. Write a step of SAM ($p=2$, plain gradient descent, no decay) and return the new weights and
# the state that the next step should start from (§4).
#
# <details><summary>Hint</summary>
#
# `jax.grad(loss, has_aux=True)(w, state, x, y)` returns the pair (gradient, new state). For which weights should the running
# averages hold when the network is tested: $w$, or $w+\hat\varepsilon$?
# </details>


# %% answer="sam_step_with_state"
def sam_step_with_state(loss, w, state, x, y, rho, lr):
    """One step of SAM, p = 2, around w <- w - lr d, for a loss with a state.

    loss(w, state, x, y) -> (scalar, new state). w: (P,). state: (2,). x: (n, d). y: (n,). rho: the radius > 0.
    lr: the learning rate. Returns (the new w: (P,), the new state: (2,)).
    """
    ### BEGIN SOLUTION
    grad = jax.grad(loss, has_aux=True)
    g, new = grad(w, state, x, y)
    far, _ = grad(w + rho * g / jnp.sqrt(jnp.sum(g**2)), state, x, y)
    return w - lr * far, new
    ### END SOLUTION


def normalised_loss(w, state, x, y):
    z = x @ w
    now = jnp.stack([z.mean(), z.var()])
    out = (z - now[0]) / jnp.sqrt(now[1] + 1e-5)
    return jnp.mean((out - y) ** 2), 0.9 * state + 0.1 * now


state = jnp.array([0.0, 1.0])
sam_step_with_state(
    normalised_loss, jnp.array([0.1, 0.2]), state, x, y, 0.1, 0.5
)

# %% check="sam_step_with_state"
check(sam_step_with_state, "08.sam_step_with_state")

# %% hidden="sam_step_with_state" points=3
# 3 points: sam_step_with_state on hidden inputs.
### BEGIN HIDDEN TESTS
probe(sam_step_with_state, "08.sam_step_with_state")
### END HIDDEN TESTS

# %% [markdown]
# ## 8 · ●● A derivation, graded by hand (6 points)
#
# Let $h(\theta)=\frac12\theta^\top H\theta$ with $H=\mathrm{diag}(\sigma_1,\sigma_2)$ and $\sigma_1>\sigma_2>0$, and
# $\theta=(a,b)$ not zero. All is for $p=2$.
#
# 1. Find $\hat\varepsilon(\theta)$, SAM's gradient $g(\theta+\hat\varepsilon)$, and the length of
#    $\theta+\hat\varepsilon$'s displacement.
# 2. Show from the chain rule that the gradient of $\theta\mapsto h(\theta+\hat\varepsilon(\theta))$ has the second term
#    $\frac\rho{\|g\|}H(I-uu^\top)\,g(\theta+\hat\varepsilon)$ with $u=g/\|g\|$.
# 3. For which $\theta$ is that term zero? Give the reason in one sentence.
# 4. Now one dimension, $h=\frac12\sigma\theta^2$, and SAM with a constant learning rate $\alpha<2/\sigma$. Show that
#    there is a $\theta>0$ that one step takes to $-\theta$, and the next one back. How does it depend on $\rho$, and
#    what does it say about training with SAM?
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="second_order" points=6
# ### BEGIN SOLUTION
# **1.** $g=H\theta=(\sigma_1a,\sigma_2b)$, $u=g/\|g\|$, $\hat\varepsilon=\rho u$, which has the length $\rho$.
# $g(\theta+\hat\varepsilon)=H\theta+\rho Hu=\big(\sigma_1a(1+\frac{\rho\sigma_1}{\|g\|}),\ \sigma_2b(1+\frac{\rho\sigma_2}{\|g\|})\big)$ with
# $\|g\|=\sqrt{\sigma_1^2a^2+\sigma_2^2b^2}$: every component of the gradient is enlarged, that of the larger curvature more. (1 point)
#
# **2.** The chain rule gives $g(\theta+\hat\varepsilon)+(\partial\hat\varepsilon/\partial\theta)^\top
# g(\theta+\hat\varepsilon)$. Along a direction $v$ the derivative of $g$ is $Hv$ and that of $\|g\|$ is $u^\top Hv$, so
# that of $\hat\varepsilon=\rho g/\|g\|$ is $\rho\big(\frac{Hv}{\|g\|}-\frac{g\,(u^\top
# Hv)}{\|g\|^2}\big)=\frac\rho{\|g\|}(I-uu^\top)Hv$. The Jacobian is $\frac\rho{\|g\|}(I-uu^\top)H$; both factors are
# symmetric, so its transpose is $\frac\rho{\|g\|}H(I-uu^\top)$. (2 points)
#
# **3.** Here $g(\theta+\hat\varepsilon)=g+\rho Hu$, and $(I-uu^\top)g=0$, so the term is
# $\frac{\rho^2}{\|g\|}H(I-uu^\top)Hu$. $H$ is invertible: it is zero exactly where $Hu$ is a multiple of $u$, that is,
# where $u$, and with it $\theta$, lies on an axis ($a=0$ or $b=0$). There a small change of $\theta$ along the
# direction in which the gradient grows does not turn $u$. (1 point)
#
# **4.** For $\theta>0$, $\hat\varepsilon=\rho$ and the step goes to $\theta-\alpha\sigma(\theta+\rho)$. This is $-\theta$ where
# $\theta(2-\alpha\sigma)=\alpha\sigma\rho$, so $\theta=\frac{\alpha\sigma\rho}{2-\alpha\sigma}>0$; by symmetry the next step returns. It is
# proportional to $\rho$: with a constant learning rate SAM goes to and fro around the minimum and never rests, because $\hat\varepsilon$ keeps
# the length $\rho$ where $g$ goes to zero. A decreasing learning rate makes it shrink: for small $\alpha\sigma$ it is $\approx\frac12\alpha\sigma\rho$.
# (2 points)
# ### END SOLUTION
