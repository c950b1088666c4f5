"""Unit 03. Natural gradient descent: steepest descent where distance is the KL between model distributions."""

from collections.abc import Callable
from typing import Any

import optax

from course_lib.curvature.products import fisher_vp
from course_lib.models import Model
from course_lib.optimizers.common import Number
from course_lib.optimizers.newton import CurvatureVP, Solver, cg, second_order


def natural_gradient(
    model: Model,
    learning_rate: Number = 1.0,
    damping: Number = 1e-3,
    matvec: CurvatureVP | None = None,
    solver: Solver = cg,
    line_search: optax.GradientTransformationExtraArgs | None = None,
) -> optax.GradientTransformationExtraArgs:
    """θ <- θ - α (F + λI)⁻¹ g, F the exact Fisher of the model at the batch's x: its y enters g alone.

    Martens §5, §6 (the KL ball), §10 (Tikhonov damping); slides, p. KL ball. λ is in the unit of F; both numbers may be
    traced scalars or schedules of the count. F is singular for most networks: at λ = 0 solve with `cg`.

    solver: `cg`, other settings by functools.partial(cg, tol=..., max_iters=...), or `dense` (optimizers.newton).
    matvec: another positive semidefinite matrix for F, (params, batch, v) -> Bv.
    How the solve ended is in state.solve. Steps that are not finite are skipped. Only a line search reads the loss:
    ValueError where it is missing then, or where F has no batch.
    """

    def fisher(params: Any, batch: Any, v: Any) -> Any:
        if batch is None:
            raise ValueError(
                "natural_gradient takes F at the batch's x: call update(grads, state, params, batch=(x, y))"
            )
        return fisher_vp(model, params, batch, v)

    def curvature(loss: Callable | None) -> CurvatureVP:
        return matvec or fisher

    return second_order("natural_gradient", curvature, learning_rate, damping, solver, line_search)
