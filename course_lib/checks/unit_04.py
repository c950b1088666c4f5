"""Unit 04. The bank of exercise 04: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 04.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise

# ---- inputs: sizes differ from seed to seed, and no two sizes of one case agree ----


def _gradient_cases(rng: np.random.Generator) -> list[Case]:
    """(gradients (n, P),), with a mean that is not small beside the scatter."""
    n, parameters = int(rng.integers(8, 12)), int(rng.integers(3, 6))

    def case(dtype: DTypeLike) -> Case:
        rows = rng.normal(size=(n, parameters)) + rng.uniform(0.5, 1, parameters)
        return (jnp.asarray(rows.astype(dtype)),)

    return [case(np.float64), case(np.float32)]


def _rank_cases(rng: np.random.Generator) -> list[Case]:
    """(J, F_R, s_z): one case with many parameters, where F_R has rank k - 2, one with a softmax's F_R and fewer, so
    that P is the bound, one with three; the last example is the first once more, so that no bound on F is met in the
    first case."""
    n, k = int(rng.integers(4, 6)), int(rng.integers(7, 9))

    def case(parameters: int, blocks: int = 1) -> Case:
        jacobians = rng.normal(size=(n, k, parameters))
        p, scores, fishers = np.zeros((n, k)), np.zeros((n, k)), np.zeros((n, k, k))
        for part in np.array_split(np.arange(k), blocks):  # independent labels, each with its own softmax
            p[:, part] = rng.dirichlet(np.full(len(part), 5.0), n)
            fishers[:, part, part] = p[:, part]
            fishers[np.ix_(np.arange(n), part, part)] -= p[:, part, None] * p[:, None, part]
            scores[:, part] = np.eye(len(part))[rng.integers(0, len(part), n)] - p[:, part]
        jacobians[-1], fishers[-1], scores[-1] = jacobians[0], fishers[0], scores[0]
        return jnp.asarray(jacobians), jnp.asarray(fishers), jnp.asarray(scores)

    return [case(n * k + 3, blocks=2), case(n * (k - 1) - 2), case(3)]


def _path_cases(rng: np.random.Generator) -> list[Case]:
    """(θ0, α's, ξ) with iterates that stay away from 0, where rounding would grow, and pass over it at least once."""
    cases: list[Case] = []
    for xi in (0.5, 0.75, 1.0):
        while True:
            alphas = rng.uniform(0.3, 0.9, int(rng.integers(6, 9)))
            start = float(rng.uniform(0.6, 1.6))
            path = counterexample(start, alphas, xi)
            if np.abs(path).min() > 0.15 and path.min() < 0 and np.abs(path).max() < 4:
                break
        cases.append((start, jnp.asarray(alphas), xi))
    return cases


def _positive(rng: np.random.Generator, size: int) -> np.ndarray:
    rows = rng.normal(size=(3 * size, size)) * np.geomspace(1.5, 0.5, size)
    return rows.T @ rows / len(rows)


def _angle_cases(rng: np.random.Generator) -> list[Case]:
    """(A, B, g, damping), with A and B of different scale."""
    size = int(rng.integers(4, 7))

    def case() -> Case:
        a, b, g = 0.2 * _positive(rng, size), 3 * _positive(rng, size), rng.normal(size=size)
        return jnp.asarray(a), jnp.asarray(b), jnp.asarray(g), float(rng.uniform(0.1, 0.3))

    return [case(), case()]


def _scale_cases(rng: np.random.Generator) -> list[Case]:
    """(F̄, F, g, λ), λ comparable with F̄."""
    return [(a, b, g, damping / 2) for a, b, g, damping in _angle_cases(rng)]


def sample(key: jax.Array, z: jax.Array) -> jax.Array:
    """One class, drawn from softmax(z)."""
    return jax.random.categorical(key, z)


def _sampling_cases(rng: np.random.Generator) -> list[Case]:
    """(sample, logits, J, observed y, keys). Keys are drawn until the draws tell every labelling mistake apart."""
    n, k, parameters = int(rng.integers(9, 12)), int(rng.integers(5, 7)), int(rng.integers(3, 5))

    def case() -> Case:
        logits = jnp.asarray(1.5 * rng.normal(size=(n, k)))
        jacobians = jnp.asarray(rng.normal(size=(n, k, parameters)))
        y = jnp.asarray(rng.integers(0, k, n))
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), n)
        return sample, logits, jacobians, y, keys

    return [case(), case()]


