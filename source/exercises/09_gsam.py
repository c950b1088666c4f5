# %% [markdown]
# # Exercise 09 · GSAM: closing the surrogate gap
#
# Seven functions to write and one derivation. The first five build up Algorithm 1; six and seven stand alone. Lecture 09
# has all the formulas: the § signs point there.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside ours. If
# the values differ and the mistake is one we know, it says which; otherwise it shows what it can of the input and of both values. Check as
# often as you like. The cells that only say "points" are for grading: leave them, there other inputs are used, so write
# functions that use their arguments and not the example's names.
#
# Difficulty: ● easy, ●● core, ●●● stretch. Until a function is written, its cell stops with `NotImplementedError`: that
# is meant so; in the menu, *Run all* stops there too.

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import check, probe

# 64-bit numbers, so that a check sees mistakes and not rounding
jax.config.update("jax_enable_x64", True)


def bowl(theta):
    """A loss to try things on: two weights, curvature 4 and 1, not quite a parabola."""
    return 2 * theta[0] ** 2 + 0.5 * theta[1] ** 2 + 0.1 * theta[0] ** 4


theta = jnp.array([0.5, -1.0])

# %% [markdown]
# ## 1 · ● The surrogate gap (2 points)
#
# Write the gap of one step, $\hat h_\rho(\theta)=h(\theta+\rho\,g/\|g\|)-h(\theta)$ with $g=\nabla h(\theta)$ (§3). Where $g$ is exactly zero
# the step has no direction: return 0 there. Return the number as it is, also where it is negative.
#
# <details><summary>Hint</summary>
#
# `jax.grad(loss)(theta)` is $g$, and `jnp.sqrt(jnp.sum(g**2))` its norm. To avoid 0/0, divide by
# `jnp.where(norm == 0, 1, norm)`, or add something like `1e-12` to the norm.
# </details>


# %% answer="surrogate_gap"
def surrogate_gap(loss, theta, rho):
    """h(θ + ρ g/‖g‖) - h(θ), in the unit of the loss; 0 where g = 0.

    loss(theta) -> scalar. theta: (P,). rho: a radius > 0, in the unit of θ. Returns a scalar.
    """
    ### BEGIN SOLUTION
    g = jax.grad(loss)(theta)
    norm = jnp.sqrt(jnp.sum(g**2))
    return loss(theta + rho * g / jnp.where(norm == 0, 1, norm)) - loss(theta)
    ### END SOLUTION


surrogate_gap(bowl, theta, 0.1)

# %% check="surrogate_gap"
check(surrogate_gap, "09.surrogate_gap")

# %% hidden="surrogate_gap" points=2
# 2 points: surrogate_gap on hidden inputs.
### BEGIN HIDDEN TESTS
probe(surrogate_gap, "09.surrogate_gap")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● The part across (2 points)
#
# The weights of a layer are two arrays, a matrix `W` and a vector `b`, in a dictionary. All their numbers together are *one*
# vector. Write the part of `g` across `onto` (§5) and return it as a pair, first the array for `W`, then that for `b`.
#
# <details><summary>Hint</summary>
#
# The inner product of two such gradients is the sum of `a * b` over both arrays. The part along `onto` is
# $\frac{g^\top o}{o^\top o}\,o$: one number for both arrays. To test yourself: the inner product of your result with `onto`
# is zero up to rounding.
# </details>


# %% answer="across"
def across(g, onto):
    """The part of g that is perpendicular to `onto`, both arrays of each taken as one vector.

    g, onto: {"W": (m, n), "b": (n,)}; `onto` is not zero. Returns a pair ((m, n), (n,)): for W, for b.
    """
    ### BEGIN SOLUTION
    inner = sum(jnp.sum(g[k] * onto[k]) for k in ("W", "b"))
    square = sum(jnp.sum(onto[k] ** 2) for k in ("W", "b"))
    share = inner / square
    return g["W"] - share * onto["W"], g["b"] - share * onto["b"]
    ### END SOLUTION


g = {"W": jnp.array([[1.0, 2.0], [0.0, -1.0]]), "b": jnp.array([0.5, 3.0])}
g_p = {"W": jnp.array([[1.0, 1.0], [0.5, -2.0]]), "b": jnp.array([0.0, 2.0])}
across(g, g_p)

