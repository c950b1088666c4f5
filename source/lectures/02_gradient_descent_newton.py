# %% [markdown]
# # 02 · Gradient descent and Newton
#
# **The question.** To fit a small logistic regression, gradient descent needs twenty thousand steps, or a few
# hundred if somebody tells it the best step size. Newton's method needs nine. What does it know that gradient descent
# does not, what does it pay for it, and when does it go wrong?
#
# By the end you will know where these numbers come from, have measured them on real data, and seen Newton's method
# walk into a saddle, run away from a minimum, and be mended in three ways.
#
# **You will be able to**
#
# - predict how fast gradient descent goes from the largest and smallest curvature, and when it diverges;
# - derive Newton's step from a Taylor model, in one dimension and in many, and prove and measure that it doubles the
#   number of right digits;
# - repair it by damping, a line search or a trust region, and say what each does at a saddle;
# - multiply by a Hessian that is never formed, and solve with it by conjugate gradients.
#
# **You need** unit 01 (likelihoods, $F$, JAX as used there), eigenvectors of symmetric matrices, Taylor's theorem.
# **Time:** two and a half hours with all the code; what is marked ◇ may be skipped at first.
#
# **Notation.** $\theta$: $P$ parameters. $h(\theta)$: the loss. $g=\nabla h$: its gradient. $H=\nabla^2h$: its Hessian,
# $P\times P$ and symmetric. $\theta_*$: a minimum. $e_k=\theta_k-\theta_*$: the error after $k$ steps. $\alpha$: step
# size. $\lambda$: damping. $\lambda_i$ with an index: eigenvalues. $A\succ0$: the symmetric matrix $A$ is *positive
# definite*, $v^\top Av>0$ for all $v\ne0$, that is, all its eigenvalues are positive; $A\succeq0$: none is negative.
#
# **The JAX that unit 01 did not use:**
#
# | code | what it is |
# |---|---|
# | `jax.jvp(f, (x,), (v,))` | $f(x)$ and its derivative along $v$, $\frac{d}{dt}f(x+tv)$ at $t=0$, in one pass |
# | `jax.vjp(f, x)` | $f(x)$ and a function that maps $u$ to $J^\top u$, with $J$ the Jacobian of $f$ |
# | `jax.lax.scan` | `scan(step, start, None, n)`: `n` times (state, \_) → (state, what to keep); returns both |
# | `jax.lax.while_loop` | `while_loop(unfinished, step, start)`: `step` as long as `unfinished(state)` |
# | `ravel_pytree(params)` | nested parameters as one vector, and the function that undoes it |
# | `opt.init`, `opt.update` | an optimizer as in optax: gradients and state in, step and new state out |
# | `optax.sgd(alpha)` | gradient descent; `with_extra_args_support` lets it ignore what it does not need |

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from course_lib import plots
from course_lib.claims import verdict

jax.config.update("jax_enable_x64", True)
plots.use_style()
COLORS = plots.OKABE_ITO

# %% [markdown]
# ## 1 · Gradient descent, and how fast it is
#
# For a short step $d$, $h(\theta+d)\approx h(\theta)+g^\top d$. Among all $d$ of one length, $g^\top d$ is smallest for
# $d$ opposite to $g$ (Cauchy–Schwarz: $g^\top d\ge-\|g\|\|d\|$, with equality there). So step against the gradient:
#
# $$\theta_{k+1}=\theta_k-\alpha\,g(\theta_k). \tag{2.1}$$
#
# How large may $\alpha$ be, and how fast is it then? Take a loss for which both can be answered exactly, a *quadratic
# bowl* with its minimum 0 at $\theta_*$:
#
# $$h(\theta)=\tfrac12(\theta-\theta_*)^\top A\,(\theta-\theta_*),\qquad A\succ0 .$$
#
# Near a minimum with $H\succ0$ every smooth loss is such a bowl up to terms of third order, with $A=H(\theta_*)$. The
# gradient is $g=A(\theta-\theta_*)=Ae$. Subtract $\theta_*$ on both sides of (2.1):
#
# $$e_{k+1}=(I-\alpha A)\,e_k .$$
#
# Let $v_1,\dots,v_P$ be orthonormal eigenvectors of $A$, with eigenvalues from $\mu$, the smallest, to $L$, the
# largest, and $c_i=v_i^\top e$. Multiply by $v_i^\top$: each coordinate goes its own way,
# $c_i\leftarrow(1-\alpha\lambda_i)\,c_i$, and the loss is $h=\frac12\sum_i\lambda_ic_i^2$.
#
# **Divergence.** $c_i$ tends to 0 if and only if $|1-\alpha\lambda_i|<1$, that is $0<\alpha<2/\lambda_i$. The
# strictest condition comes from the largest eigenvalue: from every start it converges if and only if $0<\alpha<2/L$.
# The *steepest* direction sets the limit.
#
# **Rate.** In one step every $|c_i|$ is multiplied by at most $q=\max_i|1-\alpha\lambda_i|$, so $h_{k+1}\le q^2h_k$.
# As a function of $\lambda$, $|1-\alpha\lambda|$ is convex, so it is largest at an end of $[\mu,L]$:
# $q=\max(|1-\alpha\mu|,\,|1-\alpha L|)$. As $\alpha$ grows from 0, both start at 1; $|1-\alpha L|$ falls, and rises
# again as $\alpha L-1$ after $\alpha=1/L$, while $1-\alpha\mu$ still falls. The larger of the two is smallest where
# they cross, $1-\alpha\mu=\alpha L-1$. With the *condition number* $\kappa=L/\mu$:
#
# $$\alpha=\frac{2}{L+\mu},\qquad q=\frac{\kappa-1}{\kappa+1},\qquad
# h_{k+1}\le\Big(\frac{\kappa-1}{\kappa+1}\Big)^2h_k . \tag{2.2}$$
#
# At that $\alpha$ both ends shrink by exactly $q$. A start made of these two directions alone therefore attains (2.2)
# with equality, at every step.
#
# For large $\kappa$, $q^2\approx1-4/\kappa$: one more digit of the loss costs about
# $\ln(10)\,\kappa/4\approx0.58\,\kappa$ steps. The *flattest* direction sets the pace, at a step size that the steepest
# one dictates.


# %%
def gradient_descent(h, start, alpha, num_steps):
    """θ after 0, 1, ..., num_steps steps: (num_steps + 1, P)."""

    def step(theta, _):
        return theta - alpha * jax.grad(h)(theta), theta

    return jax.lax.scan(step, start, None, num_steps + 1)[1]


def bowl(theta, A):
    return 0.5 * theta @ A @ theta  # the minimum is at 0


@partial(jax.jit, static_argnames="num_steps")
def bowl_path(A, start, alpha, num_steps=40):
    path = gradient_descent(lambda t: bowl(t, A), start, alpha, num_steps)
    return path, jax.vmap(bowl, (0, None))(path, A)


# %% [markdown]
# **Check.** Bowls of five parameters with a random orientation: eigenvalues spread evenly on a logarithmic axis from
# $1/\kappa$ to 1, a random start. If (2.2) is right, the measured factor per step, late, is $q^2$; and just beyond
# $2/L$ the loss grows, at last by $(1-\alpha L)^2$ a step. Five seeds for each $\kappa$. (After 300 steps only the
# slowest directions are left: what differs from seed to seed is rounding.)


# %%
def random_bowl(rng, kappa, size=5):
    Q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return jnp.asarray(Q * np.geomspace(1 / kappa, 1, size) @ Q.T)


def late_factor(rng, kappa, alpha, steps):
    """What one step multiplies the loss by, averaged over the last half."""
    A, start = random_bowl(rng, kappa), jnp.asarray(rng.normal(size=5))
    _, h = bowl_path(A, start, alpha, steps)
    half = steps // 2
    return float((h[-1] / h[half]) ** (1 / (steps - half)))


# %% tags=["claim:SL-gd"]
rng = np.random.default_rng(0)
print("    κ   ((κ-1)/(κ+1))²   measured            beyond 2/L: measured")
gaps = []
for kappa in (5, 10, 30, 100):
    best, q = 2 / (1 + 1 / kappa), (kappa - 1) / (kappa + 1)
    rates = [late_factor(rng, kappa, best, 600) / q**2 for _ in range(5)]
    grows = [late_factor(rng, kappa, 2.1, 600) for _ in range(5)]
    rate, sd = np.mean(rates) * q**2, np.std(rates, ddof=1) * q**2
    print(f"{kappa:5d}{q**2:17.5f}{rate:11.5f} ± {sd:.0e}", end="")
    print(f"{np.mean(grows):14.4f}, (1-αL)² = {1.1**2:.4f}")
    gaps += [abs(np.log(r)) for r in rates]
    gaps += [abs(np.log(r / 1.21)) for r in grows]
assert max(gaps) < 1e-3  # what is left of the other directions
verdict(
    "SL-gd",
    "holds",
    "θ ← θ - αg descends at the rate (2.2) and grows beyond 2/L, both to "
    f"{max(gaps):.0e} (20 bowls each)",
)

# %% [markdown]
# And the equality, from a start with both ends in it:

# %%
kappa = 50
A, q = jnp.diag(jnp.array([1.0, 1 / kappa])), (kappa - 1) / (kappa + 1)
_, h = bowl_path(A, jnp.array([1.0, 1.0]), 2 / (1 + 1 / kappa))
assert jnp.allclose(h[1:] / h[:-1], q**2, rtol=1e-10)
to_digit = np.log(10) / -np.log(q**2)  # steps for a factor of ten
print(
    f"κ = {kappa}: {to_digit:.1f} steps a digit, {0.58 * kappa:.1f} by 0.58 κ"
)
assert abs(to_digit / kappa - 0.58) < 0.01

# %% [markdown]
# **Drag the sliders.** The bowl is $h=\frac12(\theta_1^2+\theta_2^2/\kappa)$, so $L=1$ and $\mu=1/\kappa$; both start
# at $(1,1)$. Raise the step size from left to right. Below 1, $\theta_1$ shrinks without changing sign. Between 1 and
# 2 it jumps across the valley. Beyond $2/L=2$ it runs away, whatever $\kappa$ is. Then find, for each $\kappa$, the
# step size with the steepest line in the second panel; the readout tells what (2.2) says. The next cells compute the
# figure and lay it out; you may skip to it.

