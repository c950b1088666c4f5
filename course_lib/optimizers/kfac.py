"""Unit 06. K-FAC: natural gradient descent with the Fisher taken as one Kronecker product a layer.

Source: Martens & Grosse 2015, without the step size and momentum from a quadratic model (§6.4, §7) and the adapted
damping (§6.5, §6.6): here they are the caller's. The factors are those of course_lib.curvature.kronecker.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from course_lib.curvature.kronecker import (
    Factors,
    Labels,
    damped,
    inverse,
    kronecker_factors,
    kronecker_vp,
    to_matrices,
)
from course_lib.models import Model, Params
from course_lib.optimizers.common import (
    Number,
    all_finite,
    at,
    cast_like,
    choose,
    decayed,
    is_due,
    require_params,
    where,
    wide,
    zero_count,
    zero_moment,
)


class KFACState(NamedTuple):
    """count: steps taken; skipped: steps not taken; key: of the sampled labels.

    factors: {layer: (A, G)}, moving averages; inverses: of the damped factors, as last taken; velocity: the directions
    summed by momentum, like the parameters. All in at least float32.
    """

    count: Int[Array, ""]  # type: ignore[assignment]  # tuple.count is of no use here, and optax has the name too
    skipped: Int[Array, ""]
    key: Key[Array, ""]
    factors: dict[str, Factors]
    inverses: dict[str, Factors]
    velocity: Params


def kfac(
    model: Model,
    learning_rate: Number,
    damping: Number = 1e-3,
    decay: Number = 0.95,
    momentum: Number = 0.0,
    max_kl: Number = jnp.inf,
    update_every: int = 1,
    labels: Labels = "sampled",
    seed: Any = 0,
) -> optax.GradientTransformationExtraArgs:
    """θ ← θ - learning_rate · u, u ← momentum · u + A⁻¹ V G⁻¹, V the gradient [W; b] of a layer. Martens & Grosse §4-6.

    damping: λ ≥ 0 in the unit of F; A and G are damped by their parts of it (§6.3).
    decay: of the factors' moving averages, min(1 - 1/t, decay) at step t = 1, 2, ...: a plain mean at first (§5), so
        there is no bias to correct. 0 takes this batch alone, 1 the mean of all.
    max_kl: in nats; a direction d = A⁻¹ V G⁻¹ is shortened where learning_rate · d would move the model further than
        this by the quadratic model of the KL, ½ learning_rate² dᵀ(F + λI)d (Ba et al. 2017, §3.3).
    update_every: inverses are taken at counts 0, n, 2n, ..., with the damping of that count; factors at each step.
    labels: whose y the factors see (curvature.kronecker): "sampled" from the model, "exact", or "observed": the
        batch's, which makes it the empirical Fisher.
    seed: of the sampled labels' key, which the state keeps.

    model.apply takes a tape (curvature.kronecker). Every real number may be a traced scalar or a schedule of the count
    from 0. update(grads, state, params, batch=(x, y)) takes the gradient as it comes and the factors at the batch's x;
    it reads no loss. A step whose gradient, factors or inverses are not finite is skipped: damping 0 can do that.
    ValueError for a missing batch or params, an update_every that means nothing, and layers that K-FAC does not know.
    """
    if not (isinstance(update_every, int) and update_every >= 1):
        raise ValueError(f"update_every is a whole number of steps, 1 or more; got {update_every!r}")

    def init(params: Params) -> KFACState:
        factors, inverses = zero_factors(params), zero_factors(params)
        return KFACState(zero_count(), zero_count(), jax.random.key(seed), factors, inverses, zero_moment(params))

    def averaged(params: Params, state: KFACState, batch: Any) -> dict[str, Factors]:
        key = jax.random.fold_in(state.key, state.count + state.skipped)
        new = kronecker_factors(model, params, batch, key, labels)
        return decayed(state.factors, new, jnp.minimum(1 - 1.0 / (state.count + 1), at(decay, state.count)))

    def update(
        grads: Params,
        state: KFACState,
        params: Params | None = None,
        *,
        loss: Callable | None = None,
        batch: Any = None,
        **others: Any,
    ) -> tuple[Params, KFACState]:
        params = require_params(params, "kfac")
        if batch is None:
            raise ValueError("kfac takes its factors at the batch's x: call update(grads, state, params, batch=(x, y))")
        lr, lam, beta, kl = (at(n, state.count) for n in (learning_rate, damping, momentum, max_kl))
        factors = averaged(params, state, batch)
        inverses = choose(is_due(state.count, update_every), lambda: damped_inverses(factors, lam), state.inverses)
        direction = kronecker_vp(inverses, wide(grads))
        part = within_kl(lr, wide(grads), direction, kl)
        velocity = jax.tree.map(lambda u, d: beta * u + part * d, state.velocity, direction)
        velocity = cast_like(velocity, state.velocity)
        ok = all_finite(grads, factors, inverses, velocity)
        steps = cast_like(jax.tree.map(lambda u: jnp.where(ok, -lr * u, 0), velocity), grads)
        kept = where(ok, (factors, inverses, velocity), (state.factors, state.inverses, state.velocity))
        return steps, KFACState(state.count + ok, state.skipped + ~ok, state.key, *kept)

    return optax.GradientTransformationExtraArgs(init, update)


def zero_factors(params: Params) -> dict[str, Factors]:
    """Zeros in the shapes of each layer's A and G. ValueError for a layer that K-FAC does not know."""

    def zeros(matrix: Array) -> Factors:
        return Factors(*(jnp.zeros((size, size), matrix.dtype) for size in matrix.shape))

    return {name: zeros(matrix) for name, matrix in to_matrices(wide(params)).items()}


def within_kl(learning_rate: Any, grads: Params, direction: Params, max_kl: Any) -> Float[Array, ""]:
    """The part of the step, at most 1, with ½ (learning_rate · part)² gᵀd <= max_kl: gᵀd is dᵀ(F + λI)d."""
    kl = 0.5 * learning_rate**2 * optax.tree_utils.tree_vdot(grads, direction)
    return jnp.where(kl > max_kl, jnp.sqrt(max_kl / kl), 1)


def damped_inverses(factors: dict[str, Factors], damping: Any) -> dict[str, Factors]:
    """(A + π√λ I)⁻¹ and (G + √λ/π I)⁻¹ of every layer, in the factors' dtypes."""
    return cast_like({name: inverse(damped(f, damping)) for name, f in factors.items()}, factors)