# ---- 1. empirical_fisher ----


def empirical_fisher(gradients):
    """F̄ = mean g_i g_iᵀ."""
    return gradients.T @ gradients / len(gradients)


def _outer(vector):
    return jnp.outer(vector, vector)


def _empirical_fisher_loop(gradients):
    rows = np.asarray(gradients)
    return np.mean([np.outer(row, row) for row in rows], axis=0)


EMPIRICAL_FISHER = Exercise(
    reference=empirical_fisher,
    inputs=_gradient_cases,
    right=(_empirical_fisher_loop, lambda g: jnp.einsum("np,nq->pq", g, g) / g.shape[0]),
    mistakes={
        "this is the outer product of the mean gradient, the square of the batch gradient: rank one, and zero at a "
        "minimum. Take the outer product of each example's gradient first, the mean after it (lecture 04, §1).": (
            lambda g: _outer(g.mean(0))
        ),
        "this is the outer product of the summed gradient: one outer product, of rank one. Each example has its own "
        "(lecture 04, §1).": lambda g: _outer(g.sum(0)),
        "this is the sum over the examples. F̄ is their mean: divide by n, or its scale grows with the batch "
        "(lecture 04, §1).": lambda g: g.T @ g,
        "this is (n, n): inner products of examples with each other. F̄ lives in parameter space, (P, P): the sum runs "
        "over the examples (lecture 04, §1).": lambda g: g @ g.T / len(g),
        "you subtracted the mean gradient. That is the covariance of the gradients; F̄ is their second moment, and has "
        "g gᵀ on top of it (lecture 04, §1).": lambda g: jnp.cov(g, rowvar=False, bias=True),
        "this is the sample covariance: the mean is subtracted, and you divide by n - 1. F̄ is the mean of g_i g_iᵀ, "
        "with nothing subtracted (lecture 04, §1).": lambda g: jnp.cov(g, rowvar=False),
        "you divide by n - 1. No mean has been fitted here: F̄ is a plain mean over the n examples (lecture 04, §1).": (
            lambda g: g.T @ g / (len(g) - 1)
        ),
        "you divide by n twice. The gradients are those of single examples; only the mean over them divides by n "
        "(lecture 04, §1).": lambda g: g.T @ g / len(g) ** 2,
        "the sign is turned. A score is minus a gradient, but its outer product has both signs twice: F̄ is positive "
        "semi-definite (lecture 04, §1).": lambda g: -g.T @ g / len(g),
        "you divide by the number of parameters. F̄ is a mean over the examples: n is the first size "
        "(lecture 04, §1).": lambda g: g.T @ g / g.shape[1],
        "the diagonal is right, the rest is zero. That is the diagonal F̄ of unit 05; here the whole matrix is asked "
        "for (lecture 04, §1).": lambda g: jnp.diag((g**2).mean(0)),
        "this is the vector of mean squares, the diagonal alone. The whole (P, P) matrix is asked for "
        "(lecture 04, §1).": lambda g: (g**2).mean(0),
    },
)


# ---- 2. ranks ----


def _rank(matrix) -> int:
    return int(np.linalg.matrix_rank(np.asarray(matrix), hermitian=True))


def _parts(jacobians, output_fishers, output_scores):
    """As numpy: J, F_R, s_z, and F, the scores in θ."""
    J, R, s_z = (np.asarray(a) for a in (jacobians, output_fishers, output_scores))
    return J, R, s_z, np.einsum("nkp,nkl,nlq->pq", J, R, J) / len(J), np.einsum("nkp,nk->np", J, s_z)


def ranks(jacobians, output_fishers, output_scores):
    """(rank F, its bound, rank F̄, its bound)."""
    J, R, _, F, s = _parts(jacobians, output_fishers, output_scores)
    n, _, size = J.shape
    return _rank(F), min(n * _rank(R[0]), size), _rank(s.T @ s / n), min(n, size)


def _ranks_by_loops(jacobians, output_fishers, output_scores):
    F = sum(J.T @ R @ J for J, R in zip(jacobians, output_fishers, strict=True))
    s = [J.T @ a for J, a in zip(jacobians, output_scores, strict=True)]
    F_bar = sum(jnp.outer(a, a) for a in s)
    n, size = len(jacobians), jacobians.shape[2]
    rank_R = jnp.linalg.matrix_rank(output_fishers[0])
    bounds = jnp.minimum(n * rank_R, size), jnp.minimum(n, size)
    return jnp.linalg.matrix_rank(F), bounds[0], jnp.linalg.matrix_rank(F_bar), bounds[1]


