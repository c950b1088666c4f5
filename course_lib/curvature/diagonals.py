"""Units 05 (diag F) and 07 (diag H). Diagonals from random draws, each with its standard error.

Both return (estimate, standard error): trees like params, in at least float32. The error is over draws, x held fixed;
of one draw it is nan. Draws are taken one after another, so memory does not grow with their number.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from course_lib.curvature.matrices import CHUNK, mean_over_chunks
from course_lib.curvature.products import Matvec, Tree, flat_matvec
from course_lib.models import Batch, Model, Params, checked


def rademacher(key: Key[Array, ""], like: Tree) -> Tree:
    """A tree of independent fair signs ±1, in the structure, shapes and dtypes of `like`; every leaf has its own key.

    Every bit of a random word is a sign, so the generator runs once for 32 of them. jax.random.rademacher runs it for
    each, which takes five times as long: on 300,000 entries most of an SGD step's time on a small MLP.
    """
    leaves, treedef = jax.tree.flatten(like)
    return jax.tree.unflatten(treedef, map(_signs, jax.random.split(key, len(leaves)), leaves))


def _signs(key: Array, leaf: Any) -> Array:
    """±1 in the leaf's shape and dtype."""
    size = math.prod(jnp.shape(leaf))
    words = jax.random.bits(key, (-(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32) & 1).reshape(-1)[:size]
    return (1 - 2 * bits.astype(jnp.int32)).astype(jnp.result_type(leaf)).reshape(jnp.shape(leaf))


def hutchinson_diagonal(matvec: Matvec, key: Key[Array, ""], like: Tree, num_probes: int = 1) -> tuple[Tree, Tree]:
    """D = E[z ⊙ (Hz)], z a tree of fair signs: the diagonal of the symmetric H that matvec multiplies by.

    AdaHessian eq. 9. Unbiased; the variance of entry i is Σ_{j≠i} H_ij², so one probe is exact for a diagonal H.
    ValueError for num_probes < 1.
    """
    product, theta, unravel = flat_matvec(matvec, like)

    def draw(key: Array) -> Array:
        z = rademacher(key, theta)
        return z * product(z)

    estimate, error = mean_and_error(draw, key, num_probes)
    return unravel(estimate), unravel(error)


def fisher_diagonal_mc(
    model: Model, params: Params, batch: Batch, key: Key[Array, ""], num_samples: int = 1
) -> tuple[Tree, Tree]:
    """diag F = mean over examples of E_{y~p(y|x;θ)}[s ⊙ s], the y sampled from the model. Martens §11.1.

    Squares of per-example scores: the square of the batch's mean gradient is something else. Every example and draw has
    its own key. The batch's y is ignored: (x, None) works too. ValueError for num_samples < 1.
    """
    x, _ = checked((batch[0], batch[0]))
    _, theta, unravel = flat_matvec(lambda v: v, params)
    z = model.outputs(unravel(theta), x)

    def chunk(x: Array, y: Array) -> Array:
        return jnp.sum(model.score(unravel(theta), (x, y)) ** 2, axis=0)

    def draw(key: Array) -> Array:
        y = jax.vmap(model.likelihood.sample)(jax.random.split(key, len(x)), z)
        return mean_over_chunks(chunk, (x, y), CHUNK)

    estimate, error = mean_and_error(draw, key, num_samples)
    return unravel(estimate), unravel(error)


def mean_and_error(
    draw: Callable[[Array], Array], key: Key[Array, ""], num_draws: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The mean of draw(key) over num_draws keys, and its standard error s/√num_draws (one draw: nan).

    Welford's update: one draw lives at a time, and equal draws have an error of exactly 0. ValueError for no draw.
    """
    if num_draws < 1:
        raise ValueError(f"an estimate needs at least 1 draw, got {num_draws}")
    zero = jnp.zeros_like(jax.eval_shape(draw, key))
    (root,) = jax.random.split(key, 1)  # the key is used up here, which the guard against reuse must see

    def step(carry: tuple, i: Array) -> tuple:
        mean, squares = carry
        value = draw(jax.random.fold_in(root, i))  # under vmap, the guard takes a scan over split keys for reuse
        new_mean = mean + (value - mean) / i
        return (new_mean, squares + (value - mean) * (value - new_mean)), None

    (mean, squares), _ = jax.lax.scan(step, (zero, zero), jnp.arange(1, num_draws + 1))
    if num_draws == 1:
        return mean, jnp.full_like(mean, jnp.nan)
    return mean, jnp.sqrt(squares / (num_draws - 1) / num_draws)