# %%
from course_lib.explorables import (
    Curve,
    Panel,
    Points,
    Readout,
    Slider,
    explorable,
)

KAPPAS = np.array([1, 2, 3, 5, 10, 20, 30, 50, 100])
ALPHAS = np.arange(2, 45) * 0.05
kap, alp = KAPPAS[:, None, None], ALPHAS[None, :, None]
k = np.arange(31)
one, two = (1 - alp) ** k, (1 - alp / kap) ** k  # (1, m2, 31), (m1, m2, 31)
heights = np.log10(np.maximum(0.5 * (one**2 + two**2 / kap), 1e-16))
rates = np.maximum(abs(1 - alp), abs(1 - alp / kap))[..., 0] ** 2

# %%
angle = np.linspace(0, 2 * np.pi, 61)
size = np.sqrt(1 + 1 / kap)  # the level of the start
level = size * np.cos(angle), size * np.sqrt(kap) * np.sin(angle)
path = Panel(
    "The path, from (1, 1)",
    "θ₁, curvature L = 1",
    "θ₂, curvature 1/κ",
    xlim=(-1.6, 1.6),
    ylim=(-1.2, 1.2),
    items=[
        Curve("path", one, two),
        Points("steps", one, two, color="vermillion", marker="diamond"),
        Curve("level", *level, dash=(1, 1.2)),
    ],
    alt="Gradient descent from the point (1, 1) in a bowl that is wide along "
    "θ₂: the path zigzags across the valley while θ₂ shrinks slowly.",
)

# %%
values = Panel(
    "The loss",
    "steps",
    "log₁₀ h",
    xlim=(0, 30),
    ylim=(-10, 6),
    items=[Curve("log₁₀ h", k, heights)],
    alt="The logarithm of the loss over thirty steps: nearly a line.",
)

# %%
explorable(
    "How fast is gradient descent?",
    "The dotted level is where the loss is that of the start. A higher κ "
    "makes the bowl longer and the best possible line flatter. "
    "The step size makes the path crawl when small, zigzag above 1, and "
    "diverge above 2: the line of the loss then rises.",
    [
        Slider("κ", KAPPAS, start=4, format=".0f"),
        Slider("step size α", ALPHAS, start=34),
    ],
    [path, values],
    [
        Readout("factor of h a step, late", rates),
        Readout("best possible, (2.2)", ((kap - 1) / (kap + 1))[..., 0] ** 2),
        Readout("at α =", 2 / (1 + 1 / kap)[..., 0]),
    ],
)

# %% [markdown]
# ## 2 · Newton in one dimension
#
# At a minimum of a function $f$ of one number, $f'=0$. So look for a *root of $f'$*. Newton's idea: at $x_k$ replace
# the curve $f'$ by its tangent, $f'(x_k)+f''(x_k)(x-x_k)$, and go to where the tangent is zero:
#
# $$x_{k+1}=x_k-\frac{f'(x_k)}{f''(x_k)}. \tag{2.3}$$
#
# It is not $f/f'$: that looks for a root of $f$ itself. Units help to remember it. If $x$ is in metres and $f$ in nats,
# $f'$ is in nats/m and $f''$ in nats/m²; their quotient is in metres, as a step must be. The step $\alpha f'$ of
# gradient descent is in metres only because $\alpha$ carries m²/nat: a guess at $1/f''$.
#
# **Why it is fast.** Let $x_*$ be a root of $f'$, let $f$ have three continuous derivatives, and $f''(x_*)\ne0$.
# Taylor's theorem for $f'$, from $x_k$ to $x_*$, with $e_k=x_k-x_*$ and some $\xi$ between the two, says
#
# $$0=f'(x_*)=f'(x_k)-f''(x_k)\,e_k+\tfrac12f'''(\xi)\,e_k^2 .$$
#
# Divide by $f''(x_k)$, which is not 0 near $x_*$, and solve for $e_k-f'/f''$, which by (2.3) is $e_{k+1}$:
#
# $$e_{k+1}=\frac{f'''(\xi)}{2f''(x_k)}\,e_k^2 . \tag{2.4}$$
#
# The error is squared, times a factor that tends to $c=f'''(x_*)/2f''(x_*)$. Take logarithms:
# $-\log_{10}|e_{k+1}|\approx2\,(-\log_{10}|e_k|)-\log_{10}|c|$. The number of right decimals doubles at each step, up
# to a constant. This is *quadratic convergence*. It holds near $x_*$ only: about $|c\,e_0|<1$ is needed for
# squaring to make it smaller.
#
# **Example.** $f(x)=e^x-2x$. Then $f'=e^x-2$, $f''=f'''=e^x$, the minimum is at $\log 2$, and $c=\frac12$. (2.3)
# reads $x\leftarrow x-1+2e^{-x}$. A 64-bit number holds 16 digits, so the doubling would soon be over; Python's
# `decimal` computes with 200. The same steps in JAX follow it as far as 16 digits go.


# %%
def newton_1d(f, x):
    return x - jax.grad(f)(x) / jax.grad(jax.grad(f))(x)


def curve(x):
    return jnp.exp(x) - 2 * x


# %% tags=["claim:SL-newton1", "nbval-check-output"]
from decimal import Decimal, getcontext

getcontext().prec = 200
exact, x, in_jax = Decimal(2).ln(), Decimal(2), 2.0
digits, ratios = [], []
for _ in range(8):
    before = x - exact
    x, in_jax = x - 1 + 2 * (-x).exp(), newton_1d(curve, in_jax)
    assert abs(in_jax - float(x)) < 1e-14
    digits.append(float(-abs(x - exact).log10()))
    ratios.append(float((x - exact) / before**2))
print("right decimals:", " ".join(f"{d:.1f}" for d in digits))
print("e_(k+1) / e_k²:", " ".join(f"{r:.3f}" for r in ratios))
assert abs(ratios[-1] - 0.5) < 1e-9
assert np.abs(np.divide(digits[5:], digits[4:-1]) - 2).max() < 0.1
verdict(
    "SL-newton1",
    "holds",
    "f'/f'' finds the root of f'; right decimals double, "
    f"{digits[-2]:.1f} then {digits[-1]:.1f}; e'/e² -> {ratios[-1]:.3f}",
)

# %% [markdown]
# **Two warnings, both from the derivation.** It looks for a root of $f'$, of whatever kind: where $f''<0$ the step
# goes *up*, towards a maximum. And where $f''(x_*)=0$ the division is not allowed and (2.4) is void: for $f=x^4$ the
# step is $x\leftarrow x-\frac{4x^3}{12x^2}=\frac23x$, which is linear convergence, like that of gradient descent.

# %%
up = newton_1d(jnp.cos, 0.5)  # the minimum is at π, the maximum at 0
assert abs(up) < 0.5
assert jnp.cos(up) > jnp.cos(0.5)
assert jnp.allclose(newton_1d(lambda x: x**4, 0.9), 0.6)

# %% [markdown]
# ## 3 · Newton in many dimensions
#
# Taylor's theorem to second order, for a step $\varepsilon$ of $P$ numbers:
#
# $$h(\theta+\varepsilon)\approx m(\varepsilon)=h(\theta)+g^\top\varepsilon+\tfrac12\,\varepsilon^\top H\varepsilon .
# \tag{2.5}$$
#
# The error is of smaller order than $\|\varepsilon\|^2$. This $m$ is called the *local model*. Its gradient in
# $\varepsilon$ is $g+\frac12(H+H^\top)\varepsilon=g+H\varepsilon$, since $H$ is symmetric. It is zero at
#
# $$\varepsilon_*=-H^{-1}g . \tag{2.6}$$
#
# Is that a minimum of $m$? Put $\varepsilon=\varepsilon_*+u$; the terms linear in $u$ cancel, as $g+H\varepsilon_*=0$:
#
# $$m(\varepsilon_*+u)=m(\varepsilon_*)+\tfrac12\,u^\top Hu .$$
#
# So $\varepsilon_*$ is *the* minimum if $H\succ0$. If $H$ has a negative eigenvalue, $m$ has no minimum at all, and
# $\varepsilon_*$ is a saddle of $m$, or a maximum. Section 4 deals with that.
#
# If $H\succ0$ the step leads downhill: $g^\top\varepsilon_*=-g^\top H^{-1}g<0$ for $g\ne0$. Along each eigenvector the
# step is $-v_i^\top g/\lambda_i$, divided by its own $\lambda_i$; gradient descent has one $\alpha$ for all. That is
# what Newton's method knows.
#
# For code: *solve* $H\varepsilon=-g$, do not form $H^{-1}$. It costs less, and is more precise (section 7).
#
# The example has its minimum in closed form: $h=e^{x+3y}+e^{x-3y}+e^{-x}$. $\partial_yh=0$ gives $y=0$, then
# $\partial_xh=2e^x-e^{-x}=0$ gives $x=-\frac12\log2$.


# %%
def three_exps(theta, batch=None):
    x, y = theta
    return jnp.exp(x + 3 * y) + jnp.exp(x - 3 * y) + jnp.exp(-x)


@partial(jax.jit, static_argnums=0)
def newton_step(h, theta):
    """The step, and the g and H that it comes from."""
    g, H = jax.grad(h)(theta), jax.hessian(h)(theta)
    return -jnp.linalg.solve(H, g), g, H


minimum = np.array([-0.5 * np.log(2), 0.0])
assert np.abs(newton_step(three_exps, minimum)[1]).max() < 1e-14

# %% [markdown]
# **Check by brute force.** A thousand random steps around $\varepsilon_*$: is the model higher at every one, and by
# exactly $\frac12u^\top Hu$? And on a quadratic loss, where the model is the loss, one step must be enough, whatever
# $\kappa$.

# %% tags=["claim:M-quad"]
theta = jnp.array([0.4, 0.5])
best, g, H = (np.asarray(a) for a in newton_step(three_exps, theta))
U = rng.normal(size=(1000, 2))


def model(d):  # without h(θ), which is the same for all d
    return d @ g + 0.5 * np.sum(d @ H * d, axis=-1)


