"""Unit 07. AdaHessian: Adam with the Hessian's diagonal in the place of the gradient's square.

Source: Yao et al., eq. 2 and 6-12, Algorithm 1; the delayed Hessian is their "AdaHessian Overhead". Where the paper and
the authors' public code differ, this is the paper, and the code's way is an argument where the course shows it:

| what            | paper (here)                       | public code                                              |
| --------------- | ---------------------------------- | -------------------------------------------------------- |
| block average   | of the signed z·Hz (eq. 10)        | of its magnitude: `magnitude=True`. Larger, and biased   |
| blocks          | b consecutive entries; 3×3 kernels | vision: kernels; instruction: rows of matrices too       |
| delayed Hessian | every few steps (Table 8)          | none                                                     |
| weight decay    | not in the algorithm               | decoupled, times the learning rate: as here              |

eps stands outside the power, as in the public code; the paper has none. pytorch_optimizer's version averages no blocks,
corrects v by the number of steps (refreshed or not), and has eps = 1e-16.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from course_lib.curvature.diagonals import rademacher
from course_lib.curvature.products import hvp
from course_lib.models import Params
from course_lib.optimizers.common import (
    Number,
    all_finite,
    at,
    cast_like,
    choose,
    debiased,
    decayed,
    is_due,
    quotient,
    require_loss,
    require_params,
    where,
    wide,
    zero_count,
    zero_moment,
)

Block = int | tuple[int, ...] | None  # of a leaf: b consecutive entries, the axes averaged over, or no average
BlockRule = Callable[[Any, Array], Block]  # (path, leaf) -> Block, the path as in jax.tree_util


class AdaHessianState(NamedTuple):
    """count: steps taken; skipped: steps not taken; refreshes: Hessian diagonals in v; key: of the probes.

    m: decayed gradients; v: decayed squares of the Hessian's diagonal. Both like the parameters, in at least float32,
    before bias correction.
    """

    count: Int[Array, ""]  # type: ignore[assignment]  # tuple.count is of no use here, and optax has the name too
    skipped: Int[Array, ""]
    refreshes: Int[Array, ""]
    key: Key[Array, ""]
    m: Params
    v: Params


def adahessian(
    learning_rate: Number,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-4,
    hessian_power: Number = 1.0,
    block_size: int | BlockRule | None = None,
    update_every: int = 1,
    weight_decay: Number = 0.0,
    seed: Any = 0,
    magnitude: bool = False,
    probe_fraction: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """θ ← θ - learning_rate · (m̂ / (√v̂^k + eps) + weight_decay · θ), v the decayed squares of D ≈ diag H. Eq. 9-12.

    b1, b2: decays of m and v, in [0, 1). eps: in units of D^k. hessian_power: k in [0, 1]; 0 is momentum, 1 is Newton's
        scale.
    block_size: D is averaged over b consecutive entries of a leaf before it is squared (eq. 10; the last block may be
        shorter); a rule (path, leaf) -> block sets it leaf by leaf, `kernel_blocks` is one. None: no average.
    update_every: v is refreshed at counts 0, n, 2n, ...; its bias correction counts the refreshes.
    seed: of the probes' key, which the state keeps. Every refresh has a probe of its own.
    magnitude: average |z·Hz| and not z·Hz.
    probe_fraction: the part of the batch, in (0, 1], that the Hessian sees: a new random part at each refresh, unbiased
        where the loss is a mean over the first axis of the batch's leaves. The product's cost falls with the part, and
        the variance of D grows about as 1/part, or a little slower (`make bench` measures both).

    Every real number may be a traced scalar or a schedule of the count from 0. A step with a non-finite gradient or
    Hessian product is skipped, and so is one before the first refresh. Raises ValueError for update() without params or
    loss, and for a block_size, update_every or probe_fraction that means nothing.

    update(grads, state, params, loss=loss, batch=batch) costs nothing twice: in one jit XLA merges the gradient that
    made `grads` with the one inside the Hessian product. With update_every > 1 the count decides by lax.cond, which
    cannot merge across its border, computes both sides under a vmap, and is slow around convolutions on a CPU. Where
    the caller's loop counts anyway, say it: update(..., refresh=i % n == 0) with a Python bool compiles to two
    programs, one of them without a Hessian:

        @functools.partial(jax.jit, static_argnames="refresh")
        def step(params, state, batch, refresh): ...
    """
    if not (isinstance(update_every, int) and update_every >= 1):
        raise ValueError(f"update_every is a whole number of steps, 1 or more; got {update_every!r}")
    if not 0 < probe_fraction <= 1:
        raise ValueError(f"probe_fraction is a part of the batch, above 0 and at most 1; got {probe_fraction!r}")

    def init(params: Params) -> AdaHessianState:
        counts = zero_count(), zero_count(), zero_count()
        return AdaHessianState(*counts, jax.random.key(seed), zero_moment(params), zero_moment(params))

    def squared_diagonal(loss: Callable, params: Params, batch: Any, state: AdaHessianState) -> Params:
        d = hessian_diagonal(loss, params, batch, state, probe_fraction)
        return jax.tree_util.tree_map_with_path(lambda p, d: block_mean(d, p, block_size, magnitude) ** 2, d)

    def update(
        grads: Params,
        state: AdaHessianState,
        params: Params | None = None,
        *,
        loss: Callable | None = None,
        batch: Any = None,
        refresh: bool | Bool[Array, ""] | None = None,
        **others: Any,
    ) -> tuple[Params, AdaHessianState]:
        loss, params = require_loss(loss, "adahessian"), require_params(params, "adahessian")
        numbers = (learning_rate, b1, b2, eps, hessian_power, weight_decay)
        lr, beta1, beta2, e, k, wd = (at(n, state.count) for n in numbers)
        due = is_due(state.count, update_every) if refresh is None else refresh
        m = decayed(state.m, wide(grads), beta1)
        v = choose(due, lambda: decayed(state.v, squared_diagonal(loss, params, batch, state), beta2), state.v)
        refreshes = state.refreshes + due
        ok = all_finite(m, v) & (refreshes > 0)

        def step(m: Array, v: Array, w: Array) -> Array:
            return jnp.where(ok, -lr * (quotient(m, jnp.sqrt(v) ** k + e) + wd * w), 0)

        m_hat, v_hat = debiased(m, beta1, state.count + 1), debiased(v, beta2, refreshes)
        steps = cast_like(jax.tree.map(step, m_hat, v_hat, wide(params)), grads)
        m, v, refreshes = where(ok, (m, v, refreshes), (state.m, state.v, state.refreshes))
        return steps, AdaHessianState(state.count + ok, state.skipped + ~ok, refreshes, state.key, m, v)

    return optax.GradientTransformationExtraArgs(init, update)


SIGNS, ROWS = 0, 1  # the two things that a call draws


def draw_key(state: AdaHessianState, what: int) -> Key[Array, ""]:
    """The call's key of SIGNS or ROWS: of the state alone, and new after a skipped step too."""
    return jax.random.fold_in(state.key, 2 * (state.count + state.skipped) + what)