# %% check="across"
check(across, "09.across")

# %% hidden="across" points=2
# 2 points: across on hidden inputs.
### BEGIN HIDDEN TESTS
probe(across, "09.across")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● GSAM's direction (2 points)
#
# From the two gradients of a step, $g$ at $\theta$ and $g_p$ at the perturbed point, make what the base optimizer is fed with,
# $g_p-\alpha\,g_\perp$ (§5, equation 9.13). The arguments and the result are as in exercise 2, whose function you may use.
#
# <details><summary>Hint</summary>
#
# Which of the two is split, and along which? $f_p$ must not move to first order, and $g_p$ is its gradient. To test
# yourself: the inner product of your result with $g_p$ is $\|g_p\|^2$, whatever $\alpha$ is.
# </details>


# %% answer="gsam_direction"
def gsam_direction(g, g_p, alpha):
    """g_p - α g⊥, g⊥ the part of g across g_p.

    g, g_p: {"W": (m, n), "b": (n,)}. alpha: a number >= 0. Returns a pair ((m, n), (n,)): for W, for b.
    """
    ### BEGIN SOLUTION
    off_W, off_b = across(g, g_p)
    return g_p["W"] - alpha * off_W, g_p["b"] - alpha * off_b
    ### END SOLUTION


gsam_direction(g, g_p, alpha=0.4)

# %% check="gsam_direction"
check(gsam_direction, "09.gsam_direction")

# %% hidden="gsam_direction" points=2
# 2 points: gsam_direction on hidden inputs.
### BEGIN HIDDEN TESTS
probe(gsam_direction, "09.gsam_direction")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● A whole step (3 points)
#
# Now with a loss, plain descent as the base optimizer, and the weights as one vector: the two gradients, the split, and
# $\theta-\eta\,(g_p-\alpha g_\perp)$ (§6). The gradients are not zero here.
#
# <details><summary>Hint</summary>
#
# Three points occur: where $g$ is taken, where $g_p$ is taken, and where the step starts from. Two of them are the same.
# </details>


# %% answer="gsam_step"
def gsam_step(loss, theta, rho, alpha, lr):
    """One step of GSAM with plain gradient descent.

    loss(theta) -> scalar. theta: (P,). rho: radius > 0. alpha: weight of the ascent. lr: learning rate. Returns the new
    theta, (P,).
    """
    ### BEGIN SOLUTION
    g = jax.grad(loss)(theta)
    g_p = jax.grad(loss)(theta + rho * g / jnp.linalg.norm(g))
    off = g - (g @ g_p) / (g_p @ g_p) * g_p
    return theta - lr * (g_p - alpha * off)
    ### END SOLUTION


gsam_step(bowl, theta, rho=0.3, alpha=0.5, lr=0.1)

# %% check="gsam_step"
check(gsam_step, "09.gsam_step")

# %% hidden="gsam_step" points=3
# 3 points: gsam_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(gsam_step, "09.gsam_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●● The schedule of ρ (2 points)
#
# Line 1 of Algorithm 1: $\rho$ follows the learning rate $\eta$ linearly, from $\rho_{\min}$ at $\eta_{\min}$ to $\rho_{\max}$ at
# $\eta_{\max}$ (§6). Rates outside $[\eta_{\min},\eta_{\max}]$ occur; $\rho$ stays between its ends. `lr` is an array with a
# rate for every step, in any order.
#
# <details><summary>Hint</summary>
#
# Write the fraction of the way from $\eta_{\min}$ to $\eta_{\max}$ first, and look at what `jnp.clip` does. There is also a
# function in `jnp` that interpolates and keeps the ends.
# </details>


# %% answer="rho_schedule"
def rho_schedule(lr, lr_min, lr_max, rho_min, rho_max):
    """ρ for every learning rate: linear between the two ends, constant beyond them.

    lr: (n,) rates >= 0. lr_min < lr_max, rho_min < rho_max: numbers. Returns (n,).
    """
    ### BEGIN SOLUTION
    fraction = (lr - lr_min) / (lr_max - lr_min)
    return rho_min + (rho_max - rho_min) * jnp.clip(fraction, 0, 1)
    ### END SOLUTION