def _ranks_by_factors(jacobians, output_fishers, output_scores):
    J, R, _, _, s = _parts(jacobians, output_fishers, output_scores)
    values, vectors = np.linalg.eigh(R)
    roots = np.sqrt(np.maximum(values, 0))[:, :, None] * np.swapaxes(vectors, 1, 2)
    rows = np.einsum("nik,nkp->nip", roots, J).reshape(-1, J.shape[2])
    in_R = int(np.sum(values[0] > 1e-10))
    return (
        int(np.sum(np.linalg.svd(rows, compute_uv=False) > 1e-6)),
        min(len(J) * in_R, J.shape[2]),
        int(np.linalg.matrix_rank(s)),
        min(len(J), J.shape[2]),
    )


def _of_ranks(change: Callable) -> Callable:
    """A wrong answer: change(the right four, J, F_R, s_z, F, s)."""
    return lambda *a: change(ranks(*a), *_parts(*a))


RANKS = Exercise(
    reference=ranks,
    inputs=_rank_cases,
    returns=("the first value, the rank of F,", "its bound", "the third value, the rank of F̄,", "its bound"),
    right=(_ranks_by_loops, _ranks_by_factors),
    mistakes={
        "F_R is missing: you took the rank of the mean of JᵀJ. Without F_R in the middle the softmax's blind direction "
        "counts too (lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (_rank(np.einsum("nkp,nkq->pq", J, J)), *right[1:])
        ),
        "the bound on F uses k, the number of outputs. F_R of a softmax has rank k - 1: it sends the vector of ones to "
        "zero. Use its rank, not its size (lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (right[0], min(len(J) * J.shape[1], J.shape[2]), *right[2:])
        ),
        "the bound on F uses k - 1. That is the rank of F_R for one softmax; other likelihoods have another: take the "
        "rank of the F_R that you get (lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (right[0], min(len(J) * (J.shape[1] - 1), J.shape[2]), *right[2:])
        ),
        "both bounds forget P. A (P, P) matrix has no rank above P, however many examples there are "
        "(lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (right[0], len(J) * _rank(R[0]), right[2], len(J))
        ),
        "the bound on F forgets P. A (P, P) matrix has no rank above P (lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (right[0], len(J) * _rank(R[0]), *right[2:])
        ),
        "the bound on F̄ forgets P. A (P, P) matrix has no rank above P, however many examples there are "
        "(lecture 04, §2).": _of_ranks(lambda right, J, R, s_z, F, s: (*right[:3], len(J))),
        "the rank of F̄ is that of the square of the mean score, which is one. Take each example's outer product first "
        "(lecture 04, §1).": _of_ranks(lambda right, J, R, s_z, F, s: (*right[:2], _rank(_outer(s.mean(0))), right[3])),
        "you added up the ranks of the examples' matrices. The rank of a sum is at most the sum of the ranks: where "
        "examples repeat each other it is less. That sum is the bound (lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (
                sum(_rank(a.T @ b @ a) for a, b in zip(J, R, strict=True)),
                right[1],
                len(J),
                right[3],
            )
        ),
        "the bound on F is n alone, the one on F̄. Each example brings up to rank F_R directions to F, and one to F̄ "
        "(lecture 04, §2).": _of_ranks(lambda right, J, R, s_z, F, s: (right[0], right[3], *right[2:])),
        "the bound on F̄ has rank F_R in it, as that on F. Each example brings ONE outer product to F̄ "
        "(lecture 04, §2).": _of_ranks(lambda right, J, R, s_z, F, s: (*right[:3], right[1])),
        "F and F̄ are exchanged: the first two values are for F, the last two for F̄ (lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (*right[2:], *right[:2])
        ),
        "you averaged the Jacobians over the examples before the product. Each example has its own JᵀF_R J: the mean "
        "comes last (lecture 04, §2).": _of_ranks(
            lambda right, J, R, s_z, F, s: (_rank(J.mean(0).T @ R.mean(0) @ J.mean(0)), *right[1:])
        ),
    },
)


# ---- 3. counterexample ----


def counterexample(theta0, alphas, xi):
    """(K + 1,): θ0 and the K iterates of θ - α (θ²)^{-ξ} θ."""
    return _iterates(theta0, alphas, lambda theta: theta / (theta**2) ** xi)


def _iterates(theta0, alphas, step: Callable):
    path = [float(theta0)]
    for alpha in np.asarray(alphas):
        path.append(path[-1] - alpha * step(path[-1]))
    return np.array(path)