rise = model(best + U) - model(best)
assert (rise > 0).all()
assert np.allclose(rise, 0.5 * np.sum(U @ H * U, axis=1), atol=1e-10)
verdict(
    "M-quad",
    "holds",
    f"the model is higher at all 1000 points, least by {rise.min():.1e}",
)

# %% tags=["claim:SL-newtonn"]
left = []
for kappa in (10, 1e3, 1e5):
    A, start = np.asarray(random_bowl(rng, kappa)), rng.normal(size=5)
    after = start - np.linalg.solve(A, A @ start)
    left.append(np.linalg.norm(after) / np.linalg.norm(start))
assert all(e < 1e-9 for e in left)  # κ times 1e-16, with room
verdict("SL-newtonn", "holds", f"one step left {max(left):.0e} of the error")

# %% [markdown]
# **Quadratic convergence again.** Let $H(\theta_*)\succ0$, and let the Hessian be *Lipschitz* near $\theta_*$:
# $\|H(\theta)-H(\theta')\|\le M\|\theta-\theta'\|$ (spectral norm on the left; it is so if the third derivatives are
# bounded). Then all eigenvalues of $H$ near $\theta_*$ are above half the smallest of $H(\theta_*)$, so
# $\|H(\theta)^{-1}\|\le2\|H(\theta_*)^{-1}\|$. By the fundamental theorem of calculus, along the segment from
# $\theta_*$ to $\theta_k$, and with $g(\theta_*)=0$,
#
# $$g(\theta_k)=\int_0^1H(\theta_*+te_k)\,e_k\,dt .$$
#
# Write $H_k=H(\theta_k)$. Then $e_{k+1}=e_k-H_k^{-1}g(\theta_k)=H_k^{-1}\big(H_ke_k-g(\theta_k)\big)$, and $H_ke_k$
# is the integral over $t\in[0,1]$ of a constant. So
#
# $$\|e_{k+1}\|\le\|H_k^{-1}\|\int_0^1\|H_k-H(\theta_*+te_k)\|\,\|e_k\|\,dt\le\|H_k^{-1}\|\int_0^1M(1-t)\|e_k\|^2dt
# =\tfrac12M\,\|H_k^{-1}\|\,\|e_k\|^2, \tag{2.7}$$
#
# because the two points are $(1-t)\|e_k\|$ apart. No step size, and no linear term: but "near $\theta_*$" again.
#
# From here on we take the step from `course_lib`. `newton()` is an optimizer in optax's form. It is given the loss and
# the batch too, because it differentiates the loss again. `descend` runs any such optimizer and keeps the path.

# %%
from course_lib.optimizers.newton import Status, cg, newton

plain = newton()


@partial(jax.jit, static_argnames=("opt", "loss", "num_steps"))
def descend(opt, loss, start, num_steps, batch=None):
    """Parameters after 0, ..., num_steps steps, and the states after each."""

    def step(carry, _):
        theta, state = carry
        g = jax.grad(loss)(theta, batch)
        move, state = opt.update(g, state, theta, loss=loss, batch=batch)
        theta = optax.apply_updates(theta, move)
        return (theta, state), (theta, state)

    begin = start, opt.init(start)
    _, (path, states) = jax.lax.scan(step, begin, None, num_steps)
    together = jax.tree.map(lambda a, b: jnp.r_[a[None], b], start, path)
    return together, states


# %% tags=["nbval-check-output"]
path, _ = descend(plain, three_exps, theta, 8)
assert np.allclose(path[1], theta + best, rtol=1e-12)
errors = np.linalg.norm(path - minimum, axis=1)
print("step   error      error / previous²")
for k in range(1, 7):
    print(f"{k:4d}   {errors[k]:.1e}{errors[k] / errors[k - 1] ** 2:12.2f}")

# %% [markdown]
# An error that is squared is a line of slope 2 when $\|e_{k+1}\|$ is drawn against $\|e_k\|$ on logarithmic axes; an
# error that is multiplied by a constant has slope 1. Twenty random starts, and gradient descent from the same ones.
# For Newton we use the pairs of errors near the minimum and above rounding.

# %%
starts = jnp.asarray(rng.uniform(-1, 1, size=(20, 2)))
gd = optax.with_extra_args_support(optax.sgd(0.05))


def pairs(opt, num_steps):
    run = jax.vmap(lambda s: descend(opt, three_exps, s, num_steps)[0])
    paths = run(starts)
    e = np.linalg.norm(paths - minimum, axis=2)
    before, after = e[:, :-1].ravel(), e[:, 1:].ravel()
    keep = (before < 0.3) & (after > 1e-13)
    return before[keep], after[keep]


squared, multiplied = pairs(plain, 12), pairs(gd, 500)
slope = np.polyfit(*np.log(squared), 1)[0]
slope_gd = np.polyfit(*np.log(multiplied), 1)[0]
print(f"Newton: slope {slope:.2f}; gradient descent: slope {slope_gd:.2f}")
assert abs(slope - 2) < 0.1
assert abs(slope_gd - 1) < 0.02

# %%
fig, ax = plt.subplots()
few = slice(None, None, 97)
dots = {"linestyle": "none", "markersize": 4}
ax.loglog(*(e[few] for e in multiplied), **dots, marker="o")
ax.loglog(*squared, **dots, marker="s")
blue = plots.ink(COLORS["blue"])
ax.annotate("gradient descent", (3e-13, 1e-5), color=blue)
slopes = np.array([1e-6, 0.3])
plots.slope_guide(ax, slopes, 0.7e-12, 2, "slope 2\n(Newton)")
ax.set(xlabel="error before a step", ylabel="error after it")
ax.set_title("Newton squares its error")
plots.show(
    fig,
    "Log-log plot of the error after a step against the error before it: "
    "Newton's squares lie along a dashed line of slope two, the dots of "
    "gradient descent on a line of slope one.",
)

# %% [markdown]
# ## 4 · Three repairs
#
# **Newton is attracted by saddles.** (2.6) looks for $g=0$, and a saddle has it too. Take
#
# $$f(x,y)=\tfrac12x^2+\tfrac14y^4-\tfrac12y^2 ,$$
#
# with minima at $(0,\pm1)$ and a saddle at the origin. $H=\mathrm{diag}(1,3y^2-1)$. Newton's step puts $x$ to 0 at
# once, and $y\leftarrow y-\frac{y^3-y}{3y^2-1}=\frac{2y^3}{3y^2-1}$. For small $y$ that is about $-2y^3$: from near
# the saddle it runs *into* it, ever faster. How near is near? $|y|$ shrinks if $2y^2<|1-3y^2|$; from 0 up to
# $|y|=1/\sqrt5\approx0.447$ that is so. Gradient descent, $y\leftarrow y+\alpha(y-y^3)$, moves away from 0.


# %%
def saddle(theta, batch=None):
    x, y = theta
    return 0.5 * x**2 + 0.25 * y**4 - 0.5 * y**2


# %%
gd = optax.with_extra_args_support(optax.sgd(0.2))
grid = jnp.linspace(-1.2, 1.2, 48)  # 48 starts; none at 0
starts = jnp.stack([jnp.full(48, 0.8), grid], axis=1)


def end(opt):
    run = jax.vmap(lambda s: descend(opt, saddle, s, 200)[0][-1])
    return np.asarray(run(starts))


inside = np.abs(grid) < 1 / np.sqrt(5)
by_newton, by_gd = end(plain), end(gd)
assert np.abs(by_newton[inside]).max() < 1e-12
assert np.abs(by_gd - np.stack([0 * grid, np.sign(grid)], 1)).max() < 1e-6
share = np.mean(np.abs(by_newton).max(axis=1) < 1e-6)
print(f"{inside.mean():.0%} of the starts have |y| < 1/√5")
print(f"Newton ends at the saddle from {share:.0%} of them all, GD from none")
assert share >= inside.mean()

# %% [markdown]
# ### Damping
#
# Add $\lambda$ to every eigenvalue of $H$ *before* solving:
#
# $$d=-(H+\lambda I)^{-1}g . \tag{2.8}$$
#
# This minimises $m(d)+\frac\lambda2\|d\|^2$: it pays for length. If $\lambda$ is larger than minus the most negative
# eigenvalue, $H+\lambda I\succ0$ and the step goes downhill, by the argument of section 3. As $\lambda\to\infty$ it
# becomes $-g/\lambda$, a short step of gradient descent; at $\lambda=0$ it is Newton's. Adding $\lambda$ *after*
# inverting, $H^{-1}+\lambda I$, adds a gradient step of size $\lambda$ and leaves the $H^{-1}$ that was dangerous.
#
# The price: near a minimum $H(\theta_k)e_k\approx g$, so
# $e_{k+1}\approx\big(I-(H+\lambda I)^{-1}H\big)e_k=\lambda\,(H+\lambda I)^{-1}e_k$. Along an eigenvector the factor
# is $\frac{\lambda}{\lambda_i+\lambda}$. With a fixed $\lambda$ the convergence is linear, not quadratic. One lowers
# $\lambda$ as one gets near.
#
# In the example $H\succeq-I$, so $\lambda=1.5$ is enough everywhere. At $(0,1)$ the eigenvalues are 1 and 2: factors
# 0.6 for $x$ and $\frac37$ for $y$. And `state.solve.status` says `NOT_POSITIVE` where the solver met negative
# curvature. The default solver, `dense` (elimination), looks only along its own step, whether
# $\varepsilon^\top H\varepsilon<0$: at first the step is mostly along $x$, where all is well, and it says nothing.

# %%
start = jnp.array([0.8, 0.3])
damped, _ = descend(newton(damping=1.5), saddle, start, 40)
pure, states = descend(plain, saddle, start, 40)
slow, _ = descend(gd, saddle, start, 40)
assert np.abs(damped[-1] - jnp.array([0, 1])).max() < 1e-7
factors = (damped[-1] - jnp.array([0, 1])) / (damped[-2] - jnp.array([0, 1]))
print("per step, near the minimum:", np.round(factors, 4))
assert abs(factors[0] - 1.5 / 2.5) < 1e-6
assert abs(factors[1] - 1.5 / 3.5) < 1e-3
warned = np.asarray(states.solve.status == Status.NOT_POSITIVE)
print("Newton's solver reports negative curvature from step", warned.argmax())
assert list(warned[:3]) == [False, True, True]

