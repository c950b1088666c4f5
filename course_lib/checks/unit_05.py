"""Unit 05. The bank of exercise 05: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 05. Most functions run on NumPy arrays here: nothing to compile.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise
from course_lib.checks.banks import on_numpy as _n
from course_lib.checks.banks import signed

FLOATS = (np.float64, np.float32)


# ---- inputs ----


def _mean_cases(rng: np.random.Generator) -> list[Case]:
    """(gradients (t, P), b); t from 2, since with one gradient too many mistakes agree."""
    size = int(rng.integers(3, 6))
    lengths = rng.permutation([7, 8, 9])
    decays = (0.9, 0.6, float(rng.uniform(0.65, 0.95)))
    dtypes = (np.float64, np.float64, np.float32)
    cases = zip(lengths, decays, dtypes, strict=True)
    return [(jnp.asarray(signed(rng, (t, size), dtype)), b) for t, b, dtype in cases]


def _damping_cases(rng: np.random.Generator) -> list[Case]:
    """(B (P,), eps), eps not small beside √B, and B with a 0 in it."""
    size = int(rng.integers(3, 7))

    def case(dtype: DTypeLike) -> Case:
        B = rng.uniform(0.05, 3, size).astype(dtype)
        B[0] = 0
        return jnp.asarray(B), float(rng.uniform(0.2, 0.7))

    return [case(dtype) for dtype in FLOATS]


def _state(rng: np.random.Generator, dtype: DTypeLike) -> tuple:
    """(theta, m, B, g), of one size a seed; B is positive."""
    size = int(rng.integers(3, 7))
    theta, m, g = (jnp.asarray(signed(rng, size, dtype)) for _ in range(3))
    return theta, m, jnp.asarray(rng.uniform(0.1, 2, size).astype(dtype)), g


def _family_cases(rng: np.random.Generator) -> list[Case]:
    """(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps): general numbers, the first step, and AdaGrad's b2 = 1."""

    def case(dtype: DTypeLike, t: int, b1: float, b2: float, xi: float) -> Case:
        theta, m, B, g = _state(rng, dtype)
        if t == 1:
            m, B = jnp.zeros_like(m), jnp.zeros_like(B)
        alpha, lam, eps = (float(v) for v in rng.uniform(0.2, 0.6, 3))
        return theta, m, B, g, t, alpha, b1, b2, xi, lam, eps

    return [
        case(np.float64, int(rng.integers(3, 6)), 0.9, 0.7, 0.75),
        case(np.float64, 1, 0.8, 0.9, 0.5),
        case(np.float64, 4, 0.6, 1.0, 0.5),
        case(np.float32, 3, 0.7, 0.9, 0.25),
    ]


def _adamw_cases(rng: np.random.Generator) -> list[Case]:
    """(theta, m, v, g, t, alpha, b1, b2, eps, w)."""

    def case(dtype: DTypeLike, t: int) -> Case:
        theta, m, v, g = _state(rng, dtype)
        alpha, eps, w = (float(u) for u in rng.uniform(0.2, 0.6, 3))
        return theta, m, v, g, t, alpha, 0.9, 0.7, eps, w

    return [case(np.float64, 2), case(np.float64, int(rng.integers(3, 7))), case(np.float32, 3)]


def _square_cases(rng: np.random.Generator) -> list[Case]:
    """(per-example gradients (n, P), b): a mean that is not small; n, P and b all different."""
    size, n = int(rng.integers(3, 5)), int(rng.integers(9, 12))

    def case(dtype: DTypeLike, b: int) -> Case:
        return jnp.asarray((0.5 + rng.normal(size=(n, size))).astype(dtype)), b

    return [case(np.float64, 6), case(np.float64, 2), case(np.float32, 5)]


def _logits(theta: jax.Array, x: jax.Array) -> jax.Array:
    rows = theta.reshape(-1, len(x) + 1)
    return rows[:, :-1] @ jnp.tanh(x) + rows[:, -1]


def _log_prob(theta: jax.Array, x: jax.Array, y: Any) -> jax.Array:
    """A model that the notebook does not have: logits W tanh(x) + c, θ the rows of (W, c)."""
    return jax.nn.log_softmax(_logits(theta, x))[y]


def _sample(key: jax.Array, theta: jax.Array, x: jax.Array) -> jax.Array:
    return jax.random.categorical(key, _logits(theta, x))


def _sampled_cases(rng: np.random.Generator) -> list[Case]:
    """(log_prob, sample, θ, x, y, keys (n,), alpha, lam); n, the inputs, the classes and P are all different."""
    n, d, k = int(rng.integers(9, 12)), int(rng.integers(2, 4)), int(rng.integers(4, 6))

    def case() -> Case:
        theta, x = jnp.asarray(rng.normal(size=k * (d + 1))), jnp.asarray(rng.normal(size=(n, d)))
        y, keys = jnp.asarray(rng.integers(0, k, n)), jax.random.split(jax.random.key(int(rng.integers(2**31))), n)
        return _log_prob, _sample, theta, x, y, keys, float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.2, 0.5))

    return [case(), case()]


def _rotation_cases(rng: np.random.Generator) -> list[Case]:
    """(update, g, Q): updates that depend on the axes (a gap of 0 would be rounding alone); Q is not symmetric."""
    size = int(rng.integers(3, 6))

    def case(update: Callable) -> Case:
        Q, _ = np.linalg.qr(rng.normal(size=(size, size)))
        return update, jnp.asarray(signed(rng, size, np.float64)), jnp.asarray(Q)

    scales = rng.uniform(0.2, 3, size)
    return [
        case(lambda g: -0.3 * g / (abs(g) + 0.1)),
        case(lambda g: -2.0 * g / scales),
        case(lambda g: -0.7 * g - 0.4 * g**3),
    ]


# ---- 1. bias_corrected ----


def _average(gradients, b):
    m = 0 * gradients[0]
    for g in gradients:
        m = b * m + (1 - b) * g
    return m