def _counterexample_by_factors(theta0, alphas, xi):
    path = [jnp.asarray(theta0, float)]
    for alpha in alphas:
        path.append((1 - alpha * jnp.abs(path[-1]) ** (-2 * xi)) * path[-1])
    return jnp.stack(path)


def _counterexample_by_sign(theta0, alphas, xi):
    return _iterates(theta0, alphas, lambda t: np.sign(t) * abs(t) ** (1 - 2 * xi))


def _signed_power(value: float, power: float) -> float:
    return float(np.sign(value) * np.abs(value) ** power)


def _bare_power(theta: float, xi: float) -> float:
    return float(theta ** (1 - 2 * xi)) if theta > 0 or xi in (0.5, 1.0) else float("nan")


def _path(step: Callable) -> Callable:
    """A wrong path: step(θ, ξ) in place of θ / (θ²)^ξ."""
    return lambda theta0, alphas, xi: _iterates(theta0, alphas, lambda t: step(t, xi))


COUNTEREXAMPLE = Exercise(
    reference=counterexample,
    inputs=_path_cases,
    right=(_counterexample_by_factors, _counterexample_by_sign),
    mistakes={
        "ξ stands over |θ|, and it belongs over F̄ = θ²: (θ²)^ξ is |θ|^(2ξ) (lecture 04, §3).": _path(
            lambda t, xi: t / abs(t) ** xi
        ),
        "ξ stands over the whole step F̄⁻¹g. Only the matrix has the power, the gradient has none "
        "(lecture 04, §3).": _path(lambda t, xi: _signed_power(1 / t, xi)),
        "ξ is not used: you divide by F̄ itself. The family divides by F̄^ξ (lecture 04, §3).": _path(
            lambda t, xi: 1 / t
        ),
        "you multiply by F̄^ξ where the step divides by it: the inverse is missing (lecture 04, §3).": _path(
            lambda t, xi: t * (t**2) ** xi
        ),
        "the gradient lost its sign: the step is α|θ|^(1-2ξ) to the right wherever θ is. It has to point to 0 from "
        "both sides (lecture 04, §3).": _path(lambda t, xi: abs(t) ** (1 - 2 * xi)),
        "you raise θ itself to the power 1 - 2ξ. Where θ is negative that has no real value, or loses the sign: the "
        "power belongs over θ², which is positive (lecture 04, §3).": _path(_bare_power),
        "you go uphill: the step is subtracted (lecture 04, §3).": _path(lambda t, xi: -t / (t**2) ** xi),
        "F̄ is computed once, at the start. It is θ_k², another number in every step (lecture 04, §3).": (
            lambda theta0, alphas, xi: _iterates(theta0, alphas, lambda t: t / (theta0**2) ** xi)
        ),
        "this is the iteration with F = 1, that is gradient descent. The empirical Fisher here is θ² "
        "(lecture 04, §3).": _path(lambda t, xi: t),
        "the start is missing, or the last iterate is: K steps have K + 1 iterates, θ_0 the first "
        "(lecture 04, §3).": lambda theta0, alphas, xi: counterexample(theta0, alphas, xi)[1:],
        "the last iterate is missing: K steps have K + 1 iterates, and the last one counts (lecture 04, §3).": (
            lambda theta0, alphas, xi: counterexample(theta0, alphas, xi)[:-1]
        ),
        "you return |θ|. The iterates have a sign, and the jumps over 0 are what there is to see "
        "(lecture 04, §3).": lambda theta0, alphas, xi: np.abs(counterexample(theta0, alphas, xi)),
        "every step uses the first step size. α_k is alphas[k] (lecture 04, §3).": lambda theta0, alphas, xi: (
            counterexample(theta0, np.full(len(alphas), alphas[0]), xi)
        ),
        "the steps come in the reverse order: alphas[0] belongs to the first step (lecture 04, §3).": (
            lambda theta0, alphas, xi: counterexample(theta0, np.asarray(alphas)[::-1], xi)
        ),
    },
)


# ---- 4. step_cosine ----


def _damped(A, g, lam):
    A, g = np.asarray(A, float), np.asarray(g, float)
    return np.linalg.solve(A + lam * np.eye(len(g)), g)


def _mean_eigenvalue(A) -> float:
    return float(np.trace(np.asarray(A, float))) / len(A)


