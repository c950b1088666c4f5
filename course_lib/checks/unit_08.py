"""Unit 08. The bank of exercise 08: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 08. Gradients and losses of the inputs are closed forms, so that
little is compiled.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise

FLOATS = (np.float64, np.float32)


def _unit(v: Any) -> Any:
    return v / jnp.sqrt(jnp.sum(v**2))


# ---- 1. perturbation ----


def perturbation(g_w, g_b, rho):
    """ρ g/‖g‖₂ with one norm over both leaves."""
    size = jnp.sqrt(jnp.sum(g_w**2) + jnp.sum(g_b**2))
    return rho * g_w / size, rho * g_b / size


def _perturbation_raveled(g_w, g_b, rho):
    flat = np.concatenate([np.ravel(g_w), np.ravel(g_b)])
    epsilon = rho * flat / np.linalg.norm(flat)
    return epsilon[: g_w.size].reshape(g_w.shape), epsilon[g_w.size :].reshape(g_b.shape)


def _perturbation_hypot(g_w, g_b, rho):
    scale = rho / jnp.hypot(jnp.linalg.norm(g_w), jnp.linalg.norm(g_b))
    return scale * g_w, scale * g_b


def _leaf_cases(rng: np.random.Generator) -> list[Case]:
    """(g_w (a, b), g_b (b,), ρ): the two leaves have different lengths, neither of them 1."""
    a, b = int(rng.integers(5, 7)), int(rng.integers(3, 5))

    def case(dtype: DTypeLike, large: float) -> Case:
        g_w, g_b = rng.normal(size=(a, b)), large * (1 + rng.random(b)) * rng.choice([-1, 1], b)
        return jnp.asarray(g_w.astype(dtype)), jnp.asarray(g_b.astype(dtype)), float(rng.uniform(0.05, 0.4))

    return [case(np.float64, 3.0), case(np.float64, 0.2), case(np.float32, 3.0)]


def _scaled(scale: Callable) -> Callable:
    """A wrong perturbation: scale(g_w, g_b, ρ) -> the factor of g_w and that of g_b."""

    def wrong(g_w, g_b, rho):
        by_w, by_b = scale(g_w, g_b, rho)
        return by_w * g_w, by_b * g_b

    return wrong


def _size(g_w, g_b):
    return jnp.sqrt(jnp.sum(g_w**2) + jnp.sum(g_b**2))


PERTURBATION = Exercise(
    reference=perturbation,
    inputs=_leaf_cases,
    returns=("the perturbation of w", "the perturbation of b"),
    right=(_perturbation_raveled, _perturbation_hypot),
    mistakes={
        "each leaf has a norm of its own, so each is perturbed by ρ and both together by √2 ρ. All parameters are one "
        "vector: one norm, over all leaves (lecture 08, §3).": _scaled(
            lambda w, b, rho: (rho / jnp.linalg.norm(w), rho / jnp.linalg.norm(b))
        ),
        "the gradient is not normalised: the perturbation has the length ρ‖g‖, and shrinks as training goes on. SAM's "
        "has the length ρ, whatever ‖g‖ is (lecture 08, §3).": _scaled(lambda w, b, rho: (rho, rho)),
        "the sign is turned. The perturbation looks for a HIGHER loss, so it goes along +g (lecture 08, §3).": _scaled(
            lambda w, b, rho: (-rho / _size(w, b), -rho / _size(w, b))
        ),
        "you divide by ‖g‖², the sum of squares without its root. The result then has the length ρ/‖g‖ instead of ρ "
        "(lecture 08, §3).": _scaled(lambda w, b, rho: (rho / _size(w, b) ** 2, rho / _size(w, b) ** 2)),
        "you add the two norms. Lengths of parts do not add; their squares do: ‖g‖² = ‖g_w‖² + ‖g_b‖² "
        "(lecture 08, §3).": _scaled(
            lambda w, b, rho: (
                rho / (jnp.linalg.norm(w) + jnp.linalg.norm(b)),
                rho / (jnp.linalg.norm(w) + jnp.linalg.norm(b)),
            )
        ),
        "ρ is missing: this perturbation has length 1. Multiply the unit vector by the radius (lecture 08, §3).": (
            _scaled(lambda w, b, rho: (1 / _size(w, b), 1 / _size(w, b)))
        ),
        "the bias is left out. It is a parameter like any other: it counts in the norm and it is perturbed "
        "(lecture 08, §3).": _scaled(lambda w, b, rho: (rho / jnp.linalg.norm(w), 0.0)),
        "you divide by the sum of absolute values, ‖g‖₁. That is inside the ball but not at its edge; the ball here is "
        "the one of ‖·‖₂ (lecture 08, §3).": _scaled(
            lambda w, b, rho: (rho / (jnp.sum(jnp.abs(w)) + jnp.sum(jnp.abs(b))),) * 2
        ),
        "this is ρ sign(g), the worst point of the ball of p = ∞: every entry moves by ρ, and the length is ρ√P. For "
        "p = 2 the direction is that of g itself (lecture 08, §3).": lambda w, b, rho: (
            rho * jnp.sign(w),
            rho * jnp.sign(b),
        ),
    },
)


# ---- 2. dual_norm_perturbation ----


def dual_norm_perturbation(g, rho, p):
    """ρ sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p); for p = 1 the largest coordinate alone."""
    size = jnp.abs(g)
    if p == 1:
        return rho * jnp.sign(g) * (size == jnp.max(size))
    q = 1.0 if p == math.inf else p / (p - 1)
    return rho * jnp.sign(g) * size ** (q - 1) / jnp.sum(size**q) ** (1 / p)


def _dual_scaled(g, rho, p):
    g = np.asarray(g)
    if p == 1:
        out = np.zeros_like(g)
        top = np.argmax(np.abs(g))
        out[top] = rho * np.sign(g[top])
        return out
    if p == math.inf:
        return rho * np.sign(g)
    direction = np.sign(g) * np.abs(g) ** (1 / (p - 1))
    return rho * direction / np.linalg.norm(direction, p)


def _dual_by_gradient(g, rho, p):
    """ρ times the gradient of the dual norm ‖g‖_q, which is the same vector."""
    q = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
    norms = {math.inf: lambda v: jnp.max(jnp.abs(v)), 1.0: lambda v: jnp.sum(jnp.abs(v))}
    return rho * jax.grad(norms.get(q) or (lambda v: jnp.sum(jnp.abs(v) ** q) ** (1 / q)))(g)


def _dual_cases(rng: np.random.Generator) -> list[Case]:
    """(g, ρ, p): the entry of largest magnitude is negative, none is near 0, none ties."""
    size = int(rng.integers(5, 8))

    def case(dtype: DTypeLike, p: float) -> Case:
        g = rng.permutation(np.linspace(0.3, 2.5, size)) * rng.choice([-1, 1], size) * rng.uniform(0.95, 1.05, size)
        g[np.argmax(np.abs(g))] *= -np.sign(g[np.argmax(np.abs(g))])
        g[np.argmin(np.abs(g))] = np.min(np.abs(g))  # one positive at least
        return jnp.asarray(g.astype(dtype)), float(rng.uniform(0.1, 0.5)), p

    powers = (1.0, math.inf, 2.0, float(rng.uniform(1.3, 1.7)), float(rng.uniform(3, 5)))
    return [*(case(np.float64, p) for p in powers), case(np.float32, powers[3])]


def _dual_q(p: float) -> float:
    return 1.0 if p == math.inf else p / (p - 1)


def _where_p(condition: Callable, wrong: Callable) -> Callable:
    """Wrong for some p only."""
    return lambda g, rho, p: wrong(g, rho, p) if condition(p) else dual_norm_perturbation(g, rho, p)


def _generic(wrong: Callable) -> Callable:
    """Wrong for 1 < p < ∞ and p = ∞ where the formula has a q."""
    return _where_p(lambda p: p > 1, wrong)


def _between(wrong: Callable) -> Callable:
    """Wrong for 1 < p < ∞ only: the two ends are often written as cases of their own."""
    return _where_p(lambda p: 1 < p < math.inf, wrong)


def _root_q(g, rho, p):
    q = _dual_q(p)
    return rho * jnp.sign(g) * jnp.abs(g) ** (q - 1) / jnp.sum(jnp.abs(g) ** q) ** (1 / q)


def _no_root(g, rho, p):
    q = _dual_q(p)
    return rho * jnp.sign(g) * jnp.abs(g) ** (q - 1) / jnp.sum(jnp.abs(g) ** q)


def _power_q(g, rho, p):
    q = _dual_q(p)
    return rho * jnp.sign(g) * jnp.abs(g) ** q / jnp.sum(jnp.abs(g) ** q) ** (1 / p)


def _swapped(g, rho, p):
    """The formula with p and q exchanged."""
    if p == math.inf:
        return dual_norm_perturbation(g, rho, 1.0)
    return dual_norm_perturbation(g, rho, math.inf if p == 1 else p / (p - 1))


DUAL_NORM_PERTURBATION = Exercise(
    reference=dual_norm_perturbation,
    inputs=_dual_cases,
    right=(_dual_scaled, _dual_by_gradient),
    mistakes={
        "p and q are exchanged. The ball is measured in p, and the exponents on the gradient are those of its dual, "
        "1/p + 1/q = 1: for p = ∞ every entry moves, for p = 1 a single one (lecture 08, §3).": _swapped,
        "this is the gradient scaled to ‖ε‖_p = ρ. It lies on the ball, but for p ≠ 2 another point of the ball has a "
        "larger εᵀg: Hölder's equality case has |g| to the power q - 1 (lecture 08, §3).": lambda g, rho, p: (
            rho * g / jnp.sum(jnp.abs(g) ** p) ** (1 / p) if p < math.inf else rho * g / jnp.max(jnp.abs(g))
        ),
        "you use p = 2 for every p: ρ g/‖g‖₂ (lecture 08, §3).": lambda g, rho, p: dual_norm_perturbation(g, rho, 2.0),
        "the sign is turned: εᵀg is to be as LARGE as possible (lecture 08, §3).": lambda g, rho, p: (
            -dual_norm_perturbation(g, rho, p)
        ),
        "the signs of g are lost: |g|^(q-1) is positive, and sign(g) has to be put back in front "
        "(lecture 08, §3).": lambda g, rho, p: jnp.abs(dual_norm_perturbation(g, rho, p)),
        "you divide by ‖g‖_q, the q-th root of Σ|g|^q. The formula has the p-th root of it; only so is ‖ε‖_p = ρ "
        "(lecture 08, §3).": _generic(_root_q),
        "for 1 < p < ∞ you divide by ‖g‖_q, the q-th root of Σ|g|^q. The formula has the p-th root of it; only so is "
        "‖ε‖_p = ρ (lecture 08, §3).": _between(_root_q),
        "you divide by Σ|g|^q without the root 1/p: then ‖ε‖_p is not ρ (lecture 08, §3).": _generic(_no_root),
        "for 1 < p < ∞ you divide by Σ|g|^q without the root 1/p: then ‖ε‖_p is not ρ (lecture 08, §3).": (
            _between(_no_root)
        ),
        "the exponent on |g| is q where it should be q - 1 (lecture 08, §3).": _generic(_power_q),
        "for 1 < p < ∞ the exponent on |g| is q where it should be q - 1; sign(g) |g|^(q-1) is not g |g|^(q-1) "
        "(lecture 08, §3).": _between(_power_q),
        "p = 1 and p = ∞ are exchanged. In the ball of p = 1 the largest |g| gets all of ρ; in that of p = ∞ every "
        "entry moves by ρ (lecture 08, §3).": lambda g, rho, p: dual_norm_perturbation(
            g, rho, {1.0: math.inf, math.inf: 1.0}.get(p, p)
        ),
        "for p = ∞ the quotient p/(p - 1) is ∞/∞, which is nan. Its limit is q = 1 (lecture 08, §3).": _where_p(
            lambda p: p == math.inf, lambda g, rho, p: g * math.nan
        ),
        "for p = 1 you spread ρ over all entries. εᵀg ≤ max|g| · Σ|ε|, with equality only if all of it goes to the "
        "largest |g| (lecture 08, §3).": _where_p(lambda p: p == 1, lambda g, rho, p: rho * jnp.sign(g) / g.size),
        "for p = 1 you take the largest entry of g, and the largest of |g| is meant: a large negative slope is steep "
        "too (lecture 08, §3).": _where_p(lambda p: p == 1, lambda g, rho, p: rho * (g == jnp.max(g))),
        "for p = 1 the formula of the other p gives nan, since q is infinite there. Treat it on its own: the largest "
        "|g| gets all of ρ (lecture 08, §3).": _where_p(lambda p: p == 1, lambda g, rho, p: g * math.nan),
        "for p = 1 the largest entry moves by +ρ whatever its sign. It has to move along sign(g) "
        "(lecture 08, §3).": _where_p(lambda p: p == 1, lambda g, rho, p: jnp.abs(dual_norm_perturbation(g, rho, p))),
    },
)


# ---- 3. sam_step ----


def sam_step(grad, w, rho, lr, decay):
    """w - lr (∇L(w + ε̂) + decay w)."""
    g = grad(w)
    return w - lr * (grad(w + rho * g / jnp.sqrt(jnp.sum(g**2))) + decay * w)


def _sam_step_up_and_down(grad, w, rho, lr, decay):
    w = np.asarray(w)
    g = np.asarray(grad(jnp.asarray(w)))
    up = (rho / np.linalg.norm(g) * g).astype(w.dtype)
    there = np.asarray(grad(jnp.asarray(w + up)))
    return (1 - lr * decay) * w - lr * there


def _sam_step_optax(grad, w, rho, lr, decay):
    import optax

    from course_lib.optimizers.sam import dual_norm_perturbation as dual

    base = optax.chain(optax.add_decayed_weights(decay), optax.sgd(lr))
    updates, _ = base.update(grad(w + dual(grad(w), rho).astype(w.dtype)), base.init(w), w)
    return optax.apply_updates(w, updates)


def _curved(rng: np.random.Generator, size: int) -> Callable:
    """The gradient of ½ wᵀAw + Σ sin(w + c): no symmetry, no flat direction."""
    root = rng.normal(size=(size, size))
    matrix, shift = (root @ root.T / size + np.diag(np.arange(1.0, size + 1))), rng.normal(size=size)

    def grad(w: jax.Array) -> jax.Array:
        return jnp.asarray(matrix, w.dtype) @ w + jnp.cos(w + jnp.asarray(shift, w.dtype))

    return grad


def _step_cases(rng: np.random.Generator) -> list[Case]:
    """(grad, w, ρ, lr, decay), the decay large enough to be seen."""
    size = int(rng.integers(4, 8))

    def case(dtype: DTypeLike) -> Case:
        w = jnp.asarray(rng.normal(size=size).astype(dtype))
        rho, lr, decay = rng.uniform(0.2, 0.5), rng.uniform(0.05, 0.15), rng.uniform(0.2, 0.6)
        return _curved(rng, size), w, float(rho), float(lr), float(decay)

    return [case(np.float64), case(np.float64), case(np.float32)]


def _epsilon(grad, w, rho):
    return rho * _unit(grad(w))


SAM_STEP = Exercise(
    reference=sam_step,
    inputs=_step_cases,
    right=(_sam_step_up_and_down, _sam_step_optax),
    mistakes={
        "the perturbation is never removed: the step starts from w + ε̂. The gradient is TAKEN at w + ε̂ and APPLIED to "
        "w (lecture 08, §4).": lambda f, w, rho, lr, d: (
            w + _epsilon(f, w, rho) - lr * (f(w + _epsilon(f, w, rho)) + d * w)
        ),
        "you take the gradient at w and apply it from w + ε̂: the wrong way round. It is taken at w + ε̂ and applied to "
        "w (lecture 08, §4).": lambda f, w, rho, lr, d: w + _epsilon(f, w, rho) - lr * (f(w) + d * w),
        "you go down to find ε̂. It looks for the worst point near w: w + ρ g/‖g‖ (lecture 08, §4).": (
            lambda f, w, rho, lr, d: w - lr * (f(w - _epsilon(f, w, rho)) + d * w)
        ),
        "the step goes uphill. Only ε̂ does; with the gradient found there you go down: w - lr · (…) "
        "(lecture 08, §4).": lambda f, w, rho, lr, d: w + lr * (f(w + _epsilon(f, w, rho)) + d * w),
        "weight decay stands inside: it turned the direction of ε̂, as if it were part of the loss. It belongs to the "
        "base optimizer, after the perturbation (lecture 08, §4).": lambda f, w, rho, lr, d: (
            w - lr * (f(w + rho * _unit(f(w) + d * w)) + d * w)
        ),
        "weight decay is part of the loss here: it turns ε̂, and it is taken at w + ε̂. It belongs to the base "
        "optimizer: decay · w, beside SAM's gradient (lecture 08, §4).": lambda f, w, rho, lr, d: (
            w - lr * (f(w + rho * _unit(f(w) + d * w)) + d * (w + rho * _unit(f(w) + d * w)))
        ),
        "the decay is of w + ε̂. The perturbed weights exist only to take a gradient at; what decays is w "
        "(lecture 08, §4).": lambda f, w, rho, lr, d: (
            w - lr * (f(w + _epsilon(f, w, rho)) + d * (w + _epsilon(f, w, rho)))
        ),
        "weight decay is missing (lecture 08, §4).": lambda f, w, rho, lr, d: w - lr * f(w + _epsilon(f, w, rho)),
        "the decay is not multiplied by the learning rate. The base is SGD on gradient + decay · w (lecture 08, §4).": (
            lambda f, w, rho, lr, d: w - lr * f(w + _epsilon(f, w, rho)) - d * w
        ),
        "this is SGD: the gradient is taken at w. SAM takes a second one, at w + ε̂ (lecture 08, §4).": (
            lambda f, w, rho, lr, d: w - lr * (f(w) + d * w)
        ),
        "the gradient is not normalised before it is multiplied by ρ: ε̂ has the length ρ‖g‖ instead of ρ "
        "(lecture 08, §3).": lambda f, w, rho, lr, d: w - lr * (f(w + rho * f(w)) + d * w),
        "both gradients are averaged. SAM's step uses the one at w + ε̂ alone; the first only finds ε̂ "
        "(lecture 08, §4).": lambda f, w, rho, lr, d: w - lr * ((f(w) + f(w + _epsilon(f, w, rho))) / 2 + d * w),
        "the two gradients are added. SAM's step uses the one at w + ε̂ alone; the first only finds ε̂ "
        "(lecture 08, §4).": lambda f, w, rho, lr, d: w - lr * (f(w) + f(w + _epsilon(f, w, rho)) + d * w),
        "the decay has the wrong sign: it makes the weights grow. The step is w - lr · (gradient + decay · w) "
        "(lecture 08, §4).": lambda f, w, rho, lr, d: w - lr * (f(w + _epsilon(f, w, rho)) - d * w),
        "the decay shrinks the weights after the step. The base takes both at once, from w: "
        "w - lr · (gradient + decay · w) (lecture 08, §4).": lambda f, w, rho, lr, d: (
            (w - lr * f(w + _epsilon(f, w, rho))) * (1 - lr * d)
        ),
        "ε̂ is ρ sign(g), the worst point for p = ∞. For p = 2 it is ρ g/‖g‖ (lecture 08, §3).": (
            lambda f, w, rho, lr, d: w - lr * (f(w + rho * jnp.sign(f(w))) + d * w)
        ),
        "the learning rate got into ε̂. Its length is ρ alone (lecture 08, §3).": lambda f, w, rho, lr, d: (
            w - lr * (f(w + lr * _epsilon(f, w, rho)) + d * w)
        ),
    },
)


# ---- 4. m_sam_gradient ----


def m_sam_gradient(grad, w, x, y, rho, m):
    """The mean of the groups' SAM gradients, every m consecutive examples a group."""
    return _mean([grad(w + rho * _unit(grad(w, *group)), *group) for group in _groups(x, y, m)])


