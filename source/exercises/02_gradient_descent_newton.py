# %% [markdown]
# # Exercise 02 · Gradient descent and Newton
#
# Six functions to write and one derivation. Lecture 02 has all the formulas: the § signs point there. The functions
# are independent; the examples of 3 and 5 use `three_exps` and `theta` from the cell of 2.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside
# ours. If the values differ and the mistake is one we know, it says which; otherwise it shows the input and both
# values. Check as often as you like. The cells that only say "points" are for grading: leave them, there other inputs
# and other functions are used, so write functions that use their arguments and not the example's names.
#
# Difficulty: ● easy, ●● core, ●●● stretch. Until a function is written, its cell stops with `NotImplementedError`:
# that is meant so; in the menu, *Run all* stops there too.

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import check, probe

# 64-bit numbers, so that a check sees mistakes and not rounding
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## 1 · ● Newton in one dimension (2 points)
#
# `f` is a smooth function of one number. From `x`, make `num_steps` steps of Newton's method for a root of $f'$, and
# return the place where you are. Follow the formula also where $f''<0$ (§2, equation 2.3).
#
# <details><summary>Hint</summary>
#
# `jax.grad(f)` is $f'$, a function. What is `jax.grad` of it? A `for` loop is fine.
# </details>


# %% answer="newton_1d"
def newton_1d(f, x, num_steps):
    """x after num_steps Newton steps for f' = 0.

    f(x) -> scalar. x: a scalar. num_steps: an integer >= 1. Returns a scalar.
    """
    ### BEGIN SOLUTION
    slope = jax.grad(f)
    curvature = jax.grad(slope)
    for _ in range(num_steps):
        x = x - slope(x) / curvature(x)
    return x
    ### END SOLUTION


newton_1d(lambda x: jnp.exp(x) - 2 * x, 2.0, num_steps=6) - jnp.log(2)

# %% check="newton_1d"
check(newton_1d, "02.newton_1d")

# %% hidden="newton_1d" points=2
# 2 points: newton_1d on hidden inputs.
### BEGIN HIDDEN TESTS
probe(newton_1d, "02.newton_1d")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● A product with the Hessian (2 points)
#
# Return $Hv$, where $H$ is the Hessian of `h` at $\theta$. The check compares values, so it accepts
# `jax.hessian(h)(theta) @ v` too. You will learn more if you form no matrix: with a million parameters it has
# $10^{12}$ entries. A difference quotient is not exact enough in the float32 cases.
#
# <details><summary>Hint</summary>
#
# $Hv$ is the derivative of the gradient along $v$ (§5, equation 2.13). `jax.jvp(function, (point,), (direction,))`
# returns a pair: the function's value and its derivative along the direction.
# </details>


# %% answer="hvp"
def hvp(h, theta, v):
    """The Hessian of h at theta times v.

    h(theta) -> scalar. theta, v: (P,). Returns (P,).
    """
    ### BEGIN SOLUTION
    return jax.jvp(jax.grad(h), (theta,), (v,))[1]
    ### END SOLUTION


def three_exps(theta):
    """The example of §3."""
    x, y = theta
    return jnp.exp(x + 3 * y) + jnp.exp(x - 3 * y) + jnp.exp(-x)


theta = jnp.array([0.4, 0.5])
hvp(three_exps, theta, jnp.array([1.0, -2.0]))

# %% check="hvp"
check(hvp, "02.hvp")

# %% hidden="hvp" points=2
# 2 points: hvp on hidden inputs.
### BEGIN HIDDEN TESTS
probe(hvp, "02.hvp")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● A damped Newton step (2 points)
#
# Return the step $d=-(H+\lambda I)^{-1}g$ of `h` at $\theta$, the step alone (§4, equation 2.8). Form $H$ with
# `jax.hessian`: $P$ is small here.
#
# *Solve* the system, do not invert the matrix. At the mild condition numbers of the check both give the same $d$ to
# all digits that count, so it cannot see which you did. The table of §7 can: the residual after `inv` grows with the
# condition number, the residual after `solve` does not.
#
# <details><summary>Hint</summary>
#
# `jnp.eye(P)` is the identity. What does `H + damping` do in NumPy, and what do you want?
# </details>


# %% answer="damped_newton_step"
def damped_newton_step(h, theta, damping):
    """d = -(H + λI)⁻¹ g, with g and H the gradient and the Hessian of h at theta.

    h(theta) -> scalar. theta: (P,). damping: λ, in the unit of H, such that H + λI can be solved with. Returns (P,).
    """
    ### BEGIN SOLUTION
    H, g = jax.hessian(h)(theta), jax.grad(h)(theta)
    identity = jnp.eye(theta.size, dtype=theta.dtype)
    return -jnp.linalg.solve(H + damping * identity, g)
    ### END SOLUTION


damped_newton_step(three_exps, theta, damping=0.5)

# %% check="damped_newton_step"
check(damped_newton_step, "02.damped_newton_step")

