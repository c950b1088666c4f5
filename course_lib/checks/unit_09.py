"""Unit 09. The bank of exercise 09: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 09. Where a function takes all weights of a layer they are
{"W": ..., "b": ...} and it returns a pair (for W, for b), so that a norm over one array is not a norm over all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise

FLOATS = (np.float64, np.float32)


# ---- inputs: sizes differ from seed to seed; the cases of one seed share them, so that JAX compiles once ----


def _loss(rng: np.random.Generator, n: int, sign: float = 1.0, slope: float = 1.0) -> Callable:
    """h(θ) = ±(½ θᵀAθ + Σ θ⁴/8) + slope·θᵀc: a bowl (or a hill), its eigenvalues between 1 and 5, its walls uneven."""
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    a = (q * rng.uniform(1, 5, n)) @ q.T
    c = slope * rng.uniform(0.4, 1.2, n) * rng.choice([-1, 1], n)

    def loss(theta: jax.Array) -> jax.Array:
        matrix, tilt = jnp.asarray(a, theta.dtype), jnp.asarray(c, theta.dtype)
        return sign * (0.5 * theta @ matrix @ theta + jnp.sum((theta + 0.5) * theta**3) / 8) + tilt @ theta

    return loss


def _gap_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, θ, rho): two ordinary points, one near the top of a hill, where the gap is negative, and a minimum."""
    n = int(rng.integers(3, 6))

    def vector(length: float, dtype: DTypeLike = np.float64) -> jax.Array:
        theta = rng.normal(size=n)
        return jnp.asarray((length * theta / np.linalg.norm(theta)).astype(dtype))

    rho = float(rng.uniform(0.2, 0.4))
    hill = _loss(rng, n, sign=-1.0, slope=0.0)
    return [
        (_loss(rng, n), vector(1.0), rho),
        (_loss(rng, n), vector(1.5, np.float32), 1.7 * rho),
        (hill, vector(0.2 * rho), rho),
        (_loss(rng, n, slope=0.0), jnp.zeros(n), rho),
    ]


def _pair_cases(rng: np.random.Generator) -> list[tuple]:
    """(weights, weights, number), weights {"W": ..., "b": ...}, 45 degrees apart or so, and of unequal lengths."""
    rows, columns = (int(k) for k in rng.choice(np.arange(2, 5), 2, replace=False))

    def layer(dtype: DTypeLike) -> dict[str, jax.Array]:
        arrays = {"W": rng.normal(size=(rows, columns)), "b": rng.normal(size=columns)}
        return {name: jnp.asarray(a.astype(dtype)) for name, a in arrays.items()}

    def case(dtype: DTypeLike, size: float) -> tuple:
        first, second = layer(dtype), layer(dtype)
        onto = {name: size * (first[name] + second[name]) for name in first}
        return first, onto, float(rng.uniform(0.3, 0.8))

    return [case(np.float64, 0.6), case(np.float64, 2.5), case(np.float32, 1.7)]


def _across_cases(rng: np.random.Generator) -> list[Case]:
    return [case[:2] for case in _pair_cases(rng)]


def _step_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, θ, rho, alpha, lr)."""
    n = int(rng.integers(3, 6))

    def case(dtype: DTypeLike) -> Case:
        theta = jnp.asarray((0.6 * rng.normal(size=n)).astype(dtype))
        rho, alpha, lr = rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.8), rng.uniform(0.1, 0.25)
        return _loss(rng, n), theta, float(rho), float(alpha), float(lr)

    return [case(np.float64), case(np.float64), case(np.float32)]


def _schedule_cases(rng: np.random.Generator) -> list[Case]:
    """(lr, lr_min, lr_max, rho_min, rho_max): rates below, between and above the two ends, in no order."""
    n = int(rng.integers(5, 9))

    def case(dtype: DTypeLike, rho_min: float) -> Case:
        lr_min, lr_max = float(rng.uniform(0.05, 0.1)), float(rng.uniform(0.3, 0.5))
        inside = rng.uniform(lr_min, lr_max, n - 3)
        lr = rng.permutation(np.concatenate([[0.0, 0.5 * lr_min, 1.3 * lr_max], inside]))
        return jnp.asarray(lr.astype(dtype)), lr_min, lr_max, rho_min, float(rng.uniform(0.4, 0.9))

    return [case(np.float64, 0.02), case(np.float64, 0.2), case(np.float32, 0.1)]


def _eigenvalue_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, θ, rho, start, steps): few steps, so that the way there still shows in the value. A bowl and a hill."""
    n = int(rng.integers(3, 6))

    def case(steps: int, sign: float) -> Case:
        theta, start = 0.3 * rng.normal(size=n), 2 * rng.normal(size=n)
        rho = float(rng.uniform(0.3, 0.6))
        return _loss(rng, n, sign), jnp.asarray(theta), rho, jnp.asarray(start), steps

    return [case(2, 1.0), case(3, -1.0)]


