"""Part 2: curvature. Products over a gradient, the exact Fisher whole, and twenty Lanczos steps."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from matfree import decomp

from benchmarks import peers
from benchmarks.cases import Case
from benchmarks.report import Goal, Row, at_most, below_peers
from benchmarks.steps import flops
from benchmarks.timing import Stats, Timer, Times, ratio, stats
from course_lib.curvature import matrices, products
from course_lib.curvature.spectrum import lanczos


def compiled(f: Callable, *args: Any) -> Any:
    return jax.jit(f).lower(*args).compile()


def product_rows(name: str, case: Case, timer: Timer) -> list[Row]:
    """A product's time over a gradient's; the peers' (BackPACK) over a gradient in torch."""
    programs, counted = product_programs(case)
    times = timer.measure(programs)
    theirs = timer.measure(peers.products(case)) if peers.AVAILABLE else {}
    rows = [Row("products", name, "gradient", stats(times["gradient"] * 1e3), "ms")]
    for key in programs:
        if key == "gradient":
            continue
        others: dict[str, Stats] = {"BackPACK": ratio(theirs, key, "gradient")} if key in theirs else {}
        value, count = ratio(times, key, "gradient"), counted[key] / counted["gradient"]
        goals = tuple(below_peers(value, others))
        rows.append(Row("products", name, key, value, "gradients", flops=count, peers=others, goals=goals))
    return rows


def product_programs(case: Case) -> tuple[dict[str, Callable], dict[str, float]]:
    """The programs, and the FLOPs of each."""
    model, params, batch = case.make()
    v = jax.tree.map(lambda a: jnp.full_like(a, 0.1), params)
    functions: dict[str, Callable] = {
        "gradient": lambda p, b, v: jax.grad(model.loss)(p, b),
        "hvp": partial(products.hvp, model.loss),
        "value_grad_hvp": partial(products.value_grad_hvp, model.loss),
        "gauss_newton_vp": partial(products.gauss_newton_vp, model),
        "fisher_vp": partial(products.fisher_vp, model),
        "empirical_fisher_vp": partial(products.empirical_fisher_vp, model),
    }
    made = {key: compiled(f, params, batch, v) for key, f in functions.items()}
    return {key: partial(f, params, batch, v) for key, f in made.items()}, {k: flops(f) for k, f in made.items()}


def fisher_rows(name: str, case: Case, timer: Timer) -> list[Row]:
    """The exact Fisher, (P, P): ours and theirs in turns, so that the ratio is of the same minutes."""
    model, params, batch = case.make()
    ours = compiled(lambda p, b: matrices.fisher(model, p, b), params, batch)
    theirs = peers.fishers(case) if peers.AVAILABLE else {}
    times = timer.measure({"here": lambda: ours(params, batch), **theirs})
    return [beside("fisher", name, "exact Fisher", times, {peer: 0.5 for peer in theirs})]


def lanczos_rows(name: str, case: Case, timer: Timer, order: int = 20) -> list[Row]:
    """With full reorthogonalisation in all three; matfree has the same Hessian product as ours."""
    model, params, batch = case.make()
    theta, unravel = ravel_pytree(params)

    def matvec(v: Any, params: Any, batch: Any) -> Any:
        return products.hvp(model.loss, params, batch, v)

    def ours(params: Any, batch: Any) -> Any:
        return lanczos(lambda v: matvec(v, params, batch), jax.random.key(0), params, order)

    def matfree(params: Any, batch: Any) -> Any:
        start = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype)
        product = lambda v: ravel_pytree(matvec(unravel(v), params, batch))[0]  # noqa: E731
        return tuple(decomp.tridiag_sym(order, reortho="full", materialize=False)(product, start))

    run_ours, run_matfree = compiled(ours, params, batch), compiled(matfree, params, batch)
    programs = {"here": lambda: run_ours(params, batch), "matfree": lambda: run_matfree(params, batch)}
    if peers.AVAILABLE:
        programs["PyHessian"] = peers.lanczos(case, order)
    limits = {"matfree": 1.1, "PyHessian": 1 / 3}
    return [beside("lanczos", name, f"Lanczos, order {order}", timer.measure(programs), limits)]


def beside(part: str, case: str, name: str, times: Times, limits: Mapping[str, float]) -> Row:
    """Times in ms, and a goal a peer: ours over theirs, turn by turn, at most its limit."""
    others = {peer: stats(times[peer] * 1e3) for peer in times if peer != "here"}
    goals: list[Goal] = []
    for peer in others:
        value = ratio(times, "here", peer).median
        goals.append(at_most(value, limits[peer], f"{value:.3g} of {peer}'s, ≤ {limits[peer]:.3g}"))
    return Row(part, case, name, stats(times["here"] * 1e3), "ms", peers=others, goals=tuple(goals))
