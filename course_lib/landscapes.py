"""Units 07-09. Loss landscapes: the toy functions of the papers, and slices through a network's loss.

A toy function is a loss like any other: f(w, batch) -> (), its batch ignored.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from course_lib.models import Params
from course_lib.optimizers.common import cast_like, wide


def stretched_bowl(w: Float[Array, "2"], batch: Any = None) -> Float[Array, ""]:
    """10x² + y², AdaHessian Fig. 1. Its Hessian is diagonal, so AdaHessian needs one step."""
    return 10 * w[0] ** 2 + w[1] ** 2


def rippled_bowl(x: Float[Array, ""], batch: Any = None) -> Float[Array, ""]:
    """x² + 0.1 x sin(20πx), AdaHessian Fig. 3. The lowest points are x = ±0.0734, not 0."""
    return x**2 + 0.1 * x * jnp.sin(20 * jnp.pi * x)


RIDGE_START = (0.35, 0.45)


def two_pits_and_a_valley(w: Float[Array, "2"], batch: Any = None) -> Float[Array, ""]:
    """Sharp minima near (1, ±0.8), a flat one near (3.3, 0) on the ridge between them; start from RIDGE_START.

    In the manner of GSAM Fig. 3, whose formula the paper does not give.
    """
    pits = _bump(w, (1.0, 0.8), 0.3) + _bump(w, (1.0, -0.8), 0.3)
    return 1.5 - 0.95 * pits - 0.65 * _bump(w, (3.3, 0.0), 1.3)


THREE_MINIMA = (-4.0, 0.0, 5.0)
THREE_MINIMA_RHO = 0.4


def three_minima(x: Float[Array, ""], batch: Any = None) -> Float[Array, ""]:
    """Minima at THREE_MINIMA, flatter from left to right, as in GSAM Fig. 1: at ρ = THREE_MINIMA_RHO the perturbed loss
    f_p is equal at the first and the last and higher between, though f is equal at the last two. So f_p does not rank
    flatness (Lemma 3.1); the surrogate gap does.
    """
    # A bump of width s gives -f_p = depth · exp(-ρ²/2s²) at its centre: this depth makes the first equal the last.
    depth = jnp.exp(THREE_MINIMA_RHO**2 / 2 * (1 / 0.3**2 - 1 / 1.0**2))
    w1, w2, w3 = THREE_MINIMA
    return -depth * _bump(x, w1, 0.3) - _bump(x, w2, 0.5) - _bump(x, w3, 1.0)


def _bump(w: Array, centre: Any, width: float) -> Float[Array, ""]:
    """exp(-‖w - centre‖²/2 width²)."""
    return jnp.exp(-jnp.sum((w - jnp.asarray(centre)) ** 2) / (2 * width**2))


def filter_normalized(direction: Params, params: Params) -> Params:
    """The direction with each filter at the norm of the filter of params in its place: Li et al. 2018, §4; SAM Fig. 1.

    A filter is what makes one output: all axes but the last, in Flax's layout. Leaves of fewer than two axes (biases,
    norms) get 0. Rescaling a layer that the next one undoes then leaves a slice as it was.
    """

    def one(d: Array, w: Array) -> Array:
        if w.ndim < 2:
            return jnp.zeros_like(w)
        axes = tuple(range(w.ndim - 1))
        norm = jnp.linalg.norm(d.reshape(-1, d.shape[-1]), axis=0)
        return d / jnp.where(norm == 0, 1, norm) * jnp.sqrt(jnp.sum(w**2, axis=axes))

    return cast_like(jax.tree.map(one, wide(direction), wide(params)), params)


def random_direction(key: Key[Array, ""], params: Params) -> Params:
    """A Gaussian direction, filter-normalised."""
    return filter_normalized(optax.tree_utils.tree_random_like(key, params), params)


def loss_slice(
    loss: Callable, params: Params, batch: Any, directions: Sequence[Params], *axes: Float[Array, " _"]
) -> Float[Array, "..."]:
    """L(w + Σ a_i d_i) for a_1, a_2, ... over the grid of the axes, one axis a direction: (len(a_1), len(a_2), ...).

    One point of the grid is in memory at a time. ValueError unless there are as many axes as directions.
    """
    if len(directions) != len(axes):
        raise ValueError(f"one axis a direction: got {len(directions)} directions and {len(axes)} axes")
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)

    def value(coordinates: Array) -> Array:
        def move(w: Array, *d: Array) -> Array:
            return (w + sum(a * d for a, d in zip(coordinates, d, strict=True))).astype(w.dtype)

        return loss(jax.tree.map(move, params, *directions), batch)

    return jax.lax.map(value, grid.reshape(-1, len(axes))).reshape(grid.shape[:-1])