def _asam_cases(rng: np.random.Generator) -> list[Case]:
    return [(theta, g, 3 * rho) for theta, g, rho in _pair_cases(rng)]


# ---- the arrays of a layer, {"W": ..., "b": ...} or a pair, as one vector ----


def _leaves(layer: dict | tuple) -> tuple:
    return tuple(layer.values()) if isinstance(layer, dict) else layer


def _dot(a: dict | tuple, b: dict | tuple) -> jax.Array:
    return sum((jnp.sum(x * y) for x, y in zip(_leaves(a), _leaves(b), strict=True)), start=jnp.zeros((), jnp.float32))


def _map(f: Callable, *layers: dict | tuple) -> tuple:
    return tuple(f(*arrays) for arrays in zip(*map(_leaves, layers), strict=True))


def _less(a: dict | tuple, share: jax.Array | float, b: dict | tuple) -> tuple:
    """a - share b."""
    return _map(lambda x, y: x - jnp.asarray(share, x.dtype) * y, a, b)


def _flat(layer: dict | tuple) -> np.ndarray:
    return np.concatenate([np.asarray(a).ravel() for a in _leaves(layer)])


def _like(vector: np.ndarray, layer: dict | tuple) -> tuple:
    arrays = _leaves(layer)
    return tuple(v.reshape(a.shape) for v, a in zip(np.split(vector, [arrays[0].size]), arrays, strict=True))


# ---- 1. surrogate_gap ----


def _unit(g):
    norm = jnp.sqrt(jnp.sum(g**2))
    return g / jnp.where(norm == 0, 1, norm)


def surrogate_gap(loss, theta, rho):
    """h(θ + ρ g/‖g‖) - h(θ), and 0 where g is."""
    return loss(theta + rho * _unit(jax.grad(loss)(theta))) - loss(theta)


def _gap_with_epsilon(loss, theta, rho):
    value, g = jax.value_and_grad(loss)(theta)
    return loss(theta + rho * g / (jnp.linalg.norm(g) + 1e-12)) - value


def _gap_by_numpy(loss, theta, rho):
    g = np.asarray(jax.grad(loss)(theta))
    if not g.any():
        return np.zeros((), g.dtype)
    return np.asarray(loss(theta + jnp.asarray(rho * g / np.sqrt(g @ g), theta.dtype))) - np.asarray(loss(theta))


def _of_gap(change: Callable) -> Callable:
    """A wrong gap: change(loss, θ, rho, g) -> value."""
    return lambda loss, theta, rho: change(loss, theta, rho, jax.grad(loss)(theta))


SURROGATE_GAP = Exercise(
    reference=surrogate_gap,
    inputs=_gap_cases,
    right=(_gap_with_epsilon, _gap_by_numpy),
    mistakes={
        "right, but nan where the gradient is 0: you divide 0 by 0. At a minimum the step has no direction; take the "
        "gap as 0 there, by a small number in the norm or a test (lecture 09, §3).": _of_gap(
            lambda f, theta, r, g: f(theta + r * g / jnp.sqrt(jnp.sum(g**2))) - f(theta)
        ),
        "this is f_p, the loss at the perturbed point. The gap is what is left of it when the loss at θ is taken away "
        "(lecture 09, §2).": _of_gap(lambda f, theta, r, g: f(theta + r * _unit(g))),
        "the sign is turned: the gap is f_p - h, positive where the surroundings are higher (lecture 09, §2).": _of_gap(
            lambda f, theta, r, g: f(theta) - f(theta + r * _unit(g))
        ),
        "you went downhill. The worst point nearby lies along +g (lecture 09, §1).": _of_gap(
            lambda f, theta, r, g: f(theta - r * _unit(g)) - f(theta)
        ),
        "the step is ρ g, not ρ g/‖g‖: its length is then not ρ, and the ball is lost (lecture 09, §1).": _of_gap(
            lambda f, theta, r, g: f(theta + r * g) - f(theta)
        ),
        "you divide by ‖g‖², so the step has length ρ/‖g‖. A unit vector is g/‖g‖ (lecture 09, §1).": _of_gap(
            lambda f, theta, r, g: (
                f(theta + r * _unit(g) / jnp.where(jnp.any(g != 0), jnp.linalg.norm(g), 1)) - f(theta)
            )
        ),
        "this is ρ‖g‖, the first term of the gap alone. Near a minimum the curvature's term, of second order, is the "
        "one that is wanted: evaluate the loss (lecture 09, §3).": _of_gap(
            lambda f, theta, r, g: r * jnp.linalg.norm(g)
        ),
        "you cut the gap off at 0. The gap of one step can be negative, near a maximum, and hiding that hides that the "
        "step was too long (lecture 09, §3).": _of_gap(
            lambda f, theta, r, g: jnp.maximum(surrogate_gap(f, theta, r), 0)
        ),
        "you took the absolute value. The gap of one step can be negative, near a maximum; keep its sign "
        "(lecture 09, §3).": _of_gap(lambda f, theta, r, g: jnp.abs(surrogate_gap(f, theta, r))),
        "this is 2h_ρ/ρ², the estimate of the eigenvalue. The gap itself is asked for, in the unit of the loss "
        "(lecture 09, §4).": _of_gap(lambda f, theta, r, g: 2 * surrogate_gap(f, theta, r) / r**2),
        "every coordinate moves by ρ: that is the ball of the ∞-norm. Here ‖ε‖₂ = ρ (lecture 09, §1).": _of_gap(
            lambda f, theta, r, g: f(theta + r * jnp.sign(g)) - f(theta)
        ),
    },
)


