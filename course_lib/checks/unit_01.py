"""Unit 01. The bank of exercise 01: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 01.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise

FLOATS = (np.float64, np.float32)


# ---- inputs: sizes differ from seed to seed; the cases of one seed share them, so that JAX compiles once ----


def _normal_cases(rng: np.random.Generator) -> list[Case]:
    """(z, y, scale) with three or more outputs and a scale that is not 1, so that no factor can hide."""
    k = int(rng.integers(3, 7))

    def case(dtype: DTypeLike, scale: float) -> Case:
        z, noise = rng.normal(size=(2, k)).astype(dtype)
        return jnp.asarray(z), jnp.asarray(z + np.asarray(scale, dtype) * noise), scale

    wide, narrow = float(rng.uniform(1.5, 3)), float(rng.uniform(0.3, 0.8))
    return [case(np.float64, wide), case(np.float64, narrow), case(np.float32, wide), case(np.float32, narrow)]


def _logit_cases(rng: np.random.Generator) -> list[Case]:
    """(z, y): ordinary logits, logits far from 0 together, and logits far apart; y is not the most likely class."""
    k = int(rng.integers(3, 7))

    def case(z: np.ndarray) -> Case:
        return jnp.asarray(z), jnp.asarray(rng.choice(np.delete(np.arange(k), z.argmax())))

    ordinary, narrow = 2 * rng.normal(size=k), rng.uniform(-2, 2, k).astype(np.float32)
    apart = 2000 * (rng.permutation(k) - k / 2 + rng.uniform(-0.2, 0.2, k))  # neighbours 1200 apart: exp(-1200) is 0
    return [case(z) for z in (ordinary, narrow, 2000 + ordinary, apart)]


def _output_cases(rng: np.random.Generator) -> list[Case]:
    return [(z,) for z, _ in _logit_cases(rng)[:3]]


def _log_prob(d: int, k: int) -> Callable:
    """log p(y|x;θ) of a model that the notebook does not have: logits W tanh(x) + b, θ the k rows of (W, b)."""

    def log_prob(theta: jax.Array, x: jax.Array, y: Any) -> jax.Array:
        return jax.nn.log_softmax(_logits(theta.reshape(k, d + 1), x))[y]

    return log_prob


def _logits(rows: jax.Array, x: jax.Array) -> jax.Array:
    return rows[:, :-1] @ jnp.tanh(x) + rows[:, -1]


def _model_cases(rng: np.random.Generator, dtypes: tuple = FLOATS) -> list[tuple]:
    """(log_prob, θ, x, y, k), one a dtype; never three classes, as the notebook's own example has, and n is not k."""
    n, d, k = int(rng.integers(6, 9)), int(rng.integers(2, 4)), int(rng.integers(4, 6))
    log_prob = _log_prob(d, k)

    def case(dtype: DTypeLike) -> tuple:
        theta, x = rng.normal(size=k * (d + 1)).astype(dtype), rng.normal(size=(n, d)).astype(dtype)
        return log_prob, jnp.asarray(theta), jnp.asarray(x), jnp.asarray(rng.integers(0, k, n)), k

    return [case(dtype) for dtype in dtypes]


def _score_cases(rng: np.random.Generator) -> list[Case]:
    return [case[:4] for case in _model_cases(rng)]


def _enumeration_cases(rng: np.random.Generator) -> list[Case]:
    return [(log_prob, theta, x, k) for log_prob, theta, x, _, k in _model_cases(rng)]


def _kl_cases(rng: np.random.Generator) -> list[Case]:
    """d of length one half: small enough to be a step, large enough to tell the two directions of KL apart."""

    def step(theta: jax.Array) -> jax.Array:
        d = rng.normal(size=theta.shape)
        return jnp.asarray((0.5 * d / np.linalg.norm(d)).astype(theta.dtype))

    return [(log_prob, theta, step(theta), x, k) for log_prob, theta, x, _, k in _model_cases(rng)]