def _cosine(a, b) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def step_cosine(A, B, g, damping):
    """Cosine of the angle between (A + λ_A I)⁻¹g and (B + λ_B I)⁻¹g, λ relative to each mean eigenvalue."""
    return _cosine(*_both(A, B, g, damping))


def _both(A, B, g, damping):
    return tuple(_damped(M, g, damping * _mean_eigenvalue(M)) for M in (A, B))


def _cosine_by_inverse(A, B, g, damping):
    eye = jnp.eye(len(g), dtype=A.dtype)
    a = jnp.linalg.inv(A + damping * jnp.trace(A) / len(g) * eye) @ g
    b = jnp.linalg.inv(B + damping * jnp.trace(B) / len(g) * eye) @ g
    return jnp.vdot(a / jnp.linalg.norm(a), b / jnp.linalg.norm(b))


def _cosine_by_eigenvalues(A, B, g, damping):
    steps = []
    for M in (A, B):
        values, vectors = np.linalg.eigh(np.asarray(M, float))
        steps.append(vectors @ ((vectors.T @ np.asarray(g, float)) / (values + damping * values.mean())))
    return _cosine(*steps)


def _with_lambdas(lambdas: Callable) -> Callable:
    """A wrong cosine: lambdas(A, B, damping) -> (λ_A, λ_B)."""

    def wrong(A, B, g, damping):
        a, b = lambdas(A, B, damping)
        return _cosine(_damped(A, g, a), _damped(B, g, b))

    return wrong


def _of_steps(change: Callable) -> Callable:
    """A wrong number: change(step of A, step of B, A, B) -> scalar."""
    return lambda A, B, g, damping: change(*_both(A, B, g, damping), np.asarray(A, float), np.asarray(B, float))


def _damped_after(A, B, g, damping):
    g = np.asarray(g, float)
    steps = [np.linalg.inv(np.asarray(M, float)) @ g + damping * _mean_eigenvalue(M) * g for M in (A, B)]
    return _cosine(*steps)


def _damped_everywhere(A, B, g, damping):
    g = np.asarray(g, float)
    return _cosine(*(np.linalg.solve(np.asarray(M, float) + damping * _mean_eigenvalue(M), g) for M in (A, B)))


STEP_COSINE = Exercise(
    reference=step_cosine,
    inputs=_angle_cases,
    right=(_cosine_by_inverse, _cosine_by_eigenvalues),
    mistakes={
        "one λ serves both, that of A. It is small beside one matrix and large beside the other, so the cosine "
        "compares two dampings: each matrix needs its own λ (lecture 04, §4).": _with_lambdas(
            lambda A, B, d: (d * _mean_eigenvalue(A),) * 2
        ),
        "one λ serves both, that of B. Beside the smaller matrix it swamps everything: each matrix needs its own λ "
        "(lecture 04, §4).": _with_lambdas(lambda A, B, d: (d * _mean_eigenvalue(B),) * 2),
        "`damping` is added as it is. It is relative: λ is damping times the mean eigenvalue, tr/P, of each matrix "
        "(lecture 04, §4).": _with_lambdas(lambda A, B, d: (d, d)),
        "λ is damping times the trace. The mean eigenvalue is the trace over P (lecture 04, §4).": _with_lambdas(
            lambda A, B, d: (d * np.trace(A), d * np.trace(B))
        ),
        "λ is relative to the largest eigenvalue. Asked is the mean one, tr/P (lecture 04, §4).": _with_lambdas(
            lambda A, B, d: (d * np.linalg.eigvalsh(A)[-1], d * np.linalg.eigvalsh(B)[-1])
        ),
        "no damping at all: (A + λI)⁻¹ needs its λ, and F̄ of few examples has no inverse without it "
        "(lecture 04, §4).": _with_lambdas(lambda A, B, d: (0.0, 0.0)),
        "λ g is added after the inverse. The damping belongs inside it: (A + λI)⁻¹ g (lecture 04, §4).": _damped_after,
        "A + λ adds λ to every entry. Damping adds it to the diagonal: λ times jnp.eye (lecture 04, §4).": (
            _damped_everywhere
        ),
        "the two steps are not normalised: this is their inner product, and measures length as well as direction "
        "(lecture 04, §4).": _of_steps(lambda a, b, A, B: a @ b),
        "you divide by the squared norms. The cosine divides by the norms, ‖a‖ ‖b‖ (lecture 04, §4).": _of_steps(
            lambda a, b, A, B: a @ b / ((a @ a) * (b @ b))
        ),
        "you divide by the square of one norm only. Each step has its own length: ‖a‖ ‖b‖ (lecture 04, §4).": _of_steps(
            lambda a, b, A, B: a @ b / (b @ b)
        ),
        "this is the angle in radians. The cosine is asked for (lecture 04, §4).": _of_steps(
            lambda a, b, A, B: np.arccos(_cosine(a, b))
        ),
        "this is the angle in degrees. The cosine is asked for (lecture 04, §4).": _of_steps(
            lambda a, b, A, B: np.degrees(np.arccos(_cosine(a, b)))
        ),
        "this is a cosine in the inner product of B, aᵀB b. Asked is the ordinary one: in another geometry the angle "
        "is another number (lecture 04, §4).": _of_steps(
            lambda a, b, A, B: a @ B @ b / np.sqrt((a @ B @ a) * (b @ B @ b))
        ),
        "this is the cosine of the two matrices. That of the steps they take is asked for: matrices may differ much "
        "and their steps little (lecture 04, §4).": _of_steps(
            lambda a, b, A, B: np.sum(A * B) / np.sqrt(np.sum(A * A) * np.sum(B * B))
        ),
        "you multiply by the matrix where the step has its inverse: solve, do not multiply (lecture 04, §4).": (
            lambda A, B, g, damping: _cosine(
                *(
                    (np.asarray(M, float) + damping * _mean_eigenvalue(M) * np.eye(len(g))) @ np.asarray(g)
                    for M in (A, B)
                )
            )
        ),
    },
)