# ---- 2. across ----


def across(g, onto):
    """g less its part along `onto`; one inner product over both arrays."""
    return _less(g, _dot(g, onto) / _dot(onto, onto), onto)


def _across_flat(g, onto):
    v, u = _flat(g), _flat(onto)
    u = u / np.linalg.norm(u)
    return _like(v - (v @ u) * u, g)


def _across_unit(g, onto):
    norm = jnp.sqrt(_dot(onto, onto))
    u = _map(lambda a: a / norm, onto)
    return _less(g, _dot(g, u), u)


def _per_leaf(g, onto):
    return _map(lambda a, b: a - jnp.sum(a * b) / jnp.sum(b * b) * b, g, onto)


LEAVES = ("the first array, of W,", "the second array, of b,")

ACROSS = Exercise(
    reference=across,
    inputs=_across_cases,
    returns=LEAVES,
    right=(_across_flat, _across_unit),
    mistakes={
        "you projected each array by itself. W and b are one vector, with one inner product and one norm; array by "
        "array more is taken away from g than has to be, and the ascent is shorter (lecture 09, §6).": _per_leaf,
        "this is the part along `onto`. The part across is what is left of g when that is taken away "
        "(lecture 09, §5).": lambda g, onto: _less(g, 1.0, across(g, onto)),
        "you subtract (g·onto) onto, without dividing by ‖onto‖². That is a projection only if `onto` has length 1 "
        "(lecture 09, §5).": lambda g, onto: _less(g, _dot(g, onto), onto),
        "you divide by ‖onto‖ once. The unit vector stands twice in a projection, in the inner product and outside it, "
        "so it is ‖onto‖² (lecture 09, §5).": lambda g, onto: _less(
            g, _dot(g, onto) / jnp.sqrt(_dot(onto, onto)), onto
        ),
        "the roles are exchanged: this is the part of `onto` across g. GSAM splits g, and g_p stays whole "
        "(lecture 09, §5).": lambda g, onto: across(onto, g),
        "you divide by ‖g‖², where the length of `onto` belongs: the result is then not across `onto` "
        "(lecture 09, §5).": lambda g, onto: _less(g, _dot(g, onto) / _dot(g, g), onto),
        "the sign is turned: g = along + across, so across is g minus the other (lecture 09, §5).": lambda g, onto: (
            _map(lambda a: -a, across(g, onto))
        ),
        "you scaled the result to length 1. g⊥ keeps its own length: it is small where g and g_p nearly agree, and so "
        "should the ascent be (lecture 09, §5).": lambda g, onto: _map(
            lambda a: a / jnp.sqrt(_dot(across(g, onto), across(g, onto))), across(g, onto)
        ),
        "the part along `onto` is added where it has to be taken away: what you have is not across anything "
        "(lecture 09, §5).": lambda g, onto: _less(g, -_dot(g, onto) / _dot(onto, onto), onto),
        "this is g - onto, the difference and not the part across. Only as much of `onto` as g has in it is taken away "
        "(lecture 09, §5).": lambda g, onto: _less(g, 1.0, onto),
    },
)


# ---- 3. gsam_direction ----


def gsam_direction(g, g_p, alpha):
    """g_p - α g⊥."""
    return _less(g_p, alpha, across(g, g_p))


def _direction_by_parts(g, g_p, alpha):
    """g_p + α (g∥ - g)."""
    share = float(_dot(g, g_p) / _dot(g_p, g_p))
    return _map(lambda a, b: b + alpha * (share * b - a), g, g_p)