def _sampling_cases(rng: np.random.Generator) -> list[Case]:
    """(log_prob, sample, θ, x, observed y, keys (M, n)): a key for every draw and example."""
    draws = int(rng.integers(9, 12))  # more than examples: dividing by one is not dividing by the other

    def sample(key: jax.Array, theta: jax.Array, x: jax.Array) -> jax.Array:
        return jax.random.categorical(key, _logits(theta.reshape(-1, len(x) + 1), x))

    def keys(n: int) -> jax.Array:
        return jax.random.split(jax.random.key(int(rng.integers(2**31))), (draws, n))

    cases = _model_cases(rng, (np.float64, np.float64))
    return [(log_prob, sample, theta, x, y, keys(len(x))) for log_prob, theta, x, y, _ in cases]


# ---- 1. nll_normal ----


def nll_normal(z, y, scale):
    """-log N(y; z, scale² I) in nats."""
    return 0.5 * jnp.sum(((y - z) / scale) ** 2) + z.size * (jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))


def _nll_normal_by_logpdf(z, y, scale):
    return -jnp.sum(jax.scipy.stats.norm.logpdf(y, z, scale))


def _nll_normal_by_density(z, y, scale):
    density = np.exp(-0.5 * ((np.asarray(y) - np.asarray(z)) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
    return -np.log(density).sum()


NLL_NORMAL = Exercise(
    reference=nll_normal,
    inputs=_normal_cases,
    right=(_nll_normal_by_logpdf, _nll_normal_by_density),
    mistakes={
        "the squared error is there, the constants are not. A negative log-likelihood has k·(log scale + ½ log 2π) "
        "too; a loss may drop them, a log-probability may not (lecture 01, §1).": lambda z, y, s: (
            0.5 * jnp.sum(((y - z) / s) ** 2)
        ),
        "you divide by scale where the density divides by scale²: `scale` is the standard deviation, not the variance "
        "(lecture 01, §1).": lambda z, y, s: 0.5 * jnp.sum((y - z) ** 2) / s + 0.5 * z.size * jnp.log(2 * jnp.pi * s),
        "this is the mean over the k outputs. They are independent, so their densities multiply and their negative "
        "logs add: sum them (lecture 01, §1).": lambda z, y, s: nll_normal(z, y, s) / z.size,
        "the constant log scale + ½ log 2π is there once. Each of the k outputs has a density of its own, and so a "
        "constant of its own (lecture 01, §1).": lambda z, y, s: (
            nll_normal(z, y, s) - (z.size - 1) * (jnp.log(s) + 0.5 * jnp.log(2 * jnp.pi))
        ),
        "this is the log-likelihood. The loss is its negative: small where the data are likely (lecture 01, §1).": (
            lambda z, y, s: -nll_normal(z, y, s)
        ),
        "log scale is missing. Without it a wider Normal would always fit better (lecture 01, §1).": (
            lambda z, y, s: nll_normal(z, y, s) - z.size * jnp.log(s)
        ),
        "log scale is there once, and ½ log 2π for every output. Each of the k outputs has both (lecture 01, §1).": (
            lambda z, y, s: nll_normal(z, y, s) - (z.size - 1) * jnp.log(s)
        ),
        "½ log 2π is there once, and log scale for every output. Each of the k outputs has both (lecture 01, §1).": (
            lambda z, y, s: nll_normal(z, y, s) - (z.size - 1) * 0.5 * jnp.log(2 * jnp.pi)
        ),
        "log scale has the wrong sign. A wide Normal has a low peak, so its nll has + log scale (lecture 01, §1).": (
            lambda z, y, s: nll_normal(z, y, s) - 2 * z.size * jnp.log(s)
        ),
        "the ½ before the square is missing: the exponent of a Normal is -(y-z)²/(2 scale²) (lecture 01, §1).": (
            lambda z, y, s: nll_normal(z, y, s) + 0.5 * jnp.sum(((y - z) / s) ** 2)
        ),
        "2π has lost its square root: a density has 1/√(2π), so the nll has ½ log 2π (lecture 01, §1).": (
            lambda z, y, s: nll_normal(z, y, s) + z.size * 0.5 * jnp.log(2 * jnp.pi)
        ),
        "the whole constant has a ½ that belongs to log 2π alone. It is log scale + ½ log 2π: half the log of "
        "2π scale² (lecture 01, §1).": lambda z, y, s: nll_normal(z, y, s) - 0.5 * z.size * jnp.log(s),
    },
)


# ---- 2. nll_categorical ----


def nll_categorical(z, y):
    """-log softmax(z)_y in nats, by log-sum-exp."""
    top = jnp.max(z)
    return top + jnp.log(jnp.sum(jnp.exp(z - top))) - z[y]


def _nll_categorical_numpy(z, y):
    z = np.asarray(z)
    return np.logaddexp.reduce(z) - z[int(y)]


NLL_CATEGORICAL = Exercise(
    reference=nll_categorical,
    inputs=_logit_cases,
    right=(lambda z, y: -jax.nn.log_softmax(z)[y], _nll_categorical_numpy),
    mistakes={
        "right for small logits, nan or inf for large ones: exp(z) overflows above 709 (above 88 in float32). Subtract "
        "the largest logit first; the softmax does not change (lecture 01, §1).": lambda z, y: (
            -jnp.log(jnp.exp(z)[y] / jnp.sum(jnp.exp(z)))
        ),
        "right until the logits are far apart, then inf. Either log comes after the softmax, where a probability below "
        "1e-308 has become 0; or what you subtract before exp is not the largest logit, so that an exponent is still "
        "above 709. Take the log of the quotient by hand, and subtract the maximum (lecture 01, §1).": lambda z, y: (
            -jnp.log(jax.nn.softmax(z)[y])
        ),
        "right for small logits, inf for large ones: exp(z) overflows above 709 (above 88 in float32). The logarithm "
        "is split well; now subtract the largest logit inside exp and add it again outside (lecture 01, §1).": (
            lambda z, y: jnp.log(jnp.sum(jnp.exp(z))) - z[y]
        ),
        "you subtract the largest logit inside exp and do not put it back: log Σ exp z = t + log Σ exp(z - t) "
        "(lecture 01, §1).": lambda z, y: nll_categorical(z, y) - jnp.max(z),
        "this is the log-probability. The loss is its negative, log Σ exp z - z_y, and never below 0 "
        "(lecture 01, §1).": lambda z, y: -nll_categorical(z, y),
        "z_y is missing: log Σ exp z is the normaliser alone, the same for every class (lecture 01, §1).": (
            lambda z, y: nll_categorical(z, y) + z[y]
        ),
        "you take the log of a logit. Logits are not probabilities: they may be negative and need not sum to 1 "
        "(lecture 01, §1).": lambda z, y: -jnp.log(z[y]),
        "the normaliser log Σ exp z is missing: without it the loss falls for ever as z_y grows (lecture 01, §1).": (
            lambda z, y: -z[y]
        ),
        "this sums over all classes. Only the class that was observed counts: pick y (lecture 01, §1).": lambda z, y: (
            -jnp.sum(jax.nn.log_softmax(z))
        ),
        "you use the most likely class. The label is y, whatever the model thinks of it (lecture 01, §1).": (
            lambda z, y: nll_categorical(z, jnp.argmax(z))
        ),
        "this is in bits. The course counts in nats: the natural logarithm (lecture 01, §1).": lambda z, y: (
            nll_categorical(z, y) / jnp.log(2)
        ),
    },
)


# ---- 3. output_fisher ----


def output_fisher(z):
    """F_R = diag(p) - p pᵀ."""
    p = jax.nn.softmax(z)
    return jnp.diag(p) - jnp.outer(p, p)


def _output_fisher_enumerated(z):
    p = jax.nn.softmax(z)
    errors = jnp.eye(z.size) - p
    return sum(p[y] * jnp.outer(errors[y], errors[y]) for y in range(z.size))


def _unweighted_output_fisher(z):
    errors = jnp.eye(z.size) - jax.nn.softmax(z)
    return errors.T @ errors / z.size


OUTPUT_FISHER = Exercise(
    reference=output_fisher,
    inputs=_output_cases,
    right=(_output_fisher_enumerated, jax.hessian(jax.nn.logsumexp)),
    mistakes={
        "this is p pᵀ. The expectation of e_y e_yᵀ is diag(p); p pᵀ is what is taken away from it "
        "(lecture 01, §3).": lambda z: jnp.outer(jax.nn.softmax(z), jax.nn.softmax(z)),
        "this is diag(p) alone: the uncentred second moment of e_y. The score is e_y - p, so p pᵀ has to be "
        "subtracted (lecture 01, §3).": lambda z: jnp.diag(jax.nn.softmax(z)),
        "the diagonal is right, the rest is zero. Classes compete: when one is drawn the others are not, so the "
        "covariance of two of them is -p_i p_j (lecture 01, §3).": lambda z: jnp.diag(jnp.diag(output_fisher(z))),
        "p pᵀ is added where it has to be subtracted: Cov(e_y) = E[e_y e_yᵀ] - E[e_y] E[e_y]ᵀ (lecture 01, §3).": (
            lambda z: jnp.diag(jax.nn.softmax(z)) + jnp.outer(jax.nn.softmax(z), jax.nn.softmax(z))
        ),
        "you use the logits where the probabilities belong: p = softmax(z) (lecture 01, §3).": lambda z: (
            jnp.diag(z) - jnp.outer(z, z)
        ),
        "this is zero, or nearly: you averaged the score over y first, and E[e_y - p] = 0. Take the outer product "
        "first, the expectation after it (lecture 01, §3).": lambda z: jnp.zeros((z.size, z.size)),
        "p * p multiplies entry by entry, a vector, which is then taken from every row. The matrix p pᵀ is "
        "jnp.outer(p, p) (lecture 01, §3).": lambda z: jnp.diag(jax.nn.softmax(z)) - jax.nn.softmax(z) ** 2,
        "p @ p.T is one number for a vector, Σ p². The matrix p pᵀ is jnp.outer(p, p) (lecture 01, §3).": lambda z: (
            jnp.diag(jax.nn.softmax(z)) - jnp.sum(jax.nn.softmax(z) ** 2)
        ),
        "the classes are added without a weight: Σ_y s sᵀ is no expectation. Weight class y by p_y (lecture 01, §3).": (
            lambda z: z.size * _unweighted_output_fisher(z)
        ),
        "the sign is wrong: a Fisher matrix is a covariance, its diagonal cannot be negative (lecture 01, §3).": (
            lambda z: -output_fisher(z)
        ),
        "you use one label, the most likely one. The Fisher is an expectation over every y, each weighted by the "
        "model's p(y) (lecture 01, §3).": lambda z: jnp.outer(
            *(2 * (jnp.eye(z.size)[jnp.argmax(z)] - jax.nn.softmax(z),))
        ),
        "the classes are weighted alike. The expectation is over the model's y: class y has weight p_y, not 1/k "
        "(lecture 01, §3).": lambda z: jnp.mean(
            jax.vmap(lambda e: jnp.outer(e, e))(jnp.eye(z.size) - jax.nn.softmax(z)), 0
        ),
    },
)


# ---- 4. score ----


def score(log_prob, theta, x, y):
    """(n, P): one row an example."""
    return jax.vmap(jax.grad(log_prob), (None, 0, 0))(theta, x, y)


SCORE = Exercise(
    reference=score,
    inputs=_score_cases,
    right=(
        lambda log_prob, theta, x, y: jnp.stack([jax.grad(log_prob)(theta, a, b) for a, b in zip(x, y, strict=True)]),
        lambda log_prob, theta, x, y: jax.jacrev(lambda t: jax.vmap(lambda a, b: log_prob(t, a, b))(x, y))(theta),
    ),
    mistakes={
        "this is the gradient of the mean, one vector. The score keeps a row for every example: (n, P). Once averaged, "
        "the rows cannot be had back (lecture 01, §2).": lambda f, t, x, y: score(f, t, x, y).mean(0),
        "this is the gradient of the sum, one vector. The score keeps a row for every example: (n, P) "
        "(lecture 01, §2).": lambda f, t, x, y: score(f, t, x, y).sum(0),
        "the rows are divided by n. Each row is the gradient of one example's log p, whole (lecture 01, §2).": (
            lambda f, t, x, y: score(f, t, x, y) / len(x)
        ),
        "the sign is turned: you differentiate the loss -log p, and the score is the gradient of +log p "
        "(lecture 01, §2).": lambda f, t, x, y: -score(f, t, x, y),
        "you differentiate p, and the score is the gradient of log p: it is ∇p / p (lecture 01, §2).": (
            lambda f, t, x, y: score(lambda *a: jnp.exp(f(*a)), t, x, y)
        ),
        "rows and columns are exchanged: a row is an example, a column a parameter (lecture 01, §2).": (
            lambda f, t, x, y: score(f, t, x, y).T
        ),
        "you subtract the mean of the batch. The score has mean 0 over the model's y; over the observed y of a batch "
        "its mean is minus the gradient of the loss, which is what you would throw away (lecture 01, §2).": (
            lambda f, t, x, y: score(f, t, x, y) - score(f, t, x, y).mean(0)
        ),
    },
)


# ---- 5. fisher_enumerated ----


def _all_scores(log_prob, theta, x, num_classes):
    """Scores (k, n, P) of every class at every x, and the model's probabilities (k, n)."""
    labels = jnp.broadcast_to(jnp.arange(num_classes)[:, None], (num_classes, len(x)))
    scores = jax.vmap(lambda y: score(log_prob, theta, x, y))(labels)
    return scores, jnp.exp(jax.vmap(lambda y: jax.vmap(log_prob, (None, 0, 0))(theta, x, y))(labels))


def _weighted(weights, scores):
    return jnp.einsum("yn,ynp,ynq->pq", weights, scores, scores)


def fisher_enumerated(log_prob, theta, x, num_classes):
    """F = mean over x of Σ_y p(y|x) s sᵀ."""
    scores, p = _all_scores(log_prob, theta, x, num_classes)
    return _weighted(p, scores) / len(x)


def _fisher_by_loops(log_prob, theta, x, num_classes):
    total = np.zeros((theta.size, theta.size))
    for a in x:
        for y in range(num_classes):
            s = np.asarray(jax.grad(log_prob)(theta, a, y))
            total += float(jnp.exp(log_prob(theta, a, y))) * np.outer(s, s)
    return total / len(x)


def _fisher_by_hessians(log_prob, theta, x, num_classes):
    def expected_nll(t):  # the weights are held fixed: only log p is differentiated
        labels = range(num_classes)
        terms = [jnp.exp(log_prob(theta, a, y)) * -log_prob(t, a, y) for a in x for y in labels]
        return sum(terms) / len(x)

    return jax.hessian(expected_nll)(theta)


def _outer_over_examples(scores):
    return scores.T @ scores / len(scores)


def _gram(rows):
    return rows.T @ rows


def _of_scores(change: Callable) -> Callable:
    """A wrong Fisher: change(scores (k, n, P), p (k, n)) -> (P, P)."""
    return lambda log_prob, theta, x, k: change(*_all_scores(log_prob, theta, x, k))


FISHER_ENUMERATED = Exercise(
    reference=fisher_enumerated,
    inputs=_enumeration_cases,
    right=(_fisher_by_loops, _fisher_by_hessians),
    mistakes={
        "this is the sum over x. The Fisher of a data set is the mean over its inputs: divide by n "
        "(lecture 01, §3).": _of_scores(lambda s, p: _weighted(p, s)),
        "the classes are weighted alike. The inner expectation is over the MODEL's y: weight class y by p(y|x;θ), not "
        "by 1/k (lecture 01, §3).": _of_scores(lambda s, p: _weighted(jnp.ones_like(p), s) / p.size),
        "the classes are added without a weight: Σ_y s sᵀ is no expectation. Weight each by p(y|x;θ) "
        "(lecture 01, §3).": _of_scores(lambda s, p: _weighted(jnp.ones_like(p), s) / p.shape[1]),
        "you use the most likely class at each x. That label is made up: the expectation needs every class with its "
        "probability (lecture 01, §3).": _of_scores(
            lambda s, p: _weighted(jax.nn.one_hot(p.argmax(0), len(p), axis=0), s) / p.shape[1]
        ),
        "this is zero, or nearly: you averaged the score over y first, and E[s] = 0. Take the outer product first, the "
        "expectation after it (lecture 01, §3).": _of_scores(
            lambda s, p: _outer_over_examples(jnp.einsum("yn,ynp->np", p, s))
        ),
        "you averaged the score over x before the outer product. The mean of s sᵀ is not the outer product of means: "
        "each x has its own (lecture 01, §3).": _of_scores(
            lambda s, p: jnp.einsum("y,yp,yq->pq", p.mean(1), s.mean(1), s.mean(1))
        ),
        "you averaged p·s over x before the outer product. The mean over x of Σ_y p s sᵀ is asked for: each x has its "
        "own product (lecture 01, §3).": _of_scores(lambda s, p: _gram(jnp.einsum("yn,ynp->yp", p, s) / p.shape[1])),
        "you divide by the number of classes where the number of inputs belongs: F is the mean over x "
        "(lecture 01, §3).": _of_scores(lambda s, p: _weighted(p, s) / len(p)),
        "the weight is log p. An expectation weights by the probability itself: jnp.exp(log_prob(...)) "
        "(lecture 01, §3).": _of_scores(lambda s, p: _weighted(jnp.log(p), s) / p.shape[1]),
        "you divide by the number of classes too. The weights p(y|x;θ) sum to 1 already: divide by n alone "
        "(lecture 01, §3).": _of_scores(lambda s, p: _weighted(p, s) / p.size),
        "this is Σ p² s sᵀ, which is Σ ∇p ∇pᵀ: the weight is in there twice, or you differentiated p. The Fisher has "
        "one p: Σ p s sᵀ (lecture 01, §3).": _of_scores(lambda s, p: _weighted(p**2, s) / p.shape[1]),
    },
)


# ---- 6. kl_and_quadratic ----


def _mean_kl(log_prob, theta, other, x, num_classes):
    """Mean over x of KL(p(.|x;θ) ‖ p(.|x;other))."""
    labels = jnp.arange(num_classes)
    table = jax.vmap(lambda t, a: jax.vmap(lambda y: log_prob(t, a, y))(labels), (None, 0))
    p, q = table(theta, x), table(other, x)
    return jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=1))


