"""Unit 06. The bank of exercise 06: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 06. All of it is NumPy, but for the drawn labels: nothing compiles.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise
from course_lib.checks.banks import on_numpy

FLOATS = (np.float64, np.float32)


# ---- inputs: no two sizes of one case agree, and nothing is badly conditioned ----


def _arrays(*arrays: np.ndarray) -> Case:
    return tuple(jnp.asarray(a) for a in arrays)


def _positive(rng: np.random.Generator, size: int, low: float, high: float) -> np.ndarray:
    """A symmetric matrix with eigenvalues spread from low to high, in no special axes."""
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return (q * rng.permutation(np.geomspace(low, high, size))) @ q.T


def _sizes(rng: np.random.Generator) -> tuple[int, int, int]:
    """n examples, d inputs, k outputs: n, d, d + 1 and k all differ."""
    return int(rng.integers(9, 12)), int(rng.integers(5, 7)), int(rng.integers(2, 4))


def _kron_cases(rng: np.random.Generator) -> list[Case]:
    """(A, B, V), neither factor symmetric: then every transpose is seen."""
    _, d, k = _sizes(rng)

    def case(dtype: DTypeLike) -> Case:
        return _arrays(*(rng.normal(size=shape).astype(dtype) for shape in ((d, d), (k, k), (d, k))))

    return [case(dtype) for dtype in FLOATS]


def _batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, d) and slopes (n, k), whose means are not small beside the scatter."""
    n, d, k = _sizes(rng)
    return rng.normal(size=(n, d)) + rng.uniform(0.3, 1, d), rng.normal(size=(n, k)) + rng.uniform(0.3, 1, k)


def _factor_cases(rng: np.random.Generator) -> list[Case]:
    a, g = _batch(rng)
    return [_arrays(a, g), _arrays(*(rng.normal(size=m.shape).astype(np.float32) for m in (a, g)))]


def sample(key: jax.Array, z: jax.Array) -> jax.Array:
    """One class, drawn from softmax(z)."""
    return jax.random.categorical(key, z)


def _label_cases(rng: np.random.Generator) -> list[Case]:
    """(sample, logits, observed y, keys), with logits that neither decide the class nor leave it open."""
    n, k = int(rng.integers(13, 17)), int(rng.integers(5, 7))

    def case(dtype: DTypeLike) -> Case:
        z, y = (2 * rng.normal(size=(n, k))).astype(dtype), rng.integers(0, k, n)
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), n)
        return sample, jnp.asarray(z), jnp.asarray(y), keys

    return [case(dtype) for dtype in FLOATS]