def _direction_flat(g, g_p, alpha):
    v, p = _flat(g), _flat(g_p)
    return _like(p - alpha * (v - (v @ p) / (p @ p) * p), g)


GSAM_DIRECTION = Exercise(
    reference=gsam_direction,
    inputs=_pair_cases,
    returns=LEAVES,
    right=(_direction_by_parts, _direction_flat),
    mistakes={
        "you split g_p along g: this is g_p - α g_p⊥. GSAM splits g along g_p, because it is f_p that must "
        "stay (lecture 09, §5).": lambda g, p, a: _less(p, a, across(p, g)),
        "the ascent has the wrong sign: with g_p + α g⊥ the base optimizer goes DOWN h along g⊥, and the gap opens "
        "(lecture 09, §5).": lambda g, p, a: _less(p, -a, across(g, p)),
        "you projected each array by itself. One inner product and one norm over all weights (lecture 09, §6).": (
            lambda g, p, a: _less(p, a, _per_leaf(g, p))
        ),
        "α is on the part of g along g_p: that only shortens SAM's step. The ascent is along the part across "
        "(lecture 09, §5).": lambda g, p, a: _less(p, a, _less(g, 1.0, across(g, p))),
        "you subtract α times the whole g. Its part along g_p holds back the descent of f_p, which GSAM means to leave "
        "alone (lecture 09, §5).": lambda g, p, a: _less(p, a, g),
        "this is g_p + α (g_p - g), the gradient of f_p + α h_ρ. Its two terms may conflict; GSAM keeps only the part "
        "across g_p (lecture 09, §7).": lambda g, p, a: _less(_less(p, -a, p), a, g),
        "this is g + α g_p⊥, for min(h, h_ρ): it descends h. GSAM descends f_p (lecture 09, §7).": lambda g, p, a: (
            _less(g, -a, across(p, g))
        ),
        "you descend g instead of g_p: g - α g⊥ has lost SAM (lecture 09, §5).": lambda g, p, a: _less(
            g, a, across(g, p)
        ),
        "α is missing: the ascent has its full length (lecture 09, §5).": lambda g, p, a: _less(p, 1.0, across(g, p)),
        "this is g_p, SAM's direction: the ascent is missing, or you took the part of g_p across itself, which is 0 "
        "(lecture 09, §5).": lambda g, p, a: _leaves(p),
        "you subtract (g·g_p) g_p without dividing by ‖g_p‖²: what you call g⊥ is not across g_p (lecture 09, §5).": (
            lambda g, p, a: _less(p, a, _less(g, _dot(g, p), p))
        ),
        "the weights 1 - α and α mix g_p and g⊥. α does not shorten g_p: f_p falls as fast as with SAM "
        "(lecture 09, §5).": lambda g, p, a: _less(_less(p, a, p), a, across(g, p)),
    },
)


# ---- 4. gsam_step ----


def _two_gradients(loss, theta, rho, sign=1.0):
    gradient = jax.grad(loss)
    g = gradient(theta)
    return g, gradient(theta + sign * rho * _unit(g))


def _perp(g, onto):
    return g - (g @ onto) / (onto @ onto) * onto


def gsam_step(loss, theta, rho, alpha, lr):
    """θ - η (g_p - α g⊥)."""
    g, g_p = _two_gradients(loss, theta, rho)
    return theta - lr * (g_p - alpha * _perp(g, g_p))


def _step_in_two(loss, theta, rho, alpha, lr):
    """SAM's step first, then the ascent."""
    g, g_p = _two_gradients(loss, theta, rho)
    u = g_p / jnp.sqrt(g_p @ g_p)
    return (theta - lr * g_p) + lr * alpha * (g - jnp.sum(g * u) * u)


def _step_by_numpy(loss, theta, rho, alpha, lr):
    g = np.asarray(jax.grad(loss)(theta))
    p = np.asarray(jax.grad(loss)(theta + jnp.asarray(rho * g / np.linalg.norm(g), theta.dtype)))
    return np.asarray(theta) - lr * ((1 + alpha * (g @ p) / (p @ p)) * p - alpha * g)


def _of_step(change: Callable) -> Callable:
    """A wrong step: change(θ, g, g_p, g⊥, rho, alpha, lr) -> new θ."""

    def wrong(loss, theta, rho, alpha, lr):
        g, g_p = _two_gradients(loss, theta, rho)
        return change(theta, g, g_p, _perp(g, g_p), rho, alpha, lr)

    return wrong


def _other_point(point: Callable) -> Callable:
    """A wrong step: g_p is taken at point(θ, g, rho)."""

    def wrong(loss, theta, rho, alpha, lr):
        g = jax.grad(loss)(theta)
        g_p = jax.grad(loss)(point(theta, g, rho))
        return theta - lr * (g_p - alpha * _perp(g, g_p))

    return wrong