def _mean_entropy(log_prob, theta, x, num_classes):
    _, p = _all_scores(log_prob, theta, x, num_classes)
    return -jnp.sum(p * jnp.log(p)) / len(x)


def kl_and_quadratic(log_prob, theta, d, x, num_classes):
    """(KL(p_θ ‖ p_{θ+d}), ½ dᵀ F(θ) d), both means over x, in nats."""
    exact = _mean_kl(log_prob, theta, theta + d, x, num_classes)
    return exact, 0.5 * d @ fisher_enumerated(log_prob, theta, x, num_classes) @ d


def _kl_by_loops(log_prob, theta, d, x, num_classes):
    exact, quadratic = 0.0, 0.0
    for a in x:
        for y in range(num_classes):
            p = jnp.exp(log_prob(theta, a, y))
            slope = jax.jvp(lambda t: log_prob(t, a, y), (theta,), (d,))[1]  # noqa: B023  (called at once)
            exact += p * (log_prob(theta, a, y) - log_prob(theta + d, a, y)) / len(x)
            quadratic += 0.5 * p * slope**2 / len(x)
    return exact, quadratic


def _kl_hessian(log_prob, theta, d, x, num_classes):
    kl = lambda other: _mean_kl(log_prob, theta, other, x, num_classes)  # noqa: E731
    return kl(theta + d), 0.5 * d @ jax.hessian(kl)(theta) @ d