rates = jnp.array([0.0, 0.05, 0.1, 0.06, 0.02])
rho_schedule(rates, lr_min=0.02, lr_max=0.1, rho_min=0.1, rho_max=0.5)

# %% check="rho_schedule"
check(rho_schedule, "09.rho_schedule")

# %% hidden="rho_schedule" points=2
# 2 points: rho_schedule on hidden inputs.
### BEGIN HIDDEN TESTS
probe(rho_schedule, "09.rho_schedule")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● The eigenvalue from the gap (3 points)
#
# $2h_\rho/\rho^2$ estimates $\sigma_{\max}$ at a minimum, the eigenvalue of largest absolute value. Elsewhere the gradient spoils it, and one step does not find the top
# eigenvector. Write the estimate that takes both sides throughout (§4, equation 9.10): begin with
# $\varepsilon=\rho\cdot\text{start}/\|\text{start}\|$; repeat `steps` times $\varepsilon\leftarrow\rho\,d/\|d\|$ with
# $d=\nabla h(\theta+\varepsilon)-\nabla h(\theta-\varepsilon)$; return
# $\frac{h(\theta+\varepsilon)+h(\theta-\varepsilon)-2h(\theta)}{\rho^2}$ with its sign: on a hill it is negative. Stay in 64 bits, as
# the inputs are.
#
# <details><summary>Hint</summary>
#
# Each step *replaces* $\varepsilon$, and its length is always $\rho$. A Python loop is fine. To test yourself: for `bowl` and a
# small $\rho$ the result is near 4, at any point near 0.
# </details>


# %% answer="eigenvalue_from_gap"
def eigenvalue_from_gap(loss, theta, rho, start, steps):
    """An estimate of the eigenvalue of the Hessian with the largest absolute value, with its sign.

    loss(theta) -> scalar. theta: (P,). rho: radius > 0. start: (P,), not zero, any length. steps: a whole number >= 1.
    Returns a scalar.
    """
    ### BEGIN SOLUTION
    eps = rho * start / jnp.linalg.norm(start)
    for _ in range(steps):
        d = jax.grad(loss)(theta + eps) - jax.grad(loss)(theta - eps)
        eps = rho * d / jnp.linalg.norm(d)
    return (loss(theta + eps) + loss(theta - eps) - 2 * loss(theta)) / rho**2
    ### END SOLUTION


eigenvalue_from_gap(bowl, 0.1 * theta, 0.01, jnp.array([1.0, 1.0]), steps=20)

# %% check="eigenvalue_from_gap"
check(eigenvalue_from_gap, "09.eigenvalue_from_gap")

# %% hidden="eigenvalue_from_gap" points=3
# 3 points: eigenvalue_from_gap on hidden inputs.
### BEGIN HIDDEN TESTS
probe(eigenvalue_from_gap, "09.eigenvalue_from_gap")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●●● A perturbation that sees no rescaling (3 points)
#
# Write ASAM's perturbation (§8, equation 9.16) for a layer: $\hat\varepsilon=\rho\,\frac{\theta^2g}{\|\theta\,g\|}$, the
# products entry by entry, the norm over both arrays. It never happens here that $\theta g=0$ everywhere.
#
# <details><summary>Hint</summary>
#
# Make the products $\theta g$ first, then its norm, then multiply by $\theta$ once more. To test yourself: let $\theta$ be twice as large and $g$
# half as large. The perturbation should be twice as large.
# </details>


# %% answer="asam_perturbation"
def asam_perturbation(theta, g, rho):
    """ρ θ² g/‖θ g‖, entry by entry, one norm over both arrays.

    theta, g: {"W": (m, n), "b": (n,)}, weights and gradient. rho: radius > 0, without unit.
    Returns a pair ((m, n), (n,)): for W, for b.
    """
    ### BEGIN SOLUTION
    scaled = {k: theta[k] * g[k] for k in ("W", "b")}
    norm = jnp.sqrt(sum(jnp.sum(a**2) for a in scaled.values()))
    return tuple(rho * theta[k] * scaled[k] / norm for k in ("W", "b"))
    ### END SOLUTION