# %%
fig, ax = plt.subplots()
X, Y = np.meshgrid(np.linspace(-0.6, 1, 81), np.linspace(-0.8, 1.2, 81))
ax.contour(X, Y, saddle((X, Y)), levels=16, colors="#BBBBBB", linewidths=1)
looks = [
    ("gradient descent", slow, "blue", "o"),
    ("Newton", pure, "vermillion", "s"),
    ("damped, λ = 1.5", damped, "green", "^"),
]
for name, each, color, marker in looks:
    look = {"color": COLORS[color], "marker": marker, "markersize": 5}
    ax.plot(*each[:20].T, label=name, **look)
ax.plot(*start, color="black", marker="*", markersize=12, linestyle="none")
ax.annotate("saddle", (0, 0), xytext=(-45, -18), textcoords="offset points")
ax.annotate("minimum", (0, 1), xytext=(-60, 4), textcoords="offset points")
ax.set(xlabel="x", ylabel="y", title="Newton goes to the saddle")
ax.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="white")
plots.show(
    fig,
    "Contours of a function with a saddle at the origin and a minimum at "
    "(0, 1). From (0.8, 0.3) gradient descent and damped Newton go to the "
    "minimum; Newton without damping goes to the saddle.",
)

# %% [markdown]
# ### Line search
#
# Even where $H\succ0$ everywhere, Newton's step can be far too long. $f=\log\cosh x$ is convex, $f'=\tanh x$,
# $f''=1/\cosh^2x$: flat far from 0. The step is $x\leftarrow x-\sinh x\cosh x=x-\frac12\sinh2x$. It overshoots to a
# larger $|x|$ as soon as $\frac12\sinh2|x|>2|x|$, that is beyond $|x|\approx1.09$.
#
# The direction is right; only the length is not. So keep $d$ and shorten it: try $t=1,\frac12,\frac14,\dots$ until
#
# $$h(\theta+t\,d)\le h(\theta)+c\,t\,g^\top d,\qquad c=10^{-4}. \tag{2.9}$$
#
# This is *Armijo's condition*: the loss falls by at least a small share of what the slope $g^\top d$ promises.
# (Merely to ask that it falls is not enough: it could fall by ever less and stall.) The search ends:
# $h(\theta+td)=h+t\,g^\top d+O(t^2)$, so for $g^\top d<0$ and $c<1$ every small enough $t$ will do. It needs
# $g^\top d<0$: at a saddle, damp first. And it does not spoil the end: put $Hd=-g$ into
# (2.5) and $h(\theta+d)\approx h+\frac12g^\top d$, which for $c<\frac12$ satisfies (2.9) with $t=1$.


# %%
def backtrack(h, theta, d, c=1e-4):
    slope = jax.grad(h)(theta) @ d

    def too_long(t):
        return h(theta + t * d) > h(theta) + c * t * slope

    return jax.lax.while_loop(too_long, lambda t: t / 2, 1.0)


def log_cosh(theta, batch=None):
    x = jnp.abs(theta)  # as it stands, cosh would overflow
    return jnp.sum(x + jnp.log1p(jnp.exp(-2 * x)) - jnp.log(2))


# %% [markdown]
# optax has this search too: `slope_rtol` is $c$, `decrease_factor` the $\frac12$, `atol` the rounding error of the loss
# that it overlooks. Four steps of pure Newton each, then $|x|$ after eight with the search.

# %%
length = jax.jit(partial(backtrack, log_cosh, c=0.4))  # so large, it matters
search = optax.scale_by_backtracking_linesearch(
    30, slope_rtol=0.4, decrease_factor=0.5, atol=1e-15
)
searched = newton(line_search=search)
for x0 in (1.0, 1.08, 1.1, 1.2):
    pure, _ = descend(plain, log_cosh, jnp.array([x0]), 4)
    safe, state = descend(searched, log_cosh, jnp.array([x0]), 8)
    row = " ".join(f"{v:11.3g}" for v in pure[1:, 0])
    t = state.line_search.learning_rate[0]
    print(f"x₀ = {x0:4}: {row}   searched: |x| = {abs(safe[-1, 0]):.0e}")
    d = pure[1] - pure[0]
    assert t == length(pure[0], d)  # the library's is ours
    assert abs(safe[-1, 0]) < 1e-12
    # e' = -2/3 e³, so 1.08 still comes home, slowly at first
    assert (abs(pure[1, 0]) > x0) == (x0 > 1.09)

# %% [markdown]
# (From 1.2 the last step would be infinite: `newton` leaves a step out that is not finite.)
#
# ### Trust region
#
# The other order: first say how far the model is trusted, a radius $\Delta$, then ask for the best step within it:
#
# $$\min_d\;g^\top d+\tfrac12d^\top Hd\quad\text{subject to}\quad\|d\|\le\Delta . \tag{2.10}$$
#
# A minimum exists even where $H$ is indefinite, because the ball is closed and bounded. Either it lies inside; then
# it is a minimum of $m$ itself, so $Hd=-g$, with $H\succeq0$. Or it lies on the boundary,
# $\frac12d^\top d=\frac12\Delta^2$. Lagrange's condition says that there the gradients of the objective and of the
# constraint are parallel: $g+Hd=-\lambda d$. The sign is $\lambda\ge0$, or a move into the ball would lower the
# objective. So in both cases
#
# $$(H+\lambda I)\,d=-g,\qquad\|d\|\le\Delta,\qquad\lambda\ge0,\qquad\lambda\,(\Delta-\|d\|)=0 . \tag{2.11}$$
#
# **The trust-region step is a damped step.** The multiplier is the damping. Which solution of (2.11) is the global
# minimum? One with $H+\lambda I\succeq0$ is. For any other $d'$, write $\tilde m(d)=m(d)+\frac\lambda2\|d\|^2$. Its
# gradient at $d$ is zero, so, as in section 3,
# $\tilde m(d')=\tilde m(d)+\frac12(d'-d)^\top(H+\lambda I)(d'-d)\ge\tilde m(d)$, which says
#
# $$m(d')\ge m(d)+\tfrac\lambda2\big(\|d\|^2-\|d'\|^2\big). \tag{2.12}$$
#
# If $\lambda=0$ the bracket does not matter; if $\lambda>0$ then $\|d\|=\Delta\ge\|d'\|$. Either way $m(d')\ge m(d)$
# inside the ball. (That such a $\lambda$ always exists is also true, Moré and Sorensen 1983; we use only the
# direction proved.)
#
# ◇ **$\lambda$ is the price of radius.** Let $m_*(\Delta)$ be the minimum of (2.10). Take for $d'$ the best step of
# another radius $\Delta'$, whose length is at most $\Delta'$: (2.12) gives
# $m_*(\Delta')\ge m_*(\Delta)-\lambda\cdot\frac12(\Delta'^2-\Delta^2)$, for radii on both sides. So $-\lambda$ is the
# slope of $m_*$ over $\frac12\Delta^2$, where it has one: a unit more of $\frac12\Delta^2$ buys $\lambda$ less of the
# model.
#
# To find $\lambda$: in eigenvectors $\|d(\lambda)\|^2=\sum_i\big(\frac{v_i^\top g}{\lambda_i+\lambda}\big)^2$ falls
# steadily for $\lambda>-\lambda_{\min}$, to 0. So halve an interval. (The *hard case*: if $g$ has no part along the
# lowest eigenvectors, the length may stay below $\Delta$ for all these $\lambda$; then a multiple of such an
# eigenvector has to be added. A rounding error of $g$ usually prevents it.)


# %%
def trust_region(g, H, radius):
    """The step of (2.10) and its λ, but for the hard case."""
    values, V = np.linalg.eigh(H)
    c = V.T @ np.asarray(g)
    if values[0] > 0 and np.linalg.norm(c / values) <= radius:
        return -V @ (c / values), 0.0
    low, high = max(0, -values[0]), np.linalg.norm(c) / radius - values[0]
    for _ in range(100):
        lam = (low + high) / 2
        longer = np.linalg.norm(c / (values + lam)) > radius
        low, high = (lam, high) if longer else (low, lam)
    return -V @ (c / (values + lam)), lam


# %% [markdown]
# The upper end is far enough, because there each $\lambda_i+\lambda\ge\|g\|/\Delta$. **Check by brute force**, on a
# random indefinite $H$: the objective on a grid of 720 directions times 201 lengths, and the price by a difference
# quotient.

# %% tags=["nbval-check-output"]
Q, _ = np.linalg.qr(np.array([[1.0, 2.0], [2.0, -1.0]]) + 0.3)
H, g = Q @ np.diag([2.0, -1.0]) @ Q.T, np.array([0.9, -0.4])
angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)


def m(d):
    return d @ g + 0.5 * np.sum(d @ H * d, axis=-1)


print("radius   λ       ‖d‖     m(d)    grid    -dm/d(½Δ²)")
for radius in (0.25, 0.5, 1.0, 2.0):
    d, lam = trust_region(g, H, radius)
    ball = np.linspace(0, radius, 201)[:, None, None] * circle
    steps = [trust_region(g, H, radius + s)[0] for s in (-1e-4, 1e-4)]
    price = (m(steps[0]) - m(steps[1])) / (2e-4 * radius)
    row = (lam, np.linalg.norm(d), m(d), m(ball).min(), price)
    print(f"{radius:5}" + "".join(f"{v:8.3f}" for v in row))
    assert lam > 1
    assert abs(np.linalg.norm(d) - radius) < 1e-9
    assert -1e-12 < m(ball).min() - m(d) < 1e-3
    assert abs(price - lam) < 1e-5