def _of_kl(change: Callable) -> Callable:
    """A wrong pair: change(right pair, F(θ), its arguments) -> pair."""
    return lambda *a: change(*kl_and_quadratic(*a), fisher_enumerated(a[0], a[1], *a[3:]), a)


KL_AND_QUADRATIC = Exercise(
    reference=kl_and_quadratic,
    inputs=_kl_cases,
    returns=("the first value, KL,", "the second value, the quadratic,"),
    right=(_kl_by_loops, _kl_hessian),
    mistakes={
        "the quadratic is twice too large: the ½ of the Taylor series is missing (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl, 2 * quad)
        ),
        "this is KL in the other direction. Here y is drawn from the model at θ: the weights are p(y|x;θ), not "
        "p(y|x;θ+d). To second order the two agree, beyond it they do not (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (_mean_kl(a[0], a[1] + a[2], a[1], *a[3:]), quad)
        ),
        "both are sums over x. Both are means: KL and F count per example (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl * len(a[3]), quad * len(a[3]))
        ),
        "only the KL is a sum over x, so it cannot match its quadratic: take the mean (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl * len(a[3]), quad)
        ),
        "only the quadratic is a sum over x, so it cannot match its KL: F is a mean (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl, quad * len(a[3]))
        ),
        "the two values are exchanged: KL first, then the quadratic (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (quad, kl)
        ),
        "the first value is weighted by q, and its logs are log p - log q: no divergence. KL(θ ‖ θ+d) has p(y|x;θ) as "
        "weight (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (-_mean_kl(a[0], a[1] + a[2], a[1], *a[3:]), quad)
        ),
        "the first value is the cross-entropy -Σ p log q. KL has the entropy taken away: Σ p (log p - log q) "
        "(lecture 01, §4).": _of_kl(lambda kl, quad, fisher, a: (kl + _mean_entropy(a[0], a[1], *a[3:]), quad)),
        "the first value is averaged over the classes too. The weights p(y|x;θ) sum to 1: sum over y, mean over x "
        "(lecture 01, §4).": _of_kl(lambda kl, quad, fisher, a: (kl / a[4], quad)),
        "the first value is in bits: use the natural logarithm (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl / jnp.log(2), quad)
        ),
        "the quadratic is ½ ‖d‖²: F is missing. Without it all directions would count alike (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl, 0.5 * a[2] @ a[2])
        ),
        "F is taken at θ + d. The quadratic is the Taylor series at θ: F(θ) (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl, 0.5 * a[2] @ fisher_enumerated(a[0], a[1] + a[2], *a[3:]) @ a[2])
        ),
        "this is ½ ‖F d‖². The quadratic form has one F: dᵀ F d (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (kl, 0.5 * jnp.sum((fisher @ a[2]) ** 2))
        ),
        "the KL has the wrong sign: it is Σ p (log p - log q), and never negative (lecture 01, §4).": _of_kl(
            lambda kl, quad, fisher, a: (-kl, quad)
        ),
    },
)


