"""Unit 03. The bank of exercise 03: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 03.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise

FLOATS = (np.float64, np.float32)


# ---- inputs: sizes differ from seed to seed; the cases of one seed share them, so that JAX compiles once ----


def _positive(rng: np.random.Generator, size: int) -> np.ndarray:
    """A full positive definite matrix with eigenvalues from 0.5 to 3: well-conditioned, and not near the identity."""
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return (basis * np.linspace(0.5, 3, size)) @ basis.T


def _norm_cases(rng: np.random.Generator) -> list[Case]:
    """(A, g): the gradient is no eigenvector of A."""
    size = int(rng.integers(3, 6))
    return [
        tuple(jnp.asarray(a.astype(dtype)) for a in (_positive(rng, size), rng.normal(size=size) + 1))
        for dtype in FLOATS
    ]


def _step_cases(rng: np.random.Generator) -> list[Case]:
    """(theta, scores, grad, learning_rate, damping): many more examples than parameters, so that F is invertible."""
    size = int(rng.integers(3, 5))
    n = 6 * size + 1

    def case(dtype: DTypeLike) -> Case:
        scores = rng.normal(size=(n, size)) @ _positive(rng, size) + 0.4
        arrays = rng.normal(size=size) + 1, scores, rng.normal(size=size) - 1
        theta, scores, grad = (jnp.asarray(a.astype(dtype)) for a in arrays)
        return theta, scores, grad, float(rng.uniform(0.2, 0.7)), float(rng.uniform(0.5, 1.5))

    return [case(dtype) for dtype in FLOATS]


def logits_of_tanh(theta: jax.Array, x: jax.Array) -> jax.Array:
    """Outputs W tanh(x) + b, θ the rows of (W, b): a model that the notebook does not have."""
    rows = theta.reshape(-1, x.size + 1)
    return rows[:, :-1] @ jnp.tanh(x) + rows[:, -1]


def bent_outputs(theta: jax.Array, x: jax.Array) -> jax.Array:
    """The same, through a curve, so that the outputs are not linear in θ; kept small."""
    return jnp.tanh(logits_of_tanh(theta, x))


def _product_cases(rng: np.random.Generator) -> list[Case]:
    """(logits, theta, x, v): n, d, k and P all differ."""
    n, d, k = int(rng.integers(6, 8)), int(rng.integers(2, 4)), int(rng.integers(4, 6))

    def case(dtype: DTypeLike) -> Case:
        arrays = rng.normal(size=k * (d + 1)), rng.normal(size=(n, d)), rng.normal(size=k * (d + 1))
        return bent_outputs, *(jnp.asarray(a.astype(dtype)) for a in arrays)

    return [case(dtype) for dtype in FLOATS]


def nll_mean_log_scale(z: jax.Array, y: jax.Array) -> jax.Array:
    """-log N(y; z₀, e^{2 z₁}): its Hessian in z depends on y."""
    return z[1] + 0.5 * ((y - z[0]) * jnp.exp(-z[1])) ** 2 + 0.5 * jnp.log(2 * jnp.pi)


def nll_poisson(z: jax.Array, y: jax.Array) -> jax.Array:
    """-log Poisson with means softplus(z), two counts that both have the value y, up to a constant."""
    mean = jax.nn.softplus(z)
    return jnp.sum(mean - y * jnp.log(mean))


def _gauss_newton_cases(rng: np.random.Generator) -> list[Case]:
    """(output, nll, theta, x, y): two outputs, labels that have nothing to do with the model."""
    n, d = int(rng.integers(5, 8)), int(rng.integers(3, 5))

    def case(nll: Callable) -> Case:
        theta, x = rng.normal(size=2 * (d + 1)), rng.normal(size=(n, d))
        return bent_outputs, nll, jnp.asarray(theta), jnp.asarray(x), jnp.asarray(rng.uniform(0.5, 3, n))

    return [case(nll_mean_log_scale), case(nll_poisson)]


def _invariance_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, fisher, psi, phi, learning_rate): a curved map whose Jacobian is not symmetric."""
    size = int(rng.integers(2, 4))

    def case(rate: float) -> Case:
        root, shift = jnp.asarray(_positive(rng, size)), jnp.asarray(rng.normal(size=size))
        turn = jnp.asarray(1.5 * np.eye(size) + np.triu(rng.uniform(0.6, 1.4, (size, size)), 1))
        signs = jnp.asarray([1.0, -1.0, 1.0][:size])  # the gap has entries of both signs
        loss = lambda theta: jnp.sum(jnp.cosh(root @ (theta - shift)))  # noqa: E731
        fisher = lambda theta: root @ root + jnp.outer(theta, theta)  # noqa: E731
        psi = lambda phi: turn @ phi + signs * (0.3 * jnp.sin(phi) + 0.2 * phi**2)  # noqa: E731
        return loss, fisher, psi, jnp.asarray(rng.uniform(0.3, 1.2, size)), rate

    return [case(float(rng.uniform(0.1, 0.3))), case(float(rng.uniform(0.02, 0.05)))]