GSAM_STEP = Exercise(
    reference=gsam_step,
    inputs=_step_cases,
    right=(_step_in_two, _step_by_numpy),
    mistakes={
        "you stay at the perturbed point: the step starts from θ, and θ + ε is only where g_p is taken "
        "(lecture 09, §6).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta + r * _unit(g) - lr * (p - a * across)
        ),
        "the perturbation is ρ g, not ρ g/‖g‖ (lecture 09, §1).": _other_point(lambda theta, g, r: theta + r * g),
        "the perturbation goes downhill. The worst point nearby lies along +g (lecture 09, §1).": _other_point(
            lambda theta, g, r: theta - r * _unit(g)
        ),
        "you take g_p at θ, so g_p = g, nothing is across, and this is gradient descent (lecture 09, §6).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta - lr * g
        ),
        "the ascent has the wrong sign: the direction is g_p MINUS α g⊥, so that the step goes up along g⊥ "
        "(lecture 09, §5).": _of_step(lambda theta, g, p, across, r, a, lr: theta - lr * (p + a * across)),
        "you climb f_p: the whole direction has the wrong sign. θ - η (g_p - α g⊥) (lecture 09, §5).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta + lr * (p - a * across)
        ),
        "the ascent is not multiplied by the learning rate. The base optimizer gets the whole direction "
        "(lecture 09, §6).": _of_step(lambda theta, g, p, across, r, a, lr: theta - lr * p + a * across),
        "this is SAM's step: the ascent is missing (lecture 09, §6).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta - lr * p
        ),
        "you split g_p along g. It is g that is split, along g_p, so that f_p stays (lecture 09, §5).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta - lr * (p - a * _perp(p, g))
        ),
        "α is on the part of g along g_p; the ascent is along the part across (lecture 09, §5).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta - lr * (p - a * (g - across))
        ),
        "you descend g with the ascent added: SAM's g_p is missing from the descent (lecture 09, §5).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta - lr * (g - a * across)
        ),
        "this is the update alone. The new weights are asked for, θ plus it (lecture 09, §6).": _of_step(
            lambda theta, g, p, across, r, a, lr: -lr * (p - a * across)
        ),
        "you divide by ‖g_p‖ once where g is split. The unit vector stands twice in a projection, so it is ‖g_p‖² "
        "(lecture 09, §5).": _of_step(
            lambda theta, g, p, across, r, a, lr: theta - lr * (p - a * (g - (g @ p) / jnp.linalg.norm(p) * p))
        ),
        "the perturbation is divided by ‖g‖², so its length is ρ/‖g‖ (lecture 09, §1).": _other_point(
            lambda theta, g, r: theta + r * g / (g @ g)
        ),
    },
)


# ---- 5. rho_schedule ----


def rho_schedule(lr, lr_min, lr_max, rho_min, rho_max):
    """ρ_min + (ρ_max - ρ_min)(η - η_min)/(η_max - η_min), kept between its ends."""
    return rho_min + (rho_max - rho_min) * jnp.clip((lr - lr_min) / (lr_max - lr_min), 0, 1)


def _bare(lr, lr_min, lr_max, rho_min, rho_max):
    return rho_min + (rho_max - rho_min) * (lr - lr_min) / (lr_max - lr_min)


def _clipped_rate(lr, lr_min, lr_max, rho_min, rho_max):
    return _bare(np.clip(np.asarray(lr), lr_min, lr_max), lr_min, lr_max, rho_min, rho_max)