# ---- 7. fisher_sampled ----


def _draws(log_prob, sample, theta, x, keys):
    """Scores (M, n, P) of labels drawn with keys (M, n)."""
    labels = jax.vmap(lambda row: jax.vmap(lambda key, a: sample(key, theta, a))(row, x))(keys)
    return jax.vmap(lambda y: score(log_prob, theta, x, y))(labels)


def _mean_and_error(matrices):
    """Mean over the first axis, and its standard error."""
    return matrices.mean(0), matrices.std(0, ddof=1) / jnp.sqrt(len(matrices))


def fisher_sampled(log_prob, sample, theta, x, y, keys):
    """(F̂, its standard error), both (P, P); the observed y is not used."""
    scores = _draws(log_prob, sample, theta, x, keys)
    return _mean_and_error(jnp.einsum("mnp,mnq->mpq", scores, scores) / len(x))


def _fisher_sampled_loops(log_prob, sample, theta, x, y, keys):
    draws = []
    for row in keys:
        labels = [sample(key, theta, a) for key, a in zip(row, x, strict=True)]
        scores = [np.asarray(jax.grad(log_prob)(theta, a, b)) for a, b in zip(x, labels, strict=True)]
        draws.append(np.mean([np.outer(s, s) for s in scores], axis=0))
    return np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1) / len(draws) ** 0.5