def hessian_diagonal(loss: Callable, params: Params, batch: Any, state: AdaHessianState, fraction: float) -> Params:
    """z · Hz with one probe z of random signs, in at least float32: its mean over z is the diagonal of H. Eq. 8, 9."""
    z = rademacher(draw_key(state, SIGNS), params)
    seen = batch if fraction == 1 else part_of(batch, draw_key(state, ROWS), fraction)
    return jax.tree.map(jnp.multiply, wide(z), wide(hvp(loss, params, seen, z)))


def part_of(batch: Any, key: Key[Array, ""], fraction: float) -> Any:
    """⌈fraction·n⌉ of the n examples along the first axis of every leaf, at random without replacement, in every leaf
    the same. ValueError where the leaves have no such n."""
    sizes = {jnp.shape(a)[:1] for a in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"probe_fraction needs a batch whose leaves share their first axis; got {sizes or 'no leaf'}")
    (n,) = sizes.pop()
    rows = jax.random.choice(key, n, (int(np.ceil(fraction * n)),), replace=False)
    return jax.tree.map(lambda a: jnp.asarray(a)[rows], batch)


def block_mean(d: Float[Array, "..."], path: Any, block_size: Any, magnitude: bool) -> Float[Array, "..."]:
    """Every entry of the leaf replaced by the mean of its block, of |d| with `magnitude`. Eq. 10.

    ValueError where the block is none of Block's kinds.
    """
    block = block_size(path, d) if callable(block_size) else block_size
    d = jnp.abs(d) if magnitude else d
    if block is None:
        return d
    if isinstance(block, tuple):
        return jnp.broadcast_to(d.mean(block, keepdims=True), d.shape)
    if not (isinstance(block, int) and block >= 1):
        raise ValueError(f"a block is a whole number of entries, a tuple of axes, or None; got {block!r}")
    return consecutive_mean(d.ravel(), block).reshape(d.shape)


def consecutive_mean(d: Float[Array, " n"], b: int) -> Float[Array, " n"]:
    """The mean over b consecutive entries, b times each; the last block has what is there."""
    blocks = jnp.pad(d, (0, -d.size % b)).reshape(-1, b)
    sizes = np.minimum(b, d.size - b * np.arange(len(blocks)))
    means = blocks.sum(1) / jnp.asarray(sizes, d.dtype)
    return jnp.broadcast_to(means[:, None], blocks.shape).ravel()[: d.size]


def kernel_blocks(path: Any, leaf: Array) -> Block:
    """The public code's blocks, for Flax's layout: a (h, w, in, out) kernel over its h × w window, an (in, out) matrix
    over the weights into one output (torch's row); nothing else."""
    return {4: (0, 1), 2: (0,)}.get(leaf.ndim)