def _limit_cases(rng: np.random.Generator) -> list[Case]:
    """(F, g, learning_rate, max_kl): two steps that exceed the budget, two that do not, and would not with α = 1."""
    size = int(rng.integers(3, 6))

    def case(dtype: DTypeLike, share: float) -> Case:
        fisher, g, rate = _positive(rng, size), rng.normal(size=size) + 1, float(rng.uniform(0.3, 0.8))
        budget = float(share * 0.5 * g @ np.linalg.solve(fisher, g))
        return jnp.asarray(fisher.astype(dtype)), jnp.asarray(g.astype(dtype)), rate, budget

    return [case(dtype, share) for dtype in FLOATS for share in (float(rng.uniform(0.01, 0.03)), 1.6)]


# ---- 1. steepest_descent ----


def _solved(A: Any, g: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A, g, A⁻¹g) in NumPy."""
    A, g = np.asarray(A), np.asarray(g)
    return A, g, np.linalg.solve(A, g)


def steepest_descent(A, g):
    """-A⁻¹g / ‖g‖_{A⁻¹}."""
    A, g, x = _solved(A, g)
    return -x / np.sqrt(g @ x)


def _steepest_by_cholesky(A, g):
    lower = jnp.linalg.cholesky(A)
    e = jax.scipy.linalg.solve_triangular(lower, g, lower=True)
    return -jax.scipy.linalg.solve_triangular(lower.T, e / jnp.linalg.norm(e), lower=False)


def _steepest_by_root(A, g):
    values, vectors = np.linalg.eigh(np.asarray(A))
    e = vectors.T @ np.asarray(g) / np.sqrt(values)
    return -vectors @ (e / np.linalg.norm(e) / np.sqrt(values))


def _of_solved(change: Callable) -> Callable:
    """A wrong direction: change(A, g, A⁻¹g)."""
    return lambda A, g: change(*_solved(A, g))


STEEPEST_DESCENT = Exercise(
    reference=steepest_descent,
    inputs=_norm_cases,
    right=(_steepest_by_cholesky, _steepest_by_root),
    mistakes={
        "you multiply by A where its inverse belongs. A direction that is long by this ruler has to be made shorter, "
        "not longer: A⁻¹g (lecture 03, §1).": _of_solved(lambda A, g, x: -A @ g / np.sqrt(g @ A @ g)),
        "the direction is right, its Euclidean length is 1. The ball is ‖d‖_A ≤ ε, so the A-length has to be 1: "
        "divide by ‖g‖_{A⁻¹} (lecture 03, §1).": _of_solved(lambda A, g, x: -x / np.linalg.norm(x)),
        "you divide by ‖g‖_A. The step is measured with A, the gradient with A⁻¹: the norm is √(gᵀA⁻¹g) "
        "(lecture 03, §1).": _of_solved(lambda A, g, x: -x / np.sqrt(g @ A @ g)),
        "this is -A⁻¹g: the direction, without its length. Divide by ‖g‖_{A⁻¹} (lecture 03, §1).": _of_solved(
            lambda A, g, x: -x
        ),
        "the sign is turned: this climbs. Descent goes against the gradient (lecture 03, §1).": _of_solved(
            lambda A, g, x: x / np.sqrt(g @ x)
        ),
        "this is the Euclidean answer -g/‖g‖. The ruler A does not occur in it (lecture 03, §1).": _of_solved(
            lambda A, g, x: -g / np.linalg.norm(g)
        ),
        "the A-length is 1, the direction is the plain gradient's. Scaling does not turn a vector: it is A⁻¹ that does "
        "(lecture 03, §1).": _of_solved(lambda A, g, x: -g / np.sqrt(g @ A @ g)),
        "this is √2 times the answer. The √2 belongs to the ball KL ≤ ε², that is A = F/2 (lecture 03, §2); here the "
        "A-length has to be 1 (lecture 03, §1).": _of_solved(lambda A, g, x: -x * np.sqrt(2 / (g @ x)).astype(g.dtype)),
        "you divide by gᵀA⁻¹g. That is the square of the norm: its root is missing (lecture 03, §1).": _of_solved(
            lambda A, g, x: -x / (g @ x)
        ),
        "you divide by the Euclidean norm of g. In the coordinates where the ball is round, the gradient is "
        "A^{-1/2}g: its length is ‖g‖_{A⁻¹} (lecture 03, §1).": _of_solved(lambda A, g, x: -x / np.linalg.norm(g)),
        "you divide by the diagonal of A. A ball that is tilted has entries beside the diagonal: solve with the whole "
        "matrix (lecture 03, §1).": _of_solved(lambda A, g, x: -(g / np.diag(A)) / np.sqrt(g @ (g / np.diag(A)))),
        "this has the root of A⁻¹ only: A^{-1/2}g/‖g‖_{A⁻¹} is the answer in the coordinates e. Go back with d = "
        "A^{-1/2}e (lecture 03, §1).": _of_solved(lambda A, g, x: -_inverse_root(A) @ g / np.sqrt(g @ x)),
    },
)


def _inverse_root(A: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(A)
    return (vectors / np.sqrt(values)) @ vectors.T


# ---- 2. natural_gradient_step ----


def _sampled_fisher(scores: Any) -> np.ndarray:
    scores = np.asarray(scores)
    return scores.T @ scores / len(scores)


def natural_gradient_step(theta, scores, grad, learning_rate, damping):
    """θ - α (F̂ + λI)⁻¹ g with F̂ = SᵀS/n."""
    damped = _sampled_fisher(scores) + damping * np.eye(len(theta), dtype=theta.dtype)
    return np.asarray(theta) - learning_rate * np.linalg.solve(damped, np.asarray(grad))


def _step_by_eigenvalues(theta, scores, grad, learning_rate, damping):
    values, vectors = jnp.linalg.eigh(jnp.mean(jax.vmap(jnp.outer)(scores, scores), axis=0))
    return theta - learning_rate * vectors @ ((vectors.T @ grad) / (values + damping))


def _step_by_woodbury(theta, scores, grad, learning_rate, damping):
    """(λI + SᵀS/n)⁻¹ g = (g - Sᵀ(nλI + SSᵀ)⁻¹Sg)/λ, with an (n, n) matrix."""
    s, g = np.asarray(scores), np.asarray(grad)
    inner = np.linalg.solve(len(s) * damping * np.eye(len(s)) + s @ s.T, s @ g)
    return np.asarray(theta) - learning_rate * (g - s.T @ inner) / damping


def _with_direction(direction: Callable) -> Callable:
    """A wrong step: θ - α direction(F̂, g, λ, S, θ)."""

    def step(theta, scores, grad, learning_rate, damping):
        s, g, t = np.asarray(scores), np.asarray(grad), np.asarray(theta)
        return t - learning_rate * direction(_sampled_fisher(s), g, damping, s, t)

    return step


def _damped_solve(F: np.ndarray, g: np.ndarray, damping: float) -> np.ndarray:
    return np.linalg.solve(F + damping * np.eye(len(g), dtype=F.dtype), g)


def _same_length(F, g, lam, s, t):
    d = _damped_solve(F, g, lam)
    return d * np.linalg.norm(g) / np.linalg.norm(d)


NATURAL_GRADIENT_STEP = Exercise(
    reference=natural_gradient_step,
    inputs=_step_cases,
    right=(_step_by_eigenvalues, _step_by_woodbury),
    mistakes={
        "you multiply by F + λI where its inverse belongs. That makes steps long where the model changes most "
        "(lecture 03, §2).": _with_direction(lambda F, g, lam, s, t: F @ g + lam * g),
        "the damping comes after the inverse: (F⁻¹ + λI)g leaves the small eigenvalues of F as dangerous as they "
        "were. Add λI to F, then invert (lecture 03, §6).": _with_direction(
            lambda F, g, lam, s, t: np.linalg.solve(F, g) + lam * g
        ),
        "you averaged the scores over the batch before the outer product. F is the mean of s sᵀ; the outer product "
        "of the mean score has rank 1 (lecture 03, §10; unit 01, §3).": _with_direction(
            lambda F, g, lam, s, t: _damped_solve(np.outer(s.mean(0), s.mean(0)), g, lam)
        ),
        "F is a sum over the examples here. It is their mean, as the loss is: divide by n, or λ means something else "
        "for every batch size (lecture 03, §2).": _with_direction(
            lambda F, g, lam, s, t: _damped_solve(F * len(s), g, lam)
        ),
        "the sign is turned: this climbs the loss (lecture 03, §2).": _with_direction(
            lambda F, g, lam, s, t: -_damped_solve(F, g, lam)
        ),
        "this is the step alone. Asked for are the new parameters, θ plus the step (lecture 03, §2).": (
            lambda theta, *rest: natural_gradient_step(theta, *rest) - theta
        ),
        "the damping is missing: this is F⁻¹g. With a singular F there would be no answer (lecture 03, §6).": (
            _with_direction(lambda F, g, lam, s, t: np.linalg.solve(F, g))
        ),
        "λ is divided by n with the sum: (SᵀS + λI)/n. λ is in the unit of F: divide first, add λI after "
        "(lecture 03, §6).": _with_direction(lambda F, g, lam, s, t: _damped_solve(F, g, lam / len(s))),
        "`F + damping` adds λ to every entry of the matrix. Only the diagonal gets it: λ times the identity "
        "(lecture 03, §6).": _with_direction(lambda F, g, lam, s, t: np.linalg.solve(F + lam, g)),
        "the direction is right, but scaled back to the Euclidean length of the gradient. The length of the natural "
        "gradient is part of it: it is what the model's ruler says (lecture 03, §2).": _with_direction(_same_length),
        "you centred the scores with the batch's mean. F is E[s sᵀ], and the mean of the score is 0 in expectation "
        "already (lecture 03, §2; unit 01, §3).": _with_direction(
            lambda F, g, lam, s, t: _damped_solve(_sampled_fisher(s - s.mean(0)), g, lam)
        ),
        "you use the diagonal of F alone. That is another method (unit 05): parameters that act on the model "
        "together have entries beside the diagonal (lecture 03, §2).": _with_direction(
            lambda F, g, lam, s, t: g / (np.diag(F) + lam)
        ),
        "λθ is added to the gradient: that is weight decay. Damping changes the matrix (lecture 03, §6).": (
            _with_direction(lambda F, g, lam, s, t: np.linalg.solve(F, g + lam * t))
        ),
        "the gradient is made from the scores. Their targets are the model's own draws, so their mean is noise "
        "around 0: the loss's gradient is `grad` (lecture 03, §2).": _with_direction(
            lambda F, g, lam, s, t: _damped_solve(F, -s.mean(0), lam)
        ),
        "the gradient is the mean of the scores. Their targets are the model's own draws, so that mean is noise around "
        "0, and has the score's sign: the loss's gradient is `grad` (lecture 03, §2).": _with_direction(
            lambda F, g, lam, s, t: _damped_solve(F, s.mean(0), lam)
        ),
        "λ multiplies the diagonal of F here, which is Marquardt's variant. Asked for is λ times the identity "
        "(lecture 03, §6).": _with_direction(lambda F, g, lam, s, t: np.linalg.solve(F + lam * np.diag(np.diag(F)), g)),
        "you divide by n - 1, as for a sample covariance. The scores' mean is known to be 0, so nothing is estimated "
        "away: F is the mean, with 1/n (lecture 03, §2).": _with_direction(
            lambda F, g, lam, s, t: _damped_solve(F * (len(s) / (len(s) - 1)), g, lam)
        ),
        "you divide by the root of F. Adam does so, with a diagonal (unit 05); the natural gradient has F⁻¹ "
        "(lecture 03, §2).": _with_direction(
            lambda F, g, lam, s, t: _inverse_root(F + lam * np.eye(len(g), dtype=F.dtype)) @ g
        ),
        "the learning rate is missing, or 1 (lecture 03, §2).": (
            lambda theta, scores, grad, learning_rate, damping: natural_gradient_step(theta, scores, grad, 1.0, damping)
        ),
    },
)


# ---- 3. fisher_vector_product ----


@partial(jax.jit, static_argnums=0)
def _jacobians(f: Callable, theta: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    """(z (n, k), J (n, k, P))."""
    return jax.vmap(f, (None, 0))(theta, x), jax.vmap(jax.jacrev(f), (None, 0))(theta, x)


def _softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def _output_fishers(p: np.ndarray) -> np.ndarray:
    """diag(p) - p pᵀ for every row: (n, k, k)."""
    return _diagonals(p) - p[:, :, None] * p[:, None, :]


def _diagonals(p: np.ndarray) -> np.ndarray:
    """diag(p) for every row: (n, k, k). In the dtype of p, or a float32 answer would not be known again."""
    return p[:, :, None] * np.eye(p.shape[1], dtype=p.dtype)


def _sandwich(J: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Mean Jᵀ middle J."""
    return np.einsum("nkp,nkl,nlq->pq", J, middle, J) / len(J)