# ---- 5. best_scale ----


def best_scale(F_bar, F, g, lam):
    """(α, decrease): the α that minimises the quadratic along -(F̄ + λI)⁻¹ g, and by how much h falls."""
    d, F, g = _direction(F_bar, F, g, lam)
    alpha = g @ d / (d @ F @ d)
    return alpha, 0.5 * alpha * (g @ d)


def _direction(F_bar, F, g, lam):
    return _damped(F_bar, g, lam), np.asarray(F, float), np.asarray(g, float)


def _best_scale_by_grid_of_three(F_bar, F, g, lam):
    """A parabola is known by three of its points."""
    d, F, g = _direction(F_bar, F, g, lam)
    q = [-a * (g @ d) + 0.5 * a**2 * (d @ F @ d) for a in (0.0, 1.0, 2.0)]
    square = (q[2] - 2 * q[1] + q[0]) / 2
    slope = q[1] - q[0] - square
    return -slope / (2 * square), slope**2 / (4 * square)


def _best_scale_jax(F_bar, F, g, lam):
    d = jnp.linalg.solve(F_bar + lam * jnp.eye(len(g), dtype=g.dtype), g)
    gain, curvature = jnp.vdot(g, d), jnp.vdot(d, F @ d)
    return gain / curvature, gain**2 / (2 * curvature)


def _of_direction(change: Callable) -> Callable:
    """A wrong pair: change(d, F, g, F̄, λ) -> (α, decrease)."""
    return lambda F_bar, F, g, lam: change(*_direction(F_bar, F, g, lam), np.asarray(F_bar, float), lam)


def _along(d, F, g):
    alpha = g @ d / (d @ F @ d)
    return alpha, 0.5 * alpha * (g @ d)