RHO_SCHEDULE = Exercise(
    reference=rho_schedule,
    inputs=_schedule_cases,
    right=(lambda lr, a, b, low, high: jnp.interp(lr, jnp.array([a, b]), jnp.array([low, high])), _clipped_rate),
    mistakes={
        "ρ leaves its ends. In a warm-up the rate starts below η_min, and ρ falls below ρ_min, even below 0, where "
        "uphill becomes downhill; clamp it (lecture 09, §6).": _bare,
        "you clamp at 0 only. Both ends are bounds: ρ stays within [ρ_min, ρ_max] (lecture 09, §6).": lambda *a: (
            jnp.maximum(_bare(*a), 0)
        ),
        "the lower end is kept, the upper is not: a rate above η_max gives a ρ above ρ_max (lecture 09, §6).": (
            lambda *a: jnp.maximum(_bare(*a), a[3])
        ),
        "the upper end is kept, the lower is not: in the warm-up ρ falls below ρ_min (lecture 09, §6).": lambda *a: (
            jnp.minimum(_bare(*a), a[4])
        ),
        "ρ_min is not added: ρ runs from 0 to ρ_max - ρ_min (lecture 09, §6).": lambda *a: rho_schedule(*a) - a[3],
        "the direction is turned: ρ is largest where the learning rate is largest (lecture 09, §6).": lambda *a: (
            a[3] + a[4] - rho_schedule(*a)
        ),
        "the slope is ρ_max, not ρ_max - ρ_min: at η_max you are ρ_min too high (lecture 09, §6).": lambda *a: (
            rho_schedule(*a) + a[3] * (rho_schedule(*a) - a[3]) / (a[4] - a[3])
        ),
        "η_min is not taken away above the line of the fraction (lecture 09, §6).": lambda lr, a, b, low, high: (
            low + (high - low) * jnp.clip(lr / (b - a), 0, 1)
        ),
        "η_min is not taken away below the line: the fraction never reaches 1 at η_max (lecture 09, §6).": (
            lambda lr, a, b, low, high: low + (high - low) * jnp.clip((lr - a) / b, 0, 1)
        ),
        "this is ρ_max η/η_max, which knows no ρ_min (lecture 09, §6).": lambda lr, a, b, low, high: high * lr / b,
        "this is ρ_max η/η_max, kept between the ends. The line begins at ρ_min where η = η_min, not at 0 where η = 0 "
        "(lecture 09, §6).": lambda lr, a, b, low, high: jnp.clip(high * lr / b, low, high),
        "you clamped ρ to the ends of the learning rate (lecture 09, §6).": lambda *a: jnp.clip(_bare(*a), a[1], a[2]),
    },
)


# ---- 6. eigenvalue_from_gap ----


def _difference(loss, theta, epsilon):
    """∇h(θ+ε) - ∇h(θ-ε)."""
    return jax.grad(loss)(theta + epsilon) - jax.grad(loss)(theta - epsilon)


def _last_epsilon(loss, theta, rho, start, steps):
    epsilon = rho * _unit(start)
    for _ in range(steps):
        epsilon = rho * _unit(_difference(loss, theta, epsilon))
    return epsilon


def _two_sided(loss, theta, rho, epsilon):
    return (loss(theta + epsilon) + loss(theta - epsilon) - 2 * loss(theta)) / rho**2


def eigenvalue_from_gap(loss, theta, rho, start, steps):
    """(h(θ+ε) + h(θ-ε) - 2 h(θ))/ρ² after `steps` of ε ← ρ d/‖d‖, d = ∇h(θ+ε) - ∇h(θ-ε), from ρ start/‖start‖."""
    return _two_sided(loss, theta, rho, _last_epsilon(loss, theta, rho, start, steps))


def _eigenvalue_by_units(loss, theta, rho, start, steps):
    v = start / jnp.sqrt(jnp.sum(start**2))
    for _ in range(steps):
        d = 0.5 * _difference(loss, theta, rho * v)
        v = d / jnp.linalg.norm(d)
    here = loss(theta)
    return ((loss(theta + rho * v) - here) + (loss(theta - rho * v) - here)) / rho**2


def _eigenvalue_by_numpy(loss, theta, rho, start, steps):
    """With ε of either sign, which does not matter, and the mean of the two gaps."""
    epsilon = np.asarray(start) * (rho / np.linalg.norm(start))
    for _ in range(steps):
        d = np.asarray(jax.grad(loss)(theta - epsilon)) - np.asarray(jax.grad(loss)(theta + epsilon))
        epsilon = rho * d / np.linalg.norm(d)
    up, down, here = (float(loss(theta + s * epsilon)) for s in (1, -1, 0))
    return np.asarray((0.5 * (up + down) - here) * 2 / rho**2)


def _of_epsilon(change: Callable) -> Callable:
    """A wrong estimate with the right ε: change(loss, θ, rho, epsilon) -> value."""
    return lambda f, theta, r, start, steps: change(f, theta, r, _last_epsilon(f, theta, r, start, steps))


def _loop(update: Callable, first: Callable = lambda start, r: r * _unit(start), more: int = 0) -> Callable:
    """A wrong ε: steps + more times update(loss, θ, ε, ρ), from first(start, ρ)."""

    def wrong(f, theta, r, start, steps):
        epsilon = first(start, r)
        for _ in range(steps + more):
            epsilon = update(f, theta, epsilon, r)
        return _two_sided(f, theta, r, epsilon)

    return wrong


def _right_step(f, theta, epsilon, r):
    return r * _unit(_difference(f, theta, epsilon))


def _exact_eigenvalue(f, theta, r, start, steps):
    values = np.linalg.eigvalsh(np.asarray(jax.hessian(f)(theta)))
    return values[np.abs(values).argmax()]