@_n
def bias_corrected(gradients, b):
    """m_t/(1 - bᵗ) after all t rows, from m_0 = 0."""
    return _average(gradients, b) / (1 - b ** len(gradients))


@_n
def _corrected_by_weights(gradients, b):
    weights = (b ** np.arange(len(gradients))[::-1]).astype(gradients.dtype)
    return weights @ gradients / weights.sum()


def _corrected_by_optax(gradients, b):
    state = optax.ema(b, debias=True).init(gradients[0])
    for g in gradients:
        mean, state = optax.ema(b, debias=True).update(g, state)
    return mean


@_n
def _corrected_within(gradients, b):
    m = 0 * gradients[0]
    for t, g in enumerate(gradients, start=1):
        m = (b * m + (1 - b) * g) / (1 - b**t)
    return m


@_n
def _from_the_first(gradients, b):
    m = gradients[0]
    for g in gradients[1:]:
        m = b * m + (1 - b) * g
    return m


BIAS_CORRECTED = Exercise(
    reference=bias_corrected,
    inputs=_mean_cases,
    right=(_corrected_by_weights, _corrected_by_optax),
    mistakes={
        "this is m itself. Its weights sum to 1 - bᵗ and not to 1, since it started from 0: divide by that sum "
        "(lecture 05, §3).": _n(_average),
        "the exponent counts from 0. After t gradients the weights sum to 1 - bᵗ: the first step has t = 1, and with "
        "t = 0 you would divide by 0 (lecture 05, §3).": _n(lambda g, b: _average(g, b) / (1 - b ** (len(g) - 1))),
        "the exponent is one too large. After t gradients the weights sum to 1 - bᵗ, t being the number of rows "
        "(lecture 05, §3).": _n(lambda g, b: _average(g, b) / (1 - b ** (len(g) + 1))),
        "you divide by 1 - b, which is right for the first step alone. Later the weights sum to 1 - bᵗ "
        "(lecture 05, §3).": _n(lambda g, b: _average(g, b) / (1 - b)),
        "the two weights are exchanged: b is how much of the OLD average stays, and the new gradient has 1 - b. As you "
        "have it the average forgets almost at once (lecture 05, §2).": _n(
            lambda g, b: _average(g, 1 - b) / (1 - (1 - b) ** len(g))
        ),
        "the two weights are exchanged: b is how much of the OLD average stays, and the new gradient has 1 - b. The "
        "correction, with b, then does not belong to your average (lecture 05, §2).": _n(
            lambda g, b: _average(g, 1 - b) / (1 - b ** len(g))
        ),
        "you correct the average and go on with the corrected one. The recursion runs on m as it is; the correction is "
        "for the step only, and is not stored (lecture 05, §3).": _corrected_within,
        "you start from the first gradient. Then no correction is needed, but the first gradient keeps a weight of "
        "bᵗ⁻¹, more than its share: the average asked for starts from 0 (lecture 05, §3).": _from_the_first,
        "you multiply by 1 - bᵗ where you should divide. m is too small, and gets smaller that way (lecture 05, §3).": (
            _n(lambda g, b: _average(g, b) * (1 - b ** len(g)))
        ),
        "this is the plain mean of all gradients. The average asked for forgets: a gradient that is one step older "
        "has b times the weight (lecture 05, §3).": _n(lambda g, b: g.mean(axis=0)),
        "you weight the rows the wrong way round: the OLDEST row, the first, has been multiplied by b most often "
        "(lecture 05, §3).": _n(lambda g, b: _average(g[::-1], b) / (1 - b ** len(g))),
        "the exponent is the number of parameters. It is the number of rows: one row is one step (lecture 05, §3).": _n(
            lambda g, b: _average(g, b) / (1 - b ** g.shape[1])
        ),
        "this averages the squares. The first moment is an average of the gradients themselves (lecture 05, §2).": _n(
            lambda g, b: _average(g**2, b) / (1 - b ** len(g))
        ),
        "the new gradient has weight 1, so this is a sum and not an average: a constant gradient g would give up to "
        "g/(1 - b) (lecture 05, §2).": _n(lambda g, b: _average(g, b) / (1 - b) / (1 - b ** len(g))),
    },
)


# ---- 2. equal_damping ----


@_n
def equal_damping(B, eps):
    """λ with √(B + λ) = √B + ε."""
    return 2 * eps * B**0.5 + eps**2


EQUAL_DAMPING = Exercise(
    reference=equal_damping,
    inputs=_damping_cases,
    right=(
        lambda B, eps: (jnp.sqrt(B) + eps) ** 2 - B,
        _n(lambda B, eps: eps * (2 * np.sqrt(B) + eps)),
    ),
    mistakes={
        "you take λ = ε. Inside the root stands a square: ε has the unit of g, λ that of g² (lecture 05, §4).": _n(
            lambda B, eps: 0 * B + eps
        ),
        "you take λ = ε². That is right where B is 0, and nowhere else: (√B + ε)² has a mixed term (lecture 05, "
        "§4).": _n(lambda B, eps: 0 * B + eps**2),
        "you take λ = √ε. The root goes the other way: λ has the unit of g², so ε comes in squared (lecture 05, "
        "§4).": _n(lambda B, eps: 0 * B + eps**0.5),
        "the ε² is missing. It is what remains where B is 0, the very place where damping is needed "
        "(lecture 05, §4).": _n(lambda B, eps: 2 * eps * B**0.5),
        "the mixed term is there once. The square of a sum has it twice (lecture 05, §4).": _n(
            lambda B, eps: eps * B**0.5 + eps**2
        ),
        "the last term is ε and should be ε²: λ has the unit of B, a squared gradient (lecture 05, §4).": _n(
            lambda B, eps: 2 * eps * B**0.5 + eps
        ),
        "the sign is wrong: λ = (√B + ε)² - B, which is never negative (lecture 05, §4).": _n(
            lambda B, eps: -2 * eps * B**0.5 - eps**2
        ),
        "B stands where its root belongs: the denominator outside is √B + ε (lecture 05, §4).": _n(
            lambda B, eps: 2 * eps * B + eps**2
        ),
        "this is (√B + ε)², which is B + λ. Take B away to have λ (lecture 05, §4).": _n(
            lambda B, eps: (B**0.5 + eps) ** 2
        ),
        "this goes the other way: with your numbers √(B + ε) = √B + result. Asked for is the λ INSIDE that does what ε "
        "does outside (lecture 05, §4).": _n(lambda B, eps: (B + eps) ** 0.5 - B**0.5),
        "this goes the other way: with your numbers √(B + ε²) = √B + result. Asked for is the λ INSIDE that does what "
        "ε does outside (lecture 05, §4).": _n(lambda B, eps: (B + eps**2) ** 0.5 - B**0.5),
    },
)


