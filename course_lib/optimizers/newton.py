"""Unit 02. Newton's method, damped, dense or Hessian-free.

The second-order step d = -(B + λI)⁻¹ g minimises the local model h + gᵀd + ½ dᵀ(B + λI)d (slides, Newton n-D; Martens
§7, §10). B is the Hessian, or what any matvec multiplies by.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from course_lib.curvature.products import cast_like, flat_matvec, hvp, norm, unit, wide
from course_lib.optimizers.common import Number, all_finite, at, require_loss, require_params, where, zero_count

CurvatureVP = Callable[[Any, Any, Any], Any]  # (params, batch, v) -> Bv


class Status(IntEnum):
    """How a linear solve ended."""

    CONVERGED = 0
    MAX_ITERS = 1  # the residual is still above tol
    NOT_POSITIVE = 2  # some vᵀBv <= 0 was met: B is not positive definite


class Solve(NamedTuple):
    """What the state says of the last linear solve Bx = b."""

    status: Int[Array, ""]  # a Status
    iterations: Int[Array, ""]  # products with B that CG took; 0 for the dense solve
    residual: Float[Array, ""]  # ‖b - Bx‖/‖b‖, for CG as its recurrence has it; 0 for b = 0


class NewtonState(NamedTuple):
    """count: steps taken. skipped: steps left out for a non-finite gradient, product or solution."""

    count: Int[Array, ""]  # type: ignore[assignment]  # tuple.count
    skipped: Int[Array, ""]
    solve: Solve
    line_search: Any


Solver = Callable[[Callable, Array], tuple[Array, Solve]]  # (v -> Bv, b) -> x = B⁻¹b and how it ended


def dense(matvec: Callable, b: Float[Array, " P"]) -> tuple[Float[Array, " P"], Solve]:
    """x = B⁻¹b by elimination, with the symmetric B formed from P products: for P up to a few thousand.

    A singular B gives a solution that is not finite; b = 0 gives 0 for any B. It sees negative curvature only along its
    own step: NOT_POSITIVE where xᵀBx < 0. An indefinite B with xᵀBx > 0 is CONVERGED.
    """
    matrix = jax.lax.map(matvec, jnp.eye(b.size, dtype=b.dtype), batch_size=64)
    direction = unit(b)
    x = jnp.where(norm(b) > 0, jnp.linalg.solve(matrix, direction), 0)
    status = jnp.where(x @ direction < 0, Status.NOT_POSITIVE, Status.CONVERGED)
    return norm(b) * x, Solve(status.astype(jnp.int32), jnp.int32(0), norm(direction - matrix @ x))


def cg(
    matvec: Callable, b: Float[Array, " P"], max_iters: int = 100, tol: Number = 1e-6
) -> tuple[Float[Array, " P"], Solve]:
    """x = B⁻¹b by conjugate gradients, until ‖b - Bx‖ <= tol·‖b‖ or max_iters products: B is only ever multiplied by.

    At a direction p with pᵀBp <= 0 it stops, as Hessian-free methods do: x is what was reached, and b itself if that
    happens at the first product. Nocedal & Wright, alg. 5.2 and 7.1. Other settings: functools.partial(cg, tol=1e-3).
    """

    def unfinished(carry: tuple) -> Array:
        i, _, r, _, positive = carry
        return (i < max_iters) & (norm(r) > tol) & positive

    def step(carry: tuple) -> tuple:
        i, x, r, p, _ = carry
        image = matvec(p)
        curvature = p @ image
        length = jnp.where(curvature <= 0, jnp.where(i == 0, 1, 0), r @ r / curvature)
        rest = r - length * image
        return i + 1, x + length * p, rest, rest + (rest @ rest) / (r @ r) * p, curvature > 0

    # Solved for b/‖b‖, so that the squares of a tiny or huge gradient neither vanish nor overflow.
    start = jnp.int32(0), jnp.zeros_like(b), unit(b), unit(b), jnp.bool_(True)
    i, x, r, _, positive = jax.lax.while_loop(unfinished, step, start)
    status = jnp.where(norm(r) <= tol, Status.CONVERGED, Status.MAX_ITERS)
    status = jnp.where(positive, status, Status.NOT_POSITIVE)
    return norm(b) * x, Solve(status.astype(jnp.int32), i, norm(r))


def newton(
    learning_rate: Number = 1.0,
    damping: Number = 0.0,
    solver: Solver = dense,
    matvec: CurvatureVP | None = None,
    line_search: optax.GradientTransformationExtraArgs | None = None,
) -> optax.GradientTransformationExtraArgs:
    """θ <- θ - α (B + λI)⁻¹ g, with B the Hessian of the loss at the batch. Slides, Newton n-D; Martens §7, §10.

    learning_rate α and damping λ (in the unit of B) may be traced scalars or schedules of the count.
    solver: `dense`, or `cg` for Hessian-free steps, which never form B.
    matvec: another symmetric B, (params, batch, v) -> Bv, as partial(gauss_newton_vp, model): Martens' Hessian-free.
    line_search: as optax.scale_by_backtracking_linesearch(20, atol=1e-7); each step tries the full α first. Its atol
    should be the rounding error of the loss, or steps near the optimum are shortened for nothing.

    Undamped, it goes to the nearest stationary point, saddles too: state.solve.status says NOT_POSITIVE where the
    solver met negative curvature. A step that is not finite (a singular B) is skipped. ValueError without loss.
    """

    def curvature(loss: Callable | None) -> CurvatureVP:
        loss = require_loss(loss, "newton")
        return matvec or partial(hvp, loss)

    return second_order("newton", curvature, learning_rate, damping, solver, line_search)


def second_order(
    name: str,
    curvature: Callable[[Any], CurvatureVP],
    learning_rate: Number,
    damping: Number,
    solver: Solver,
    line_search: optax.GradientTransformationExtraArgs | None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer -α (B + λI)⁻¹ g, where curvature(loss) gives (params, batch, v) -> Bv."""

    def init(params: Any) -> NewtonState:
        nothing = Solve(zero_count(), zero_count(), jnp.zeros((), ravel_pytree(wide(params))[0].dtype))
        return NewtonState(zero_count(), zero_count(), nothing, line_search.init(params) if line_search else ())

    def direction(loss: Any, params: Any, batch: Any, grads: Any, damping: Any) -> tuple[Any, Solve]:
        """(B + λI)⁻¹ g as a tree, and how its solve ended."""
        product, theta, unravel = flat_matvec(partial(curvature(loss), params, batch), params)
        damping = jnp.asarray(damping, theta.dtype)
        g = ravel_pytree(cast_like(grads, unravel(theta)))[0]
        x, solve = solver(lambda v: product(v) + damping * v, g)
        return unravel(x), solve

    def searched(loss: Any, params: Any, batch: Any, grads: Any, updates: Any) -> tuple[Any, Any]:
        """The update, shortened by the line search, and its state. It starts anew: the full step comes first."""
        if line_search is None:
            return updates, ()
        loss, start = require_loss(loss, name), line_search.init(params)
        extra = {"value": loss(params, batch), "grad": grads, "value_fn": lambda p: loss(p, batch)}
        found, search = line_search.update(updates, start, params, **extra)
        return cast_like(found, params), search  # optax multiplies every leaf by a number of the first one's dtype

    def update(
        grads: Any, state: NewtonState, params: Any = None, *, loss: Any = None, batch: Any = None, **extra: Any
    ) -> tuple[Any, NewtonState]:
        params = require_params(params, name)
        x, solve = direction(loss, params, batch, grads, at(damping, state.count))
        updates = cast_like(jax.tree.map(lambda a: -at(learning_rate, state.count) * a, x), params)
        ok = all_finite(grads, updates, solve.residual)
        updates = where(ok, updates, jax.tree.map(jnp.zeros_like, updates))
        updates, search = searched(loss, params, batch, grads, updates)
        state = where(ok, NewtonState(state.count + 1, state.skipped, solve, search), state)
        return updates, state._replace(skipped=state.skipped + ~ok)

    return optax.GradientTransformationExtraArgs(init, update)