# %% [markdown]
# In practice $\Delta$ is adapted: compare the loss's real decrease with the model's; if the ratio is near 1 the
# radius grows, if it is small it shrinks, and a step that raises the loss is not taken. Martens (2010) adapts
# $\lambda$ in the same way.
#
# ## 5 · Without the matrix
#
# With $P=10^6$ parameters $H$ has $10^{12}$ entries, too many to store or to solve with. Both can be avoided.
#
# ### A product with $H$
#
# $Hv$ is the derivative of the gradient along $v$. Write the $i$-th entry,
# $\sum_j\frac{\partial g_i}{\partial\theta_j}v_j$: it is the chain rule for $g_i(\theta+tv)$ in $t$. So
#
# $$Hv=\frac{d}{dt}\,g(\theta+t\,v)\Big|_{t=0}. \tag{2.13}$$
#
# `jax.jvp` takes such a derivative, in one pass beside the gradient. (Not `H * v`, entry by entry; and not the
# gradient of $\|g\|$, which is $Hg/\|g\|$: a product with one particular vector.)


# %%
def hvp(h, theta, v):
    return jax.jvp(jax.grad(h), (theta,), (v,))[1]


theta, v = jnp.array([0.4, 0.5]), jnp.array([1.0, -2.0])
right = newton_step(three_exps, theta)[2] @ v
t = 1e-5  # the error of the central difference is t² times third derivatives
plus, minus = (newton_step(three_exps, theta + s * v)[1] for s in (t, -t))
assert jnp.allclose(hvp(three_exps, theta, v), right, rtol=1e-13)
assert jnp.allclose((plus - minus) / (2 * t), right, rtol=1e-7)

# %% [markdown]
# `course_lib.curvature.products.hvp(loss, params, batch, v)` does the same for parameters of any nested form. Here
# with half a million of them, whose Hessian would take two terabytes. It is the Hessian of
# $\sum_i\cosh\theta_i+\frac12(\sum_i\theta_i)^2$, that is $\mathrm{diag}(\cosh\theta)+\mathbf 1\mathbf 1^\top$, so we
# know what must come out.

# %%
from course_lib.curvature import products


def wide_loss(theta, batch=None):
    return jnp.sum(jnp.cosh(theta)) + 0.5 * jnp.sum(theta) ** 2


P = 500_000
theta, v = (jnp.asarray(rng.normal(size=P)) for _ in range(2))
product = jax.jit(partial(products.hvp, wide_loss))(theta, None, v)
assert jnp.allclose(product, jnp.cosh(theta) * v + jnp.sum(v), rtol=1e-10)
terabytes = 8 * P**2 / 1e12
assert terabytes == 2.0

# %% [markdown]
# ### Solving with products: conjugate gradients
#
# To solve $Ax=b$ with $A\succ0$, minimise $q(x)=\frac12x^\top Ax-b^\top x$, whose gradient is $Ax-b=-r$, with $r$ the
# *residual*. Gradient descent would do it, at the pace of $\kappa$. The idea that does better: choose directions
# $p_0,p_1,\dots$ that are *conjugate*, $p_i^\top Ap_j=0$ for $i\ne j$. Then
#
# $$q\big(\textstyle\sum_ia_ip_i\big)=\sum_i\big(\tfrac12a_i^2\,p_i^\top Ap_i-a_i\,p_i^\top b\big)$$
#
# has no mixed terms: minimising along one direction after the other never spoils what is done. After $P$ of them $q$
# is minimal. Where do they come from? From the residuals:
#
# 1. Start: $x=0$, $r=p=b$.
# 2. Go to the minimum along $p$. $\frac{d}{da}q(x+ap)=a\,p^\top Ap-r^\top p$ is zero at
#    $a=\frac{r^\top r}{p^\top Ap}$; we used $r^\top p=r^\top r$, which holds because $p$ is $r$ plus a multiple of
#    the last direction, to which $r$ is orthogonal (we were at the minimum along it).
# 3. $x\leftarrow x+ap$, and $r'=r-a\,Ap$, without another product.
# 4. $p'=r'+\beta p$ with $\beta$ such that $p'^\top Ap=0$: $\beta=-\frac{r'^\top Ap}{p^\top Ap}$. Put $Ap=(r-r')/a$.
#    Also $r'^\top r=0$: $r$ is $p$ minus a multiple of the direction before $p$, and $r'$ is orthogonal to both, to $p$
#    by step 2, to the other because $r$ was and $Ap$ is. So $\beta=\frac{r'^\top r'}{r^\top r}$.
#
# We asked only that $p'$ be conjugate to the *last* direction. That it is conjugate to *all* earlier ones, and $r'$
# orthogonal to all earlier residuals, needs an induction that we skip (Nocedal and Wright, theorem 5.3); the next cell
# measures it.


# %%
@partial(jax.jit, static_argnames="num_steps")
def conjugate_gradients(A, b, num_steps):
    """x_1, x_2, ...; the directions p_0, p_1, ...: both (num_steps, P)."""

    def step(carry, _):
        x, r, p = carry
        Ap = A @ p
        a = r @ r / (p @ Ap)
        x, rest = x + a * p, r - a * Ap
        beta = rest @ rest / (r @ r)
        return (x, rest, rest + beta * p), (x, p)

    return jax.lax.scan(step, (jnp.zeros_like(b), b, b), None, num_steps)[1]


# %%
A, b = random_bowl(rng, 100, size=40), jnp.asarray(rng.normal(size=40))
exact = np.linalg.solve(A, b)
xs, ps = conjugate_gradients(A, b, 30)
conjugacy = np.asarray(ps @ A @ ps.T)
scale = np.sqrt(np.outer(np.diag(conjugacy), np.diag(conjugacy)))
largest = np.abs(conjugacy / scale - np.eye(30))[:20, :20].max()
print(f"largest p_iᵀA p_j of the first 20 directions: {largest:.0e}")
assert largest < 1e-5

# %% [markdown]
# **How fast.** After $k$ steps $x_k$ is the best point of the space spanned by $b,Ab,\dots,A^{k-1}b$ (each step adds
# one product with $A$). Best in the error $\|x-x_*\|_A^2=(x-x_*)^\top A(x-x_*)=2\,(q(x)-q(x_*))$. A point of that
# space is $p(A)b$ with a polynomial $p$ of degree below $k$, and $b=Ax_*$, so its error is $-s(A)x_*$ with
# $s(\lambda)=1-\lambda p(\lambda)$: any polynomial of degree $k$ with $s(0)=1$. In eigenvectors,
#
# $$\|x_k-x_*\|_A\le\min_{s(0)=1}\;\max_i|s(\lambda_i)|\;\|x_*\|_A . \tag{2.14}$$
#
# Two consequences. If $A$ has only $m$ *different* eigenvalues, $s(\lambda)=\prod_j(1-\lambda/\lambda_j)$ is zero on
# all of them: CG is done after $m$ steps. And with Chebyshev's polynomial on $[\mu,L]$ (quoted, not derived here) the
# maximum is at most
#
# $$\|x_k-x_*\|_A\le2\Big(\frac{\sqrt\kappa-1}{\sqrt\kappa+1}\Big)^k\|x_*\|_A . \tag{2.15}$$
#
# Compare (2.2), for the square of such a norm: $\sqrt\kappa$ has taken the place of $\kappa$.


# %%
def a_norm(x):
    return np.sqrt(np.sum(np.asarray(x @ A) * np.asarray(x), axis=-1))


k = np.arange(1, 31)
cg_error = a_norm(xs - exact) / a_norm(exact)
bound = 2 * ((np.sqrt(100) - 1) / (np.sqrt(100) + 1)) ** k
gd_path, _ = bowl_path(A, exact, 2 / (1 + 1 / 100))  # the error, from x = 0
gd_error = a_norm(gd_path[1:31]) / a_norm(exact)
assert (cg_error <= bound).all()
assert cg_error[-1] < 0.01 * gd_error[-1]

# %%
few = np.repeat([0.01, 0.1, 0.3, 0.7, 1.0], 8)  # five different ones
Q, _ = np.linalg.qr(rng.normal(size=(40, 40)))
five = Q * few @ Q.T
finished = np.asarray(conjugate_gradients(five, b, 5)[0][-1])
left = np.linalg.norm(five @ finished - b) / np.linalg.norm(b)
print(f"five different eigenvalues, five steps: residual {left:.0e}")
assert left < 1e-10

# %%
fig, ax = plt.subplots()
ax.semilogy(k, gd_error, label="gradient descent", markevery=3, marker="o")
ax.semilogy(k, bound, label="bound (2.15)")
ax.semilogy(k, cg_error, label="CG", marker="s", markevery=3)
ax.set(xlabel="products with A", ylabel="error in the A-norm, relative")
ax.set_title("CG pays with √κ: 40 unknowns, κ = 100")
ax.legend()
plots.show(
    fig,
    "Relative error against the number of products: gradient descent falls "
    "slowly, the bound of CG is a steeper line, and CG lies below it and "
    "bends down.",
)

# %% [markdown]
# `cg(matvec, b, max_iters, tol)` of `course_lib` is this loop until $\|r\|\le\text{tol}\,\|b\|$, and one thing more:
# if a direction has $p^\top Ap\le0$, $A$ is not positive definite and $q$ has no minimum; it stops and says so.
# `newton(solver=partial(cg, …))` uses it. Then no Hessian is ever formed.

# %%
solution, report = cg(lambda v: A @ v, b, 200, 1e-12)
assert jnp.allclose(solution, exact, rtol=1e-8)
assert report.status == Status.CONVERGED
refuses = newton(solver=partial(cg, tol=1e-10))
away, states = descend(refuses, saddle, start, 1)
assert states.solve.status[0] == Status.NOT_POSITIVE
assert saddle(away[1]) < saddle(start)  # Newton's own step goes up in y
print(f"from {start} CG-Newton steps to {np.round(away[1], 3)}")

# %% [markdown]
# ### ◇ Hessian-free: CG on the damped Gauss–Newton matrix
#
# For a network $H$ is usually indefinite (as the five below are at their start), and CG on it would stop. Martens
# (2010) replaces it. Let $z=f(x;\theta)$ with Jacobian $J$ and $L(y,z)$ the loss of an output, with gradient
# $\nabla_zL$ and Hessian $H_L$ in $z$. The chain rule, twice:
#
# $$H=\underbrace{\tfrac1n\textstyle\sum J^\top H_L\,J}_{G}\;+\;
# \tfrac1n\textstyle\sum\sum_j(\nabla_zL)_j\,\nabla_\theta^2z_j .$$
#
# $G$ is the *(generalised) Gauss–Newton matrix*. It is what would be left if $f$ were linear in $\theta$. If $L$ is
# convex in $z$, as the three of unit 01 are, $v^\top Gv=\frac1n\sum(Jv)^\top H_L(Jv)\ge0$. It may be singular, so it
# is damped:
#
# $$d=-(G+\lambda I)^{-1}g ,\quad\text{solved by CG with products }
# Gv=\tfrac1n\textstyle\sum J^\top\big(H_L\,(Jv)\big). \tag{2.16}$$
#
# $Jv$ is a `jvp`, $J^\top u$ a `vjp`: again nothing is formed. (For these losses $G=F$, which unit 03 shows.)
#
# The model: thirty measurements of a tumour, three tanh units, one log-odds; $P=97$ parameters, so that the matrix
# can be formed to compare with. Data of unit 01.

