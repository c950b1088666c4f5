"""Unit 07. The bank of exercise 07: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 07. Most functions run on NumPy arrays here: nothing to compile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike
from scipy.special import ndtri

from course_lib.checks import Case, Exercise
from course_lib.checks.banks import on_numpy as _n
from course_lib.checks.banks import signed

FLOATS = (np.float64, np.float32)


# ---- inputs ----


def _uniform_cases(rng: np.random.Generator) -> list[Case]:
    """(u,): few below ½, many above, one at ½ and one just above: the mean is no threshold."""

    def case(shape: tuple[int, ...], dtype: DTypeLike) -> Case:
        n = int(np.prod(shape))
        low, high = rng.uniform(0.05, 0.45, 3), rng.uniform(0.6, 0.95, n - 5)
        u = np.array([low[0], *rng.permutation([*low[1:], 0.5, 0.51, *high])])  # its first sign is not that of most
        return (jnp.asarray(u.reshape(shape).astype(dtype)),)

    return [case((int(rng.integers(11, 15)),), np.float64), case((3, 5), np.float32)]


def _symmetric(rng: np.random.Generator, size: int) -> np.ndarray:
    A = signed(rng, (size, size))
    return A + A.T + np.diag(signed(rng, size))


def _probe_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, theta, Z (M, P)): signs, and Gaussians; the Hessian depends on theta."""
    size, M = int(rng.integers(3, 5)), int(rng.integers(6, 9))

    def case(Z: np.ndarray) -> Case:
        A, c = jnp.asarray(_symmetric(rng, size)), jnp.asarray(signed(rng, size))

        def loss(theta: jax.Array) -> jax.Array:
            return 0.5 * theta @ (A @ theta) + c @ theta**3

        return loss, jnp.asarray(signed(rng, size)), jnp.asarray(Z)

    Z = rng.choice([-1.0, 1.0], (M, size))
    Z[0], Z[1] = 1, np.where(np.arange(size) == 0, -1, 1)  # two that differ
    return [case(Z), case(rng.normal(size=(M, size)))]


def _error_cases(rng: np.random.Generator) -> list[Case]:
    """(H, fourth): signs, Gaussians and something between."""
    size = int(rng.integers(3, 6))
    fourths = (3.0, 1.0, float(rng.uniform(1.5, 2.5)))
    dtypes = (np.float64, np.float64, np.float32)
    return [(jnp.asarray(_symmetric(rng, size).astype(d)), f) for d, f in zip(dtypes, fourths, strict=True)]


def _block_cases(rng: np.random.Generator) -> list[Case]:
    """(D, b): blocks that do not fit, where the rest is neither 1 nor b, and blocks that do; b is not their number."""
    b = int(rng.integers(4, 6))
    rest = int(rng.integers(2, b))

    def case(n: int, dtype: DTypeLike) -> Case:
        return jnp.asarray(signed(rng, n, dtype)), b

    return [case(2 * b + rest, np.float64), case(3 * b, np.float64), case(3 * b, np.float32)]


def _momentum_cases(rng: np.random.Generator) -> list[Case]:
    """(Ds (t, P), b2, k), t from 5."""
    size = int(rng.integers(3, 5))
    lengths = rng.permutation([6, 7, 8])
    numbers = zip(lengths, (0.9, 0.6, float(rng.uniform(0.7, 0.85))), (1.0, 0.6, 0.75), strict=True)
    dtypes = (np.float64, np.float64, np.float32)
    return [(jnp.asarray(signed(rng, (t, size), d)), b2, k) for (t, b2, k), d in zip(numbers, dtypes, strict=True)]


def _step_cases(rng: np.random.Generator) -> list[Case]:
    """(theta, m, v, g, D, t, alpha, b1, b2, eps, k, w, b): b divides the size; the first step too."""
    b, size = 3, 3 * int(rng.integers(2, 4))

    def case(dtype: DTypeLike, t: int, b1: float, b2: float, k: float) -> Case:
        theta, m, g, D = (signed(rng, size, dtype) for _ in range(4))
        v = rng.uniform(0.1, 2, size).astype(dtype)
        if t == 1:
            m, v = 0 * m, 0 * v
        alpha, eps, w = (float(u) for u in rng.uniform(0.2, 0.6, 3))
        return *map(jnp.asarray, (theta, m, v, g, D)), t, alpha, b1, b2, eps, k, w, b

    return [
        case(np.float64, int(rng.integers(3, 6)), 0.9, 0.7, 0.75),
        case(np.float64, 1, 0.8, 0.9, 0.5),
        case(np.float32, 4, 0.6, 0.8, 1.0),
    ]


def _delayed_cases(rng: np.random.Generator) -> list[Case]:
    """(theta, gs (T, P), Ds (T, P), every, alpha, b1, b2, eps): T is not a multiple of every."""
    size = int(rng.integers(3, 5))

    def case(T: int, every: int, dtype: DTypeLike) -> Case:
        gs, Ds = signed(rng, (T, size), dtype), signed(rng, (T, size), dtype)
        alpha, eps = (float(u) for u in rng.uniform(0.2, 0.6, 2))
        return *map(jnp.asarray, (signed(rng, size, dtype), gs, Ds)), every, alpha, 0.8, 0.7, eps

    return [case(8, 3, np.float64), case(7, 2, np.float64), case(11, 3, np.float32)]