# %% hidden="damped_newton_step" points=2
# 2 points: damped_newton_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(damped_newton_step, "02.damped_newton_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● Conjugate gradients (3 points)
#
# Solve $Ax=b$ with a positive definite $A$ that you can only multiply by: `matvec(v)` is $Av$. Start at $x=0$, make
# exactly `num_steps` steps, that is as many products, and return $x$ (§5). The checks stop early, before anything has
# converged, so every detail shows.
#
# <details><summary>Hint</summary>
#
# Keep three vectors: $x$, the residual $r$ and the direction $p$; at first $r=p=b$. One step: $Ap$ once; the length
# $a$ to the minimum along $p$; then $x$, then $r$; then $\beta$ from the new and the old $r^\top r$; then $p$. To
# test yourself: in the example below, two unknowns, two steps must solve the system.
# </details>


# %% answer="conjugate_gradient"
def conjugate_gradient(matvec, b, num_steps):
    """x after num_steps steps of CG for A x = b from x = 0.

    matvec(v) -> A v, (P,) to (P,), A symmetric and positive definite. b: (P,). num_steps: 1 or more, at most P.
    Returns (P,).
    """
    ### BEGIN SOLUTION
    x, r, p = jnp.zeros_like(b), b, b
    for _ in range(num_steps):
        Ap = matvec(p)
        a = r @ r / (p @ Ap)
        x, rest = x + a * p, r - a * Ap
        p = rest + rest @ rest / (r @ r) * p
        r = rest
    return x
    ### END SOLUTION


A = jnp.array([[3.0, 1.0], [1.0, 2.0]])
b = jnp.array([1.0, -1.0])
print("CG   ", conjugate_gradient(lambda v: A @ v, b, 2))
print("solve", jnp.linalg.solve(A, b))

# %% check="conjugate_gradient"
check(conjugate_gradient, "02.conjugate_gradient")

# %% hidden="conjugate_gradient" points=3
# 3 points: conjugate_gradient on hidden inputs.
### BEGIN HIDDEN TESTS
probe(conjugate_gradient, "02.conjugate_gradient")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●● Armijo's line search (3 points)
#
# Return the first $t$ of $1,\frac12,\frac14,\dots$ with $h(\theta+td)\le h(\theta)+c\,t\,g^\top d$ (§4, equation
# 2.9). Halve at most `max_halvings` times; if the condition does not hold even then, return the last $t$, which is
# then $\frac12$ to the power `max_halvings`. The checks use a $c$ up to 0.7, far larger than the usual $10^{-4}$, so
# that it matters.
#
# <details><summary>Hint</summary>
#
# $g^\top d$ is one number, negative where $d$ leads downhill. So the right side lies *below* $h(\theta)$.
# </details>


# %% answer="line_search"
def line_search(h, theta, d, g, c, max_halvings):
    """The step length t of Armijo's condition.

    h(theta) -> scalar. theta, d, g: (P,), with g the gradient of h at theta and g @ d < 0. c: in (0, 1).
    max_halvings: an integer >= 0. Returns a scalar.
    """
    ### BEGIN SOLUTION
    t, start, slope = 1.0, h(theta), g @ d
    for _ in range(max_halvings):
        if h(theta + t * d) <= start + c * t * slope:
            break
        t = t / 2
    return t
    ### END SOLUTION


g = jax.grad(three_exps)(theta)
line_search(three_exps, theta, -g, g, c=1e-4, max_halvings=20)

# %% check="line_search"
check(line_search, "02.line_search")

# %% hidden="line_search" points=3
# 3 points: line_search on hidden inputs.
### BEGIN HIDDEN TESTS
probe(line_search, "02.line_search")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● The trust-region step (4 points)
#
# Return the minimiser $d$ of $g^\top d+\frac12d^\top Hd$ over the ball $\|d\|\le\Delta$, and its multiplier $\lambda$
# in $(H+\lambda I)d=-g$ (§4, equations 2.10 and 2.11). $H$ may be indefinite. The hard case does not occur.
#
# Values to 5 digits are enough, so an interval that you halve 60 times is.
#
# <details><summary>Hint</summary>
#
# Two cases. When is $-H^{-1}g$ itself the answer, with $\lambda=0$? Two things must hold. Otherwise $\|d\|=\Delta$.
# With the eigenvalues $\lambda_i$ of $H$ and $c_i=v_i^\top g$ (`jnp.linalg.eigh`), $\|d(\lambda)\|$ is a formula, and
# it falls with $\lambda$ to the right of $-\lambda_{\min}$. §4 has both ends of an interval in which to look; do not
# look to the left of $-\lambda_{\min}$. Return `d, lam`.
# </details>