# %%
from jax.flatten_util import ravel_pytree

from course_lib import data
from course_lib.curvature.matrices import gauss_newton, hessian
from course_lib.curvature.products import gauss_newton_vp
from course_lib.likelihoods import Bernoulli
from course_lib.models import Model

x, y = data.breast_cancer().train
batch = (x, y[:, None])


# %%
def net(params, x):
    hidden = jnp.tanh(x @ params["W"] + params["b"])
    return hidden @ params["v"][:, None] + params["c"]


def init(key):
    one, two = jax.random.split(key)
    W, v = jax.random.normal(one, (30, 3)), jax.random.normal(two, (3,))
    scaled = {"W": W / jnp.sqrt(30), "v": v / jnp.sqrt(3)}
    return scaled | {"b": jnp.zeros(3), "c": jnp.zeros(())}


tumours = Model(net, Bernoulli())

# %% [markdown]
# The product in three lines, with $H_L=\sigma(z)(1-\sigma(z))$; then against the formed $G$ and against the library.


# %%
@jax.jit
def gv(params, v):
    z, Jv = jax.jvp(lambda p: net(p, x), (params,), (v,))
    weighted = jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * Jv / len(x)
    return jax.vjp(lambda p: net(p, x), params)[1](weighted)[0]


root = jax.random.key(0)
params, v = (init(jax.random.fold_in(root, i)) for i in (0, 9))
ours = ravel_pytree(gv(params, v))[0]
G = gauss_newton(tumours, params, batch)
assert jnp.allclose(ours, G @ ravel_pytree(v)[0], atol=1e-12)
theirs = jax.jit(partial(gauss_newton_vp, tumours))(params, batch, v)
assert jnp.allclose(ours, ravel_pytree(theirs)[0], atol=1e-12)

# %% [markdown]
# Now the step (2.16) by CG against elimination with the formed matrix, and the smallest eigenvalues of $H$ and $G$,
# for five random initial networks. Then fifteen steps of the method from each: full steps with three dampings, and
# steps without damping, with five $\alpha$ from 1 to 0.1.

# %%
DAMPING = 1e-2
solver = partial(cg, max_iters=300, tol=1e-10)
matvec = partial(gauss_newton_vp, tumours)
free = newton(damping=DAMPING, solver=solver, matvec=matvec)


@jax.jit
def free_step(params):
    g = jax.grad(tumours.loss)(params, batch)
    words = {"loss": tumours.loss, "batch": batch}
    d, state = free.update(g, free.init(params), params, **words)
    return ravel_pytree(g)[0], ravel_pytree(d)[0], state.solve.iterations


# %%
off, lowest, products_used = [], [], []
for seed in range(5):
    params = init(jax.random.fold_in(root, seed))
    g, d, used = free_step(params)
    G = np.asarray(gauss_newton(tumours, params, batch))
    H = np.asarray(hessian(tumours, params, batch))
    solved = -np.linalg.solve(G + DAMPING * np.eye(97), g)
    off.append(np.linalg.norm(d - solved) / np.linalg.norm(solved))
    lowest.append([np.linalg.eigvalsh(a)[0] for a in (H, G)])
    products_used.append(int(used))
lowest = np.array(lowest)
print(f"CG against elimination: {max(off):.0e}, products {products_used}")
print("lowest eigenvalue of H:", np.round(lowest[:, 0], 2))
assert max(off) < 1e-7
assert (lowest[:, 0] < -0.2).all()
assert (lowest[:, 1] > -1e-12).all()


# %%
@jax.jit
@partial(jax.vmap, in_axes=(0, None))  # over the seeds
@partial(jax.vmap, in_axes=(None, 0))  # over the settings
def losses(seed, setting):
    rate, damping = setting
    rough = partial(cg, max_iters=300, tol=1e-3)
    opt = newton(rate, damping, rough, partial(gauss_newton_vp, tumours))
    params = init(jax.random.fold_in(root, seed))
    path, _ = descend(opt, tumours.loss, params, 15, batch)
    return jax.vmap(tumours.loss, (0, None))(path, batch)


settings = jnp.array(
    [[1, 0.1], [1, DAMPING], [1, 3e-3]]
    + [[rate, 0] for rate in (1, 0.5, 0.4, 0.3, 0.1)]
)
curves = np.asarray(losses(jnp.arange(5), settings))  # (seeds, settings, 16)

# %% tags=["claim:M-hf"]
print("  α     λ      loss after 15 steps, five seeds")
for (rate, lam), each in zip(settings, curves[:, :, -1].T, strict=True):
    print(f"{rate:5.2f} {lam:5}   " + " ".join(f"{v:8.2g}" for v in each))
damped, small = curves[:, 1, -1], curves[:, 2]
full, half, _, bare, _ = curves[:, 3:, -1].T
assert (np.diff(curves[:, 1], axis=1) < 0).mean() > 0.9
assert (damped < 0.05).all()
assert (full > 1).all()  # no damping, full steps: thrown out
assert small.max() > 1  # λ too small: so is one network,
assert (small[:, -1] < damped).sum() >= 3  # and others end lower
ratio = bare / damped
assert 1 < np.median(ratio) < 3
assert (curves[:, 4:6, -1] < damped[:, None]).any()
assert (half > 3 * damped).any()
verdict(
    "M-hf",
    "in part",
    f"CG on G + λI equals elimination to {max(off):.0e} in at most "
    f"{max(products_used)} products of P = 97; after 15 full steps with λ "
    f"tuned to 0.01 the loss is {damped.mean():.4f} ± "
    f"{damped.std(ddof=1):.4f}, without λ above {full.min():.0e}. Not "
    f"'a lot more progress': undamped with α tuned to 0.3 it is "
    f"{bare.mean():.4f} ± {bare.std(ddof=1):.4f}",
)

# %% [markdown]
# Martens (2020, §10) says that damped steps "can be applied with a step-size of 1", and "make a lot more progress" than
# undamped ones, which need a carefully chosen step size. The first is so here: full steps work with damping, and
# without it they throw every network out. "A lot more" is not: both $\lambda=10^{-2}$ and $\alpha=0.3$ were chosen by
# looking at these seeds, and the undamped loss is higher by a factor of less than 3, in the median. With 0.4 or 0.5 it
# is lower than the damped one on some seeds, and much higher on others. A smaller damping, $3\cdot10^{-3}$, is better
# on most seeds and throws one network out. What both lack is a rule that adapts, as Martens' raises and lowers
# $\lambda$.
#
# ## 6 · On real data: gradient descent, Newton, Newton-CG
#
# Logistic regression, all thirty measurements, and an intercept: $z=b+w^\top x$. Unit 01 found that some $\theta$
# classifies all training tumours rightly. Such data are called *separable*, and then the loss has no minimum:
# $2\theta$ is better than $\theta$, for ever. A small penalty mends that,
#
# $$h(\theta)=\frac1n\sum_i-\log p(y_i|x_i;\theta)+\tfrac12\ell\,\|\theta\|^2,\qquad\ell=10^{-3}. $$
#
# The first part is convex and not negative. So $h$ grows to infinity in every direction, and has a minimum; and
# $H\succeq\ell I$ everywhere, so it has only one. (We penalise the intercept too; that keeps the argument short.)
# With $X$ the inputs and a column of ones, $H=\frac1nX^\top\mathrm{diag}\big(\sigma(1-\sigma)\big)X+\ell I$, and
# $\sigma(1-\sigma)\le\frac14$ gives the bound $L\le\frac14\lambda_{\max}(X^\top X/n)+\ell$, from anywhere.
#
# Four ways to the same minimum, until $\|g\|\le10^{-6}$:
#
# - gradient descent, *safe*: $\alpha=1/L$ with that bound, which cannot diverge from any start;
# - gradient descent, *in hindsight*: the best $\alpha$ of (2.2), from the curvatures at the minimum. Nobody knows it
#   beforehand, and from $\theta=0$ nothing guarantees it; it stands for a step size found by long trying;
# - Newton: $H$ is formed and eliminated;
# - Newton-CG: each system is solved by CG, only until its residual is 1 % of $\|g\|$. (Far from the minimum a more
#   exact step is not worth its price, since the model is not exact either.)

# %%
RIDGE = 1e-3
regression = Model(lambda t, x: t[0] + x @ t[1:, None], Bernoulli())


def penalised(theta, batch):
    return regression.loss(theta, batch) + 0.5 * RIDGE * theta @ theta


def load(seed):
    """A split of the data, as a batch, and the safe step size 1/L."""
    x, y = (np.asarray(a) for a in data.breast_cancer(seed).train)
    X = np.c_[np.ones(len(x)), x]
    L = np.linalg.eigvalsh(X.T @ X / len(x))[-1] / 4 + RIDGE
    return (x, y[:, None]), 1 / L


# %%
search = optax.scale_by_backtracking_linesearch(40, atol=1e-12)
METHODS = {
    "gd": lambda alpha: optax.with_extra_args_support(optax.sgd(alpha)),
    "newton": lambda alpha: newton(alpha),
    "newton-cg": lambda alpha: newton(alpha, solver=partial(cg, tol=1e-2)),
    "searched": lambda alpha: newton(alpha, line_search=search),
}
slope_of = jax.grad(penalised)