# ---- 1. fair_signs ----


@_n
def fair_signs(u):
    """-1 where u < ½, else 1."""
    return np.where(u < 0.5, -1.0, 1.0).astype(u.dtype)


FAIR_SIGNS = Exercise(
    reference=fair_signs,
    inputs=_uniform_cases,
    right=(lambda u: 2 * (u >= 0.5).astype(u.dtype) - 1, lambda u: jnp.copysign(1, u - 0.5)),
    mistakes={
        "these are zeros and ones. Their mean is ½ and not 0, so z_i z_j does not average to 0: the signs are -1 and "
        "1 (lecture 07, §2).": _n(lambda u: (u >= 0.5).astype(u.dtype)),
        "all your signs are +1: u is never negative. z ⊙ Hz is then the row sums of H. Compare u with ½, not with 0 "
        "(lecture 07, §2).": _n(np.sign),
        "these are uniform numbers between -1 and 1. Their variance is 1/3, so the estimate would be a third of the "
        "diagonal (lecture 07, §2).": _n(lambda u: 2 * u - 1),
        "these are uniform with variance 1. The estimate would be unbiased, but E[z⁴] is 9/5 and not 1, which adds to "
        "its variance; asked for are signs (lecture 07, §2).": _n(lambda u: 3**0.5 * (2 * u - 1)),
        "these are Gaussians. The estimate would be unbiased, but its variance has 2H_ii² more, and one probe is not "
        "exact on a diagonal H. Asked for are signs (lecture 07, §2).": _n(ndtri),
        "your signs are exchanged: -1 where u is below ½. (They would be as fair; the check needs one convention.) "
        "(lecture 07, §2)": _n(lambda u: np.where(u < 0.5, 1.0, -1.0)),
        "one sign stands everywhere. Then z_i z_j = 1 for all pairs, and z ⊙ Hz is the row sums of H: each entry needs "
        "a sign of its own (lecture 07, §2).": _n(lambda u: np.full_like(u, 1 if u.ravel()[0] >= 0.5 else -1)),
        "your threshold is the mean of this u. Then the signs depend on each other, and are fair only by accident: the "
        "threshold is ½ (lecture 07, §2).": _n(lambda u: np.where(u < u.mean(), -1.0, 1.0)),
        "a u of exactly ½ gets 0, which is no sign: z² would be 0 there. It counts as +1 (lecture 07, §2).": _n(
            lambda u: np.sign(u - 0.5)
        ),
        "a u of exactly ½ gets -1. The text asks for -1 where u < ½ and +1 elsewhere (lecture 07, §2).": _n(
            lambda u: np.where(u <= 0.5, -1.0, 1.0)
        ),
        "these are ±½. With z² = ¼ the estimate would be a quarter of the diagonal (lecture 07, §2).": _n(
            lambda u: 0.5 * fair_signs(u)
        ),
    },
)


# ---- 2. probe_error ----


@_n
def probe_error(H, fourth):
    """√((E z⁴ - 1) H_ii² + Σ_{j≠i} H_ij²)."""
    D = np.diag(H)
    return np.sqrt((fourth - 1) * D**2 + (H**2).sum(axis=1) - D**2)


def _probe_error_in_jax(H, fourth):
    off = H * (1 - jnp.identity(len(H), H.dtype))
    return jnp.sqrt((fourth - 1) * jnp.square(jnp.diagonal(H)) + jnp.sum(off**2, axis=0))


@_n
def _probe_error_by_loops(H, fourth):
    n = len(H)
    rows = [sum(H[i, j] ** 2 * (fourth - 1 if i == j else 1) for j in range(n)) for i in range(n)]
    return np.array(rows) ** 0.5


def _error(change: Callable) -> Callable:
    """change(D², the sum of squares of the rest of the row, fourth) -> a wrong standard deviation."""
    return _n(lambda H, fourth: change(np.diag(H) ** 2, (H**2).sum(axis=1) - np.diag(H) ** 2, fourth))