BEST_SCALE = Exercise(
    reference=best_scale,
    inputs=_scale_cases,
    returns=("the first value, α,", "the second value, the decrease,"),
    right=(_best_scale_by_grid_of_three, _best_scale_jax),
    mistakes={
        "the curvature along d is taken from F̄, whose scale is what has to be mended: then α comes out near 1 "
        "whatever F is. The quadratic has F: dᵀF d (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: _along(d, F_bar, g)
        ),
        "the curvature along d is that of F̄ + λI, and gᵀd equals that: α is 1 by construction. The quadratic has F: "
        "dᵀF d (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: _along(d, F_bar + lam * np.eye(len(g)), g)
        ),
        "λ is in the curvature too. Damping makes the direction; the quadratic that is minimised along it has F alone "
        "(lecture 04, §5).": _of_direction(lambda d, F, g, F_bar, lam: _along(d, F + lam * np.eye(len(g)), g)),
        "F̄ and F are exchanged: F̄ (with λ) makes the direction, and F is the curvature (lecture 04, §5).": (
            lambda F_bar, F, g, lam: best_scale(F, F_bar, g, lam)
        ),
        "λ is taken relative to the mean eigenvalue, as in exercise 4. Here it is a plain number: (F̄ + λI)⁻¹ g "
        "(lecture 04, §5).": lambda F_bar, F, g, lam: best_scale(F_bar, F, g, lam * _mean_eigenvalue(F_bar)),
        "this searches along the gradient. The direction is (F̄ + λI)⁻¹ g (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: _along(g, F, g)
        ),
        "this searches along the step of F, where α is 1 without damping. The direction is that of F̄ "
        "(lecture 04, §5).": _of_direction(lambda d, F, g, F_bar, lam: _along(_damped(F, g, lam), F, g)),
        "the direction is F̄ g. It needs the inverse: solve, do not multiply (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: _along((F_bar + lam * np.eye(len(g))) @ g, F, g)
        ),
        "the damping is missing from the direction: it is (F̄ + λI)⁻¹ g (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: _along(np.linalg.solve(F_bar, g), F, g)
        ),
        "λ is applied after the inverse. Damping belongs inside it: (F̄ + λI)⁻¹ g (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: _along(np.linalg.solve(F_bar, g) + lam * g, F, g)
        ),
        "the ½ of the quadratic is missing in the decrease: at the minimum half of α gᵀd is lost again to the "
        "curvature (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: (_along(d, F, g)[0], 2 * _along(d, F, g)[1])
        ),
        "the decrease is counted as negative. Asked is by how much h falls, h(θ) - h(θ - αd) (lecture 04, §5).": (
            _of_direction(lambda d, F, g, F_bar, lam: (_along(d, F, g)[0], -_along(d, F, g)[1]))
        ),
        "α has the other sign. The step is θ - αd with d = (F̄ + λI)⁻¹g, so α is positive (lecture 04, §5).": (
            _of_direction(lambda d, F, g, F_bar, lam: (-_along(d, F, g)[0], _along(d, F, g)[1]))
        ),
        "α has twice its size. Set the derivative of -α gᵀd + ½α² dᵀF d to zero: the ½ goes (lecture 04, §5).": (
            _of_direction(lambda d, F, g, F_bar, lam: (2 * _along(d, F, g)[0], _along(d, F, g)[1]))
        ),
        "α is turned over: it is gᵀd over dᵀF d (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: (1 / _along(d, F, g)[0], _along(d, F, g)[1])
        ),
        "the second value is the decrease of the step with α = 1. It is asked for at your α (lecture 04, §5).": (
            _of_direction(lambda d, F, g, F_bar, lam: (_along(d, F, g)[0], g @ d - 0.5 * d @ F @ d))
        ),
        "the numerator is gᵀg. Along d the slope is gᵀd (lecture 04, §5).": _of_direction(
            lambda d, F, g, F_bar, lam: (g @ g / (d @ F @ d), 0.5 * g @ g / (d @ F @ d) * (g @ d))
        ),
    },
)


# ---- 6. sampled_fisher ----


def sampled_fisher(sample, logits, jacobians, y, keys):
    """F̂ (P, P) from one label for each example, drawn from the model; the observed y is not used."""
    return _second_moment(_scores(logits, jacobians, _drawn(sample, logits, keys)))


def _drawn(sample, logits, keys):
    return np.array([int(sample(key, z)) for key, z in zip(keys, logits, strict=True)])


def _softmax(logits):
    z = np.exp(np.asarray(logits) - np.asarray(logits).max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def _scores(logits, jacobians, labels):
    """Rows Jᵀ(e_y - p): (n, P)."""
    errors = np.eye(logits.shape[1])[np.asarray(labels)] - _softmax(logits)
    return np.einsum("nkp,nk->np", np.asarray(jacobians), errors)


def _second_moment(rows):
    return rows.T @ rows / len(rows)


def _sampled_by_vmap(sample, logits, jacobians, y, keys):
    labels = jax.vmap(sample)(keys, logits)
    errors = jax.nn.one_hot(labels, logits.shape[1]) - jax.nn.softmax(logits)
    rows = jnp.einsum("nkp,nk->np", jacobians, errors)
    return jnp.einsum("np,nq->pq", rows, rows) / len(rows)


def _sampled_by_loop(sample, logits, jacobians, y, keys):
    outer = []
    for key, z, J in zip(keys, np.asarray(logits), np.asarray(jacobians), strict=True):
        p = np.exp(z) / np.exp(z).sum()
        p[int(sample(key, jnp.asarray(z)))] -= 1  # minus the score: the square is the same
        outer.append(np.outer(J.T @ p, J.T @ p))
    return np.mean(outer, axis=0)


def _with_labels(labels: Callable) -> Callable:
    """A wrong estimate: labels(sample, logits, y, keys) -> (n,)."""

    def wrong(sample, logits, jacobians, y, keys):
        return _second_moment(_scores(logits, jacobians, labels(sample, logits, y, keys)))

    return wrong


def _of_rows(change: Callable) -> Callable:
    """A wrong estimate: change(scores (n, P)) -> (P, P)."""
    return lambda sample, logits, J, y, keys: change(_scores(logits, J, _drawn(sample, logits, keys)))


def _weighted_rows(sample, logits, jacobians, y, keys):
    labels = _drawn(sample, logits, keys)
    weights = _softmax(logits)[np.arange(len(labels)), labels]
    rows = _scores(logits, jacobians, labels)
    return (rows.T * weights) @ rows / len(rows)


def _exact_fisher(sample, logits, jacobians, y, keys):
    p, J = _softmax(logits), np.asarray(jacobians)
    F_R = p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None, :]
    return np.einsum("nkp,nkl,nlq->pq", J, F_R, J) / len(J)