# %% answer="trust_region_step"
def trust_region_step(g, H, radius):
    """The minimiser of gᵀd + ½ dᵀHd over ‖d‖ <= radius, and its λ.

    g: (P,). H: (P, P), symmetric, perhaps indefinite. radius: Δ > 0, in the unit of θ. Returns ((P,), scalar).
    """
    ### BEGIN SOLUTION
    values, vectors = jnp.linalg.eigh(H)
    c = vectors.T @ g
    if values[0] > 0 and jnp.linalg.norm(c / values) <= radius:
        return -vectors @ (c / values), 0.0
    low = max(0.0, -values[0])
    high = jnp.linalg.norm(g) / radius - values[0]
    for _ in range(60):
        lam = (low + high) / 2
        if jnp.linalg.norm(c / (values + lam)) > radius:
            low = lam
        else:
            high = lam
    return -vectors @ (c / (values + high)), high
    ### END SOLUTION


H = jnp.array([[2.0, 0.0], [0.0, -1.0]])
d, lam = trust_region_step(jnp.array([1.0, 0.5]), H, 1.0)
print(f"d = {d}, length {jnp.linalg.norm(d):.6f}, λ = {lam:.4f}")

# %% check="trust_region_step"
check(trust_region_step, "02.trust_region_step")

# %% hidden="trust_region_step" points=4
# 4 points: trust_region_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(trust_region_step, "02.trust_region_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●● A derivation, graded by hand (5 points)
#
# 1. Let $f(x)=\sqrt{1+x^2}$. Show that Newton's step is $x_{k+1}=-x_k^3$. For which starts does it converge, and what
#    happens at the others? By how much do the right digits grow in a step near 0, and why is that more than (2.4)
#    promises?
# 2. Is $f''>0$ everywhere? Show that $-f'/f''$ leads downhill from every $x\ne0$, so that a line search can always
#    rescue it. Below which number must $t$ be for $|x|$ to shrink?
# 3. Let $f(x)=x^{2m}$ with an integer $m\ge2$. Find the factor by which a Newton step multiplies the error. Which
#    assumption of (2.4) fails? By which number $\alpha$ would you have to multiply Newton's step to arrive in one?
# 4. Let $\theta=S\varphi$ with an invertible $S$, and $\tilde h(\varphi)=h(S\varphi)$. Show that Newton's method on
#    $\tilde h$, started at $\varphi_0=S^{-1}\theta_0$, gives $\varphi_k=S^{-1}\theta_k$ for all $k$. What does
#    gradient descent give? Explain in two or three sentences why $\kappa$ matters to the one
#    method and not to the other.
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="far_start_flat_minimum_units" points=5
# ### BEGIN SOLUTION
# **1.** $f'=x(1+x^2)^{-1/2}$, $f''=(1+x^2)^{-1/2}-x^2(1+x^2)^{-3/2}=(1+x^2)^{-3/2}$. So $f'/f''=x(1+x^2)$ and
# $x-f'/f''=-x^3$. Then $|x_k|=|x_0|^{3^k}$: it converges to 0 if and only if $|x_0|<1$ (or $x_0=0$); from $|x_0|=1$
# it jumps between $\pm1$ for ever; from $|x_0|>1$ it diverges, cubing each time. The number of right digits is
# tripled: in (2.4) $c=f'''(0)/2f''(0)=0$, because $f$ is even, so the next order takes over. (1½ points: ½ for the
# step, ½ for the three kinds of start, ½ for the order.)
#
# **2.** $f''=(1+x^2)^{-3/2}>0$ everywhere. The slope along $d=-f'/f''$ is $f'd=-f'^2/f''<0$ for $x\ne0$, since
# $f'\ne0$ there; so Armijo's condition holds for every small enough $t$ (§4). The new place is $x-t\,x(1+x^2)$, whose
# absolute value is smaller than $|x|$ if and only if $|1-t(1+x^2)|<1$, that is $t<2/(1+x^2)$. (1 point)
#
# **3.** $f'/f''=\frac{2m\,x^{2m-1}}{2m(2m-1)x^{2m-2}}=\frac{x}{2m-1}$, so the factor is
# $1-\frac1{2m-1}=\frac{2m-2}{2m-1}$: linear, and worse for larger $m$. (2.4) divides by $f''(x_*)$, which is 0 here.
# With $\alpha=2m-1$ the step arrives at once. (1 point)
#
# **4.** By the chain rule $\nabla\tilde h=S^\top g$ and $\nabla^2\tilde h=S^\top HS$, both at $\theta=S\varphi$.
# Newton's step is $-(S^\top HS)^{-1}S^\top g=-S^{-1}H^{-1}S^{-\top}S^\top g=S^{-1}\varepsilon_*$. If
# $\varphi_k=S^{-1}\theta_k$, then $\varphi_{k+1}=S^{-1}(\theta_k+\varepsilon_*)=S^{-1}\theta_{k+1}$; induction on
# $k$. Gradient descent steps by $-\alpha S^\top g$, in $\theta$ by $-\alpha SS^\top g$: another path unless
# $SS^\top=I$. With $S=H(\theta_*)^{-1/2}$ the Hessian at the minimum is $I$ and $\kappa=1$, with another $S$ it is
# anything. So $\kappa$ is a property of the units in which one measures, gradient descent depends on it, and Newton's
# method does not. (1½ points: 1 for the induction, ½ for gradient descent and $\kappa$.)
# ### END SOLUTION