def _of_jacobians(change: Callable) -> Callable:
    """A product: change(J (n, k, P), p (n, k), z (n, k), v)."""

    def product(logits, theta, x, v):
        z, J = (np.asarray(a) for a in _jacobians(logits, theta, x))
        return change(J, _softmax(z), z, np.asarray(v))

    return product


def _product_by_jvp(logits, theta, x, v):
    def outputs(t):
        return jax.vmap(logits, (None, 0))(t, x)

    z, dz = jax.jvp(outputs, (theta,), (v,))
    p = jax.nn.softmax(z)
    u = p * (dz - jnp.sum(p * dz, axis=1, keepdims=True))
    return jax.vjp(outputs, theta)[1](u / len(x))[0]


def _product_by_enumeration(logits, theta, x, v):
    """Σ_y p(y) s (sᵀv), averaged: equation (1.1) in products."""

    def scores_of_all(J, p, z, v):
        s = J - np.einsum("nk,nkp->np", p, J)[:, None, :]
        return np.einsum("nk,nkp,nk->p", p, s, s @ v) / len(J)

    return _of_jacobians(scores_of_all)(logits, theta, x, v)


FISHER_VECTOR_PRODUCT = Exercise(
    reference=_of_jacobians(lambda J, p, z, v: _sandwich(J, _output_fishers(p)) @ v),
    inputs=_product_cases,
    right=(_product_by_jvp, _product_by_enumeration),
    mistakes={
        "this is the sum over the inputs. F is a mean over x: divide by n (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: _sandwich(J, _output_fishers(p)) @ v * len(J)
        ),
        "the middle is diag(p) alone. The softmax's F_R is diag(p) - p pᵀ: classes compete (lecture 03, §5).": (
            _of_jacobians(lambda J, p, z, v: _sandwich(J, _diagonals(p)) @ v)
        ),
        "the middle is missing: this is JᵀJv, the Fisher of a Normal. For a softmax F_R stands between (lecture 03, "
        "§5).": (_of_jacobians(lambda J, p, z, v: np.einsum("nkp,nk->p", J, J @ v) / len(J))),
        "you use the logits where the probabilities belong: F_R = diag(p) - p pᵀ with p = softmax(z) "
        "(lecture 03, §5).": _of_jacobians(lambda J, p, z, v: _sandwich(J, _output_fishers(z)) @ v),
        "p pᵀ is added where it has to be subtracted (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: _sandwich(J, 2 * _diagonals(p) - _output_fishers(p)) @ v
        ),
        "the middle is p pᵀ alone; it is what is subtracted from diag(p) (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: _sandwich(J, p[:, :, None] * p[:, None, :]) @ v
        ),
        "you averaged the Jacobians over the batch first. Every input has its own JᵀF_R J; the mean comes last "
        "(lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: _sandwich(J.mean(0)[None], _output_fishers(p.mean(0)[None])) @ v
        ),
        "you use the most likely class at each input as its label: s sᵀ with a made-up y. F_R is an expectation over "
        "every class (lecture 03, §5).": _of_jacobians(lambda J, p, z, v: _sandwich(J, _label_outer(p)) @ v),
        "you divide by the number of classes too. F_R is an expectation already: its weights p sum to 1 "
        "(lecture 03, §5).": _of_jacobians(lambda J, p, z, v: _sandwich(J, _output_fishers(p)) @ v / p.shape[1]),
        "this is one number, vᵀFv. The product Fv is a vector, like v (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: v @ _sandwich(J, _output_fishers(p)) @ v
        ),
        "the middle is p(1 - p), the diagonal of F_R alone. The softmax's F_R also has -p_i p_j beside it "
        "(lecture 03, §5).": _of_jacobians(lambda J, p, z, v: _sandwich(J, _diagonals(p * (1 - p))) @ v),
        "the outer factor p is missing: F_R dz is p times (dz - pᵀdz), entry by entry (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: np.einsum("nkp,nk->p", J, J @ v - np.sum(p * (J @ v), axis=1, keepdims=True)) / len(J)
        ),
        "the softmax runs over the examples. It is over the classes of one example, the last axis (lecture 03, §5).": (
            _of_jacobians(lambda J, p, z, v: _sandwich(J, _output_fishers(_softmax(z.T).T)) @ v)
        ),
        "the middle stands there twice: Jᵀ F_R F_R J v. One F_R is between J and Jᵀ (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: _sandwich(J, _output_fishers(p) @ _output_fishers(p)) @ v
        ),
        "the Jacobian is that of the probabilities. F_R = diag(p) - p pᵀ is for the logits: J = dz/dθ, before the "
        "softmax (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: _sandwich(_output_fishers(p) @ J, _output_fishers(p)) @ v
        ),
        "the sign is turned. vᵀFv is never negative (lecture 03, §5).": _of_jacobians(
            lambda J, p, z, v: -_sandwich(J, _output_fishers(p)) @ v
        ),
    },
)


