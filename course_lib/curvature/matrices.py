"""Unit 01. The curvature matrices, whole: (P, P), in ravel_pytree order, a mean over the batch's examples.

For checks and small models: use products or diagonals where P is above a few thousand.
Sources: Martens §5 (F over the empirical x), §9 (G), §11 (F̄); slides, FIM.

Memory: at most 4·P² numbers beside what one chunk of examples needs. `chunk_size` is how many examples
(draws in fisher_mc) are differentiated at a time; smaller is slower and takes less.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

from course_lib.models import Batch, Model, Params, checked

Matrix = Float[Array, "P P"]
CHUNK = 128


@partial(jax.jit, static_argnames=("model", "chunk_size"))
def hessian(model: Model, params: Params, batch: Batch, chunk_size: int = CHUNK) -> Matrix:
    """H = ∇² h(θ), h the mean nll: what Newton's method divides by. Symmetric, may be indefinite."""
    theta, unravel = ravel_pytree(params)

    def row(i: Array) -> Array:
        """H e_i, forward over reverse, in chunks of examples."""
        basis = jax.nn.one_hot(i, theta.size, dtype=theta.dtype)

        def chunk_row(x: Array, y: Array) -> Array:
            total = jax.grad(lambda t: jnp.sum(jax.vmap(partial(model.nll_one, unravel(t)))(x, y)))
            return jax.jvp(total, (theta,), (basis,))[1]

        return mean_over_chunks(chunk_row, checked(batch), chunk_size)

    return jax.lax.map(row, jnp.arange(theta.size), batch_size=min(64, theta.size))


@partial(jax.jit, static_argnames=("model", "chunk_size"))
def fisher(model: Model, params: Params, batch: Batch, chunk_size: int = CHUNK) -> Matrix:
    """F = E_x E_{y~p(y|x;θ)}[s sᵀ] = mean Jᵀ F_R(z) J: the expectation over y is the model's, and exact.

    The batch's y is ignored: (x, None) works too.
    """
    return _sandwich(model, params, lambda z, y: model.likelihood.fisher(z), _any_targets(batch), chunk_size)


@partial(jax.jit, static_argnames=("model", "chunk_size"))
def gauss_newton(model: Model, params: Params, batch: Batch, chunk_size: int = CHUNK) -> Matrix:
    """G = mean Jᵀ H_L J, H_L the Hessian of L(y, z) = nll in z at the batch's y. Martens §9; equal to F where z is the
    natural parameter of an exponential family."""
    return _sandwich(model, params, jax.hessian(model.likelihood.nll), checked(batch), chunk_size)


@partial(jax.jit, static_argnames=("model", "num_samples", "chunk_size"))
def fisher_mc(
    model: Model,
    params: Params,
    batch: Batch,
    key: Key[Array, ""],
    num_samples: int = 1,
    chunk_size: int = CHUNK,
) -> Matrix:
    """An unbiased estimate of F: the mean of s sᵀ over num_samples targets a example, drawn from the model.

    Every example and draw has its own key. The batch's y is ignored. ValueError for num_samples < 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    x, _ = _any_targets(batch)
    key = jax.random.split(key, 1)[0]  # marks the caller's key as used (jax_debug_key_reuse), which fold_in does not

    def outer(draw: Array) -> Array:
        """Σ s sᵀ over one chunk of draws, numbered from 0; the first num_samples of them are for the first example."""
        inputs = x[draw // num_samples]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, draw)
        y = jax.vmap(model.likelihood.sample)(keys, model.outputs(params, inputs))
        scores = model.score(params, (inputs, y))
        return scores.T @ scores

    return mean_over_chunks(outer, (jnp.arange(len(x) * num_samples),), chunk_size)


@partial(jax.jit, static_argnames=("model", "chunk_size"))
def empirical_fisher(model: Model, params: Params, batch: Batch, chunk_size: int = CHUNK) -> Matrix:
    """F̄ = mean s_i s_iᵀ with the batch's own y: NOT the Fisher (Martens §11, unit 04). Rank at most n."""

    def outer(x: Array, y: Array) -> Array:
        scores = model.score(params, (x, y))
        return scores.T @ scores

    return mean_over_chunks(outer, checked(batch), chunk_size)


def _sandwich(model: Model, params: Params, middle: Callable, batch: Batch, chunk_size: int) -> Matrix:
    """mean over examples of Jᵀ middle(z, y) J, with J = dz/dθ: (k, P)."""
    theta, unravel = ravel_pytree(params)

    def chunk(x: Array, y: Any) -> Array:
        jac = jax.vmap(jax.jacrev(lambda t, x: model.output_one(unravel(t), x)), (None, 0))(theta, x)
        weighted = jax.vmap(middle)(model.outputs(params, x), y) @ jac
        return jnp.tensordot(jac, weighted, axes=((0, 1), (0, 1)))

    return mean_over_chunks(chunk, batch, chunk_size)


def _any_targets(batch: Batch) -> Batch:
    """(x, y) with a y that nobody reads."""
    x = jnp.asarray(batch[0])
    return checked((x, jnp.zeros(x.shape[:1])))


def mean_over_chunks(f: Callable, batch: tuple, chunk_size: int) -> Array:
    """Σ over chunks of f(*chunk), over n: one chunk lives at a time."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    n = len(batch[0])
    size = min(chunk_size, n)
    whole = n // size * size
    chunks = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), batch)
    one_chunk = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), batch)
    out = jax.eval_shape(f, *one_chunk)
    total, _ = jax.lax.scan(lambda acc, c: (acc + f(*c), None), jnp.zeros(out.shape, out.dtype), chunks)
    if whole < n:
        total = total + f(*jax.tree.map(lambda a: a[whole:], batch))
    return total / n