PROBE_ERROR = Exercise(
    reference=probe_error,
    inputs=_error_cases,
    right=(_probe_error_in_jax, _probe_error_by_loops),
    mistakes={
        "this is the variance. The standard deviation is its root, in the unit of H (lecture 07, §2).": _error(
            lambda d, off, f: (f - 1) * d + off
        ),
        "the diagonal's own term is missing. It is 0 for signs alone, where z⁴ is 1; a Gaussian probe has it "
        "(lecture 07, §2).": _error(lambda d, off, f: np.sqrt(off)),
        "this is the length of the whole row, whatever the probe. H_ii z_i² has the factor E[z⁴] - 1; only the other "
        "entries have 1 (lecture 07, §2).": _error(lambda d, off, f: np.sqrt(d + off)),
        "E[z⁴] stands where E[z⁴] - 1 belongs: the square of the mean, H_ii², has to be subtracted (lecture 07, "
        "§2).": _error(lambda d, off, f: np.sqrt(f * d + off)),
        "you subtract 3 from E[z⁴]. That is the excess over a Gaussian; the variance of z² is E[z⁴] - 1 (lecture 07, "
        "§2).": _error(lambda d, off, f: np.sqrt(np.abs((f - 3) * d + off))),
        "you have the diagonal's term alone. The other entries of the row are the noise that even signs have "
        "(lecture 07, §2).": _error(lambda d, off, f: np.sqrt((f - 1) * d)),
        "the entries of the row are added before they are squared. Their signs z_i z_j are uncorrelated: the variances "
        "add, so the squares do (lecture 07, §2).": _n(
            lambda H, f: np.sqrt((f - 1) * np.diag(H) ** 2 + (H.sum(axis=1) - np.diag(H)) ** 2)
        ),
        "the magnitudes of the row are added. Variances add and standard deviations do not: square, sum, then the root "
        "(lecture 07, §2).": _n(lambda H, f: (f - 1) ** 0.5 * abs(np.diag(H)) + abs(H).sum(axis=1) - abs(np.diag(H))),
        "both terms have the factor E[z⁴] - 1. It belongs to the diagonal alone; the products z_i z_j have variance 1 "
        "(lecture 07, §2).": _error(lambda d, off, f: np.sqrt((f - 1) * (d + off))),
        "the rest of the row is there twice. z_i H_ij z_j counts once for entry i (twice it would count for the trace) "
        "(lecture 07, §2).": _error(lambda d, off, f: np.sqrt((f - 1) * d + 2 * off)),
        "this is one number. Each entry of the diagonal has an error of its own: sum over j, not over i and j "
        "(lecture 07, §2).": _error(lambda d, off, f: np.sqrt(((f - 1) * d + off).sum())),
    },
)


# ---- 3. hutchinson ----


def _hessian(loss, theta):
    return np.asarray(jax.hessian(loss)(theta))


def _mean_and_error(draws):
    return draws.mean(axis=0), draws.std(axis=0, ddof=1) / np.sqrt(len(draws))


def hutchinson(loss, theta, Z):
    """Mean and standard error of z ⊙ Hz over the rows of Z."""
    gradient = jax.grad(loss)
    Hz = np.stack([np.asarray(jax.jvp(gradient, (theta,), (z,))[1]) for z in Z])
    return _mean_and_error(np.asarray(Z) * Hz)


def _hutchinson_eq_8(loss, theta, Z):
    draw = jax.vmap(lambda z: z * jax.grad(lambda t: jax.grad(loss)(t) @ z)(theta))
    draws = draw(Z)
    return draws.mean(0), jnp.sqrt(jnp.var(draws, axis=0, ddof=1) / len(Z))


def _hutchinson_whole(loss, theta, Z):
    return _mean_and_error(np.asarray(Z) * (np.asarray(Z) @ _hessian(loss, theta)))


def _draws(change: Callable) -> Callable:
    """A wrong estimate: change(Z (M, P), H Z (M, P)) -> (estimate, standard error)."""

    def estimate(loss, theta, Z):
        Z = np.asarray(Z)
        return change(Z, Z @ _hessian(loss, theta))

    return estimate


def _of_gradient(loss, theta, Z):
    return _mean_and_error(np.asarray(Z) * np.asarray(jax.grad(loss)(theta)))


def _whole_diagonal(loss, theta, Z):
    D = np.diag(_hessian(loss, theta))
    return D, 0 * D


def _with_error(change: Callable) -> Callable:
    """The right mean with a wrong error: change(draws) -> error."""
    return _draws(lambda Z, HZ: ((Z * HZ).mean(0), change(Z * HZ)))