# %%
@partial(jax.jit, static_argnames="method")
def minimise(method, alpha, start, batch, limit):
    """The first θ with ‖g‖ <= 1e-6, or the last, and the number of steps."""
    opt = METHODS[method](alpha)

    def unfinished(carry):
        return (jnp.linalg.norm(carry[1]) > 1e-6) & (carry[3] < limit)

    def step(carry):
        theta, g, state, k = carry
        move, state = opt.update(g, state, theta, loss=penalised, batch=batch)
        theta = optax.apply_updates(theta, move)
        return theta, slope_of(theta, batch), state, k + 1

    begin = start, slope_of(start, batch), opt.init(start), 0
    theta, _, _, k = jax.lax.while_loop(unfinished, step, begin)
    return theta, k


# %% [markdown]
# The best step size first: find the minimum, and the largest and smallest eigenvalue of $H$ there.

# %%
curvature = jax.jit(jax.hessian(penalised))
zero = jnp.zeros(31)
splits, hindsight, kappas, safe_rates, flattest = [], [], [], [], []
for seed in range(5):
    given, safe = load(seed)
    at_minimum = minimise("newton", 1.0, zero, given, 100_000)[0]
    H = np.linalg.eigvalsh(curvature(at_minimum, given))
    splits.append(given)
    safe_rates.append(safe)
    hindsight.append(2 / (H[0] + H[-1]))
    kappas.append(H[-1] / H[0])
    flattest.append(H[0])
print("κ at the minimum:    ", np.round(kappas))
print("1/L, safe:           ", np.round(safe_rates, 2))
print("2/(L+μ) at the min.: ", np.round(hindsight, 1))
assert np.mean(np.divide(hindsight, safe_rates)) > 40
# at θ = 0, where σ(1-σ) = 1/4, the bound L is attained
H = np.linalg.eigvalsh(curvature(zero, splits[0]))
assert np.allclose(H[-1], 1 / safe_rates[0], rtol=1e-10)

# %% [markdown]
# The curvature at the start is that of the bound, and far larger than at the minimum: there most tumours are classified
# with near certainty, and $\sigma(1-\sigma)$ is near 0. That is why the safe step is so short.
#
# Now steps and seconds. JAX returns before the work is done, so a clock has to wait with `block_until_ready`; a first
# call, of no step, compiles and is not counted; the time of a split is the median of three runs. Nothing rests on the
# seconds: they depend on the machine.

# %%
from time import perf_counter


def timed(run, repeats):
    """The result, and the median of the seconds."""
    taken = []
    for _ in range(repeats):
        begin = perf_counter()
        result = jax.block_until_ready(run())
        taken.append(perf_counter() - begin)
    return result, np.median(taken)


ones = [1.0] * 5
WAYS = {
    "GD, safe": ("gd", safe_rates, 1),
    "GD, in hindsight": ("gd", hindsight, 3),
    "Newton": ("newton", ones, 3),
    "Newton-CG": ("newton-cg", ones, 3),
}

# %%
print(f"{'five splits':18}{'steps':>14}{'milliseconds':>20}")
steps, minima = {}, {}
for name, (method, alphas, repeats) in WAYS.items():
    found, ms = [], []
    for given, alpha in zip(splits, alphas, strict=True):
        run = partial(minimise, method, alpha, zero, given)
        run(0)
        result, taken = timed(partial(run, 100_000), repeats)
        found.append(result)
        ms.append(1e3 * taken)
    minima[name] = np.stack([theta for theta, _ in found])
    steps[name] = k = np.array([int(k) for _, k in found])
    row = f"{k.mean():9.0f} ± {k.std(ddof=1):3.0f}"
    row += f"{np.mean(ms):12.1f} ± {np.std(ms, ddof=1):.1f}"
    print(f"{name:18}{row}")

# %%
# H >= ℓI, so ‖θ - θ_*‖ <= ‖g‖/ℓ <= 1e-3; two such balls
for each in minima.values():
    assert np.linalg.norm(each - minima["Newton"], axis=1).max() < 2e-3
assert (abs(steps["GD, safe"] - 21_000) < 3_000).all()
assert (steps["GD, in hindsight"] > 200).all()
assert (steps["GD, in hindsight"] < 500).all()
assert (abs(steps["Newton"] - 9) <= 1).all()
assert (steps["Newton-CG"] <= 12).all()

# %% [markdown]
# (For the safe step the time is of one run.) A Newton step costs more than a gradient step: here it forms 31 columns
# and eliminates, $O(P^3)$. For $P=31$ that is little, and in the stored table Newton wins on the clock as well. For a
# network it would not be: that is what section 5 is for, and the later units.
#
# **Is the pace what the theory says?** (2.2) is about the loss; its square root, $\frac{\kappa-1}{\kappa+1}$, should
# be the factor per step of $\|g\|$. For Newton, $\|g\|$ should be squared: the *order*, the slope of
# $\log\|g_{k+1}\|$ over $\log\|g_k\|$, should be 2. We record $\|g\|$ along the way.


# %%
@partial(jax.jit, static_argnames=("method", "num_steps"))
def norms(method, num_steps, alpha, batch):
    opt = METHODS[method](alpha)

    def step(carry, _):
        theta, state = carry
        g = slope_of(theta, batch)
        move, state = opt.update(g, state, theta, loss=penalised, batch=batch)
        carry = optax.apply_updates(theta, move), state
        return carry, jnp.linalg.norm(g)

    begin = zero, opt.init(zero)
    return jax.lax.scan(step, begin, None, num_steps)[1]


# %%
lengths = (23_000, 701, 12, 12)
records = {}
for (name, (method, alphas, _)), n in zip(WAYS.items(), lengths, strict=True):
    pairs_of = zip(alphas, splits, strict=True)
    rows = [norms(method, n, alpha, given) for alpha, given in pairs_of]
    records[name] = np.stack(rows)

# %%
r = records["GD, in hindsight"]
q = (np.array(kappas) - 1) / (np.array(kappas) + 1)
pace = np.log(r[:, 700] / r[:, 500]) / (200 * np.log(q))
print(f"log-rate, measured / (2.2): {pace.round(2)}")
assert (pace > 0.95).all()
assert (pace < 1.1).all()
r = records["GD, safe"]
slow = 1 - np.multiply(safe_rates, flattest)  # 1 - μ/L
slow_pace = np.log(r[:, 22_000] / r[:, 20_000]) / (2000 * np.log(slow))
print(f"the safe step, over 1 - μ/L: {slow_pace.round(2)}")
assert (abs(slow_pace - 1) < 0.3).all()
assert 1 / (1 - slow).max() > 3000

# %%
r = records["Newton"]
print("Newton's ‖g‖ on split 0:", " ".join(f"{v:.0e}" for v in r[0, :11]))
order = [np.polyfit(*np.log([a[7:9], a[8:10]]), 1)[0] for a in r]
print(f"order: {np.mean(order):.2f} ± {np.std(order, ddof=1):.2f}")
assert abs(np.mean(order) - 2) < 0.2

# %%
fig, ax = plt.subplots()
looks = [("blue", "-"), ("sky", "--"), ("vermillion", "-."), ("green", ":")]
for (name, rows), (color, dash) in zip(records.items(), looks, strict=True):
    look = {"color": COLORS[color], "linestyle": dash, "linewidth": 1.4}
    for i, row in enumerate(rows):
        row = row[row > 1e-12]
        at = 1 + np.arange(len(row))  # a logarithmic axis has no 0
        ax.loglog(at, row, label=name if i == 0 else None, **look)
ax.axhline(1e-6, color="black", linewidth=1)
ax.set(xlabel="steps + 1", ylabel="norm of the gradient", ylim=(1e-12, 1e4))
ax.set_title("Nine steps, hundreds, or twenty thousand")
ax.legend(loc="upper right", fontsize=10)
plots.show(
    fig,
    "Log-log plot of the gradient norm against the step, five splits each: "
    "both forms of Newton fall below the line of 1e-6 within about ten "
    "steps, tuned gradient descent after a few hundred, safe gradient "
    "descent after about twenty thousand.",
)

# %% [markdown]
# Ratios a little above 1 are no surprise: directions that shrink faster are still in the sum. The safe step goes
# roughly at the pace $1-\mu/L$, with $L$ from the start and $\mu$ from the minimum, as if $\kappa$ were over three
# thousand.
#
# **Other starts.** All this began at $\theta=0$, where $\sigma(1-\sigma)$ is largest and the model is good. Take
# instead ten random starts for each split, with entries from $\mathcal N(0,1)$: with the full step, and with the
# line search.

# %%
starts = jax.random.normal(jax.random.key(1), (5, 10, 31))
from_many = jax.vmap(minimise, in_axes=(None, None, 0, None, None))
for method in ("newton", "searched"):
    counts = [
        np.asarray(from_many(method, 1.0, start, given, 40)[1])
        for start, given in zip(starts, splits, strict=True)
    ]
    ok = np.array(counts) < 40  # steps
    used = np.array(counts)[ok]
    most = f"; at most {used.max()} steps" if ok.any() else ""
    print(f"{method:9} converged from {ok.mean():.0%} of 50 starts{most}")
    assert ok.all() == (method == "searched")
    assert (ok.mean() < 0.2) == (method == "newton")

# %% [markdown]
# Newton's method by itself is no method for such starts: it is the last ten steps of one. The line search makes it one.
#
# **Was it worth it?** The tumours' labels do not ask for $\|g\|=10^{-6}$. How many validation tumours get another
# class at the minimum than after three hundred safe gradient steps?


# %%
@jax.jit
def rough(alpha, given):
    loss = partial(penalised, batch=given)
    return gradient_descent(loss, zero, alpha, 300)[-1]


changed = []
for seed in range(5):
    x_val = np.asarray(data.breast_cancer(seed).validation[0])
    both = rough(safe_rates[seed], splits[seed]), minima["Newton"][seed]
    a, b = (t[0] + x_val @ t[1:] > 0 for t in map(np.asarray, both))
    changed.append(int(np.sum(a != b)))
print(f"of {len(x_val)} validation tumours change class: {changed}")
assert max(changed) <= 6

