"""Part 4: how the cost grows with the parameters P, the batch n, the outputs k, and the order of Lanczos."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.cases import Case
from benchmarks.products import compiled
from benchmarks.report import Row
from benchmarks.steps import Step
from benchmarks.timing import Program, Timer, exactly, stats
from course_lib.curvature import products
from course_lib.curvature.kronecker import kronecker_factors
from course_lib.curvature.spectrum import lanczos
from course_lib.networks import MLP
from course_lib.optimizers import adahessian

GRIDS = {"width": (128, 256, 512, 1024), "batch": (64, 256, 1024), "outputs": (4, 16, 64), "order": (5, 10, 20, 40)}
QUICK = {"width": (8, 32), "batch": (8, 16), "outputs": (2, 4), "order": (2, 4)}


def mlp(width: int = 256, batch: int = 256, outputs: int = 10) -> Case:
    return Case(MLP((width, width), outputs), (64,), batch)


def growth_rows(timer: Timer, grids: Mapping[str, tuple[int, ...]]) -> list[Row]:
    """Times along each grid, others at their least, and the slope in log-log: the power that the cost is of."""
    width, batch = (min(grids.get(axis, (256,))) for axis in ("width", "batch"))
    small = partial(mlp, width=width, batch=batch)
    along: dict[str, Callable[[int], dict[str, Program]]] = {
        "width": lambda w: steps(mlp(width=w)),
        "batch": lambda n: steps(mlp(batch=n, width=width)),
        "outputs": lambda k: by_outputs(small(outputs=k)),
        "order": lambda k: by_order(small(), k),
    }
    return [row for axis, grid in grids.items() for row in axis_rows(axis, grid, along[axis], timer)]


def axis_rows(axis: str, grid: tuple[int, ...], make: Callable, timer: Timer) -> list[Row]:
    made = {point: make(point) for point in grid}
    flat = {f"{name}, {axis} {point}": p for point, programs in made.items() for name, p in programs.items()}
    times = timer.measure(flat)
    rows = [Row("growth", axis, name, stats(times[name] * 1e3), "ms") for name in flat]
    for name in made[grid[0]]:
        medians = [np.median(times[f"{name}, {axis} {point}"]) for point in grid]
        slope = np.polyfit(np.log(grid), np.log(medians), 1)[0]
        rows.append(Row("growth", axis, name, exactly(slope), f"power of {axis}"))
    return rows


def steps(case: Case) -> dict[str, Program]:
    """P grows with the square of the width."""
    model, params, batch = case.make()
    return {
        "SGD step": Step(optax.sgd(0.01), model.loss, params, batch),
        "AdaHessian step": Step(adahessian(1e-4), model.loss, params, batch, refresh=True),
    }


def by_outputs(case: Case) -> dict[str, Program]:
    model, params, batch = case.make()
    v = jax.tree.map(lambda a: a * 0 + 0.1, params)
    functions: dict[str, Callable] = {
        "gradient": lambda p, b: jax.grad(model.loss)(p, b),
        "fisher_vp": lambda p, b: products.fisher_vp(model, p, b, v),
        "K-FAC factors, sampled": lambda p, b: kronecker_factors(model, p, b, jax.random.key(0)),
        "K-FAC factors, exact": lambda p, b: kronecker_factors(model, p, b, labels="exact"),
    }
    return {name: partial(compiled(f, params, batch), params, batch) for name, f in functions.items()}


def by_order(case: Case, order: int) -> dict[str, Program]:
    model, params, batch = case.make()

    def run(p: Any, b: Any) -> Any:
        return lanczos(lambda v: products.hvp(model.loss, p, b, v), jax.random.key(0), p, order)

    return {"Lanczos": partial(compiled(run, params, batch), params, batch)}