# ---- 3. family_step ----


def _moments(m, B, g, b1, b2):
    return b1 * m + (1 - b1) * g, B + g**2 if b2 == 1 else b2 * B + (1 - b2) * g**2


def _hats(m, B, t, b1, b2):
    return m / (1 - b1**t), B if b2 == 1 else B / (1 - b2**t)


def _plain_denominator(B, xi, lam, eps):
    return (B + lam) ** xi + eps


def _stepper(
    moments: Callable = _moments,
    hats: Callable = _hats,
    denominator: Callable = _plain_denominator,
    finish: Callable = lambda theta, alpha, m, d, g, xi: theta - alpha * m / d,
) -> Callable:
    """family_step with one of its parts replaced."""

    @_n
    def step(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
        m, B = moments(m, B, g, b1, b2)
        m_hat, B_hat = hats(m, B, t, b1, b2)
        return finish(theta, alpha, m_hat, denominator(B_hat, xi, lam, eps), g, xi), m, B

    return step


def family_step(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
    """(theta, m, B) after a step of (5.4) with bias correction; b2 = 1 accumulates."""
    return _stepper()(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps)


def _family_in_jax(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
    m = m + (1 - b1) * (g - m)
    gain = jnp.where(b2 == 1, 1.0, 1 - b2).astype(B.dtype)
    B = b2 * B + gain * jnp.square(g)
    weight = jnp.where(b2 == 1, 1.0, 1 - b2**t).astype(B.dtype)
    return theta - alpha * (m / (1 - b1**t)) / (jnp.power(B / weight + lam, xi) + eps), m, B


@_n
def _family_by_exponentials(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
    new_m = b1 * m + g - b1 * g
    new_B = b2 * B + g * g * (1 if b2 == 1 else 1 - b2)
    hat = new_B if b2 == 1 else new_B / (1 - b2**t)
    change = new_m / (1 - b1**t) / (np.exp(xi * np.log(hat + lam)) + eps)
    return theta - alpha * change, new_m, new_B


def _stored_hats(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
    theta, m, B = family_step(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps)
    return theta, *_hats(np.asarray(m), np.asarray(B), t, b1, b2)


def _swapped(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
    theta, m, B = family_step(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps)
    return theta, B, m


@_n
def _old_moments(theta, m, B, g, t, alpha, b1, b2, xi, lam, eps):
    new_m, new_B = _moments(m, B, g, b1, b2)
    old = B if b2 == 1 or t == 1 else B / (1 - b2 ** (t - 1))
    return theta - alpha * new_m / (1 - b1**t) / ((old + lam) ** xi + eps), new_m, new_B


FAMILY_STEP = Exercise(
    reference=family_step,
    inputs=_family_cases,
    returns=("the first value, theta,", "the second value, m,", "the third value, B,"),
    right=(_family_in_jax, _family_by_exponentials),
    mistakes={
        "ε stands inside the power. In (5.4) λ is inside and ε outside; the same number does different things in the "
        "two places (lecture 05, §4).": _stepper(denominator=lambda B, xi, lam, eps: (B + lam + eps) ** xi),
        "λ stands outside the power, with ε. Damping is added to B before the power is taken (lecture "
        "05, §2).": _stepper(denominator=lambda B, xi, lam, eps: B**xi + lam + eps),
        "λ and ε are exchanged: λ is added to B inside the power, ε after it (lecture 05, §4).": _stepper(
            denominator=lambda B, xi, lam, eps: (B + eps) ** xi + lam
        ),
        "λ is missing: it is added to B̂ inside the power (lecture 05, §2).": _stepper(
            denominator=lambda B, xi, lam, eps: B**xi + eps
        ),
        "the power is always ½. ξ is an argument: ½ gives Adam, 0 gives SGD, 1 divides by B (lecture "
        "05, §5).": _stepper(denominator=lambda B, xi, lam, eps: (B + lam) ** 0.5 + eps),
        "the power is on the gradient as well. Only the preconditioner B̂ + λ is raised to ξ; m̂ stays as it is "
        "(lecture 05, §5).": _stepper(
            finish=lambda theta, alpha, m, d, g, xi: theta - alpha * np.sign(m) * abs(m) ** xi / d
        ),
        "you multiply by the power where you should divide: the step is (B̂ + λ)^(-ξ) m̂ (lecture 05, §2).": _stepper(
            finish=lambda theta, alpha, m, d, g, xi: theta - alpha * m * d
        ),
        "the step goes uphill: θ - α·…, and not + (lecture 05, §2).": _stepper(
            finish=lambda theta, alpha, m, d, g, xi: theta + alpha * m / d
        ),
        "m is corrected with b2. Each average has its own decay, and its weights sum to 1 minus ITS decay to the power "
        "of t (lecture 05, §3).": _stepper(
            hats=lambda m, B, t, b1, b2: (m if b2 == 1 else m / (1 - b2**t), _hats(m, B, t, b1, b2)[1])
        ),
        "B is corrected with b1. Each average has its own decay, and its weights sum to 1 minus ITS decay to the power "
        "of t (lecture 05, §3).": _stepper(
            hats=lambda m, B, t, b1, b2: (m / (1 - b1**t), B if b2 == 1 else B / (1 - b1**t))
        ),
        "the bias correction is missing. From zero averages the step would be too long at the beginning "
        "(lecture 05, §3).": _stepper(hats=lambda m, B, t, b1, b2: (m, B)),
        "only m is corrected. B starts from zero as well (lecture 05, §3).": _stepper(
            hats=lambda m, B, t, b1, b2: (m / (1 - b1**t), B)
        ),
        "only B is corrected. m starts from zero as well (lecture 05, §3).": _stepper(
            hats=lambda m, B, t, b1, b2: (m, _hats(m, B, t, b1, b2)[1])
        ),
        "your correction takes t + 1. The t that you are given counts this step already: the first one has t = 1 "
        "(lecture 05, §3).": _stepper(hats=lambda m, B, t, b1, b2: _hats(m, B, t + 1, b1, b2)),
        "b1 and b2 are exchanged: b1 belongs to the gradients, b2 to their squares (lecture 05, §2).": _stepper(
            moments=lambda m, B, g, b1, b2: (
                b2 * m + (1 - b2) * g,
                b1 * B + (1 - b1) * g**2,
            ),
            hats=lambda m, B, t, b1, b2: (m if b2 == 1 else m / (1 - b2**t), B / (1 - b1**t)),
        ),
        "the weights of old and new are exchanged: b1 and b2 are how much of the OLD average stays (lecture 05, §2).": (
            _stepper(
                moments=lambda m, B, g, b1, b2: (
                    (1 - b1) * m + b1 * g,
                    B + g**2 if b2 == 1 else (1 - b2) * B + b2 * g**2,
                )
            )
        ),
        "right except for b2 = 1. There 1 - b2 is 0 and nothing would be added: b2 = 1 means the plain sum B + g², "
        "AdaGrad, without correction (lecture 05, §2).": _stepper(
            moments=lambda m, B, g, b1, b2: (b1 * m + (1 - b1) * g, b2 * B + (1 - b2) * g**2)
        ),
        "right except for b2 = 1, which your code treats like any other: nothing is added to B, and the correction "
        "divides by 1 - 1 = 0. b2 = 1 means the plain sum B + g², AdaGrad, without correction (lecture "
        "05, §2).": _stepper(
            moments=lambda m, B, g, b1, b2: (b1 * m + (1 - b1) * g, b2 * B + (1 - b2) * g**2),
            hats=lambda m, B, t, b1, b2: (m / (1 - b1**t), B * np.inf if b2 == 1 else B / (1 - b2**t)),
        ),
        "right except for m where b2 = 1. AdaGrad's B needs no correction, but m has its own decay, and starts from "
        "zero there too (lecture 05, §3).": _stepper(
            hats=lambda m, B, t, b1, b2: (m, B) if b2 == 1 else (m / (1 - b1**t), B / (1 - b2**t))
        ),
        "the new gradient has weight 1 in m, so m is a sum and not an average: in (5.4) its weight is 1 - b1 (lecture "
        "05, §2).": _stepper(moments=lambda m, B, g, b1, b2: (b1 * m + g, _moments(m, B, g, b1, b2)[1])),
        "ε is missing: it is added after the power (lecture 05, §4).": _stepper(
            denominator=lambda B, xi, lam, eps: (B + lam) ** xi
        ),
        "the averages have each other's decay: b1 belongs to the gradients, b2 to their squares. Your correction has "
        "them right (lecture 05, §2).": _stepper(
            moments=lambda m, B, g, b1, b2: (
                b2 * m + (1 - b2) * g,
                B + g**2 if b2 == 1 else b1 * B + (1 - b1) * g**2,
            )
        ),
        "your first value is the step. Add it to theta: the new theta is asked for (lecture 05, §2).": _stepper(
            finish=lambda theta, alpha, m, d, g, xi: -alpha * m / d
        ),
        "you return B before m. The order is (theta, m, B) (lecture 05, §2).": _swapped,
        "the step uses g itself. Its numerator is the corrected average of the gradients (lecture 05, §2).": _stepper(
            finish=lambda theta, alpha, m, d, g, xi: theta - alpha * g / d
        ),
        "B averages the squares of m. It is the average of the squared gradients, which is another thing "
        "(lecture 05, §2).": _stepper(
            moments=lambda m, B, g, b1, b2: (
                b1 * m + (1 - b1) * g,
                _moments(m, B, b1 * m + (1 - b1) * g, b1, b2)[1],
            )
        ),
        "you divide by the B from before this step. The new squared gradient goes in first; else the first step "
        "would divide by nothing (lecture 05, §2).": _old_moments,
        "the state that you return is corrected. Store m and B as they are: the next step's recursion starts from them "
        "(lecture 05, §3).": _stored_hats,
    },
)


# ---- 4. adams_square ----


@_n
def adams_square(gradients, b):
    """E[ḡ²] over batches of b with replacement: F̄/b + (1 - 1/b) μ²."""
    return (gradients**2).mean(axis=0) / b + (1 - 1 / b) * gradients.mean(axis=0) ** 2


def _square_by_pairs(gradients, b):
    """ḡ² is a sum over pairs of draws: b of them are equal, b(b-1) independent."""
    pairs = jnp.einsum("ip,jp->p", gradients, gradients) / len(gradients) ** 2
    return (b * jnp.mean(gradients**2, axis=0) + b * (b - 1) * pairs) / b**2


ADAMS_SQUARE = Exercise(
    reference=adams_square,
    inputs=_square_cases,
    right=(_n(lambda S, b: S.mean(axis=0) ** 2 + S.var(axis=0) / b), _square_by_pairs),
    mistakes={
        "this is the mean of the squares, μ² + σ², the diagonal of the empirical Fisher. Adam sees the square of a "
        "batch's MEAN; the two agree for b = 1 only (lecture 05, §6).": _n(lambda S, b: (S**2).mean(axis=0)),
        "this is the square of the mean over all the data. A batch has noise, and its square does not average out: add "
        "the variance of the batch mean (lecture 05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2),
        "this is F̄/b, the limit where noise dominates. The square of the mean gradient is there too "
        "(lecture 05, §6).": _n(lambda S, b: (S**2).mean(axis=0) / b),
        "this is the variance of the batch mean alone. E[ḡ²] is the variance plus the square of the mean "
        "(lecture 05, §6).": _n(lambda S, b: S.var(axis=0) / b),
        "the variance is divided by b². The variance of a mean of b draws falls as 1/b: b terms, each divided by b², "
        "add up (lecture 05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2 + S.var(axis=0) / b**2),
        "the variance is divided by √b. That is how the standard deviation falls (lecture 05, §6).": _n(
            lambda S, b: S.mean(axis=0) ** 2 + S.var(axis=0) / b**0.5
        ),
        "the variance is divided by the number of rows. What is averaged in a batch are b of them (lecture "
        "05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2 + S.var(axis=0) / len(S)),
        "the standard deviation stands where the variance belongs: a square has the square of the spread "
        "(lecture 05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2 + S.std(axis=0) / b),
        "your variance divides by n - 1. The batches are drawn from these n rows, which are all there is: divide by n "
        "(lecture 05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2 + S.var(axis=0, ddof=1) / b),
        "the two weights are exchanged: F̄, the mean of the squares, has 1/b, and the square of the mean has 1 - 1/b "
        "(lecture 05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2 / b + (1 - 1 / b) * (S**2).mean(axis=0)),
        "this is the square of the SUM over a batch, up to one factor: ḡ is a mean, so both terms are divided by b "
        "once more (lecture 05, §6).": _n(lambda S, b: b * S.mean(axis=0) ** 2 + S.var(axis=0)),
        "you add F̄/b and the whole μ². F̄ contains μ² already: the rest of it has the weight 1 - 1/b "
        "(lecture 05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2 + (S**2).mean(axis=0) / b),
        "this is for batches drawn without replacement. Here an example may come twice, so the draws are independent "
        "(lecture 05, §6).": _n(lambda S, b: S.mean(axis=0) ** 2 + S.var(axis=0) / b * (len(S) - b) / (len(S) - 1)),
    },
)


# ---- 5. adamw_step ----


def _adam(m, v, g, t, b1, b2, eps, extra=0.0):
    """(direction, m, v); `extra` is added to m̂."""
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return (m / (1 - b1**t) + extra) / ((v / (1 - b2**t)) ** 0.5 + eps), m, v


@_n
def adamw_step(theta, m, v, g, t, alpha, b1, b2, eps, w):
    """(theta, m, v) after θ ← θ - α m̂/(√v̂ + ε) - α w θ."""
    u, m, v = _adam(m, v, g, t, b1, b2, eps)
    return theta - alpha * u - alpha * w * theta, m, v


@_n
def _adamw_multiplied(theta, m, v, g, t, alpha, b1, b2, eps, w):
    u, m, v = _adam(m, v, g, t, b1, b2, eps)
    return (1 - alpha * w) * theta - alpha * u, m, v


def _adamw_by_optax(theta, m, v, g, t, alpha, b1, b2, eps, w):
    opt = optax.adamw(alpha, b1, b2, eps, weight_decay=w)
    adam, *rest = opt.init(theta)
    state = (adam._replace(count=jnp.asarray(t - 1, jnp.int32), mu=m, nu=v), *rest)
    update, (adam, *_) = opt.update(g, state, theta)
    return theta + update, adam.mu, adam.nu


def _decay(change: Callable) -> Callable:
    """A wrong AdamW: change(theta, u, alpha, w) -> theta."""

    @_n
    def step(theta, m, v, g, t, alpha, b1, b2, eps, w):
        u, m, v = _adam(m, v, g, t, b1, b2, eps)
        return change(theta, u, alpha, w), m, v

    return step


@_n
def _l2(theta, m, v, g, t, alpha, b1, b2, eps, w):
    u, m, v = _adam(m, v, g + w * theta, t, b1, b2, eps)
    return theta - alpha * u, m, v


@_n
def _divided(theta, m, v, g, t, alpha, b1, b2, eps, w):
    u, m, v = _adam(m, v, g, t, b1, b2, eps, w * theta)
    return theta - alpha * u, m, v


@_n
def _decay_in_m(theta, m, v, g, t, alpha, b1, b2, eps, w):
    _, _, new_v = _adam(m, v, g, t, b1, b2, eps)
    new_m = b1 * m + (1 - b1) * (g + w * theta)
    return theta - alpha * new_m / (1 - b1**t) / ((new_v / (1 - b2**t)) ** 0.5 + eps), new_m, new_v


@_n
def _both_decays(theta, m, v, g, t, alpha, b1, b2, eps, w):
    u, m, v = _adam(m, v, g + w * theta, t, b1, b2, eps)
    return theta - alpha * u - alpha * w * theta, m, v


@_n
def _eps_inside(theta, m, v, g, t, alpha, b1, b2, eps, w):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return theta - alpha * (m / (1 - b1**t) / (v / (1 - b2**t) + eps) ** 0.5 + w * theta), m, v


def _adamw_variant(
    hats: Callable = lambda m, v, t, b1, b2: (m / (1 - b1**t), v / (1 - b2**t)), **parts: Any
) -> Callable:
    """adamw_step with another correction, denominator (v, eps) or numerator (m, g), or decays in the averages."""
    below = parts.get("below", lambda v, eps: v**0.5 + eps)
    above = parts.get("above", lambda m, g: m)
    decays = parts.get("decays", lambda b1, b2: (b1, b2))

    @_n
    def step(theta, m, v, g, t, alpha, b1, b2, eps, w):
        c1, c2 = decays(b1, b2)
        m, v = c1 * m + (1 - c1) * g, c2 * v + (1 - c2) * g**2
        m_hat, v_hat = hats(m, v, t, b1, b2)
        return theta - alpha * (above(m_hat, g) / below(v_hat, eps) + w * theta), m, v

    return step


def _corrected_state(theta, m, v, g, t, alpha, b1, b2, eps, w):
    theta, m, v = adamw_step(theta, m, v, g, t, alpha, b1, b2, eps, w)
    return theta, m / (1 - b1**t), v / (1 - b2**t)


@_n
def _l2_minus(theta, m, v, g, t, alpha, b1, b2, eps, w):
    u, m, v = _adam(m, v, g - w * theta, t, b1, b2, eps)
    return theta - alpha * u, m, v


@_n
def _uncorrected(theta, m, v, g, t, alpha, b1, b2, eps, w):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return theta - alpha * (m / (v**0.5 + eps) + w * theta), m, v


ADAMW_STEP = Exercise(
    reference=adamw_step,
    inputs=_adamw_cases,
    returns=("the first value, theta,", "the second value, m,", "the third value, v,"),
    right=(_adamw_multiplied, _adamw_by_optax),
    mistakes={
        "the decay is inside the gradient: that is L2, and the preconditioner divides it, so that weights with small "
        "gradients decay most. Decoupled, w·θ never enters m or v (lecture 05, §9).": _l2,
        "the decay stays out of m and v, but it is divided by √v̂ + ε with the gradient. Decoupled, every weight is "
        "multiplied by the same 1 - αw (lecture 05, §9).": _divided,
        "the decay is in m and not in v. Decoupled, it is in neither: it goes to θ directly (lecture "
        "05, §9).": _decay_in_m,
        "the weight decays twice: once in the gradient, once outside. Only the second is AdamW (lecture 05, §9).": (
            _both_decays
        ),
        "the decay is not multiplied by the learning rate. It is α w θ: a schedule of α must move it too "
        "(lecture 05, §9).": _decay(lambda theta, u, alpha, w: theta - alpha * u - w * theta),
        "you let the weight decay after the step, so the step shrinks with it. The decay is that of the θ from before "
        "the step (lecture 05, §9).": _decay(lambda theta, u, alpha, w: (theta - alpha * u) * (1 - alpha * w)),
        "the decay has the wrong sign: the weights grow. It is - α w θ (lecture 05, §9).": _decay(
            lambda theta, u, alpha, w: theta - alpha * u + alpha * w * theta
        ),
        "the decay has a ½ too many. The ½ of ½w‖θ‖² is gone in its gradient, wθ (lecture 05, §9).": _decay(
            lambda theta, u, alpha, w: theta - alpha * u - 0.5 * alpha * w * theta
        ),
        "there is no decay: this is Adam (lecture 05, §9).": _decay(lambda theta, u, alpha, w: theta - alpha * u),
        "the decay is squared in α: α is there twice (lecture 05, §9).": _decay(
            lambda theta, u, alpha, w: theta - alpha * (u + alpha * w * theta)
        ),
        "the decay is right, ε is inside the root. Adam has it outside, in the unit of g (lecture "
        "05, §4).": _eps_inside,
        "the decay is right, the bias correction is missing: m/(1 - b1ᵗ) and v/(1 - b2ᵗ) (lecture "
        "05, §3).": _uncorrected,
        "the state that you return is corrected. Store m and v as they are: the next step's averages start from them "
        "(lecture 05, §3).": _corrected_state,
        "the decay is right, only m is corrected. v starts from zero as well (lecture 05, §3).": _adamw_variant(
            lambda m, v, t, b1, b2: (m / (1 - b1**t), v)
        ),
        "the decay is right, only v is corrected. m starts from zero as well (lecture 05, §3).": _adamw_variant(
            lambda m, v, t, b1, b2: (m, v / (1 - b2**t))
        ),
        "the decay is right, your correction takes t + 1. The t that you are given counts this step already (lecture "
        "05, §3).": _adamw_variant(lambda m, v, t, b1, b2: (m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1)))),
        "the decay is right, your correction takes t - 1. The first step has t = 1, and t - 1 would divide by 0 "
        "(lecture 05, §3).": _adamw_variant(lambda m, v, t, b1, b2: (m / (1 - b1 ** (t - 1)), v / (1 - b2 ** (t - 1)))),
        "the decay is right, the root is missing: Adam divides by √v̂ + ε (lecture 05, §5).": _adamw_variant(
            below=lambda v, eps: v + eps
        ),
        "the decay is right, ε is missing: it is added to √v̂ (lecture 05, §4).": _adamw_variant(
            below=lambda v, eps: v**0.5
        ),
        "the decay is right, b1 and b2 are exchanged: b1 belongs to the gradients, b2 to their squares (lecture 05, "
        "§2).": _adamw_variant(
            lambda m, v, t, b1, b2: (m / (1 - b2**t), v / (1 - b1**t)), decays=lambda b1, b2: (b2, b1)
        ),
        "the decay is right, the numerator is g itself. It is the corrected average m̂ (lecture "
        "05, §2).": _adamw_variant(above=lambda m, g: g),
        "the gradient part goes uphill: θ - α·…, and not + (lecture 05, §2).": _decay(
            lambda theta, u, alpha, w: theta + alpha * u - alpha * w * theta
        ),
        "the decay is α w and lacks θ. It is proportional to the weight: α w θ (lecture 05, §9).": _decay(
            lambda theta, u, alpha, w: theta - alpha * u - alpha * w
        ),
        "the decay is inside the gradient, and with a minus: g - wθ makes the weights grow. Decoupled, w·θ never "
        "enters m or v (lecture 05, §9).": _l2_minus,
        "the decay is |w| in size whatever the weight is: you take its sign. It is proportional to θ (lecture 05, "
        "§9).": (_decay(lambda theta, u, alpha, w: theta - alpha * u - alpha * w * np.sign(theta))),
    },
)


# ---- 6. sampled_step ----


def _scores(log_prob, theta, x, y):
    return jax.vmap(jax.grad(log_prob), (None, 0, 0))(theta, x, y)


def _drawn(sample, theta, x, keys):
    return jax.vmap(sample, (0, None, 0))(keys, theta, x)


def sampled_step(log_prob, sample, theta, x, y, keys, alpha, lam):
    """θ - α g/(B + λ): g from the observed y, B the mean of squared scores at drawn labels."""
    g = -_scores(log_prob, theta, x, y).mean(0)
    B = (_scores(log_prob, theta, x, _drawn(sample, theta, x, keys)) ** 2).mean(0)
    return theta - alpha * g / (B + lam)


def _sampled_by_loop(log_prob, sample, theta, x, y, keys, alpha, lam):
    g, B = np.zeros(theta.shape), np.zeros(theta.shape)
    for a, b, key in zip(x, y, keys, strict=True):
        g -= np.asarray(jax.grad(log_prob)(theta, a, b)) / len(x)
        B += np.asarray(jax.grad(log_prob)(theta, a, sample(key, theta, a))) ** 2 / len(x)
    return np.asarray(theta) - alpha * g / (B + lam)


def _sampled_by_jacobian(log_prob, sample, theta, x, y, keys, alpha, lam):
    loss = lambda t, labels: -jax.vmap(log_prob, (None, 0, 0))(t, x, labels)  # noqa: E731
    g = jax.grad(lambda t: loss(t, y).mean())(theta)
    rows = jax.jacrev(loss)(theta, _drawn(sample, theta, x, keys))
    return theta - alpha * g / (lam + jnp.square(rows).sum(0) / len(x))


def _of_scores(change: Callable) -> Callable:
    """A wrong step: change(observed scores, drawn scores, alpha, lam) -> the step that is added to theta."""

    def step(log_prob, sample, theta, x, y, keys, alpha, lam):
        drawn = _drawn(sample, theta, x, keys)
        observed, sampled = (np.asarray(_scores(log_prob, theta, x, labels)) for labels in (y, drawn))
        return np.asarray(theta) + change(observed, sampled, alpha, lam)

    return step


def _step_alone(log_prob, sample, theta, x, y, keys, alpha, lam):
    return sampled_step(log_prob, sample, theta, x, y, keys, alpha, lam) - theta


def _one_key(log_prob, sample, theta, x, y, keys, alpha, lam):
    same = jnp.broadcast_to(keys[:1], keys.shape)
    return sampled_step(log_prob, sample, theta, x, y, same, alpha, lam)


def _likeliest(log_prob, sample, theta, x, y, keys, alpha, lam):
    labels = jax.vmap(lambda a: _logits(theta, a).argmax())(x)
    B = (_scores(log_prob, theta, x, labels) ** 2).mean(0)
    return theta + alpha * _scores(log_prob, theta, x, y).mean(0) / (B + lam)


def _mean(scores):
    return scores.mean(axis=0)


SAMPLED_STEP = Exercise(
    reference=sampled_step,
    inputs=_sampled_cases,
    right=(_sampled_by_loop, _sampled_by_jacobian),
    mistakes={
        "B is from the observed labels: that is the empirical Fisher, which vanishes as the model fits. Its labels are "
        "drawn from the model, with keys (lecture 05, §7).": _of_scores(
            lambda o, s, alpha, lam: alpha * _mean(o) / (_mean(o**2) + lam)
        ),
        "B is the square of the mean score. The diagonal of the Fisher is the mean of the squares: square each "
        "example's score first (lecture "
        "05, §6).": _of_scores(lambda o, s, alpha, lam: alpha * _mean(o) / (_mean(s) ** 2 + lam)),
        "B is the square of the mean gradient at the observed labels, as in Adam. Asked for is the mean of squares, at "
        "drawn labels (lecture 05, §6).": _of_scores(lambda o, s, alpha, lam: alpha * _mean(o) / (_mean(o) ** 2 + lam)),
        "g is from the drawn labels too. The gradient of the loss needs the data's labels; at the model's own its "
        "expectation is 0, and nothing would be learnt (lecture 05, §7).": _of_scores(
            lambda o, s, alpha, lam: alpha * _mean(s) / (_mean(s**2) + lam)
        ),
        "the labels are exchanged: g is from the drawn ones and B from the observed ones (lecture 05, §7).": _of_scores(
            lambda o, s, alpha, lam: alpha * _mean(s) / (_mean(o**2) + lam)
        ),
        "B is a sum over the examples. It is a mean, as the loss is: else the step shrinks with the batch "
        "(lecture 05, §7).": _of_scores(lambda o, s, alpha, lam: alpha * _mean(o) / ((s**2).sum(axis=0) + lam)),
        "you took the root. With the Fisher's diagonal ξ = 1: B has the unit that makes g/B a step in θ "
        "(lecture 05, §5).": _of_scores(lambda o, s, alpha, lam: alpha * _mean(o) / (_mean(s**2) + lam) ** 0.5),
        "you took the root of B, as Adam does. With the Fisher's diagonal ξ = 1: B has the unit that makes g/B a step "
        "in θ (lecture 05, §5).": _of_scores(lambda o, s, alpha, lam: alpha * _mean(o) / (_mean(s**2) ** 0.5 + lam)),
        "g is a sum over the examples. The loss is a mean (lecture 05, §7).": _of_scores(
            lambda o, s, alpha, lam: alpha * o.sum(axis=0) / (_mean(s**2) + lam)
        ),
        "g and B are sums over the examples. Both are means; the sums would agree only without λ (lecture 05, §7).": (
            _of_scores(lambda o, s, alpha, lam: alpha * o.sum(axis=0) / ((s**2).sum(axis=0) + lam))
        ),
        "you solve with the full matrix. Only its diagonal is asked for: divide entry by entry (lecture 05, §1).": (
            _of_scores(
                lambda o, s, alpha, lam: alpha * np.linalg.solve(s.T @ s / len(s) + lam * np.eye(s.shape[1]), _mean(o))
            )
        ),
        "B is the variance of the drawn scores. Their mean is 0 in expectation already: take the mean of the squares, "
        "nothing is subtracted (lecture 05, §7).": _of_scores(
            lambda o, s, alpha, lam: alpha * _mean(o) / (s.var(axis=0) + lam)
        ),
        "this is the step without θ: return θ plus the step (lecture 05, §2).": _step_alone,
        "λ is missing. A weight that no drawn label moves has B = 0 (lecture 05, §2).": _of_scores(
            lambda o, s, alpha, lam: alpha * _mean(o) / _mean(s**2)
        ),
        "λ is added to the inverse. It belongs to B before the division: 1/(B + λ) (lecture 05, §2).": _of_scores(
            lambda o, s, alpha, lam: alpha * _mean(o) * (1 / _mean(s**2) + lam)
        ),
        "the step goes uphill. The mean score is minus the gradient of the loss: keep the signs apart "
        "(lecture 05, §7).": _of_scores(lambda o, s, alpha, lam: -alpha * _mean(o) / (_mean(s**2) + lam)),
        "you multiply by B + λ. The preconditioner is its inverse (lecture 05, §1).": _of_scores(
            lambda o, s, alpha, lam: alpha * _mean(o) * (_mean(s**2) + lam)
        ),
        "one key serves all examples, so their labels are not independent: keys[i] is for example i (lecture 05, "
        "§7).": (_one_key),
        "the label is the model's most likely one. The expectation is over draws: use sample and the keys "
        "(lecture 05, §7).": _likeliest,
    },
)


# ---- 7. rotation_gap ----


def _norm(v):
    return float(np.linalg.norm(np.asarray(v)))


def rotation_gap(update, g, Q):
    """‖Q·update(Qᵀg) - update(g)‖/‖update(g)‖."""
    step = np.asarray(update(g))
    turned = np.asarray(Q) @ np.asarray(update(Q.T @ g))
    return _norm(turned - step) / _norm(step)


def _gap_in_turned(update, g, Q):
    """Lengths do not change under Q: compare in the turned coordinates."""
    return jnp.linalg.norm(update(Q.T @ g) - Q.T @ update(g)) / jnp.linalg.norm(Q.T @ update(g))


def _gap_by_sums(update, g, Q):
    step = update(g)
    turned = jnp.einsum("ij,j->i", Q, update(jnp.einsum("ji,j->i", Q, g)))
    return jnp.sqrt(jnp.sum((turned - step) ** 2) / jnp.sum(step**2))


def _gap(change: Callable) -> Callable:
    """A wrong gap: change(update, g, Q) on NumPy arrays."""
    return lambda update, g, Q: change(lambda v: np.asarray(update(jnp.asarray(v))), np.asarray(g), np.asarray(Q))


ROTATION_GAP = Exercise(
    reference=rotation_gap,
    inputs=_rotation_cases,
    right=(_gap_in_turned, _gap_by_sums),
    mistakes={
        "Q and its transpose are exchanged. With θ = Qφ the chain rule gives the gradient Qᵀg in φ, and Q brings the "
        "step back (lecture 05, §10).": _gap(lambda u, g, Q: _norm(Q.T @ u(Q @ g) - u(g)) / _norm(u(g))),
        "you turn twice in the same direction: Q on the gradient, Q on the step. The gradient in φ is Qᵀg (lecture 05, "
        "§10).": _gap(lambda u, g, Q: _norm(Q @ u(Q @ g) - u(g)) / _norm(u(g))),
        "you divide by the length of the step taken in φ. Asked for is the gap relative to update(g) (lecture 05, "
        "§10).": _gap(lambda u, g, Q: _norm(Q @ u(Q.T @ g) - u(g)) / _norm(u(Q.T @ g))),
        "the turned step is not turned back. It is in the coordinates φ: multiply by Q before you compare "
        "(lecture 05, §10).": _gap(lambda u, g, Q: _norm(u(Q.T @ g) - u(g)) / _norm(u(g))),
        "you turn twice in the same direction: Qᵀ on the gradient, Qᵀ on the step. The step goes back by Q "
        "(lecture 05, §10).": _gap(lambda u, g, Q: _norm(Q.T @ u(Q.T @ g) - u(g)) / _norm(u(g))),
        "the gradient is not turned. In the coordinates φ the method sees Qᵀg (lecture 05, §10).": _gap(
            lambda u, g, Q: _norm(Q @ u(g) - u(g)) / _norm(u(g))
        ),
        "the gap is not relative: divide by the length of the step (lecture 05, §10).": _gap(
            lambda u, g, Q: _norm(Q @ u(Q.T @ g) - u(g))
        ),
        "you divide by the length of the gradient. Relative means: to the step, update(g) (lecture 05, §10).": _gap(
            lambda u, g, Q: _norm(Q @ u(Q.T @ g) - u(g)) / _norm(g)
        ),
        "this is the square of the gap: take the root (lecture 05, §10).": _gap(
            lambda u, g, Q: (_norm(Q @ u(Q.T @ g) - u(g)) / _norm(u(g))) ** 2
        ),
        "you compare the lengths of two steps. Two steps of one length can point anywhere: take the length of their "
        "difference (lecture 05, §10).": _gap(lambda u, g, Q: abs(_norm(u(Q.T @ g)) - _norm(u(g))) / _norm(u(g))),
        "this is the largest entry of the difference. Asked for is its Euclidean length, which itself does not depend "
        "on the axes (lecture 05, §10).": _gap(lambda u, g, Q: abs(Q @ u(Q.T @ g) - u(g)).max() / _norm(u(g))),
        "Q * v multiplies entry by entry. The matrix product is Q @ v (lecture 05, §10).": _gap(
            lambda u, g, Q: _norm((Q * u((Q.T * g).sum(axis=1))[None]).sum(axis=0) - u(g)) / _norm(u(g))
        ),
    },
)


EXERCISES = {
    "bias_corrected": BIAS_CORRECTED,
    "equal_damping": EQUAL_DAMPING,
    "family_step": FAMILY_STEP,
    "adams_square": ADAMS_SQUARE,
    "adamw_step": ADAMW_STEP,
    "sampled_step": SAMPLED_STEP,
    "rotation_gap": ROTATION_GAP,
}