HUTCHINSON = Exercise(
    reference=hutchinson,
    inputs=_probe_cases,
    returns=("the first value, the estimate,", "the second value, the standard error,"),
    right=(_hutchinson_eq_8, _hutchinson_whole),
    mistakes={
        "you multiply by z once. The mean of Hz is H E[z] = 0; the second z, entry by entry, leaves the diagonal "
        "(lecture 07, §2).": _draws(lambda Z, HZ: _mean_and_error(HZ)),
        "you square Hz. Asked for is z ⊙ Hz: entry i of the square has the mean Σ_j H_ij², all of the row (lecture "
        "07, §2).": _draws(lambda Z, HZ: _mean_and_error(HZ**2)),
        "the gradient stands where Hz belongs. z ⊙ g has mean 0: differentiate the gradient along z (lecture 07, "
        "§2).": _of_gradient,
        "one probe serves for all rows: every draw is the same, and the error is 0. Each row of Z is a probe of its "
        "own (lecture 07, §4).": _draws(lambda Z, HZ: _mean_and_error(np.broadcast_to((Z * HZ)[0], Z.shape))),
        "you average magnitudes. The mean of |z ⊙ Hz| is not the diagonal, and not even its magnitude: errors of both "
        "signs no longer cancel (lecture 07, §3).": _draws(lambda Z, HZ: _mean_and_error(abs(Z * HZ))),
        "you average z and Hz by themselves and multiply after. Both averages go to 0: multiply first (lecture 07, "
        "§2).": _draws(lambda Z, HZ: (Z.mean(0) * HZ.mean(0), (Z * HZ).std(0, ddof=1) / len(Z) ** 0.5)),
        "zᵀHz is one number a probe; its mean is the trace of H. For the diagonal multiply entry by entry and add "
        "nothing up (lecture 07, §2).": _draws(lambda Z, HZ: _mean_and_error((Z * HZ).sum(axis=1))),
        "this is the exact diagonal, from the whole Hessian, and without an error. Asked for is the estimate from the "
        "probes, which needs no P × P matrix (lecture 07, §2).": _whole_diagonal,
        "you divide by z ⊙ z as well. For signs it is 1; for other probes you have Bekas' variant, and asked for is "
        "the plain mean (lecture 07, §2).": _draws(
            lambda Z, HZ: ((Z * HZ).sum(0) / (Z * Z).sum(0), (Z * HZ).std(0, ddof=1) / len(Z) ** 0.5)
        ),
        "your probes are normalised to length 1. Then E[z_i²] is 1/P, and so much is left of the diagonal (lecture "
        "07, §2).": _draws(lambda Z, HZ: _mean_and_error(Z * HZ / (Z**2).sum(axis=1, keepdims=True))),
        "this is a sum over the probes. The estimate is their mean (lecture 07, §2).": _draws(
            lambda Z, HZ: tuple(len(Z) * a for a in _mean_and_error(Z * HZ))
        ),
        "the second value is the spread of one draw. The mean of M draws is √M times surer (lecture 07, §2).": (
            _with_error(lambda d: d.std(0, ddof=1))
        ),
        "the standard error divides by M where the sample variance divides by M - 1 (ddof=1): with few probes it comes "
        "out too small (lecture 07, §2).": _with_error(lambda d: d.std(0) / len(d) ** 0.5),
        "the second value divides the spread by M. The error of a mean falls as 1/√M (lecture 07, §2).": _with_error(
            lambda d: d.std(0, ddof=1) / len(d)
        ),
        "the second value is a variance over M. The standard error is its root (lecture 07, §2).": _with_error(
            lambda d: d.var(0, ddof=1) / len(d)
        ),
    },
)


# ---- 4. block_average ----


def _blocks(D, b):
    return [D[i : i + b] for i in range(0, len(D), b)]


def _each(change: Callable) -> Callable:
    """change(block) for every block, one after the other."""
    return _n(lambda D, b: np.concatenate([np.broadcast_to(change(p), p.shape) for p in _blocks(D, b)]))


@_n
def block_average(D, b):
    """Every entry replaced by the mean of its block of b."""
    return np.concatenate([np.full_like(p, p.mean()) for p in _blocks(D, b)])


def _block_average_by_sums(D, b):
    which = jnp.arange(D.size) // b
    same = (which[:, None] == which[None, :]).astype(D.dtype)
    return same @ D / same.sum(axis=1)