# %% [markdown]
# A few at most. For predicting, the last digits of the optimum hardly matter; for the standard errors of unit 01,
# which assume $\nabla h=0$, they do.
#
# ## 7 · Where it breaks
#
# Sections 4 to 6 had three: the saddle, the indefinite $H$, the far start. Two more.
#
# **Rounding.** To solve $H\varepsilon=-g$ in floating-point numbers with relative precision $u$ (about $10^{-16}$ in
# float64, $6\cdot10^{-8}$ in float32) gives an $\varepsilon$ that satisfies the equation almost exactly, but is
# itself wrong by up to about $\kappa u$ in relative terms: the flat directions divide an error of $g$ by $\mu$. When
# $\kappa u$ reaches 1 the step is noise. And forming $H^{-1}$ loses more: then not even the equation is satisfied.
# NumPy on random symmetric matrices of 30 rows, five seeds:


# %%
def solve_errors(kappa, dtype, rng):
    """Relative error of solve; residuals of solve and of inv."""
    Q, _ = np.linalg.qr(rng.normal(size=(30, 30)))
    A = (Q * np.geomspace(1 / kappa, 1, 30)) @ Q.T
    x = rng.normal(size=30)
    b = A @ x
    given = A.astype(dtype), b.astype(dtype)
    found, by_inv = np.linalg.solve(*given), np.linalg.inv(given[0]) @ given[1]
    left = [np.linalg.norm(A @ v - b) for v in (found, by_inv)]
    error = np.linalg.norm(found - x) / np.linalg.norm(x)
    return error, *(left / np.linalg.norm(b))


# %%
print("            κ   error of ε   residual, solve   residual, inv")
table = {}
for dtype in (np.float32, np.float64):
    for kappa in (1e2, 1e4, 1e6, 1e8, 1e10):
        rows = [solve_errors(kappa, dtype, rng) for _ in range(5)]
        table[dtype, kappa] = e, by_solve, by_inv = np.mean(rows, axis=0)
        print(f"{dtype.__name__} {kappa:6.0e}{e:11.0e}", end="")
        print(f"{by_solve:15.0e}{by_inv:16.0e}")
assert table[np.float32, 1e10][0] > 0.3  # noise
assert table[np.float32, 1e2][0] < 1e-4
assert table[np.float64, 1e10][0] < 1e-5
for kappa in (1e2, 1e4, 1e6):
    assert table[np.float32, kappa][1] < 1e-5
assert table[np.float32, 1e6][2] > 30 * table[np.float32, 1e6][1]

# %% [markdown]
# Newton's method forgives a little of this. If each solve leaves a relative error $\delta<1$, the error of $\theta$
# falls by about $\delta$ a step instead of being squared. It cannot forgive $\delta\ge1$. A damping of $\lambda$
# bounds the condition number by $(L+\lambda)/\lambda$, if $H\succeq0$.
#
# **No minimum.** Without the penalty the tumours' loss has none. In one dimension it would be like $f=e^{-x}$:
# $f'/f''=-1$, so Newton walks one unit a step for ever, and each step divides the loss by $e$. Thirty-one dimensions
# behave alike once all tumours are on the right side: $\|\theta\|$ grows, and all of $H$ falls towards 0. In the end,
# what is computed for $H$ is rounding error.

# %%
free_path, states = descend(plain, regression.loss, zero, 60, splits[0])
bare_loss = jax.jit(jax.vmap(regression.loss, (0, None)))
h = np.asarray(bare_loss(free_path, splits[0]))
size = np.linalg.norm(free_path, axis=1)
for k in (5, 10, 20, 30):
    print(f"step {k}: loss {h[k]:.0e}, ‖θ‖ = {size[k]:.0f}", end="")
    print(f", the next step divides the loss by {h[k] / h[k + 1]:.2f}")
print(f"step 60: loss {h[60]:.0e}; {states.skipped[-1]} steps skipped")
assert np.abs(h[12:20] / h[13:21] - np.e).max() < 0.2
assert (np.diff(size[:20]) > 0).all()
assert np.argmax(np.diff(h) > 0) >= 30  # the first rise
assert h[60] > 1
assert states.skipped[-1] > 0

# %% [markdown]
# After the thirtieth step, sooner or later, one solve with such an $H$ throws $\theta$ away. From there no finite step
# is found: `newton` leaves every further one out, and counts them in `state.skipped`. Look at the weights before you
# believe that a small loss is a minimum.
#
# ## 8 · Change the code
#
# *The last of these three cells needs a running kernel.* The figure shows $f'$, and Newton's steps as (2.3) has them:
# up to the curve, along the tangent to zero, and so on. For $\log\cosh$, find the start at which it stops converging;
# section 4 gave 1.09. Then swap in another line, or write your own. For $\sqrt{1+x^2}$ the limit is a round number:
# which? (Exercise 7 asks why.) For $x^4/4-x^2/2$, which starts end at which of the three roots?

# %%
from ipywidgets import FloatSlider, interact

f = lambda x: jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x)))  # noqa: E731
# f = lambda x: jnp.sqrt(1 + x**2)
# f = lambda x: x**4 / 4 - x**2 / 2
# f = lambda x: jnp.exp(x) - 2 * x


# %%
def draw_newton(start):
    axis = np.linspace(-3, 3, 241)
    fig, ax = plt.subplots()
    ax.plot(axis, jax.vmap(jax.grad(f))(axis))
    x = start
    for _ in range(5):
        after, slope = float(newton_1d(f, x)), float(jax.grad(f)(x))
        ax.plot([x, x, after], [0, slope, 0], color=COLORS["vermillion"])
        x = after
    ax.plot(start, 0, "ko")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="x", ylabel="f'(x)", xlim=(-3, 3), ylim=(-2, 2))
    ax.set_title(f"From {start:.2f}; after 5 steps x = {x:.3g}")
    plots.show(fig, f"f' and Newton's tangents from the start {start:.2f}.")


# %%
start_slider = FloatSlider(value=1.0, min=-2, max=2, step=0.02)
_ = interact(draw_newton, start=start_slider)

# %% [markdown]
# ## 9 · What you have now
#
# | | step | converges | at a saddle | costs |
# |---|---|---|---|---|
# | gradient descent | (2.1) $-\alpha g$ | $\big(\frac{\kappa-1}{\kappa+1}\big)^2$ a step at best; not beyond $2/L$ | leaves it | a gradient |
# | Newton | (2.6) $-H^{-1}g$ | squares the error, near $\theta_*$ | is attracted | $P$ products, $O(P^3)$ |
# | damped | (2.8) $-(H+\lambda I)^{-1}g$ | $\frac{\lambda}{\lambda_i+\lambda}$ a step | leaves it if $\lambda>-\lambda_{\min}$ | as Newton |
# | line search | (2.9) | here from all far starts; needs $g^\top d<0$ | does not help | some losses |
# | trust region | (2.10) | not run here | leaves it | eigenvalues, or several solves |
# | Newton-CG, Hessian-free | (2.13)–(2.16) | as exact as the solve | CG notices | tens of products |
#
# **The answer.** Newton's method knows the curvature along every direction, and divides by it; gradient descent has
# one number for all of them, which the steepest direction limits. It pays with a $P\times P$ system, or some tens of
# Hessian products, a step. It goes wrong wherever the quadratic model is not the loss: far away, at a saddle, where
# the curvature is nearly zero.
#
# ### Check yourself
#
# <details><summary>1. You double the loss. What happens to a step of gradient descent, and to Newton's?</summary>
#
# $g$ doubles, so the gradient step doubles. $H$ doubles too, so $H^{-1}g$ stays. For a damped step you would have to
# double $\lambda$.
# </details>
#
# <details><summary>2. You measure every parameter in another unit, $\theta=S\varphi$ with an invertible matrix $S$.
# What happens to the two paths?</summary>
#
# In $\varphi$ the gradient is $S^\top g$ and the Hessian $S^\top HS$. Newton's step is $-S^{-1}H^{-1}g$, the same
# step in other words: the same path. The gradient step is $-\alpha S^\top g$, which in $\theta$ is
# $-\alpha SS^\top g$: another path.
# </details>
#
# <details><summary>3. $\kappa=1$: how many steps does gradient descent need on a bowl?</summary>
#
# One, at $\alpha=1/L$: $q=0$. There $A=LI$ and Newton's step is the gradient step.
# </details>
#
# <details><summary>4. Why is $\lambda$ chosen above $-\lambda_{\min}$ and not just at it?</summary>
#
# At it, $H+\lambda I$ is singular. Just above it the step is enormous, along the direction of the most negative
# curvature.
# </details>
#
# <details><summary>5. CG on a system of 10,000 unknowns is done to $10^{-10}$ after 12 products. What do you conclude
# about the matrix?</summary>
#
# By (2.14), that its eigenvalues, or those that $b$ has a part in, lie in a few tight clusters, or that $\kappa$ is
# small.
# </details>
#
# <details><summary>6. At a strict saddle of $h$, is $\varepsilon_*$ a saddle of the local model too?</summary>
#
# Yes: $g=0$ there, so $\varepsilon_*=0$ and $m=h+\frac12\varepsilon^\top H\varepsilon$ with an indefinite $H$. Newton
# stays exactly there.
# </details>
#
# ### Further reading
#
# - J. Nocedal, S. Wright, *Numerical Optimization*, 2nd ed., Springer 2006: chapters 3 to 7 for all of this.
# - S. Boyd, L. Vandenberghe, *Convex Optimization*, Cambridge 2004, chapter 9: rates that hold from any start.
# - J. Moré, D. Sorensen, *Computing a Trust Region Step*, SIAM J. Sci. Stat. Comput. 4 (1983).
# - B. Pearlmutter, *Fast Exact Multiplication by the Hessian*, Neural Computation 6 (1994).
# - J. Martens, *Deep Learning via Hessian-Free Optimization*, ICML 2010; *New Insights and Perspectives on the
#   Natural Gradient Method*, JMLR 21 (2020), sections 7 and 10.
# - J. Shewchuk, *An Introduction to the Conjugate Gradient Method Without the Agonizing Pain*, 1994.
#
# **Next:** the exercises,
# [exercises/02_gradient_descent_newton](../exercises/02_gradient_descent_newton/02_gradient_descent_newton.ipynb). Unit
# 03 asks which length a step should have in the first place, and finds the Fisher information in the place of $H$.
#
# *This notebook is built from* `source/lectures/02_gradient_descent_newton.py`. *To change the course, see*
# `CONTRIBUTING.md`.