def _softmax_over_examples(sample, logits, jacobians, y, keys):
    hot = np.eye(logits.shape[1])[_drawn(sample, logits, keys)]
    errors = hot - _softmax(np.asarray(logits).T).T
    return _second_moment(np.einsum("nkp,nk->np", np.asarray(jacobians), errors))


def _without_p(sample, logits, jacobians, y, keys):
    hot = np.eye(logits.shape[1])[_drawn(sample, logits, keys)]
    return _second_moment(np.einsum("nkp,nk->np", np.asarray(jacobians), hot))


SAMPLED_FISHER = Exercise(
    reference=sampled_fisher,
    inputs=_sampling_cases,
    right=(_sampled_by_vmap, _sampled_by_loop),
    mistakes={
        "you use the observed labels: this is the empirical Fisher again. The repair consists in drawing others from "
        "the model (lecture 04, §7).": _with_labels(lambda sample, z, y, keys: y),
        "you use the most likely class of each example. An argmax is no draw: nothing averages to the expectation over "
        "the model's y (lecture 04, §7).": _with_labels(lambda sample, z, y, keys: np.asarray(z).argmax(1)),
        "you hand probabilities to `sample`, which takes logits: its draws are then nearly uniform (lecture 04, §7).": (
            _with_labels(lambda sample, z, y, keys: _drawn(sample, jnp.asarray(_softmax(z)), keys))
        ),
        "one key serves all examples, so their labels are not independent: keys[i] is for example i "
        "(lecture 04, §7).": _with_labels(
            lambda sample, z, y, keys: np.array([int(sample(keys[0], row)) for row in z])
        ),
        "you averaged the scores before the outer product. That is the square of a batch gradient, of rank one: square "
        "each score first (lecture 04, §1).": _of_rows(lambda rows: np.outer(rows.mean(0), rows.mean(0))),
        "this is the sum over the examples. F̂ is their mean (lecture 04, §7).": _of_rows(lambda rows: rows.T @ rows),
        "you subtract the mean score. It is zero only in expectation; for an unbiased estimate of F subtract nothing "
        "(lecture 04, §7).": _of_rows(lambda rows: np.cov(rows, rowvar=False, bias=True)),
        "each score is weighted by p(y|x). The draw has that weight in it already: likely classes come up more often "
        "(lecture 04, §7).": _weighted_rows,
        "this is the exact F, the expectation over y. A fine matrix, but the exercise asks for the estimate from one "
        "draw for each example (lecture 04, §7).": _exact_fisher,
        "the score is not the one-hot label: it is e_y - p, and without -p its mean is not zero (lecture 04, §7).": (
            _without_p
        ),
        "the softmax runs over the examples. Each row of logits is one example: its classes are on the last axis "
        "(lecture 04, §7).": _softmax_over_examples,
        "you divide by the number of classes. F̂ is a mean over the n examples (lecture 04, §7).": (
            lambda sample, z, J, y, keys: sampled_fisher(sample, z, J, y, keys) * len(z) / z.shape[1]
        ),
    },
)


EXERCISES = {
    "empirical_fisher": EMPIRICAL_FISHER,
    "ranks": RANKS,
    "counterexample": COUNTEREXAMPLE,
    "step_cosine": STEP_COSINE,
    "best_scale": BEST_SCALE,
    "sampled_fisher": SAMPLED_FISHER,
}