EIGENVALUE_FROM_GAP = Exercise(
    reference=eigenvalue_from_gap,
    inputs=_eigenvalue_cases,
    right=(_eigenvalue_by_units, _eigenvalue_by_numpy),
    mistakes={
        "you take one side at the end, 2 (h(θ+ε) - h(θ))/ρ². Away from a minimum the gradient's term is in it, and for "
        "small ρ it is the larger; the mean of both sides is free of it (lecture 09, §4).": _of_epsilon(
            lambda f, theta, r, e: 2 * (f(theta + e) - f(theta)) / r**2
        ),
        "the value is half as large: h rises by ½ ρ² σ on each side, so the sum of both gaps is ρ² σ "
        "(lecture 09, §4).": _of_epsilon(lambda f, theta, r, e: 0.5 * _two_sided(f, theta, r, e)),
        "the value is twice as large: the two gaps are added already, and the 2 of 2h_ρ/ρ² belongs to their mean "
        "(lecture 09, §4).": _of_epsilon(lambda f, theta, r, e: 2 * _two_sided(f, theta, r, e)),
        "you divide by ρ. The gap grows as ρ², so the curvature is the gap over ρ² (lecture 09, §4).": _of_epsilon(
            lambda f, theta, r, e: r * _two_sided(f, theta, r, e)
        ),
        "h(θ+ε) - h(θ-ε) keeps the gradient and cancels the curvature. Add the two losses and take 2 h(θ) away "
        "(lecture 09, §4).": _of_epsilon(lambda f, theta, r, e: (f(theta + e) - f(theta - e)) / r**2),
        "h(θ) is taken away once. Both sides have it: 2 h(θ) (lecture 09, §4).": _of_epsilon(
            lambda f, theta, r, e: (f(theta + e) + f(theta - e) - f(theta)) / r**2
        ),
        "the steps follow ∇h(θ+ε) alone. Where the gradient at θ is not small they follow that, and not the curvature: "
        "take the gradient on the other side away (lecture 09, §4).": _loop(
            lambda f, theta, e, r: r * _unit(jax.grad(f)(theta + e))
        ),
        "you add the gradients of both sides. In the sum the curvature cancels, and the gradient stays: it is the "
        "difference that is 2Hε (lecture 09, §4).": _loop(
            lambda f, theta, e, r: r * _unit(jax.grad(f)(theta + e) + jax.grad(f)(theta - e))
        ),
        "the gradient is taken at θ, so ε never turns: each step takes it at θ ± ε, with the ε of the step before "
        "(lecture 09, §4).": _loop(lambda f, theta, e, r: r * _unit(jax.grad(f)(theta))),
        "ε is not brought back to length ρ: each step is ρ d/‖d‖ with the new d (lecture 09, §4).": _loop(
            lambda f, theta, e, r: r * _difference(f, theta, e)
        ),
        "you add each step to the last ε, which leaves the ball. Each step replaces ε (lecture 09, §4).": _loop(
            lambda f, theta, e, r: e + _right_step(f, theta, e, r)
        ),
        "`start` is used as it is: the first ε has length ρ too, ρ start/‖start‖ (lecture 09, §4).": _loop(
            _right_step, lambda start, r: start
        ),
        "`start` is not brought to length 1: ρ·start has the length ρ‖start‖. The first ε is ρ start/‖start‖ "
        "(lecture 09, §4).": _loop(_right_step, lambda start, r: r * start),
        "the steps follow ∇h(θ+ε) - ∇h(θ), one side only: the third derivative stays in it, and turns ε. Take the "
        "gradient at θ-ε away (lecture 09, §4).": _loop(
            lambda f, theta, e, r: r * _unit(jax.grad(f)(theta + e) - jax.grad(f)(theta))
        ),
        "this is the exact eigenvalue of the Hessian at θ. Asked for is the estimate from the losses at θ ± ε after "
        "`steps` steps, with the ρ that is given (lecture 09, §4).": _exact_eigenvalue,
        "the sign is lost: on a hill the eigenvalue of largest absolute value is negative. Do not take abs "
        "(lecture 09, §4).": _of_epsilon(lambda f, theta, r, e: jnp.abs(_two_sided(f, theta, r, e))),
        "`start` is not used: you begin along the gradient at θ, which at a minimum is 0 (lecture 09, §4).": (
            lambda f, theta, r, start, steps: eigenvalue_from_gap(f, theta, r, jax.grad(f)(theta), steps)
        ),
        "one step too many. The first ε is ρ start/‖start‖, and then come `steps` steps (lecture 09, §4).": _loop(
            _right_step, more=1
        ),
        "one step too few. The first ε is ρ start/‖start‖, and then come `steps` steps (lecture 09, §4).": _loop(
            _right_step, more=-1
        ),
    },
)