@_n
def _block_average_by_loop(D, b):
    return np.array([np.mean(D[i // b * b :][:b]) for i in range(len(D))])


def _strided(D, b):
    out = np.array(D)
    for start in range(b):
        out[start::b] = D[start::b].mean()
    return out


def _rest_by_b(D, b):
    return np.concatenate([np.full_like(p, p.sum() / b) for p in _blocks(D, b)])


def _rest_alone(D, b):
    return np.concatenate([np.full_like(p, p.mean()) if len(p) == b else p for p in _blocks(D, b)])


def _rest_joined(D, b):
    whole = len(D) // b * b
    out = block_average(D, b)
    if whole < len(D):
        out[whole - b :] = D[whole - b :].mean()
    return out


def _moving(D, b):
    return np.array([D[max(0, i - b + 1) : i + 1].mean() for i in range(len(D))])


BLOCK_AVERAGE = Exercise(
    reference=block_average,
    inputs=_block_cases,
    right=(_block_average_by_sums, _block_average_by_loop),
    mistakes={
        "this is one number for each block. Every entry of the block gets it: the result is as long as D (lecture 07, "
        "§3).": _n(lambda D, b: np.array([p.mean() for p in _blocks(D, b)])),
        "you average magnitudes, as the public code does. The paper averages signed values, so that errors of opposite "
        "signs cancel (lecture 07, §3).": _each(lambda p: abs(p).mean()),
        "you average squares and take the root. The square comes after the average, else all the noise is kept "
        "(lecture 07, §3).": _each(lambda p: np.sqrt((p**2).mean())),
        "you average squares. Here nothing is squared; that comes later, after the average (lecture 07, §3).": _each(
            lambda p: (p**2).mean()
        ),
        "this is the sum of the block: divide by the number of its entries (lecture 07, §3).": _each(np.sum),
        "the last block is shorter and you divide its sum by b all the same, as if it were filled with zeros: divide "
        "by what is there (lecture 07, §3).": _n(_rest_by_b),
        "the last, shorter block is left as it was. It is averaged too, over the entries that it has (lecture 07, "
        "§3).": _n(_rest_alone),
        "the last, shorter block is averaged together with the one before it. It is a block of its own (lecture 07, "
        "§3).": _n(_rest_joined),
        "this is a moving average: each entry with those before it. The blocks do not overlap (lecture 07, §3).": _n(
            _moving
        ),
        "you average entries that are b apart. A block is b entries that follow each other (lecture 07, §3).": _n(
            _strided
        ),
        "you make b blocks. b is the number of entries in a block (lecture 07, §3).": _n(
            lambda D, b: block_average(D, -(-len(D) // b))
        ),
        "this is the mean of all entries: one block. A block has b entries (lecture 07, §3).": _n(
            lambda D, b: np.full_like(D, D.mean())
        ),
        "you take the median of each block. It is the mean, which is linear and so keeps an unbiased estimate unbiased "
        "(lecture 07, §3).": _each(np.median),
    },
)


# ---- 5. hessian_moment ----


def _square_average(Ds, b2):
    v = 0 * Ds[0]
    for d in Ds:
        v = b2 * v + (1 - b2) * d**2
    return v


@_n
def hessian_moment(Ds, b2, k):
    """v_t of eq. 12: the k-th power of the root of the corrected average of squares."""
    return np.sqrt(_square_average(Ds, b2) / (1 - b2 ** len(Ds))) ** k


@_n
def _moment_by_weights(Ds, b2, k):
    weights = (b2 ** np.arange(len(Ds))[::-1]).astype(Ds.dtype)
    return (weights @ Ds**2 / weights.sum()) ** (k / 2)


def _moment_in_jax(Ds, b2, k):
    weights = jnp.asarray(b2 ** np.arange(len(Ds))[::-1], Ds.dtype)
    mean = (1 - b2) * jnp.einsum("t,tp->p", weights, jnp.square(Ds)) / (1 - b2 ** len(Ds))
    return jnp.power(jnp.sqrt(mean), k)


def _moment(change: Callable) -> Callable:
    """change(uncorrected average of squares, 1 - b2ᵗ, t, b2, k) -> a wrong v."""
    return _n(lambda Ds, b2, k: change(_square_average(Ds, b2), 1 - b2 ** len(Ds), len(Ds), b2, k))


@_n
def _signed_moment(Ds, b2, k):
    m = 0 * Ds[0]
    for d in Ds:
        m = b2 * m + (1 - b2) * d
    return abs(m / (1 - b2 ** len(Ds))) ** k


@_n
def _magnitude_moment(Ds, b2, k):
    return _signed_moment(abs(Ds), b2, k)


@_n
def _from_first(Ds, b2, k):
    v = Ds[0] ** 2
    for d in Ds[1:]:
        v = b2 * v + (1 - b2) * d**2
    return v ** (k / 2)


HESSIAN_MOMENT = Exercise(
    reference=hessian_moment,
    inputs=_momentum_cases,
    right=(_moment_by_weights, _moment_in_jax),
    mistakes={
        "the bias correction is missing. The average started from 0, so its weights sum to 1 - b2ᵗ: divide by that "
        "(lecture 07, §4).": _moment(lambda v, w, t, b2, k: v ** (k / 2)),
        "the correction divides outside the root. It belongs to the average of squares: first divide, then the root "
        "(lecture 07, §4).": _moment(lambda v, w, t, b2, k: (np.sqrt(v) / w) ** k),
        "the correction comes after the power. It belongs to the average of squares: correct, take the root, then the "
        "power (lecture 07, §4).": _moment(lambda v, w, t, b2, k: np.sqrt(v) ** k / w),
        "you take the power before the average. Eq. 12 averages the squares of D, and takes the power of the root "
        "at the end (lecture 07, §4).": _n(
            lambda Ds, b2, k: np.sqrt(_square_average(abs(Ds) ** k, b2) / (1 - b2 ** len(Ds)))
        ),
        "the exponent of the correction counts from 0. After t rows the weights sum to 1 - b2ᵗ (lecture 07, §4).": (
            _moment(lambda v, w, t, b2, k: (v / (1 - b2 ** (t - 1))) ** (k / 2))
        ),
        "the exponent of the correction is one too large. After t rows the weights sum to 1 - b2ᵗ (lecture 07, §4).": (
            _moment(lambda v, w, t, b2, k: (v / (1 - b2 ** (t + 1))) ** (k / 2))
        ),
        "you multiply by 1 - b2ᵗ where you should divide (lecture 07, §4).": _moment(
            lambda v, w, t, b2, k: (v * w) ** (k / 2)
        ),
        "the root is missing: this is the average of squares to the power k. In eq. 12 the power is taken of the root, "
        "so that k = 1 is Newton's scale (lecture 07, §4).": _moment(lambda v, w, t, b2, k: (v / w) ** k),
        "the power k is missing: this is D̄ itself (lecture 07, §4).": _moment(lambda v, w, t, b2, k: np.sqrt(v / w)),
        "you average first and square after. That would remove the noise, and opposite signs would cancel; the "
        "paper's average is one of squares (lecture 07, §4).": _signed_moment,
        "you average magnitudes. Eq. 11 averages squares and takes the root (lecture 07, §4).": _magnitude_moment,
        "this is the plain root mean square. The average forgets: a row that is one step older has b2 times the weight "
        "(lecture 07, §4).": _n(lambda Ds, b2, k: (Ds**2).mean(axis=0) ** (k / 2)),
        "you weight the rows the wrong way round: the OLDEST row, the first, has been multiplied by b2 most often "
        "(lecture 07, §4).": _n(lambda Ds, b2, k: hessian_moment(Ds[::-1], b2, k)),
        "the two weights are exchanged: b2 is how much of the OLD average stays (lecture 07, §4).": _n(
            lambda Ds, b2, k: hessian_moment(Ds, 1 - b2, k)
        ),
        "you start from the first row's square. The average asked for starts from 0 and is corrected; yours gives the "
        "first row more than its share (lecture 07, §4).": _from_first,
        "this is the last row alone: no average over time (lecture 07, §4).": _n(lambda Ds, b2, k: abs(Ds[-1]) ** k),
        "the power is 1/k: with k = 0 it would be infinite, where v should be 1 (lecture 07, §1).": _moment(
            lambda v, w, t, b2, k: np.sqrt(v / w) ** (1 / k)
        ),
    },
)


# ---- 6. adahessian_step ----


def _stepper(
    square: Callable = lambda D, b, g: block_average(D, b) ** 2,
    hats: Callable = lambda m, v, t, b1, b2: (m / (1 - b1**t), v / (1 - b2**t)),
    below: Callable = lambda v, k, eps: np.sqrt(v) ** k + eps,
    finish: Callable = lambda theta, alpha, m, below, g, w: theta - alpha * (m / below + w * theta),
    stored: Callable = lambda m, v, m_hat, v_hat: (m, v),
    decays: Callable = lambda b1, b2: (b1, b2),
    gradient: Callable = lambda g, w, theta: g,
) -> Callable:
    """adahessian_step with one of its parts replaced."""

    @_n
    def step(theta, m, v, g, D, t, alpha, b1, b2, eps, k, w, b):
        b1, b2 = decays(b1, b2)
        g = gradient(g, w, theta)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * square(D, b, g)
        m_hat, v_hat = hats(m, v, t, b1, b2)
        return finish(theta, alpha, m_hat, below(v_hat, k, eps), g, w), *stored(m, v, m_hat, v_hat)

    return step


def adahessian_step(theta, m, v, g, D, t, alpha, b1, b2, eps, k, w, b):
    """(theta, m, v) after a step of Algorithm 1, with ε outside the power and decoupled decay."""
    return _stepper()(theta, m, v, g, D, t, alpha, b1, b2, eps, k, w, b)


def _step_in_jax(theta, m, v, g, D, t, alpha, b1, b2, eps, k, w, b):
    average = jnp.repeat(D.reshape(-1, b).mean(axis=1), b)
    m, v = m + (1 - b1) * (g - m), b2 * v + (1 - b2) * jnp.square(average)
    scale = jnp.power(v / (1 - b2**t), k / 2) + eps
    return theta * (1 - alpha * w) - alpha * m / (1 - b1**t) / scale, m, v


@_n
def _step_by_hand(theta, m, v, g, D, t, alpha, b1, b2, eps, k, w, b):
    new_m = b1 * m + g - b1 * g
    average = np.concatenate([np.full(b, D[i : i + b].mean(), D.dtype) for i in range(0, len(D), b)])
    new_v = b2 * v + average**2 - b2 * average**2
    change = new_m / (1 - b1**t) / (np.exp(k * np.log(np.sqrt(new_v / (1 - b2**t)))) + eps) + w * theta
    return theta - alpha * change, new_m, new_v


ADAHESSIAN_STEP = Exercise(
    reference=adahessian_step,
    inputs=_step_cases,
    returns=("the first value, theta,", "the second value, m,", "the third value, v,"),
    right=(_step_in_jax, _step_by_hand),
    mistakes={
        "you average after the square. The square keeps all the noise of single entries: average D over its block "
        "first, then square (lecture 07, §3).": _stepper(square=lambda D, b, g: block_average(D**2, b)),
        "you average magnitudes, as the public code does. The course follows the paper: the average is of signed "
        "values (lecture 07, §3).": _stepper(square=lambda D, b, g: block_average(abs(D), b) ** 2),
        "D is not averaged over its blocks of b entries (lecture 07, §3).": _stepper(square=lambda D, b, g: D**2),
        "v averages the squares of the gradient: that is Adam. Here it is those of D (lecture 07, §4).": _stepper(
            square=lambda D, b, g: g**2
        ),
        "v averages D itself and not its square. A negative curvature would then cancel a positive one, or have no "
        "root (lecture 07, §4).": _stepper(
            square=lambda D, b, g: block_average(D, b), below=lambda v, k, eps: np.sqrt(abs(v)) ** k + eps
        ),
        "v averages the magnitudes of D, not the squares, and its root is taken all the same (lecture 07, §4).": (
            _stepper(square=lambda D, b, g: abs(block_average(D, b)))
        ),
        "ε stands inside the power. Here it is added outside: D̄ᵏ + ε (lecture 07, §4).": _stepper(
            below=lambda v, k, eps: (np.sqrt(v) + eps) ** k
        ),
        "ε stands inside the root. Here it is added outside: D̄ᵏ + ε (lecture 07, §4).": _stepper(
            below=lambda v, k, eps: np.sqrt(v + eps) ** k
        ),
        "ε is missing: a weight without curvature would divide by 0 (lecture 07, §4).": _stepper(
            below=lambda v, k, eps: np.sqrt(v) ** k
        ),
        "the root is missing: v is an average of squares, and D̄ its root (lecture 07, §4).": _stepper(
            below=lambda v, k, eps: v**k + eps
        ),
        "the power k is missing: you divide by D̄ whatever k is (lecture 07, §4).": _stepper(
            below=lambda v, k, eps: np.sqrt(v) + eps
        ),
        "the bias correction is missing, for m and for v: both start from 0 (lecture 07, §4).": _stepper(
            hats=lambda m, v, t, b1, b2: (m, v)
        ),
        "only m is corrected. v starts from 0 as well (lecture 07, §4).": _stepper(
            hats=lambda m, v, t, b1, b2: (m / (1 - b1**t), v)
        ),
        "only v is corrected. m starts from 0 as well (lecture 07, §4).": _stepper(
            hats=lambda m, v, t, b1, b2: (m, v / (1 - b2**t))
        ),
        "your correction takes t + 1. The t that you are given counts this step already (lecture 07, §4).": _stepper(
            hats=lambda m, v, t, b1, b2: (m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1)))
        ),
        "your correction divides by 1 - b and lacks the exponent t, as the paper's eq. 5 prints it. The weights sum to "
        "1 - bᵗ (lecture 07, §4).": _stepper(hats=lambda m, v, t, b1, b2: (m / (1 - b1), v / (1 - b2))),
        "you return corrected averages. Store m and v as they are: the next step goes on from them (lecture 07, "
        "§4).": _stepper(stored=lambda m, v, m_hat, v_hat: (m_hat, v_hat)),
        "the v that you return is D̄, the root of the corrected average. Store the plain average of squares: the next "
        "step goes on from it (lecture 07, §4).": _stepper(stored=lambda m, v, m_hat, v_hat: (m, np.sqrt(v_hat))),
        "only your v is returned corrected. Store the plain average (lecture 07, §4).": _stepper(
            stored=lambda m, v, m_hat, v_hat: (m, v_hat)
        ),
        "the decay takes the new theta. It is α w θ with θ from before the step (lecture 07, §4).": _stepper(
            finish=lambda theta, a, m, d, g, w: (theta - a * m / d) * (1 - a * w)
        ),
        "you return the change and not the new theta (lecture 07, §4).": _stepper(
            finish=lambda theta, a, m, d, g, w: -a * (m / d + w * theta)
        ),
        "b1 and b2 are exchanged: b1 belongs to the gradients, b2 to the curvatures (lecture 07, §4).": _stepper(
            decays=lambda b1, b2: (b2, b1)
        ),
        "the decay is inside the gradient, so it is averaged and divided by D̄. Decoupled, it goes to theta directly: "
        "α w θ (lecture 07, §4).": _stepper(
            gradient=lambda g, w, theta: g + w * theta, finish=lambda theta, a, m, d, g, w: theta - a * m / d
        ),
        "the decay is not multiplied by the learning rate: it is α w θ (lecture 07, §4).": _stepper(
            finish=lambda theta, a, m, d, g, w: theta - a * m / d - w * theta
        ),
        "the decay is missing (lecture 07, §4).": _stepper(finish=lambda theta, a, m, d, g, w: theta - a * m / d),
        "the numerator is this step's gradient. It is its corrected average m̂ (lecture 07, §4).": _stepper(
            finish=lambda theta, a, m, d, g, w: theta - a * (g / d + w * theta)
        ),
        "the step goes uphill: subtract α m̂/(D̄ᵏ + ε) (lecture 07, §4).": _stepper(
            finish=lambda theta, a, m, d, g, w: theta + a * m / d - a * w * theta
        ),
        "you multiply by D̄ᵏ + ε. Where the curvature is large the step has to be short: divide (lecture 07, §1).": (
            _stepper(finish=lambda theta, a, m, d, g, w: theta - a * (m * d + w * theta))
        ),
    },
)


# ---- 7. delayed_run ----


def _run(
    due: Callable = lambda i, every: i % every == 0,
    corrected: Callable = lambda v, b2, t, r: v / (1 - b2**r),
    chosen: Callable = lambda Ds, i, r: Ds[i],
    between: Callable = lambda v, b2, last: v,
    slow: bool = False,
    by_steps: bool = False,
    m_hat: Callable = lambda m, b1, t: m / (1 - b1**t),
) -> Callable:
    """delayed_run with one of its parts replaced; r counts refreshes. slow: m is refreshed with v."""

    @_n
    def run(theta, gs, Ds, every, alpha, b1, b2, eps):
        m, v, r, last = 0 * theta, 0 * theta, 0, 0 * theta
        for i, g in enumerate(gs):
            if due(i, every):
                last = chosen(Ds, i, r)
                v, r = b2 * v + (1 - b2) * last**2, r + 1
            else:
                v = between(v, b2, last)
            if due(i, every) or not slow:
                m = b1 * m + (1 - b1) * g
            t = r if slow and not by_steps else i + 1
            with np.errstate(divide="ignore", invalid="ignore"):
                theta = theta - alpha * m_hat(m, b1, t) / (np.sqrt(corrected(v, b2, i + 1, r)) + eps)
        return theta

    return run


def delayed_run(theta, gs, Ds, every, alpha, b1, b2, eps):
    """theta after all steps, v refreshed at counts 0, every, 2·every, ..."""
    return _run()(theta, gs, Ds, every, alpha, b1, b2, eps)


@_n
def _delayed_by_sums(theta, gs, Ds, every, alpha, b1, b2, eps):
    for t in range(1, len(gs) + 1):
        seen = Ds[:t:every]
        w1 = (b1 ** np.arange(t)[::-1]).astype(theta.dtype)
        w2 = (b2 ** np.arange(len(seen))[::-1]).astype(theta.dtype)
        D_bar = np.sqrt(w2 @ seen**2 / w2.sum())
        theta = theta - alpha * (w1 @ gs[:t] / w1.sum()) / (D_bar + eps)
    return theta


def _delayed_in_jax(theta, gs, Ds, every, alpha, b1, b2, eps):
    m = v = jnp.zeros_like(theta)
    for i, g in enumerate(gs):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * Ds[i] ** 2 if i % every == 0 else v
        hat = v / (1 - b2 ** (i // every + 1))
        theta = theta - alpha * m / (1 - b1 ** (i + 1)) / (jnp.sqrt(hat) + eps)
    return theta


@_n
def _every_step(theta, gs, Ds, every, alpha, b1, b2, eps):
    return delayed_run(theta, gs, Ds, 1, alpha, b1, b2, eps)


@_n
def _stale(theta, gs, Ds, every, alpha, b1, b2, eps):
    held = Ds[np.arange(len(Ds)) // every * every]
    return delayed_run(theta, gs, held, 1, alpha, b1, b2, eps)


def _m_by_refreshes(theta, gs, Ds, every, alpha, b1, b2, eps):
    count = lambda t: (t - 1) // every + 1  # noqa: E731
    run = _run(m_hat=lambda m, b1, t: m / (1 - b1 ** count(t)))
    return run(theta, gs, Ds, every, alpha, b1, b2, eps)


DELAYED_RUN = Exercise(
    reference=delayed_run,
    inputs=_delayed_cases,
    right=(_delayed_by_sums, _delayed_in_jax),
    mistakes={
        "your bias correction of v counts steps. v has been refreshed less often: its weights sum to 1 - b2ʳ after r "
        "refreshes (lecture 07, §4).": _run(corrected=lambda v, b2, t, r: v / (1 - b2**t)),
        "v is not corrected. It started from 0 and is too small (lecture 07, §4).": _run(
            corrected=lambda v, b2, t, r: v
        ),
        "m is not corrected. It started from 0 too, and its correction counts steps (lecture 07, §4).": _run(
            m_hat=lambda m, b1, t: m
        ),
        "you refresh at every step. With every = n only the counts 0, n, 2n, ... have a Hessian; that is what saves "
        "the time (lecture 07, §4).": _every_step,
        "between refreshes you put the last D into v again. v is left alone there: else an old D gets more weight the "
        "longer it is kept (lecture 07, §4).": _stale,
        "between refreshes v goes on decaying, with nothing new coming in. It is left alone there (lecture 07, "
        "§4).": _run(between=lambda v, b2, last: b2 * v),
        "you take the rows of Ds one after another. At count i a refresh uses row i, the Hessian of that moment "
        "(lecture 07, §4).": _run(chosen=lambda Ds, i, r: Ds[r]),
        "the first refresh comes at the end of the first n steps, so the steps before it divide by ε alone, or by 0/0. "
        "The counts are 0, n, 2n, ... (lecture 07, §4).": _run(
            due=lambda i, every: (i + 1) % every == 0,
            corrected=lambda v, b2, t, r: v / (1 - b2**r) if r else v,
        ),
        "the first refresh comes at the end of the first n steps, and the steps before it are 0/0. The counts are 0, "
        "n, 2n, ... (lecture 07, §4).": _run(
            due=lambda i, every: (i + 1) % every == 0,
            corrected=lambda v, b2, t, r: v / np.float64(1 - b2**r),
        ),
        "m is averaged at the refreshes only, while its correction counts steps. There is a gradient at every step, "
        "and m takes all of them (lecture 07, §4).": _run(slow=True, by_steps=True),
        "between refreshes v goes on decaying, and its correction counts steps. It is left alone there, and 1 - b2ʳ "
        "counts refreshes (lecture 07, §4).": _run(
            between=lambda v, b2, last: b2 * v, corrected=lambda v, b2, t, r: v / (1 - b2**t)
        ),
        "m is averaged at the refreshes only. There is a gradient at every step, and m takes all of them (lecture 07, "
        "§4).": _run(slow=True),
        "there is no average over time: you divide by the last |D|. Ripples and noise then decide the step (lecture "
        "07, §5).": _n(lambda theta, gs, Ds, n, alpha, b1, b2, eps: delayed_run(theta, gs, Ds, n, alpha, b1, 0.0, eps)),
        "your correction of m counts refreshes. m is averaged at every step: 1 - b1ᵗ (lecture 07, §4).": (
            _m_by_refreshes
        ),
    },
)


EXERCISES = {
    "fair_signs": FAIR_SIGNS,
    "probe_error": PROBE_ERROR,
    "hutchinson": HUTCHINSON,
    "block_average": BLOCK_AVERAGE,
    "hessian_moment": HESSIAN_MOMENT,
    "adahessian_step": ADAHESSIAN_STEP,
    "delayed_run": DELAYED_RUN,
}