def _fisher_sampled_flat(log_prob, sample, theta, x, y, keys):
    flat_x = jnp.tile(x, (len(keys), 1))
    labels = jax.vmap(sample, (0, None, 0))(keys.ravel(), theta, flat_x)
    rows = score(log_prob, theta, flat_x, labels)
    draws = jax.vmap(lambda s: s.T @ s / len(x))(rows.reshape(len(keys), len(x), -1))
    return draws.mean(0), jnp.sqrt(jnp.var(draws, axis=0, ddof=1) / len(keys))


def _with_keys(change: Callable) -> Callable:
    return lambda f, sample, t, x, y, keys: fisher_sampled(f, sample, t, x, y, change(keys))


def _of_draws(change: Callable) -> Callable:
    """A wrong estimate: change(scores (M, n, P)) -> (F̂, standard error)."""
    return lambda f, sample, t, x, y, keys: change(_draws(f, sample, t, x, keys))


def _outer(scores):
    return jnp.einsum("mnp,mnq->mpq", scores, scores) / scores.shape[1]


def _observed(f, sample, t, x, y, keys):
    scores = score(f, t, x, y)
    return scores.T @ scores / len(x), jnp.zeros((t.size, t.size))


def _outer_of_means(scores):
    means = scores.mean(1)
    return _mean_and_error(means[:, :, None] * means[:, None, :])