# ---- 7. asam_perturbation ----


def asam_perturbation(theta, g, rho):
    """ρ θ² g/‖θ g‖, one norm over both arrays."""
    scaled = _map(jnp.multiply, theta, g)
    length = rho / jnp.sqrt(_dot(scaled, scaled))
    return _map(lambda a, s: length.astype(a.dtype) * a * s, theta, scaled)


def _asam_by_sizes(theta, g, rho):
    """|θ| times SAM's perturbation for the gradient |θ| g."""
    scaled = _map(lambda a, b: jnp.abs(a) * b, theta, g)
    norm = float(jnp.sqrt(_dot(scaled, scaled)))
    return _map(lambda a, s: rho * jnp.abs(a) * s / norm, theta, scaled)


def _asam_flat(theta, g, rho):
    a, b = _flat(theta), _flat(g)
    return _like(rho * a**2 * b / np.linalg.norm(a * b), theta)


def _of_asam(numerator: Callable, under: Callable) -> Callable:
    """ρ numerator(θ, g)/‖under(θ, g)‖, entry by entry."""

    def wrong(theta, g, rho):
        below = _map(under, theta, g)
        length = rho / jnp.sqrt(_dot(below, below))
        return _map(lambda a, b: length.astype(a.dtype) * numerator(a, b), theta, g)

    return wrong


ASAM_PERTURBATION = Exercise(
    reference=asam_perturbation,
    inputs=_asam_cases,
    returns=LEAVES,
    right=(_asam_by_sizes, _asam_flat),
    mistakes={
        "the norm is over each array by itself. One norm over all weights: the ball is one (lecture 09, §8).": (
            lambda theta, g, rho: _map(lambda a, b: rho * a**2 * b / jnp.sqrt(jnp.sum((a * b) ** 2)), theta, g)
        ),
        "θ stands there once. It stands there twice, once from the gradient in the coordinates ε/θ and once from going "
        "back to ε: θ² g (lecture 09, §8).": _of_asam(lambda a, b: a * b, lambda a, b: a * b),
        "|θ| g is above the line, where θ² g belongs: this is v, the perturbation in units of the weights; multiply by "
        "|θ| once more (lecture 09, §8).": _of_asam(lambda a, b: jnp.abs(a) * b, lambda a, b: a * b),
        "you divide by ‖g‖. The ball is in the coordinates ε/θ, so the norm is that of θ g (lecture 09, §8).": _of_asam(
            lambda a, b: a**2 * b, lambda a, b: b
        ),
        "you divide by ‖θ² g‖, so that ε has length ρ. It is ε/θ that has length ρ: ‖θ g‖ (lecture 09, §8).": _of_asam(
            lambda a, b: a**2 * b, lambda a, b: a**2 * b
        ),
        "this is SAM's perturbation, ρ g/‖g‖: it does not look at the size of the weights (lecture 09, §8).": _of_asam(
            lambda a, b: b, lambda a, b: b
        ),
        "the sign is turned: the perturbation goes uphill (lecture 09, §8).": lambda theta, g, rho: _map(
            lambda a: -a, asam_perturbation(theta, g, rho)
        ),
        "you return the perturbed weights θ + ε. The perturbation alone is asked for (lecture 09, §8).": (
            lambda theta, g, rho: _map(jnp.add, theta, asam_perturbation(theta, g, rho))
        ),
        "you divide by the square of the norm: leave the root in ‖θ g‖ (lecture 09, §8).": lambda theta, g, rho: _map(
            lambda a, b: a * b / _dot(_map(jnp.multiply, theta, g), _map(jnp.multiply, theta, g)),
            theta,
            _map(lambda a, b: rho * a * b, theta, g),
        ),
        "ρ is missing (lecture 09, §8).": lambda theta, g, rho: _map(
            lambda a: a / jnp.asarray(rho, a.dtype), asam_perturbation(theta, g, rho)
        ),
        "you divide by θ where you should multiply: a small weight may then move far, the reverse of what is meant "
        "(lecture 09, §8).": _of_asam(lambda a, b: b / a**2, lambda a, b: b / a),
    },
)


EXERCISES = {
    "surrogate_gap": SURROGATE_GAP,
    "across": ACROSS,
    "gsam_direction": GSAM_DIRECTION,
    "gsam_step": GSAM_STEP,
    "rho_schedule": RHO_SCHEDULE,
    "eigenvalue_from_gap": EIGENVALUE_FROM_GAP,
    "asam_perturbation": ASAM_PERTURBATION,
}