def _label_outer(p: np.ndarray) -> np.ndarray:
    s = np.eye(p.shape[1], dtype=p.dtype)[p.argmax(1)] - p
    return s[:, :, None] * s[:, None, :]


# ---- 4. gauss_newton ----


@partial(jax.jit, static_argnums=0)
def _loss_parts(nll: Callable, z: Any, y: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient, Hessian in z and second derivative in y, for every example."""
    grads = jax.vmap(jax.grad(nll))(z, y)
    in_y = jax.vmap(jax.hessian(nll, argnums=1))(z, y)
    return grads, jax.vmap(jax.hessian(nll))(z, y), in_y


@partial(jax.jit, static_argnums=(0, 1))
def _whole_hessian(output: Callable, nll: Callable, theta: Any, x: Any, y: Any) -> jax.Array:
    return jax.hessian(lambda t: jnp.mean(jax.vmap(lambda a, b: nll(output(t, a), b))(x, y)))(theta)


def _of_outputs(change: Callable) -> Callable:
    """A matrix: change(J, z, y, at), where at(z, y) gives gradients, Hessians in z and in y."""

    def matrix(output, nll, theta, x, y):
        z, J = (np.asarray(a) for a in _jacobians(output, theta, x))
        return change(J, z, np.asarray(y), lambda z, y: [np.asarray(a) for a in _loss_parts(nll, z, y)])

    return matrix


def _gauss_newton_by_loops(output, nll, theta, x, y):
    total = np.zeros((theta.size, theta.size))
    for a, b in zip(x, y, strict=True):
        J = np.asarray(jax.jacfwd(output)(theta, a))
        total += J.T @ np.asarray(jax.hessian(nll)(output(theta, a), b)) @ J
    return total / len(x)


def _gauss_newton_by_frozen_outputs(output, nll, theta, x, y):
    """The Hessian of the loss of the linearised outputs, z₀ + J(t - θ)."""
    z, J = _jacobians(output, theta, x)

    def linearised(t):
        return jnp.mean(jax.vmap(nll)(z + J @ (t - theta), y))

    return jax.hessian(linearised)(theta)


GAUSS_NEWTON = Exercise(
    reference=_of_outputs(lambda J, z, y, at: _sandwich(J, at(z, y)[1])),
    inputs=_gauss_newton_cases,
    right=(_gauss_newton_by_loops, _gauss_newton_by_frozen_outputs),
    mistakes={
        "this is the whole Hessian of the loss. Gauss–Newton leaves out the curvature of the outputs: only Jᵀ H_L J "
        "(lecture 03, §3).": _whole_hessian,
        "the middle is the outer product of the gradients. That gives the empirical Fisher (unit 04); here it is "
        "H_L, the Hessian of the loss in z (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: _sandwich(J, at(z, y)[0][:, :, None] * at(z, y)[0][:, None, :])
        ),
        "H_L is taken at softmax(z). Its argument is what the network gives, z itself: the likelihood has the rest "
        "(lecture 03, §3).": _of_outputs(lambda J, z, y, at: _sandwich(J, at(_softmax(z), y)[1])),
        "this is the sum over the examples: divide by n (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: _sandwich(J, at(z, y)[1]) * len(J)
        ),
        "this is F: the Normal's F_R, an average over the model's y, stands in the middle. G has H_L at the data's "
        "label, as nll gives it (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: _sandwich(J, _diagonals(np.stack([np.exp(-2 * z[:, 1]), np.full(len(z), 2.0)], axis=1)))
        ),
        "H_L is missing: this is JᵀJ, right only for a Normal of variance 1 (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: np.einsum("nkp,nkq->pq", J, J) / len(J)
        ),
        "only the diagonal of H_L is used, or its entries beside the diagonal got lost: outputs may act on the loss "
        "together (lecture 03, §3).": _of_outputs(lambda J, z, y, at: _sandwich(J, at(z, y)[1] * np.eye(2))),
        "all examples get the first example's label. H_L depends on y where z is not the natural parameter: give every "
        "example its own (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: _sandwich(J, at(z, np.full_like(y, y[0]))[1])
        ),
        "H_L is taken at the mean output and the mean label. A function of a mean is not the mean of the function: "
        "one H_L for each example (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: _sandwich(J, at(np.broadcast_to(z.mean(0), z.shape), np.full_like(y, y.mean()))[1])
        ),
        "you averaged the Jacobians and the H_L over the batch before multiplying. Every example has its own Jᵀ H_L J "
        "(lecture 03, §3).": _of_outputs(lambda J, z, y, at: _sandwich(J.mean(0)[None], at(z, y)[1].mean(0)[None])),
        "the label and the output are exchanged: you differentiate the loss in y. H_L is the Hessian in z, the first "
        "argument of nll (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: _sandwich(J, at(z, y)[2][:, None, None] * np.eye(2))
        ),
        "the label stands in the place of the output: H_L is taken at z = y. It is taken at the network's output, "
        "with the label beside it (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: _sandwich(J, at(np.stack([y, y], axis=1), y)[1])
        ),
        "the sign is turned: H_L is the Hessian of -log R, the loss (lecture 03, §3).": _of_outputs(
            lambda J, z, y, at: -_sandwich(J, at(z, y)[1])
        ),
    },
)


# ---- 5. invariance_gap ----


def _gap_parts(loss: Callable, fisher: Callable, psi: Callable, phi: Any) -> tuple[np.ndarray, ...]:
    """(θ, K = dθ/dφ, g in θ, F(θ))."""
    theta = psi(phi)
    return tuple(np.asarray(a) for a in (theta, jax.jacobian(psi)(phi), jax.grad(loss)(theta), fisher(theta)))


def _gap_with(in_phi: Callable) -> Callable:
    """The gap where the step in φ is -α·in_phi(K, g, F): the step in θ is right."""

    def gap(loss, fisher, psi, phi, learning_rate):
        theta, K, g, F = _gap_parts(loss, fisher, psi, phi)
        moved = np.asarray(psi(phi - learning_rate * in_phi(K, g, F)))
        return moved - (theta - learning_rate * np.linalg.solve(F, g))

    return gap


invariance_gap = _gap_with(lambda K, g, F: np.linalg.solve(K.T @ F @ K, K.T @ g))


def _gap_by_composition(loss, fisher, psi, phi, learning_rate):
    """The gradient in φ by differentiating loss∘ψ."""
    K = jax.jacobian(psi)(phi)
    step = jnp.linalg.solve(K.T @ fisher(psi(phi)) @ K, jax.grad(lambda p: loss(psi(p)))(phi))
    straight = psi(phi) - learning_rate * jnp.linalg.solve(fisher(psi(phi)), jax.grad(loss)(psi(phi)))
    return psi(phi - learning_rate * step) - straight


def _gap_of_natural_step(change: Callable) -> Callable:
    """change(ψ(φ'), θ', φ', θ, K, Δθ), with the right steps."""

    def gap(loss, fisher, psi, phi, learning_rate):
        theta, K, g, F = _gap_parts(loss, fisher, psi, phi)
        step = -learning_rate * np.linalg.solve(F, g)
        moved = np.asarray(phi) + np.linalg.solve(K, step)
        return change(np.asarray(psi(jnp.asarray(moved))), theta + step, moved, theta, K, step)

    return gap


def _fisher_at_phi(loss, fisher, psi, phi, learning_rate):
    theta, K, g, F = _gap_parts(loss, fisher, psi, phi)
    in_phi = np.linalg.solve(K.T @ np.asarray(fisher(phi)) @ K, K.T @ g)
    return np.asarray(psi(phi - learning_rate * in_phi)) - (theta - learning_rate * np.linalg.solve(F, g))


def _both(in_phi: Callable, in_theta: Callable, sign: float = -1.0) -> Callable:
    def gap(loss, fisher, psi, phi, learning_rate):
        theta, K, g, F = _gap_parts(loss, fisher, psi, phi)
        moved = np.asarray(psi(phi + sign * learning_rate * in_phi(K, g, F)))
        return moved - (theta + sign * learning_rate * in_theta(g, F))

    return gap


INVARIANCE_GAP = Exercise(
    reference=invariance_gap,
    inputs=_invariance_cases,
    right=(_gap_by_composition, _gap_of_natural_step(lambda there, straight, *rest: there - straight)),
    rtol=1e-6,  # a gap is a small difference of numbers near 1, and one that should be 0 is only so up to rounding
    mistakes={
        "F is not transformed: in φ it is another matrix, KᵀFK. It is the transformation of F that makes the step "
        "forget the parameters (lecture 03, §4).": _gap_with(lambda K, g, F: np.linalg.solve(F, K.T @ g)),
        "the Jacobian is transposed in F: K F Kᵀ. The score in φ is Kᵀs, so E[s sᵀ] becomes Kᵀ F K (lecture 03, §4).": (
            _gap_with(lambda K, g, F: np.linalg.solve(K @ F @ K.T, K.T @ g))
        ),
        "the Jacobian is transposed in the gradient: K g. By the chain rule the gradient in φ is Kᵀ g (lecture 03, "
        "§4).": (_gap_with(lambda K, g, F: np.linalg.solve(K.T @ F @ K, K @ g))),
        "the Jacobian is transposed in both. F in φ is Kᵀ F K, the gradient Kᵀ g (lecture 03, §4).": _gap_with(
            lambda K, g, F: np.linalg.solve(K @ F @ K.T, K @ g)
        ),
        "the gradient is not transformed: g is the gradient in θ, and the step in φ needs the one in φ, Kᵀ g "
        "(lecture 03, §4).": _gap_with(lambda K, g, F: np.linalg.solve(K.T @ F @ K, g)),
        "neither F nor the gradient is transformed: the same step is taken in φ as in θ (lecture 03, §4).": _gap_with(
            lambda K, g, F: np.linalg.solve(F, g)
        ),
        "this is zero, or nearly: you mapped the step back with the Jacobian. The new point is ψ(φ'), and its "
        "curvature is all that is left of the parametrisation (lecture 03, §4).": _gap_of_natural_step(
            lambda there, straight, moved, theta, K, step: np.zeros_like(theta)
        ),
        "φ' and θ' are subtracted without mapping φ' by ψ: they are coordinates of different kinds (lecture 03, §4).": (
            _gap_of_natural_step(lambda there, straight, moved, *rest: moved - straight)
        ),
        "the sign is turned: asked for is ψ(φ') minus θ' (lecture 03, §4).": _gap_of_natural_step(
            lambda there, straight, *rest: straight - there
        ),
        "your values have lost their signs. Asked for is the vector ψ(φ') - θ', not its absolute values "
        "(lecture 03, §4).": _gap_of_natural_step(lambda there, straight, *rest: np.abs(there - straight)),
        "the step in θ starts from φ. It starts from θ = ψ(φ), the same model (lecture 03, §4).": _gap_of_natural_step(
            lambda there, straight, moved, theta, K, step: there - (moved - np.linalg.solve(K, step) + step)
        ),
        "this is the length of the gap. Asked for is the vector ψ(φ') - θ' (lecture 03, §4).": _gap_of_natural_step(
            lambda there, straight, *rest: np.linalg.norm(there - straight)
        ),
        "these are plain gradient steps: F does not occur in them, and their gap does not vanish faster than the step "
        "(lecture 03, §4).": _both(lambda K, g, F: K.T @ g, lambda g, F: g),
        "both steps multiply by F. The natural step has F⁻¹ (lecture 03, §4).": _both(
            lambda K, g, F: K.T @ F @ K @ K.T @ g, lambda g, F: F @ g
        ),
        "both steps climb: subtract the learning rate times F⁻¹g (lecture 03, §4).": _both(
            lambda K, g, F: np.linalg.solve(K.T @ F @ K, K.T @ g), lambda g, F: np.linalg.solve(F, g), 1.0
        ),
        "the Fisher is evaluated at φ. The function takes θ: fisher(ψ(φ)), then Kᵀ and K around it (lecture 03, §4).": (
            _fisher_at_phi
        ),
        "the transformed F has the inverse of the Jacobian: K⁻ᵀFK⁻¹. With K = dθ/dφ the score in φ is Kᵀs "
        "(lecture 03, §4).": _gap_with(
            lambda K, g, F: np.linalg.solve(np.linalg.inv(K).T @ F @ np.linalg.inv(K), K.T @ g)
        ),
    },
)


# ---- 6. kl_limited_step ----


def kl_limited_step(F, g, learning_rate, max_kl):
    """-α F⁻¹g, shortened where ½ dᵀFd would exceed max_kl."""
    F, g, x = _solved(F, g)
    d = -learning_rate * x
    return d * min(1.0, np.sqrt(2 * max_kl / (d @ F @ d)))


def _limited_by_rate(F, g, learning_rate, max_kl):
    """The largest rate that the budget allows: √(2c)/‖g‖_{F⁻¹}."""
    x = jnp.linalg.solve(F, g)
    return -jnp.minimum(learning_rate, jnp.sqrt(2 * max_kl / (g @ x))) * x


def _limited_by_branch(F, g, learning_rate, max_kl):
    F, g = np.asarray(F), np.asarray(g)
    d = -learning_rate * (np.linalg.inv(F) @ g)
    kl = 0.5 * d @ F @ d
    return d if kl <= max_kl else d / np.sqrt(kl / max_kl)


def _scaled_by(factor: Callable) -> Callable:
    """A wrong step: d · factor(d, F, g, c), d the unlimited one."""

    def step(F, g, learning_rate, max_kl):
        F, g, x = _solved(F, g)
        d = -learning_rate * x
        return d * factor(d, F, g, max_kl)

    return step


KL_LIMITED_STEP = Exercise(
    reference=kl_limited_step,
    inputs=_limit_cases,
    right=(_limited_by_rate, _limited_by_branch),
    mistakes={
        "the root is missing: the divergence grows with the square of the step, so halving the step quarters it "
        "(lecture 03, §6).": _scaled_by(lambda d, F, g, c: min(1, 2 * c / (d @ F @ d))),
        "the ½ is missing: the budget is on ½ dᵀFd (lecture 03, §6).": _scaled_by(
            lambda d, F, g, c: min(1, np.sqrt(c / (d @ F @ d)))
        ),
        "the ½ is on the wrong side: ½ t² dᵀFd = c gives t² = 2c/dᵀFd, not c/(2 dᵀFd) (lecture 03, §6).": _scaled_by(
            lambda d, F, g, c: min(1, np.sqrt(c / (2 * (d @ F @ d))))
        ),
        "a step beyond the budget is left out. Shorten it, so that ½ dᵀFd = c (lecture 03, §6).": _scaled_by(
            lambda d, F, g, c: float(0.5 * (d @ F @ d) <= c)
        ),
        "every step is scaled to the budget, short ones too. A step within it stays as it is (lecture 03, §6).": (
            _scaled_by(lambda d, F, g, c: np.sqrt(2 * c / (d @ F @ d)))
        ),
        "the step is never shortened: this is -αF⁻¹g (lecture 03, §6).": _scaled_by(lambda d, F, g, c: 1.0),
        "you limit the Euclidean length. The budget is in nats: ½ dᵀFd (lecture 03, §6).": _scaled_by(
            lambda d, F, g, c: min(1, np.sqrt(2 * c / (d @ d)))
        ),
        "max stands for min: short steps are lengthened and long ones left alone (lecture 03, §6).": _scaled_by(
            lambda d, F, g, c: max(1, np.sqrt(2 * c / (d @ F @ d)))
        ),
        "the quadratic is taken of the gradient, ½ gᵀFg. It is the step whose divergence is limited: ½ dᵀFd "
        "(lecture 03, §6).": _scaled_by(lambda d, F, g, c: min(1, np.sqrt(2 * c / (g @ F @ g)))),
        "the quadratic is ½ gᵀF⁻¹g, that of the step with α = 1. Take it of the step that you make: α² of it "
        "(lecture 03, §6).": lambda F, g, learning_rate, max_kl: (
            kl_limited_step(F, g, 1.0, max_kl) * np.asarray(learning_rate, np.asarray(g).dtype)
        ),
        "the step is the plain gradient's, limited in nats. Its direction has to be F⁻¹g (lecture 03, §6).": (
            lambda F, g, learning_rate, max_kl: _limited_along(np.asarray(g), F, learning_rate, max_kl)
        ),
        "you multiply by F where its inverse belongs: the direction is F⁻¹g (lecture 03, §6).": (
            lambda F, g, learning_rate, max_kl: _limited_along(np.asarray(F) @ np.asarray(g), F, learning_rate, max_kl)
        ),
        "the sign is turned: this climbs (lecture 03, §6).": _scaled_by(
            lambda d, F, g, c: -min(1, np.sqrt(2 * c / (d @ F @ d)))
        ),
        "the learning rate is missing: a step within the budget is -αF⁻¹g (lecture 03, §6).": (
            lambda F, g, learning_rate, max_kl: kl_limited_step(F, g, 1.0, max_kl)
        ),
    },
)


def _limited_along(x: np.ndarray, F: Any, learning_rate: float, max_kl: float) -> np.ndarray:
    d = -learning_rate * x
    return d * min(1.0, np.sqrt(2 * max_kl / (d @ np.asarray(F) @ d)))


EXERCISES = {
    "steepest_descent": STEEPEST_DESCENT,
    "natural_gradient_step": NATURAL_GRADIENT_STEP,
    "fisher_vector_product": FISHER_VECTOR_PRODUCT,
    "gauss_newton": GAUSS_NEWTON,
    "invariance_gap": INVARIANCE_GAP,
    "kl_limited_step": KL_LIMITED_STEP,
}
