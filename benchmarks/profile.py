"""Where the time of AdaHessian and of SAM goes, piece by piece."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Case
from benchmarks.products import compiled
from benchmarks.report import Row
from benchmarks.steps import Step, flops
from benchmarks.timing import Program, Timer, exactly, ratio
from course_lib.curvature.diagonals import rademacher
from course_lib.curvature.products import hvp
from course_lib.optimizers import adahessian, sam
from course_lib.optimizers.common import all_finite
from course_lib.optimizers.sam import dual_norm_perturbation


def profile_rows(name: str, case: Case, timer: Timer) -> list[Row]:
    """Each piece compiled alone and over an SGD step, beside the whole; and the rate at which the two run their FLOPs.

    Alone, a piece reads and writes memory that the whole step does not, so the pieces may add up to more than it.
    """
    model, params, batch = case.make()
    made = {key: compiled(f, params, batch) for key, f in pieces(model.loss, params).items()}
    programs: dict[str, Program] = {key: partial(f, params, batch) for key, f in made.items()}
    steps = {
        "SGD step": Step(optax.sgd(0.01), model.loss, params, batch),
        "AdaHessian step": Step(adahessian(1e-4), model.loss, params, batch, refresh=True),
        "AdaHessian step, no Hessian": Step(adahessian(1e-4), model.loss, params, batch, refresh=False),
        "SAM step": Step(sam(optax.sgd(0.01)), model.loss, params, batch),
    }
    times = timer.measure({**programs, **steps})
    rows = [Row("profile", name, key, ratio(times, key, "SGD step"), "SGD steps") for key in times]
    counted = {key: flops(f) for key, f in made.items()} | {key: step.flops for key, step in steps.items()}
    rates = {
        key: counted[key] / np.median(times[key]) / 1e9
        for key in ("gradient", "gradient and Hz", "two gradients", *steps)
    }
    return rows + [Row("profile", name, key, exactly(rate), "GFLOP/s") for key, rate in rates.items()]


def pieces(loss: Callable, params: Any) -> dict[str, Callable]:
    """Functions of (params, batch). The moments' arithmetic has trees in the parameters' shape for g and D."""

    def both(p: Any, b: Any) -> Any:
        return jax.jvp(jax.grad(lambda p: loss(p, b)), (p,), (rademacher(jax.random.key(0), p),))

    def moments(p: Any, b: Any) -> Any:
        def one(w: Any) -> tuple:
            m, v = 0.9 * w + 0.1 * w, 0.999 * w**2 + 0.001 * (w * w) ** 2
            return m, v, jnp.where(m == 0, 0, -1e-4 * m / (jnp.sqrt(v) + 1e-4)) + w

        return jax.tree.map(one, p)

    def one_after_the_other(p: Any, b: Any) -> Any:
        g = jax.grad(loss)(p, b)
        return jax.grad(loss)(jax.tree.map(lambda w, g: w + 0.05 * g, p, g), b)

    return {
        "gradient": lambda p, b: jax.grad(loss)(p, b),
        "gradient and Hz": both,
        "Hz alone": lambda p, b: hvp(loss, p, b, jax.tree.map(jnp.ones_like, p)),
        "two gradients": one_after_the_other,
        "perturbation": lambda p, b: dual_norm_perturbation(p, 0.05),
        "random signs": lambda p, b: rademacher(jax.random.key(1), p),
        "finite or not": lambda p, b: all_finite(p, p),
        "moments and step": moments,
    }