def _error_over_examples(scores):
    flat = scores.reshape(-1, scores.shape[2])
    return _mean_and_error(flat[:, :, None] * flat[:, None, :])


FISHER_SAMPLED = Exercise(
    reference=fisher_sampled,
    inputs=_sampling_cases,
    returns=("the first value, the estimate,", "the second value, the standard error,"),
    right=(_fisher_sampled_loops, _fisher_sampled_flat),
    mistakes={
        "you use the labels of the data set. That is the EMPIRICAL Fisher, another matrix (unit 04): the Fisher's y is "
        "drawn from the model (lecture 01, §3).": _observed,
        "one key serves all draws, so every draw is the same and the standard error is 0: keys[m, i] is for draw m of "
        "example i (lecture 01, §3).": _with_keys(lambda keys: jnp.broadcast_to(keys[:1], keys.shape)),
        "one key serves all examples of a draw, so their labels are not independent: keys[m, i] is for draw m of "
        "example i (lecture 01, §3).": _with_keys(lambda keys: jnp.broadcast_to(keys[:, :1], keys.shape)),
        "you averaged the score over the examples before the outer product: that estimates F/n with noise, not F. "
        "Square first, average after (lecture 01, §3).": _of_draws(_outer_of_means),
        "the second value is the standard deviation of one draw. The mean of M draws is √M times surer "
        "(lecture 01, §3).": _of_draws(lambda s: (_outer(s).mean(0), _outer(s).std(0, ddof=1))),
        "the standard error divides by M where the sample variance divides by M - 1 (ddof=1): with few draws it comes "
        "out too small (lecture 01, §3).": _of_draws(
            lambda s: (_outer(s).mean(0), _outer(s).std(0) / jnp.sqrt(len(s)))
        ),
        "the second value is a variance over M. The standard error is a square root: s/√M (lecture 01, §3).": _of_draws(
            lambda s: (_outer(s).mean(0), _outer(s).var(0, ddof=1) / len(s))
        ),
        "the second value divides the standard deviation by M; the error of a mean falls as 1/√M (lecture 01, §3).": (
            _of_draws(lambda s: (_outer(s).mean(0), _outer(s).std(0, ddof=1) / len(s)))
        ),
        "the second value divides by √n. What is averaged here are the M draws: √M (lecture 01, §3).": _of_draws(
            lambda s: (_outer(s).mean(0), _outer(s).std(0, ddof=1) / jnp.sqrt(s.shape[1]))
        ),
        "the second value divides by √(Mn). Each F̂_m is a mean over the examples already, its spread too: √M alone "
        "(lecture 01, §3).": _of_draws(
            lambda s: (_outer(s).mean(0), _outer(s).std(0, ddof=1) / jnp.sqrt(len(s) * s.shape[1]))
        ),
        "these are sums over the examples: F is a mean over x (lecture 01, §3).": _of_draws(
            lambda s: _mean_and_error(_outer(s) * s.shape[1])
        ),
        "the standard error counts the spread between examples too. x is held fixed: average over the examples first, "
        "then look at the spread between draws (lecture 01, §3).": _of_draws(_error_over_examples),
    },
)


EXERCISES = {
    "nll_normal": NLL_NORMAL,
    "nll_categorical": NLL_CATEGORICAL,
    "output_fisher": OUTPUT_FISHER,
    "score": SCORE,
    "fisher_enumerated": FISHER_ENUMERATED,
    "kl_and_quadratic": KL_AND_QUADRATIC,
    "fisher_sampled": FISHER_SAMPLED,
}