def _groups(x, y, m):
    """Cut in NumPy: a slice of a JAX array is a program of its own."""
    x, y = np.asarray(x), np.asarray(y)
    return [(jnp.asarray(x[i : i + m]), jnp.asarray(y[i : i + m])) for i in range(0, len(x), m)]


def _mean(values: list) -> Any:
    return sum(values[1:], start=values[0]) / len(values)


def _m_sam_gradient_vmap(grad, w, x, y, rho, m):
    def one(a, b):
        g = grad(w, a, b)
        return grad(w + rho * g / jnp.linalg.norm(g), a, b)

    return jax.vmap(one)(x.reshape(-1, m, x.shape[1]), y.reshape(-1, m)).mean(0)


def _m_sam_gradient_split(grad, w, x, y, rho, m):
    total = 0
    for group in _groups(x, y, m):
        own = np.asarray(grad(w, *group))
        total = total + len(group[1]) * grad(w + jnp.asarray(rho / np.linalg.norm(own) * own, w.dtype), *group)
    return total / len(x)


def _fit_gradient(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """The gradient of mean ½ (tanh(xᵀw) - y)², a mean over the examples given."""
    z = jnp.tanh(x @ w)
    return x.T @ ((z - y) * (1 - z**2)) / len(x)


def _group_cases(rng: np.random.Generator) -> list[Case]:
    """(grad, w, x, y, ρ, m): no two of m, the number of groups, n and the number of inputs agree."""
    m, groups, size = int(rng.integers(2, 4)), int(rng.integers(4, 6)), int(rng.integers(6, 8))

    def case(dtype: DTypeLike) -> Case:
        x, y, w = rng.normal(size=(groups * m, size)), rng.uniform(-2, 2, groups * m), 0.3 * rng.normal(size=size)
        arrays = [jnp.asarray(a.astype(dtype)) for a in (w, x, y)]
        return _fit_gradient, *arrays, float(rng.uniform(0.3, 0.8)), m

    return [case(np.float64), case(np.float32)]


def _grouped(change: Callable) -> Callable:
    """A wrong gradient: change(list of (group's x, y), grad, w, ρ)."""
    return lambda grad, w, x, y, rho, m: change(_groups(x, y, m), grad, w, rho)


def _strided(grad, w, x, y, rho, m):
    """Groups of the examples 0, k, 2k, ..., then 1, k + 1, ..., k being the number of groups."""
    k = len(x) // m
    order = np.concatenate([np.arange(i, len(x), k) for i in range(k)])
    return m_sam_gradient(grad, w, np.asarray(x)[order], np.asarray(y)[order], rho, m)


def _one_mean_epsilon(groups, grad, w, rho):
    shift = _mean([rho * _unit(grad(w, *s)) for s in groups])
    return _mean([grad(w + shift, *s) for s in groups])


M_SAM_GRADIENT = Exercise(
    reference=m_sam_gradient,
    inputs=_group_cases,
    right=(_m_sam_gradient_vmap, _m_sam_gradient_split),
    mistakes={
        "one ε̂, from the gradient of the whole batch, serves all groups. That is m = n; in m-sharpness every group has "
        "its own, from its own gradient (lecture 08, §6).": lambda f, w, x, y, rho, m: f(
            w + rho * _unit(f(w, x, y)), x, y
        ),
        "the perturbations of the groups are averaged, and one gradient is taken there. Average the gradients; each "
        "is taken at its own group's point (lecture 08, §6).": _grouped(_one_mean_epsilon),
        "this is the sum over the groups, and the loss is a mean over them: divide by their number "
        "(lecture 08, §6).": lambda f, w, x, y, rho, m: m_sam_gradient(f, w, x, y, rho, m) * (len(x) // m),
        "you divide the sum over the groups by m. There are n/m groups: that is what to divide by "
        "(lecture 08, §6).": lambda f, w, x, y, rho, m: m_sam_gradient(f, w, x, y, rho, m) * (len(x) // m) / m,
        "you made m groups. m is the number of EXAMPLES in a group; there are n/m groups (lecture 08, §6).": (
            lambda f, w, x, y, rho, m: m_sam_gradient(f, w, x, y, rho, len(x) // m)
        ),
        "the groups are not consecutive examples: x[i::k] puts examples together that stand k apart. Rows i to i + m "
        "are a group (lecture 08, §6).": _strided,
        "every example has its own ε̂: that is m = 1, whatever m was asked for (lecture 08, §6).": (
            lambda f, w, x, y, rho, m: m_sam_gradient(f, w, x, y, rho, 1)
        ),
        "nothing is perturbed: this is the mean of the groups' gradients at w, the plain gradient of the batch "
        "(lecture 08, §6).": lambda f, w, x, y, rho, m: f(w, x, y),
        "only the first group counts. Go through all n/m of them and take the mean (lecture 08, §6).": _grouped(
            lambda groups, f, w, rho: f(w + rho * _unit(f(w, *groups[0])), *groups[0])
        ),
        "each group finds its ε̂, but the gradient is then taken on the whole batch. Both gradients of a group are over "
        "its own examples (lecture 08, §6).": lambda f, w, x, y, rho, m: _mean(
            [f(w + rho * _unit(f(w, *group)), x, y) for group in _groups(x, y, m)]
        ),
        "the ascent has the wrong sign: every group looks for its WORST point (lecture 08, §4).": (
            lambda f, w, x, y, rho, m: m_sam_gradient(f, w, x, y, -rho, m)
        ),
        "the groups' gradients are not normalised: each ε̂ must have the length ρ (lecture 08, §3 and §6).": _grouped(
            lambda groups, f, w, rho: _mean([f(w + rho * f(w, *group), *group) for group in groups])
        ),
        "you divide the sum over the groups by n. Each group's gradient is a mean already, and there are n/m of them "
        "(lecture 08, §6).": lambda f, w, x, y, rho, m: m_sam_gradient(f, w, x, y, rho, m) / m,
        "ρ is divided among the groups. Each group's ball has the whole radius (lecture 08, §6).": (
            lambda f, w, x, y, rho, m: m_sam_gradient(f, w, x, y, rho * m / len(x), m)
        ),
    },
)


# ---- 5. sharpness ----


def sharpness(loss, grad, w, rho, num_steps):
    """max over k of L(w + ε_k) - L(w), ε_k = ρ g/‖g‖ with g at w + ε_(k-1), ε_0 = 0."""
    epsilon, highest = jnp.zeros_like(w), jnp.asarray(-jnp.inf)
    for _ in range(num_steps):
        epsilon = rho * _unit(grad(w + epsilon))
        highest = jnp.maximum(highest, loss(w + epsilon))
    return highest - loss(w)


def _sharpness_scan(loss, grad, w, rho, num_steps):
    def climb(epsilon, _):
        epsilon = rho * _unit(grad(w + epsilon)).astype(w.dtype)
        return epsilon, loss(w + epsilon)

    return jnp.max(jax.lax.scan(climb, jnp.zeros_like(w), length=num_steps)[1]) - loss(w)


def _sharpness_points(loss, grad, w, rho, num_steps):
    points = [w]
    for _ in range(num_steps):
        g = grad(points[-1])
        points.append(w + rho * g / jnp.linalg.norm(g))
    return max(float(loss(p)) for p in points) - float(loss(w))


def _waves(rng: np.random.Generator, size: int) -> tuple[Callable, Callable]:
    """Σ_i sin(a_i·w + c_i) + ¼ ‖w‖² and its gradient: steps of (8.14) do not always climb on it."""
    a, c = 2 * rng.normal(size=(size + 2, size)), rng.uniform(0, 6, size + 2)

    def terms(w: Any) -> tuple[Any, Any, Any]:
        xp = np if isinstance(w, np.ndarray) else jnp  # NumPy for the choice of the inputs: nothing compiles
        A = xp.asarray(a, w.dtype)
        return xp, A, A @ w + xp.asarray(c, w.dtype)

    def loss(w: Any) -> Any:
        xp, _, inner = terms(w)
        return xp.sum(xp.sin(inner)) + 0.25 * xp.sum(w**2)

    def grad(w: Any) -> Any:
        xp, A, inner = terms(w)
        return A.T @ xp.cos(inner) + 0.5 * w

    return loss, grad


def _waves_steps(loss: Callable, grad: Callable, w: np.ndarray, rho: float, num_steps: int) -> np.ndarray:
    """What each step finds over L(w)."""
    epsilon, values = np.zeros_like(w), []
    for _ in range(num_steps):
        g = grad(w + epsilon)
        epsilon = rho * g / np.linalg.norm(g)
        values.append(loss(w + epsilon) - loss(w))
    return np.array(values)


def _sharpness_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, grad, w, ρ, steps): the highest loss is met neither at the first nor at the last step in the first case;
    at the last step in the second, where one step more would climb on. No step spreads rounding by more than 20."""
    size, num_steps = int(rng.integers(3, 6)), int(rng.integers(4, 6))

    def case(dtype: DTypeLike, climbs: bool) -> Case:
        while True:
            loss, grad = _waves(rng, size)
            w, rho = rng.normal(size=size).astype(dtype).astype(float), float(rng.uniform(0.6, 1.2))
            *found, more = values = _waves_steps(loss, grad, w, rho, num_steps + 1)
            nudged = _waves_steps(loss, grad, w + 1e-6 * rng.normal(size=size), rho, num_steps + 1)
            if climbs:
                good = found[-1] > max(0, *found[:-1]) + 0.02 and more > found[-1] + 0.02
            else:
                good = max(found) > max(found[0], found[-1], 0) + 0.05 and found[-1] > found[0] + 0.05
            if good and np.abs(nudged - values).max() < 2e-5:
                return loss, grad, jnp.asarray(w.astype(dtype)), rho, num_steps

    return [case(np.float64, False), case(np.float32, True)]


def _climbed(loss, grad, w, rho, num_steps, step):
    """The values met by ε <- step(ε, gradient at w + ε)."""
    epsilon, values = jnp.zeros_like(w), []
    for _ in range(num_steps):
        epsilon = step(epsilon, grad(w + epsilon))
        values.append(loss(w + epsilon))
    return jnp.stack(values) - loss(w)


SHARPNESS = Exercise(
    reference=sharpness,
    inputs=_sharpness_cases,
    rtol=1e-6,  # the steps can spread apart what rounding put in
    right=(_sharpness_scan, _sharpness_points),
    mistakes={
        "this is the value at the last step. The steps need not climb, so the highest loss met is what counts: "
        "any point of the ball is a lower bound of the maximum (lecture 08, §5).": lambda f, g, w, rho, n: _climbed(
            f, g, w, rho, n, lambda e, d: rho * _unit(d)
        )[-1],
        "this is what one step finds. The later steps take the gradient at the point where the last one ended "
        "(lecture 08, §5).": lambda f, g, w, rho, n: _climbed(f, g, w, rho, 1, lambda e, d: rho * _unit(d))[0],
        "the loss at w is not subtracted: this is the perturbed loss f_p; the sharpness is how far it lies above the "
        "loss (lecture 08, §1).": lambda f, g, w, rho, n: sharpness(f, g, w, rho, n) + f(w),
        "the steps are added up, so the point leaves the ball: after k steps it may be kρ away. Each step starts anew "
        "from w, with another direction (lecture 08, §5).": lambda f, g, w, rho, n: _climbed(
            f, g, w, rho, n, lambda e, d: e + rho * _unit(d)
        ).max(),
        "you go down: the minimum in the ball is no sharpness. ε goes along +g (lecture 08, §5).": (
            lambda f, g, w, rho, n: _climbed(f, g, w, rho, n, lambda e, d: -rho * _unit(d)).max()
        ),
        "the gradient is not normalised: ε must have the length ρ at every step (lecture 08, §5).": (
            lambda f, g, w, rho, n: _climbed(f, g, w, rho, n, lambda e, d: rho * d).max()
        ),
        "you take n steps of ρ/n, one after the other, and look at the end. That is the ascent inside `sam`; here each "
        "step has the whole length ρ from w, and the highest counts (lecture 08, §5).": lambda f, g, w, rho, n: (
            _climbed(f, g, w, rho, n, lambda e, d: e + rho / n * _unit(d))[-1]
        ),
        "the difference is divided by ρ. The sharpness of the lecture is in the unit of the loss (lecture 08, §1).": (
            lambda f, g, w, rho, n: sharpness(f, g, w, rho, n) / rho
        ),
        "the difference is divided by 1 + L(w), as Keskar et al. do. The lecture's sharpness is the difference itself "
        "(lecture 08, §1).": lambda f, g, w, rho, n: sharpness(f, g, w, rho, n) / (1 + f(w)),
        "the sign is turned: loss at w less the highest near it. It should be positive (lecture 08, §1).": (
            lambda f, g, w, rho, n: -sharpness(f, g, w, rho, n)
        ),
        "one step is missing: the loss is looked at after each of num_steps steps, the last one too "
        "(lecture 08, §5).": lambda f, g, w, rho, n: sharpness(f, g, w, rho, n - 1),
        "one step is too many: this looks at num_steps + 1 points beside w (lecture 08, §5).": lambda f, g, w, rho, n: (
            sharpness(f, g, w, rho, n + 1)
        ),
        "you average over the steps. The sharpness is the highest of them (lecture 08, §5).": lambda f, g, w, rho, n: (
            _climbed(f, g, w, rho, n, lambda e, d: rho * _unit(d)).mean()
        ),
    },
)


# ---- 6. power_iteration ----


def power_iteration(matvec, v, num_steps):
    """(vᵀAv, v) after num_steps products, each normalised."""
    for _ in range(num_steps):
        v = _unit(matvec(v))
    return v @ matvec(v), v


def _power_scan(matvec, v, num_steps):
    v = jax.lax.fori_loop(0, num_steps, lambda _, v: matvec(v) / jnp.linalg.norm(matvec(v)), v)
    return jnp.vdot(v, matvec(v)), v


def _power_at_the_end(matvec, v, num_steps):
    """One normalisation at the end: these matrices are small enough not to overflow."""
    for _ in range(num_steps):
        v = matvec(v)
    return jnp.vdot(v, matvec(v)) / jnp.vdot(v, v), v / jnp.linalg.norm(v)


def _power_cases(rng: np.random.Generator) -> list[Case]:
    """(matvec, v, steps): the eigenvalue of largest magnitude is negative in one case; too few steps to be near it."""
    size, num_steps = int(rng.integers(4, 8)), int(rng.integers(3, 6)) * 2 - 1

    def case(dtype: DTypeLike, top: float) -> Case:
        basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
        values = np.concatenate([[top], -0.8 * top * rng.uniform(0.7, 1, 1), rng.uniform(-1, 1, size - 2)])
        matrix = jnp.asarray(((basis * values) @ basis.T).astype(dtype))
        start = basis @ (rng.choice([-1, 1], size) * rng.uniform(0.5, 1, size))
        return (lambda v: matrix @ v), jnp.asarray(2 * start.astype(dtype)), num_steps

    return [case(np.float64, 2.5), case(np.float64, -2.0), case(np.float32, -2.5)]


def _of_power(change: Callable) -> Callable:
    """A wrong pair: change(matvec, the right v) -> (value, vector)."""

    def wrong(matvec, v, num_steps):
        return change(matvec, power_iteration(matvec, v, num_steps)[1])

    return wrong


def _unnormalised(matvec, v, num_steps):
    for _ in range(num_steps):
        v = matvec(v)
    return v


POWER_ITERATION = Exercise(
    reference=power_iteration,
    inputs=_power_cases,
    returns=("the eigenvalue", "the vector"),
    right=(_power_scan, _power_at_the_end),
    mistakes={
        "the eigenvalue is ‖Av‖, which is never negative. A Hessian may have a negative eigenvalue of largest "
        "magnitude: vᵀAv keeps the sign (lecture 08, §7).": _of_power(lambda A, v: (jnp.sqrt(jnp.sum(A(v) ** 2)), v)),
        "one product is missing: num_steps products, each normalised, and then one more for vᵀAv (lecture 08, §7).": (
            lambda A, v, n: power_iteration(A, v, n - 1)
        ),
        "one product is too many: the vector has seen num_steps + 1 of them (lecture 08, §7).": (
            lambda A, v, n: power_iteration(A, v, n + 1)
        ),
        "the vector is not normalised at the end. Then vᵀAv is the eigenvalue times ‖v‖², and after many steps it "
        "overflows or vanishes (lecture 08, §7).": lambda A, v, n: (
            _unnormalised(A, v, n) @ A(_unnormalised(A, v, n)),
            _unnormalised(A, v, n),
        ),
        "the vector has length 1, but the eigenvalue was computed before it was normalised (lecture 08, §7).": (
            lambda A, v, n: (_unnormalised(A, v, n) @ A(_unnormalised(A, v, n)), _unit(_unnormalised(A, v, n)))
        ),
        "you return Av as the vector. It is σ v, not of length 1 (lecture 08, §7).": _of_power(
            lambda A, v: (v @ A(v), A(v))
        ),
        "the start vector comes back unchanged: v has to be replaced by the normalised product in each step "
        "(lecture 08, §7).": lambda A, v, n: (_unit(v) @ A(_unit(v)), _unit(v)),
        "the vector is normalised by its largest entry. Then vᵀAv is not the eigenvalue: it needs vᵀv = 1 "
        "(lecture 08, §7).": _of_power(lambda A, v: ((v @ A(v)) / jnp.max(jnp.abs(v)) ** 2, v / jnp.max(jnp.abs(v)))),
        "this is 1/(vᵀAv): the quotient is upside down (lecture 08, §7).": _of_power(lambda A, v: (1 / (v @ A(v)), v)),
        "the eigenvalue is |vᵀAv|. Its sign tells a valley from a hill; keep it (lecture 08, §7).": _of_power(
            lambda A, v: (jnp.abs(v @ A(v)), v)
        ),
    },
)


# ---- 7. sam_step_with_state ----


def sam_step_with_state(loss, w, state, x, y, rho, lr):
    """(w - lr ∇L(w + ε̂), the state of the pass at w)."""
    grad = jax.grad(loss, has_aux=True)
    g, new = grad(w, state, x, y)
    far, _ = grad(w + rho * _unit(g), state, x, y)
    return w - lr * far, new


def _sam_step_two_calls(loss, w, state, x, y, rho, lr):
    new = loss(w, state, x, y)[1]

    def value(w):
        return loss(w, state, x, y)[0]

    g = jax.grad(value)(w)
    return w - lr * jax.grad(value)(w + rho * g / jnp.linalg.norm(g)), new


def _sam_step_value_and_grad(loss, w, state, x, y, rho, lr):
    (_, clean), g = jax.value_and_grad(loss, has_aux=True)(w, state, x, y)
    up = w + rho * g / jnp.sqrt(jnp.vdot(g, g))
    (_, _), far = jax.value_and_grad(loss, has_aux=True)(up, clean, x, y)  # the loss does not depend on the state
    return w - lr * far, clean


def _normalised_loss(w: jax.Array, state: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A linear unit with batch norm, tanh and a squared error; the state: running mean and variance of its input."""
    z = x @ w
    mean, variance = jnp.mean(z), jnp.mean((z - jnp.mean(z)) ** 2)
    out = jnp.tanh((z - mean) / jnp.sqrt(variance + 0.1))
    return jnp.mean((out - y) ** 2), 0.9 * state + 0.1 * jnp.stack([mean, variance])


def _state_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, w, state, x, y, ρ, lr)."""
    n, size = int(rng.integers(8, 11)), int(rng.integers(4, 7))

    def case(dtype: DTypeLike) -> Case:
        x, y = rng.normal(size=(n, size)) + 0.5, rng.uniform(-1, 1, n)
        w, state = rng.normal(size=size), rng.uniform(0.5, 2, 2)
        arrays = [jnp.asarray(a.astype(dtype)) for a in (w, state, x, y)]
        return _normalised_loss, *arrays, float(rng.uniform(0.3, 0.6)), float(rng.uniform(0.2, 0.5))

    return [case(np.float64), case(np.float64)]


def _with_state(change: Callable) -> Callable:
    """A wrong pair: change(w, old state, g, far, (state at w, state at w + ε̂, of both in turn), ε̂, lr)."""

    def wrong(loss, w, state, x, y, rho, lr):
        grad = jax.grad(loss, has_aux=True)
        g, clean = grad(w, state, x, y)
        epsilon = rho * _unit(g)
        far, perturbed = grad(w + epsilon, state, x, y)
        chained = loss(w + epsilon, clean, x, y)[1]
        return change(w, state, g, far, (clean, perturbed, chained), epsilon, lr)

    return wrong


SAM_STEP_WITH_STATE = Exercise(
    reference=sam_step_with_state,
    inputs=_state_cases,
    returns=("the new w", "the new state"),
    right=(_sam_step_two_calls, _sam_step_value_and_grad),
    mistakes={
        "the state comes from the second pass, at w + ε̂. Those weights are never used: the running averages must be "
        "those of w, from the first pass (lecture 08, §4).": _with_state(
            lambda w, s, g, far, states, e, lr: (w - lr * far, states[1])
        ),
        "both passes moved the running averages: the state saw the batch twice, once at weights that are never used. "
        "Keep the one of the first pass (lecture 08, §4).": _with_state(
            lambda w, s, g, far, states, e, lr: (w - lr * far, states[2])
        ),
        "the state is the old one. The first pass, at w, renews it (lecture 08, §4).": _with_state(
            lambda w, s, g, far, states, e, lr: (w - lr * far, s)
        ),
        "the state is the mean of the two passes'. The one at w + ε̂ has no part in it (lecture 08, §4).": _with_state(
            lambda w, s, g, far, states, e, lr: (w - lr * far, (states[0] + states[1]) / 2)
        ),
        "the state is right, but the step starts from w + ε̂: remove the perturbation (lecture 08, §4).": _with_state(
            lambda w, s, g, far, states, e, lr: (w + e - lr * far, states[0])
        ),
        "the step uses the gradient at w: that is SGD with two passes (lecture 08, §4).": _with_state(
            lambda w, s, g, far, states, e, lr: (w - lr * g, states[0])
        ),
        "the perturbation stays and the state is that of the second pass: this goes on from w + ε̂ as if it were the "
        "model (lecture 08, §4).": _with_state(lambda w, s, g, far, states, e, lr: (w + e - lr * far, states[1])),
        "the step goes uphill: subtract lr times the gradient (lecture 08, §4).": _with_state(
            lambda w, s, g, far, states, e, lr: (w + lr * far, states[0])
        ),
        "ε̂ is ρ g: the gradient has to be normalised, so that ε̂ has the length ρ (lecture 08, §3).": (
            lambda loss, w, state, x, y, rho, lr: (
                w
                - lr
                * jax.grad(loss, has_aux=True)(w + rho * jax.grad(loss, has_aux=True)(w, state, x, y)[0], state, x, y)[
                    0
                ],
                loss(w, state, x, y)[1],
            )
        ),
        "the state comes from a pass at the new w, a third one. The first pass, at w, gives it (lecture 08, §4).": (
            lambda loss, w, state, x, y, rho, lr: (
                sam_step_with_state(loss, w, state, x, y, rho, lr)[0],
                loss(sam_step_with_state(loss, w, state, x, y, rho, lr)[0], state, x, y)[1],
            )
        ),
        "ε̂ goes down. It looks for the worst point near w, along +g (lecture 08, §4).": (
            lambda loss, w, state, x, y, rho, lr: sam_step_with_state(loss, w, state, x, y, -rho, lr)
        ),
    },
)


EXERCISES = {
    "perturbation": PERTURBATION,
    "dual_norm_perturbation": DUAL_NORM_PERTURBATION,
    "sam_step": SAM_STEP,
    "m_sam_gradient": M_SAM_GRADIENT,
    "sharpness": SHARPNESS,
    "power_iteration": POWER_ITERATION,
    "sam_step_with_state": SAM_STEP_WITH_STATE,
}