def _pair(rng: np.random.Generator, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A large A and a small G: π is far from 1."""
    return _positive(rng, d, 2.0, 9.0), _positive(rng, k, 0.1, 0.4)


def _damping_cases(rng: np.random.Generator) -> list[Case]:
    """(A, G, λ), λ of the size of the eigenvalues of the product."""
    _, d, k = _sizes(rng)

    def case(dtype: DTypeLike) -> Case:
        a, g = _pair(rng, d, k)
        return *_arrays(a.astype(dtype), g.astype(dtype)), float(rng.uniform(0.2, 0.8))

    return [case(dtype) for dtype in FLOATS]


def _inverse_cases(rng: np.random.Generator) -> list[Case]:
    """(A, G, V)."""
    _, d, k = _sizes(rng)

    def case(dtype: DTypeLike) -> Case:
        a, g = _positive(rng, d, 0.5, 2.0), _positive(rng, k, 0.4, 2.5)
        return _arrays(*(m.astype(dtype) for m in (a, g, rng.normal(size=(d, k)))))

    return [case(dtype) for dtype in FLOATS]


def _step_cases(rng: np.random.Generator) -> list[Case]:
    """(W, A, G, t, a, g, g_drawn, rate, λ, ε): the first step, one in the plain mean, one in the moving average."""
    n, d, k = _sizes(rng)

    def case(t: int, dtype: DTypeLike) -> Case:
        arrays = [rng.normal(size=(d + 1, k)), *_pair(rng, d + 1, k)]
        batch = rng.normal(size=(n, d)), rng.normal(size=(n, k)), 0.7 * rng.normal(size=(n, k))
        before, now = ([m.astype(dtype) for m in some] for some in (arrays, batch))
        numbers = float(rng.uniform(0.2, 0.5)), float(rng.uniform(0.2, 0.6)), float(rng.uniform(0.85, 0.95))
        return *_arrays(*before), t, *_arrays(*now), *numbers

    return [case(1, np.float64), case(4, np.float64), case(60, np.float32)]


def _all_numpy(mistakes: dict[str, Callable]) -> dict[str, Callable]:
    return {message: on_numpy(wrong) for message, wrong in mistakes.items()}


def _identity(like: np.ndarray) -> np.ndarray:
    return np.eye(len(like), dtype=like.dtype)


# ---- 1. kron_times ----


def kron_times(A, B, V):
    """(A ⊗ B) vec V as a matrix: A V Bᵀ."""
    return np.asarray(A) @ np.asarray(V) @ np.asarray(B).T


def _kron_formed(A, B, V):
    return (np.kron(A, B) @ V.ravel()).reshape(V.shape)


KRON_TIMES = Exercise(
    reference=kron_times,
    inputs=_kron_cases,
    right=(on_numpy(_kron_formed), on_numpy(lambda A, B, V: np.einsum("ij,pq,jq->ip", A, B, V))),
    mistakes=_all_numpy(
        {
            "B stands on the right without its transpose. Entry (i, p) is Σ A_ij V_jq B_pq: the sum runs over the "
            "second index of B, and A V B sums over its first. For symmetric factors you would never have seen it "
            "(lecture 06, §1).": lambda A, B, V: A @ V @ B,
            "both factors are transposed: this is (A ⊗ B)ᵀ vec V. Check which index of A meets the row index of V "
            "(lecture 06, §1).": lambda A, B, V: A.T @ V @ B,
            "A is transposed. The sum runs over the second index of A: A V, not Aᵀ V (lecture 06, §1).": (
                lambda A, B, V: A.T @ V @ B.T
            ),
            "the order of the Kronecker product is turned round: this is B ⊗ A on the rows of V. The shapes fit, the "
            "entries are mixed up: with the rows of V as the list, the factor of the row index comes first "
            "(lecture 06, §1).": lambda A, B, V: (np.kron(B, A) @ V.ravel()).reshape(V.shape),
            "you list V column by column. That list belongs to B ⊗ A; here vec lists the rows, as V.ravel() does "
            "(lecture 06, §1).": lambda A, B, V: (np.kron(A, B) @ V.ravel(order="F")).reshape(V.shape, order="F"),
            "V went in column by column and came out row by row. Read and write the list in the same order: rows "
            "(lecture 06, §1).": lambda A, B, V: (np.kron(A, B) @ V.ravel(order="F")).reshape(V.shape),
            "the product B ⊗ A on columns would be right, but you read the result row by row. Columns in, columns "
            "out; or take A ⊗ B and rows throughout (lecture 06, §1).": lambda A, B, V: (
                np.kron(B, A) @ V.ravel(order="F")
            ).reshape(V.shape),
            "this is the list of numbers. The matrix is asked for, in the shape of V: its list is vec of it "
            "(lecture 06, §1).": lambda A, B, V: (A @ V @ B.T).ravel(),
            "this is the transpose of the right matrix: B Vᵀ Aᵀ has the columns of V as rows (lecture 06, §1).": (
                lambda A, B, V: B @ V.T @ A.T
            ),
            "B is missing: A V is (A ⊗ I) vec V (lecture 06, §1).": lambda A, B, V: A @ V,
            "A is missing: V Bᵀ is (I ⊗ B) vec V (lecture 06, §1).": lambda A, B, V: V @ B.T,
        }
    ),
)


# ---- 2. factors ----


def _with_bias(a):
    return np.concatenate([a, np.ones((len(a), 1), a.dtype)], axis=1)


def _second_moment(rows):
    return rows.T @ rows / len(rows)


@on_numpy
def _factors(a, g):
    return _second_moment(_with_bias(a)), _second_moment(g)


def factors(a, g):
    """A = mean of [a, 1][a, 1]ᵀ, G = mean of g gᵀ."""
    return _factors(a, g)


def _factors_loop(a, g):
    inputs = [np.append(row, np.ones(1, a.dtype)) for row in a]
    return np.mean([np.outer(r, r) for r in inputs], axis=0), np.mean([np.outer(r, r) for r in g], axis=0)


def _of_factors(change: Callable) -> Callable:
    """Wrong factors: change(A, G, a with bias, g)."""
    return lambda a, g: change(*_factors(a, g), _with_bias(a), g)


def _covariance(rows):
    return _second_moment(rows - rows.mean(0))


FACTORS = Exercise(
    reference=factors,
    inputs=_factor_cases,
    returns=("the first value, A,", "the second value, G,"),
    right=(
        on_numpy(_factors_loop),
        on_numpy(lambda a, g: tuple(np.einsum("ni,nj->ij", m, m) / len(m) for m in (_with_bias(a), g))),
    ),
    mistakes=_all_numpy(
        {
            "the bias column is missing. The bias is the row of W whose input is always 1: without a 1 at the end of a "
            "there is no row for it in A (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (_second_moment(a[:, :-1]), G)
            ),
            "the 1 of the bias stands in front. Here the bias is the last row of W, so its 1 comes last; A of the "
            "right size in another order belongs to other weights (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (_second_moment(np.roll(a, 1, axis=1)), G)
            ),
            "the bias column is zero. A bias is added whatever the input: its input is 1 (lecture 06, §2).": (
                _of_factors(
                    lambda A, G, a, g: (
                        _second_moment(np.concatenate([a[:, :-1], np.zeros_like(a[:, :1])], axis=1)),
                        G,
                    )
                )
            ),
            "g got a column of ones too. Only the inputs have one: the slopes of the k outputs are all there is to G "
            "(lecture 06, §2).": _of_factors(lambda A, G, a, g: (A, _second_moment(_with_bias(g)))),
            "these are sums over the examples. Both are means: divide by n (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (A * len(a), G * len(a))
            ),
            "A is a sum over the examples, and G a mean. A is a mean too (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (A * len(a), G)
            ),
            "G is a sum over the examples, and A a mean. G is a mean too (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (A, G * len(a))
            ),
            "G is divided by n twice. The rows of g are slopes of single examples' losses: nothing is divided by n in "
            "them, and one mean is all there is (lecture 06, §2).": _of_factors(lambda A, G, a, g: (A, G / len(a))),
            "A and G are both divided by n twice. One mean over the examples is all there is (lecture 06, §2).": (
                _of_factors(lambda A, G, a, g: (A / len(a), G / len(a)))
            ),
            "you divided the slopes by n before squaring, as if they came from the mean loss: G is n² times too "
            "small. They are the slopes of single examples already (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (A, G / len(a) ** 2)
            ),
            "you multiplied the slopes by n: G is n² times too large. That is for slopes of the mean loss; these are "
            "slopes of each example's own loss already (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (A, G * len(a) ** 2)
            ),
            "these are outer products of the mean input and the mean slope, of rank one. Take the outer product of "
            "each example first, the mean after it (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: tuple(np.outer(m.mean(0), m.mean(0)) for m in (a, g))
            ),
            "you subtracted the mean slope from g. G is a second moment; the mean over labels is zero by itself if "
            "they are the model's, and is not to be taken away (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (A, _covariance(g))
            ),
            "you subtracted the means: these are covariances. A and G are second moments, and a's mean is no noise "
            "(lecture 06, §2).": _of_factors(lambda A, G, a, g: (_covariance(a), _covariance(g))),
            "you divide by n - 1. No mean has been fitted here: plain means over the n examples (lecture 06, §2).": (
                _of_factors(lambda A, G, a, g: (A * (len(a) / (len(a) - 1)), G * (len(a) / (len(a) - 1))))
            ),
            "the two are exchanged: A, of the inputs, comes first (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (G, A)
            ),
            "these are (n, n): products of examples with each other. The sums run over the examples: A is "
            "(d + 1, d + 1) and G is (k, k) (lecture 06, §2).": _of_factors(
                lambda A, G, a, g: (a @ a.T / len(a), g @ g.T / len(a))
            ),
        }
    ),
)


# ---- 3. drawn_slopes ----


def drawn_slopes(sample, z, y, keys):
    """softmax(z) - e_ỹ, with ỹ drawn from the model: one row an example."""
    return _slopes_at(z, jax.vmap(sample)(keys, z))


def _slopes_at(z, labels):
    """softmax(z) - one-hot, in NumPy and the dtype of z."""
    p, out = _softmax(np.asarray(z)), np.zeros(z.shape, z.dtype)
    out[np.arange(len(out)), np.asarray(labels)] = 1
    return p - out


def _softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _drawn_by_loops(sample, z, y, keys):
    labels = [int(sample(key, row)) for key, row in zip(keys, z, strict=True)]
    return jnp.stack([jax.nn.softmax(row) - jax.nn.one_hot(c, row.size) for row, c in zip(z, labels, strict=True)])


def _drawn_by_grad(sample, z, y, keys):
    labels = jax.vmap(sample)(keys, z)
    return jax.grad(lambda z: jnp.sum(jax.nn.logsumexp(z, axis=1) - z[jnp.arange(len(z)), labels]))(z)


def _labelled(labels: Callable) -> Callable:
    """Slopes at other labels: labels(sample, z, y, keys)."""
    return lambda *args: _slopes_at(args[1], labels(*args))


def _of_slopes(change: Callable) -> Callable:
    return lambda *args: change(drawn_slopes(*args), _softmax(np.asarray(args[1])), np.asarray(args[1]))


DRAWN_SLOPES = Exercise(
    reference=drawn_slopes,
    inputs=_label_cases,
    right=(_drawn_by_loops, _drawn_by_grad),
    mistakes={
        "you use the observed labels. G is an expectation over the MODEL's y; with the data's y it is a factor of the "
        "empirical Fisher (lecture 06, §9).": _labelled(lambda sample, z, y, keys: y),
        "you use the most likely class of each example. It is no draw: nothing averages to G then "
        "(lecture 06, §9).": _labelled(lambda sample, z, y, keys: np.asarray(z).argmax(axis=1)),
        "one key serves all examples, so their labels are not independent. keys[i] is for example i "
        "(lecture 06, §9).": _labelled(lambda sample, z, y, keys: jax.vmap(sample, (None, 0))(keys[0], z)),
        "you handed probabilities to `sample`, which takes logits: its draws come from softmax(softmax(z)), which is "
        "nearly uniform (lecture 06, §9).": _labelled(
            lambda sample, z, y, keys: jax.vmap(sample)(keys, jnp.asarray(_softmax(np.asarray(z))))
        ),
        "the sign is turned. g is the slope of the loss -log p, softmax(z) - e_y; the square does not see it, the "
        "layers below and the gradient do (lecture 06, §2).": _of_slopes(lambda g, p, z: -g),
        "you averaged over the labels before squaring: the mean slope over the model's y is zero. Draw one label and "
        "keep its slope (lecture 06, §9).": _of_slopes(lambda g, p, z: np.zeros_like(g)),
        "the slopes are divided by n, as those of the mean loss are. G's mean over the examples would then divide by n "
        "again (lecture 06, §2).": _of_slopes(lambda g, p, z: g / len(g)),
        "the one-hot of the label is missing: this is softmax(z), the same for every draw (lecture 06, §2).": (
            _of_slopes(lambda g, p, z: p)
        ),
        "the probabilities are missing: the slope at the logits is softmax(z) - e_y, not -e_y (lecture 06, §2).": (
            _of_slopes(lambda g, p, z: g - p)
        ),
        "you subtract the one-hot from the logits. The slope of log Σ exp z is softmax(z) (lecture 06, §2).": (
            _of_slopes(lambda g, p, z: z + (g - p))
        ),
        "the softmax is taken down the columns, over the examples. An example's probabilities are a row, axis 1, which "
        "sums to one (lecture 06, §2).": _of_slopes(lambda g, p, z: _softmax(z.T).T + (g - p)),
        "the softmax is taken over all entries together. Each row has its own: axis 1 (lecture 06, §2).": _of_slopes(
            lambda g, p, z: _softmax(z.reshape(1, -1)).reshape(z.shape) + (g - p)
        ),
        "you subtract the one-hot from log-probabilities. The slope at the logits has the probabilities themselves "
        "(lecture 06, §2).": _of_slopes(lambda g, p, z: np.log(p) + (g - p)),
        "these are differences of two one-hots, of observed and drawn labels. The probabilities are missing, and "
        "the observed labels have no place here (lecture 06, §9).": lambda *args: (
            drawn_slopes(*args) - _slopes_at(args[1], args[2])
        ),
        "you averaged the slopes at the drawn and at the observed labels. G takes the model's labels alone "
        "(lecture 06, §9).": lambda *args: (drawn_slopes(*args) + _slopes_at(args[1], args[2])) / 2,
        "you made keys of your own. Use `keys`, one for each example: else the labels are the same in every step "
        "(lecture 06, §9).": _labelled(
            lambda sample, z, y, keys: jax.vmap(sample)(jax.random.split(jax.random.key(0), len(z)), z)
        ),
        "you keep the slope of the drawn class alone. The loss depends on every logit: a row has k entries that "
        "sum to zero (lecture 06, §2).": _of_slopes(lambda g, p, z: g * (g < 0)),
    },
)


# ---- 4. damped_factors ----


def _pi(A, G):
    return float(np.sqrt((np.trace(A) / len(A)) / (np.trace(G) / len(G))))


def _split(A, G, to_A, to_G):
    return A + to_A * _identity(A), G + to_G * _identity(G)


@on_numpy
def _damped(A, G, damping):
    root = float(damping) ** 0.5
    return _split(A, G, _pi(A, G) * root, root / _pi(A, G))


def damped_factors(A, G, damping):
    """A + π√λ I and G + √λ/π I."""
    return _damped(A, G, damping)


def _damped_by_means(A, G, damping):
    left, right = A.copy(), G.copy()
    mean_a, mean_g = np.diag(A).mean(), np.diag(G).mean()
    left[np.diag_indices(len(A))] += np.sqrt(damping * mean_a / mean_g)
    right[np.diag_indices(len(G))] += np.sqrt(damping * mean_g / mean_a)
    return left, right


def _damped_by_eigenvalues(A, G, damping):
    ratio = np.linalg.eigvalsh(A).mean() / np.linalg.eigvalsh(G).mean()
    return _split(A, G, float(damping * ratio) ** 0.5, float(damping / ratio) ** 0.5)


def _with_pi(pi: Callable) -> Callable:
    return lambda A, G, lam: _split(A, G, float(pi(A, G)) * lam**0.5, lam**0.5 / float(pi(A, G)))


DAMPED_FACTORS = Exercise(
    reference=damped_factors,
    inputs=_damping_cases,
    returns=("the first value, the damped A,", "the second value, the damped G,"),
    right=(on_numpy(_damped_by_means), on_numpy(_damped_by_eigenvalues)),
    mistakes=_all_numpy(
        {
            "λ is added to each factor, whole. Multiplied out that is A ⊗ G + λ (A ⊗ I + I ⊗ G) + λ² I: the term λ I "
            "needs √λ on both sides (lecture 06, §6).": lambda A, G, lam: _split(A, G, lam, lam),
            "this is the split with π = 1. It takes no notice of the sizes of A and G, and changes with the unit of "
            "the loss; π balances the two terms that are too much (lecture 06, §6).": lambda A, G, lam: _split(
                A, G, lam**0.5, lam**0.5
            ),
            "π stands on the wrong sides: A, whose mean eigenvalue is π² times that of G, gets π√λ, and G gets √λ/π "
            "(lecture 06, §6).": _with_pi(lambda A, G: 1 / _pi(A, G)),
            "the root of π is missing: the quotient of the mean eigenvalues is π², not π (lecture 06, §6).": _with_pi(
                lambda A, G: _pi(A, G) ** 2
            ),
            "the traces are not divided by the sizes. π² is a quotient of MEAN eigenvalues: tr A / d over tr G / k "
            "(lecture 06, §6).": _with_pi(lambda A, G: np.sqrt(np.trace(A) / np.trace(G))),
            "the traces are multiplied by the sizes, or the sizes exchanged. The mean eigenvalue of A is tr A over its "
            "own size (lecture 06, §6).": _with_pi(lambda A, G: np.sqrt(np.trace(A) * len(A) / (np.trace(G) * len(G)))),
            "the root of λ is missing: π λ and λ/π multiply to λ². Their product has to be λ (lecture 06, §6).": (
                lambda A, G, lam: _split(A, G, _pi(A, G) * lam, lam / _pi(A, G))
            ),
            "these are the inverses. The damped factors themselves are asked for; inverting comes next "
            "(lecture 06, §7).": lambda A, G, lam: tuple(np.linalg.inv(m) for m in _damped(A, G, lam)),
            "the number is added to every entry. Damping adds it to the diagonal: a multiple of the identity "
            "(lecture 06, §6).": lambda A, G, lam: (A + _pi(A, G) * lam**0.5, G + lam**0.5 / _pi(A, G)),
            "G gets π√λ too. It gets √λ/π: the product of the two has to be λ (lecture 06, §6).": lambda A, G, lam: (
                _split(A, G, _pi(A, G) * lam**0.5, _pi(A, G) * lam**0.5)
            ),
            "only A is damped. A singular G stays singular then: both factors need their part (lecture 06, §6).": (
                lambda A, G, lam: _split(A, G, _pi(A, G) * lam**0.5, 0.0)
            ),
            "only G is damped. A singular A stays singular then: both factors need their part (lecture 06, §6).": (
                lambda A, G, lam: _split(A, G, 0.0, lam**0.5 / _pi(A, G))
            ),
            "π is the quotient of the largest eigenvalues. The split that makes the trace of the excess smallest has "
            "the mean ones (lecture 06, §6).": _with_pi(
                lambda A, G: np.sqrt(np.linalg.eigvalsh(A)[-1] / np.linalg.eigvalsh(G)[-1])
            ),
            "π is made of Frobenius norms. That is another measure of size; here it is traces, divided by the sizes "
            "(lecture 06, §6).": _with_pi(lambda A, G: np.sqrt(np.linalg.norm(A) / np.linalg.norm(G))),
            "λ is halved between the two. They are multiplied, not added: √λ each, times π and 1/π "
            "(lecture 06, §6).": lambda A, G, lam: _split(A, G, lam / 2, lam / 2),
            "the two are exchanged: the damped A comes first (lecture 06, §6).": lambda A, G, lam: _damped(A, G, lam)[
                ::-1
            ],
        }
    ),
)


# ---- 5. apply_inverse ----


@on_numpy
def _apply_inverse(A, G, V):
    return np.linalg.solve(A, V) @ np.linalg.inv(G)


def apply_inverse(A, G, V):
    """(A ⊗ G)⁻¹ vec V as a matrix, for symmetric factors: A⁻¹ V G⁻¹."""
    return _apply_inverse(A, G, V)


def _power(m, exponent):
    values, vectors = np.linalg.eigh(m)
    return (vectors * values**exponent) @ vectors.T


APPLY_INVERSE = Exercise(
    reference=apply_inverse,
    inputs=_inverse_cases,
    right=(
        on_numpy(lambda A, G, V: np.linalg.solve(np.kron(A, G), V.ravel()).reshape(V.shape)),
        on_numpy(lambda A, G, V: np.linalg.solve(G, np.linalg.solve(A, V).T).T),
    ),
    mistakes=_all_numpy(
        {
            "this is (A ⊗ G) vec V. The inverse is asked for: the inverse of the product is the product of the "
            "inverses (lecture 06, §7).": lambda A, G, V: A @ V @ G,
            "G is not inverted. (A ⊗ G)⁻¹ = A⁻¹ ⊗ G⁻¹: both are (lecture 06, §1).": lambda A, G, V: (
                np.linalg.solve(A, V) @ G
            ),
            "A is not inverted. (A ⊗ G)⁻¹ = A⁻¹ ⊗ G⁻¹: both are (lecture 06, §1).": lambda A, G, V: (
                A @ V @ np.linalg.inv(G)
            ),
            "G is missing: A⁻¹ V treats all outputs alike (lecture 06, §7).": lambda A, G, V: np.linalg.solve(A, V),
            "A is missing: V G⁻¹ treats all inputs alike (lecture 06, §7).": lambda A, G, V: V @ np.linalg.inv(G),
            "the order of the Kronecker product is turned round: you solved with G ⊗ A. The rows of V belong to A "
            "(lecture 06, §1).": lambda A, G, V: np.linalg.solve(np.kron(G, A), V.ravel()).reshape(V.shape),
            "you list V column by column. Solved with A ⊗ G, the list is of rows (lecture 06, §1).": lambda A, G, V: (
                np.linalg.solve(np.kron(A, G), V.ravel(order="F")).reshape(V.shape, order="F")
            ),
            "you divide by the diagonals alone. That is the diagonal of A ⊗ G; the directions that are no axes are "
            "what the factors are kept for (lecture 06, §7).": lambda A, G, V: V / np.outer(np.diag(A), np.diag(G)),
            "you took 1/A entry by entry. The inverse of a matrix is another thing (lecture 06, §1).": (
                lambda A, G, V: (1 / A) @ V @ (1 / G)
            ),
            "these are inverse roots. Adam has a root over its second moments; K-FAC divides by F itself, so by A and "
            "G (lecture 06, §7).": lambda A, G, V: _power(A, -0.5) @ V @ _power(G, -0.5),
            "you inverted the Cholesky factors L and stopped there: A = L Lᵀ has the inverse L⁻ᵀ L⁻¹, both of them "
            "(lecture 06, §7).": lambda A, G, V: (
                np.linalg.inv(np.linalg.cholesky(A)) @ V @ np.linalg.inv(np.linalg.cholesky(G))
            ),
            "you added the two sides. The product of the inverses stands on both sides of V at once: A⁻¹ V G⁻¹ "
            "(lecture 06, §1).": lambda A, G, V: np.linalg.solve(A, V) + V @ np.linalg.inv(G),
            "this is the list of numbers. The matrix is asked for, in the shape of V (lecture 06, §1).": (
                lambda A, G, V: _apply_inverse(A, G, V).ravel()
            ),
            "this is the transpose of the right matrix. A⁻¹ stands on the left of V, G⁻¹ on its right "
            "(lecture 06, §7).": lambda A, G, V: _apply_inverse(A, G, V).T,
            "the sign is turned. The minus belongs to the step; the product with the inverse has none "
            "(lecture 06, §7).": lambda A, G, V: -_apply_inverse(A, G, V),
        }
    ),
)


# ---- 6. kfac_step ----


def _parts(W, A, G, t, a, g, g_drawn, rate, damping, decay):
    """The pieces of a right step: gradient, this batch's factors, ε."""
    gradient = _with_bias(a).T @ g / len(a)
    return gradient, *_factors(a, g_drawn), min(1 - 1 / t, decay)


def _stepped(W, gradient, A, G, rate, damping):
    """The new W with the averaged A and G, and these."""
    left, right = _damped(A, G, damping)
    return W - rate * _apply_inverse(left, right, gradient), A, G


@on_numpy
def _kfac_step(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay):
    gradient, A_t, G_t, keep = _parts(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay)
    averages = keep * A + (1 - keep) * A_t, keep * G + (1 - keep) * G_t
    return _stepped(W, gradient, *averages, learning_rate, damping)


def kfac_step(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay):
    """W - α (A + π√λ I)⁻¹ ∇h (G + √λ/π I)⁻¹ with the averaged A and G; and these."""
    return _kfac_step(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay)


def _step_dense(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay):
    keep = decay if 1 / t < 1 - decay else 1 - 1 / t
    rows = _with_bias(a)
    A = A + (1 - keep) * (rows.T @ rows / len(a) - A)
    G = G + (1 - keep) * (g_drawn.T @ g_drawn / len(a) - G)
    gradient = np.mean([np.outer(i, o) for i, o in zip(rows, g, strict=True)], axis=0)
    whole = np.kron(*_damped_by_means(A, G, damping))
    return W - learning_rate * np.linalg.solve(whole, gradient.ravel()).reshape(W.shape), A, G


def _step_by_eigenvectors(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay):
    gradient, A_t, G_t, keep = _parts(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay)
    A, G = keep * A + (1 - keep) * A_t, keep * G + (1 - keep) * G_t
    left, right = _damped_by_eigenvalues(A, G, damping)
    return W - learning_rate * _power(left, -1) @ gradient @ _power(right, -1), A, G


def _step_with(averages: Callable | None = None, gradient: Callable | None = None) -> Callable:
    """A wrong step: averages(A, G, A_t, G_t, ε, t, decay), gradient(right gradient, a with bias, g_drawn)."""

    def wrong(W, A, G, t, a, g, g_drawn, rate, damping, decay):
        grad, A_t, G_t, keep = _parts(W, A, G, t, a, g, g_drawn, rate, damping, decay)
        new = keep * A + (1 - keep) * A_t, keep * G + (1 - keep) * G_t
        if averages:
            new = averages(A, G, A_t, G_t, keep, t, decay)
        if gradient:
            grad = gradient(grad, _with_bias(a), g_drawn)
        return _stepped(W, grad, *new, rate, damping)

    return wrong


def _kept(keep: Callable) -> Callable:
    """Averages with another ε: keep(right ε, t, decay)."""

    def averages(A, G, A_t, G_t, right, t, decay):
        e = keep(right, t, decay)
        return e * A + (1 - e) * A_t, e * G + (1 - e) * G_t

    return _step_with(averages)


def _after(change: Callable) -> Callable:
    """A wrong end: change(W, averaged A, averaged G, gradient, rate, damping) -> three values."""

    def wrong(W, A, G, t, a, g, g_drawn, rate, damping, decay):
        grad = _parts(W, A, G, t, a, g, g_drawn, rate, damping, decay)[0]
        _, A, G = _kfac_step(W, A, G, t, a, g, g_drawn, rate, damping, decay)
        return change(W, A, G, grad, rate, damping)

    return wrong


def _observed(W, A, G, t, a, g, g_drawn, *numbers):
    return _kfac_step(W, A, G, t, a, g, g, *numbers)


def _exchanged(W, A, G, t, a, g, g_drawn, *numbers):
    return _kfac_step(W, A, G, t, a, g_drawn, g, *numbers)


def _bias_in_front(W, A, G, t, a, g, g_drawn, rate, damping, decay):
    keep, rows = min(1 - 1 / t, decay), np.roll(_with_bias(a), 1, axis=1)
    A = keep * A + (1 - keep) * _second_moment(rows)
    G = keep * G + (1 - keep) * _second_moment(g_drawn)
    return _stepped(W, rows.T @ g / len(a), A, G, rate, damping)


def _this_batch(W, A, G, t, a, g, g_drawn, rate, damping, decay):
    grad, A_t, G_t, _ = _parts(W, A, G, t, a, g, g_drawn, rate, damping, decay)
    _, *new = _kfac_step(W, A, G, t, a, g, g_drawn, rate, damping, decay)
    return _stepped(W, grad, A_t, G_t, rate, damping)[0], *new


def _not_kept(W, A, G, *rest):
    return _kfac_step(W, A, G, *rest)[0], A, G


def _scaled_factors(scale: Callable) -> Callable:
    """This batch's factors with wrong factors of n: scale(n) -> those of A and of G."""

    def wrong(W, A, G, t, a, g, g_drawn, rate, damping, decay):
        grad, A_t, G_t, e = _parts(W, A, G, t, a, g, g_drawn, rate, damping, decay)
        c, f = scale(len(a))
        new = e * A + (1 - e) * c * A_t, e * G + (1 - e) * f * G_t
        return _stepped(W, grad, *new, rate, damping)

    return wrong


def _split_by(to_A: Callable) -> Callable:
    """A wrong split of λ in the step: to_A(A, G, λ), and λ over that to G."""
    return _after(
        lambda W, A, G, grad, rate, lam: (
            W - rate * _apply_inverse(*_split(A, G, to_A(A, G, lam), lam / to_A(A, G, lam)), grad),
            A,
            G,
        )
    )


def _damped_exactly(W, A, G, grad, rate, lam):
    (alpha, U), (beta, V) = np.linalg.eigh(A), np.linalg.eigh(G)
    return W - rate * U @ (U.T @ grad @ V / (np.outer(alpha, beta) + W.dtype.type(lam))) @ V.T, A, G


def _old_factors(W, A, G, t, a, g, g_drawn, rate, damping, decay):
    grad = _parts(W, A, G, t, a, g, g_drawn, rate, damping, decay)[0]
    _, *new = _kfac_step(W, A, G, t, a, g, g_drawn, rate, damping, decay)
    return _stepped(W, grad, A, G, rate, damping)[0], *new


def _bias_stays(W, A, G, *rest):
    new, *averages = _kfac_step(W, A, G, *rest)
    return np.concatenate([new[:-1], W[-1:]]), *averages


KFAC_STEP = Exercise(
    reference=kfac_step,
    inputs=_step_cases,
    returns=("the first value, W,", "the second value, A,", "the third value, G,"),
    right=(on_numpy(_step_dense), on_numpy(_step_by_eigenvectors)),
    mistakes=_all_numpy(
        {
            "G is made of g, the slopes at the observed labels. That is a factor of the empirical Fisher: G takes "
            "g_drawn, the gradient takes g (lecture 06, §9).": _observed,
            "g and g_drawn are exchanged: the gradient takes g, of the observed labels, and G takes g_drawn "
            "(lecture 06, §9).": _exchanged,
            "the step is taken with the factors of this batch. The averages are kept to be used: invert the new ones "
            "(lecture 06, §8).": _this_batch,
            "A and G come back as they were. Return the new averages, or nothing is remembered (lecture 06, §8).": (
                _not_kept
            ),
            "G is divided by n² too often: you divided g_drawn by n before squaring. Its rows are slopes of single "
            "examples' losses (lecture 06, §2).": _scaled_factors(lambda n: (1, 1 / n**2)),
            "the factors of the batch are sums. Both are means over the examples (lecture 06, §2).": _scaled_factors(
                lambda n: (n, n)
            ),
            "the 1 of the bias stands in front. The bias is the last row of W: its 1 comes last (lecture 06, §2).": (
                _bias_in_front
            ),
            "the old average got the weight 1/t. Its weight is 1 - 1/t, and this batch's 1/t (lecture 06, §8).": _kept(
                lambda e, t, eps: min(1 / t, eps)
            ),
            "λ is added to the products of the eigenvalues: that is exact damping, another step. Here it is split "
            "between the factors (lecture 06, §6).": _after(_damped_exactly),
            "λ is split with π = 1. Take π from the traces (lecture 06, §6).": _split_by(lambda A, G, lam: lam**0.5),
            "π is turned round: it is the quotient of A's mean eigenvalue over G's, under a root (lecture 06, §6).": (
                _split_by(lambda A, G, lam: lam**0.5 / _pi(A, G))
            ),
            "the traces in π are not divided by the sizes of A and G (lecture 06, §6).": _split_by(
                lambda A, G, lam: (lam * float(np.trace(A) / np.trace(G))) ** 0.5
            ),
            "the learning rate is missing (lecture 06, §7).": _after(
                lambda W, A, G, grad, rate, lam: (_stepped(W, grad, A, G, 1.0, lam)[0], A, G)
            ),
            "the first value is the step, with its minus. The new weights are asked for: add it to W "
            "(lecture 06, §7).": _after(
                lambda W, A, G, grad, rate, lam: (_stepped(W, grad, A, G, rate, lam)[0] - W, A, G)
            ),
            "the step has A's inverse and not G's (lecture 06, §7).": _after(
                lambda W, A, G, grad, rate, lam: (W - rate * np.linalg.solve(_damped(A, G, lam)[0], grad), A, G)
            ),
            "the step has G's inverse and not A's (lecture 06, §7).": _after(
                lambda W, A, G, grad, rate, lam: (W - rate * grad @ np.linalg.inv(_damped(A, G, lam)[1]), A, G)
            ),
            "this is a step of gradient descent: the averages are right, and not used (lecture 06, §7).": _after(
                lambda W, A, G, grad, rate, lam: (W - rate * grad, A, G)
            ),
            "the gradient is made of g_drawn. Drawn labels are for the factors alone; along their gradient the model "
            "would learn its own noise (lecture 06, §9).": _step_with(
                gradient=lambda grad, a, drawn: a.T @ drawn / len(a)
            ),
            "the gradient is a sum over the examples. h is the mean loss: divide by n (lecture 06, §2).": _step_with(
                gradient=lambda grad, a, drawn: grad * len(a)
            ),
            "the gradient is divided by n twice (lecture 06, §2).": _step_with(
                gradient=lambda grad, a, drawn: grad / len(a)
            ),
            "t counts from 1 here. With min(1 - 1/(t+1), ε) the first batch gets half of its weight, and the rest "
            "goes to factors that nobody has seen (lecture 06, §8).": _kept(
                lambda e, t, eps: min(1 - 1 / (t + 1), eps)
            ),
            "ε alone is taken from the first step on. The averages then keep a part of what they started from for "
            "many steps: take min(1 - 1/t, ε), a plain mean at first (lecture 06, §8).": _kept(lambda e, t, eps: eps),
            "you take the larger of 1 - 1/t and ε. The smaller: a plain mean at first, ε later (lecture 06, §8).": (
                _kept(lambda e, t, eps: max(1 - 1 / t, eps))
            ),
            "this is the plain mean of all batches at every t. Old batches belong to old weights: from 1 - 1/t > ε on, "
            "forget with ε (lecture 06, §8).": _kept(lambda e, t, eps: 1 - 1 / t),
            "the two weights are exchanged: ε_t goes to the old average, 1 - ε_t to this batch (lecture 06, §8).": (
                _kept(lambda e, t, eps: 1 - e)
            ),
            "nothing is averaged: these are the factors of this batch alone (lecture 06, §8).": _kept(
                lambda e, t, eps: 0.0
            ),
            "the step is taken with the old averages. Average first, then invert: at t = 1 there is nothing old "
            "(lecture 06, §8).": _old_factors,
            "the damping is missing: A and G are inverted as they are (lecture 06, §6).": _after(
                lambda W, A, G, grad, rate, lam: (W - rate * _apply_inverse(A, G, grad), A, G)
            ),
            "λ is added to each factor, whole. Split it: π√λ and √λ/π (lecture 06, §6).": _after(
                lambda W, A, G, grad, rate, lam: (
                    W - rate * _apply_inverse(*_split(A, G, lam, lam), grad),
                    A,
                    G,
                )
            ),
            "the damped factors are kept as the averages. Then the damping is averaged and added again in every step: "
            "keep them undamped (lecture 06, §8).": _after(
                lambda W, A, G, grad, rate, lam: (
                    _stepped(W, grad, A, G, rate, lam)[0],
                    *_damped(A, G, lam),
                )
            ),
            "you step uphill. The gradient of the loss points up: subtract (lecture 06, §7).": _after(
                lambda W, A, G, grad, rate, lam: (2 * W - _stepped(W, grad, A, G, rate, lam)[0], A, G)
            ),
            "the first value is the step. The new weights are asked for: W minus the step (lecture 06, §7).": _after(
                lambda W, A, G, grad, rate, lam: (W - _stepped(W, grad, A, G, rate, lam)[0], A, G)
            ),
            "you multiply by the factors. The step divides: A⁻¹ on the left, G⁻¹ on the right (lecture 06, §7).": (
                _after(
                    lambda W, A, G, grad, rate, lam: (
                        W - rate * _damped(A, G, lam)[0] @ grad @ _damped(A, G, lam)[1],
                        A,
                        G,
                    )
                )
            ),
            "the bias stays where it was. It is the last row of W, with input 1, and moves like any other row "
            "(lecture 06, §2).": _bias_stays,
        }
    ),
)


EXERCISES = {
    "kron_times": KRON_TIMES,
    "factors": FACTORS,
    "drawn_slopes": DRAWN_SLOPES,
    "damped_factors": DAMPED_FACTORS,
    "apply_inverse": APPLY_INVERSE,
    "kfac_step": KFAC_STEP,
}