layer = {"W": jnp.array([[1.0, -0.5], [2.0, 0.1]]), "b": jnp.array([0.3, 0.0])}
asam_perturbation(layer, g, rho=0.5)

# %% check="asam_perturbation"
check(asam_perturbation, "09.asam_perturbation")

# %% hidden="asam_perturbation" points=3
# 3 points: asam_perturbation on hidden inputs.
### BEGIN HIDDEN TESTS
probe(asam_perturbation, "09.asam_perturbation")
### END HIDDEN TESTS

# %% [markdown]
# ## 8 · ●● A derivation, graded by hand (5 points)
#
# Two weights, $h(\theta)=\frac12(\lambda_1\theta_1^2+\lambda_2\theta_2^2)$ with $\lambda_1>\lambda_2>0$: a trough, steep along $\theta_1$.
#
# 1. Show for any loss: a step $d=-\eta(g_p-\alpha g_\perp)$ changes $f_p$ by $-\eta\|g_p\|^2+O(\eta^2)$, whatever $\alpha$ is (take $g_p$
#    to be the gradient of $f_p$). Find the change of $h_\rho$ to the same order, and the part of it that is due to $\alpha$.
# 2. From here on $g_p$ is SAM's, the gradient after one step (it differs from $\nabla f_p$ by $O(\rho^2)$). For the trough, show that $g_p=\big(I+\frac{\rho}{\|g\|}H\big)g$ exactly, with $H=\mathrm{diag}(\lambda_1,\lambda_2)$.
# 3. Let both weights be positive, so $g_1,g_2>0$. Turn $g=(g_1,g_2)$ by a right angle, $n=(g_2,-g_1)$, and show that
#    $n^\top g_p=\frac{\rho}{\|g\|}(\lambda_1-\lambda_2)\,g_1g_2>0$: to which side of $g$ does $g_p$ lie, that of the steep axis or that of
#    the flat one?
# 4. On which side of $g_p$ does $-g_\perp$ point, then? In which of the two weights does GSAM make a longer step than SAM,
#    relative to the other one? Say in two or three sentences what this does to a path that runs along the trough.
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="trough" points=5
# ### BEGIN SOLUTION
# **1.** $f_p(\theta+d)-f_p(\theta)=g_p^\top d+O(\|d\|^2)=-\eta\big(g_p^\top g_p-\alpha\,g_p^\top g_\perp\big)+O(\eta^2)=-\eta\|g_p\|^2+O(\eta^2)$, because
# $g_\perp$ is across $g_p$. For $h$: $g^\top d=-\eta(g^\top g_p-\alpha\,g^\top g_\perp)=-\eta\,g^\top g_p+\eta\alpha\|g_\perp\|^2$, since
# $g^\top g_\perp=\|g_\perp\|^2$. So $\Delta h_\rho=\Delta f_p-\Delta h=-\eta\,g_p^\top(g_p-g)-\eta\alpha\|g_\perp\|^2+O(\eta^2)$; the second term is due to
# $\alpha$, and never positive. (2 points)
#
# **2.** $\nabla h(\theta)=H\theta$ is linear, so $g_p=H(\theta+\rho g/\|g\|)=g+\frac{\rho}{\|g\|}Hg$. (1 point)
#
# **3.** $n^\top g=g_2g_1-g_1g_2=0$, and $n^\top Hg=\lambda_1g_1g_2-\lambda_2g_1g_2$. With both weights positive $g_1,g_2>0$, so
# $n^\top g_p>0$. $n=(g_2,-g_1)$ points towards more of the first coordinate and less of the second: $g_p$ is turned from $g$ towards the
# steep axis. (1 point)
#
# **4.** $g$ lies on the other side of $g_p$, that of the flat axis, and $g_\perp$ points there; so $-g_\perp$ points from $g_p$ still
# farther to the steep axis. GSAM's direction has more of $\theta_1$ and less of $\theta_2$ than SAM's: it takes out the steep coordinate
# first. A path in a trough is pushed to its floor, where $\theta_1=0$, and then follows the floor. (1 point)
#
# (Not asked: on a ridge, $\lambda_1<0<\lambda_2$, $g_1<0$ and $n^\top g_p>0$ again; the ascent then takes from the step down the flank,
# and adds to the one along the ridge.)
# ### END SOLUTION
