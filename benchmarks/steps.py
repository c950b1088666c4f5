"""Parts 1 and 4: what a training step costs in time, in FLOPs and in memory, over SGD's step on the same network."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import peers
from benchmarks.cases import Case, is_convolutional
from benchmarks.report import Goal, Row, at_most, below_peers
from benchmarks.timing import Program, Stats, Timer, Times, exactly, ratio, stats
from course_lib.optimizers import adahessian, gsam, kfac, sam
from course_lib.optimizers.adahessian import hessian_diagonal

THEORY = {1: 2.0, 2: 1.5, 3: 1.33, 4: 1.25, 5: 1.2}  # AdaHessian, Table 8: a Hessian product counts as one gradient
CONV_GOALS = {1: 2.2, 2: 1.65, 3: 1.47, 4: 1.38, 5: 1.32}
FRACTION = 0.25
COMPUTE_BOUND = 0.5  # of a large matrix product's FLOP rate


class Step:
    """One compiled training step. A call goes on from the parameters and the state of the last.

    words: update's own beside loss and batch; `asks` makes other ones of the batch, for an update that takes no loss.
    """

    def __init__(
        self, opt: Any, loss: Callable, params: Any, batch: Any, asks: Callable | None = None, **words: Any
    ) -> None:
        opt = optax.with_extra_args_support(opt)

        def step(params: Any, state: Any, batch: Any) -> tuple:
            grads = jax.grad(loss)(params, batch)
            extra = asks(batch) if asks else {"loss": loss, "batch": batch, **words}
            updates, state = opt.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        self.carry = jax.tree.map(jnp.copy, params), opt.init(params)
        self.batch = batch
        self.compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*self.carry, batch).compile()

    def __call__(self) -> Any:
        self.carry = self.compiled(*self.carry, self.batch)
        return self.carry

    @property
    def flops(self) -> float:
        return flops(self.compiled)

    @property
    def memory(self) -> float:
        """Bytes that live at the peak: arguments, results that are not written over them, and the rest."""
        m: Any = self.compiled.memory_analysis()
        results = m.output_size_in_bytes - m.alias_size_in_bytes
        return float(m.argument_size_in_bytes + results + m.temp_size_in_bytes)


def flops(compiled: Any) -> float:
    """As the compiler counts: custom calls (LAPACK, cuDNN) count nothing."""
    return float(compiled.cost_analysis()["flops"])


def ours(case: Case) -> dict[str, Step]:
    """Every optimizer's step; AdaHessian's two, with and without a Hessian."""
    model, params, batch = case.make()
    make = partial(Step, loss=model.loss, params=params, batch=batch)
    gradient = jax.grad(model.loss)
    normalized = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    theirs = optax.contrib.sam(optax.sgd(0.01), normalized, sync_period=2, opaque_mode=True)
    return {
        "SGD": make(optax.sgd(0.01)),
        "Adam": make(optax.adam(1e-4)),
        "Hessian": make(adahessian(1e-4), refresh=True),
        "no Hessian": make(adahessian(1e-4), refresh=False),
        "part": make(adahessian(1e-4, probe_fraction=FRACTION), refresh=True),
        "SAM": make(sam(optax.sgd(0.01))),
        "GSAM": make(gsam(optax.sgd(0.01))),
        "K-FAC": make(kfac(model, 1e-4, damping=0.1)),
        "optax SAM": make(theirs, asks=lambda b: {"grad_fn": lambda p, _: gradient(p, b)}),
    }


def cycle(with_hessian: Any, without: Any, every: int) -> Any:
    """The mean over a cycle: one step with a Hessian, every - 1 without."""
    return (with_hessian + (every - 1) * without) / every


def step_rows(name: str, case: Case, timer: Timer) -> list[Row]:
    """Part 1, and part 4's memory, of one network."""
    programs = ours(case)
    times = timer.measure(programs)
    torch_times = timer.measure(peers.steps(case)) if peers.AVAILABLE else {}
    rate = matmul_share(programs["SGD"], times, timer)
    rows = [row(name, case, algorithm, programs, times, torch_times, rate) for algorithm in algorithms()]
    sam_median = next(r.value.median for r in rows if r.name == "SAM")
    rows = [with_gsam_goal(r, sam_median) if r.name == "GSAM" else r for r in rows]
    base = Row("steps", name, "SGD step", stats(times["SGD"] * 1e3), "ms")
    share = Row("steps", name, "SGD's share of a matmul's FLOP rate", exactly(rate), "1")
    return [base, share, *rows, *memory_rows(name, programs)]


def algorithms() -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """Name to the quantity's value, given the value of each program: times, FLOPs, any that adds up."""

    def delayed(every: int) -> Callable:
        return lambda q: cycle(q["Hessian"], q["no Hessian"], every)

    found: dict[str, Callable] = {"Adam": lambda q: q["Adam"]}
    found |= {adahessian_name(every): delayed(every) for every in THEORY}
    found[f"AdaHessian, {FRACTION:g} of the batch"] = lambda q: q.get("part")
    found |= {name: (lambda q, name=name: q.get(name)) for name in ("SAM", "GSAM", "K-FAC")}
    return found


def adahessian_name(every: int) -> str:
    return f"AdaHessian, every {every}"


THEORIES = {adahessian_name(every): ratio for every, ratio in THEORY.items()} | {"Adam": 1.0, "SAM": 2.0, "GSAM": 2.0}


def row(
    name: str, case: Case, algorithm: str, programs: Mapping[str, Step], times: Times, torch_times: Times, rate: float
) -> Row:
    quantity = algorithms()[algorithm]
    value = stats(quantity(times) / times["SGD"])
    counted = {key: program.flops for key, program in programs.items()}
    counted_ratio = quantity(counted) / counted["SGD"]
    others: dict[str, Stats] = {}
    if torch_times and (theirs := quantity(torch_times)) is not None:
        others["torch" if algorithm == "Adam" else "pytorch_optimizer"] = stats(theirs / torch_times["SGD"])
    if algorithm == "SAM":
        others["optax.contrib.sam"] = ratio(times, "optax SAM", "SGD")
    goals = goals_of(algorithm, case, value, counted_ratio, rate) + below_peers(value, others)
    return Row(
        "steps", name, algorithm, value, "SGD steps", THEORIES.get(algorithm), counted_ratio, others, tuple(goals)
    )


def goals_of(algorithm: str, case: Case, value: Stats, counted: float, rate: float) -> list[Goal]:
    """Issue 3, Measure 1."""
    found = []
    if rate >= COMPUTE_BOUND and algorithm not in ("Adam", "K-FAC"):  # K-FAC's LAPACK calls are not counted
        found.append(at_most(value.median, 1.05 * counted, "≤ 1.05 FLOPs"))
    every = {adahessian_name(every): goal for every, goal in CONV_GOALS.items()}
    if is_convolutional(case) and algorithm in every:
        found.append(at_most(value.median, every[algorithm]))
    if algorithm == "SAM":
        found.append(at_most(value.median, 2.05))
    return found


def with_gsam_goal(r: Row, sam_median: float) -> Row:
    return Row(**{**vars(r), "goals": (*r.goals, at_most(r.value.median, sam_median + 0.05, "≤ SAM + 0.05"))})


def matmul_share(sgd: Step, times: Times, timer: Timer) -> float:
    """FLOPs a second of the SGD step, over those of a product of two 1024² matrices: near 1 is bound by arithmetic."""
    a = jnp.ones((1024, 1024), jnp.float32)
    compiled = jax.jit(jnp.matmul).lower(a, a).compile()
    seconds = timer.measure({"matmul": lambda: compiled(a, a)})["matmul"]
    return float((sgd.flops / np.median(times["SGD"])) / (flops(compiled) / np.median(seconds)))


def memory_rows(name: str, programs: Mapping[str, Step]) -> list[Row]:
    """Part 4: counted by the compiler, so without spread."""
    base = programs["SGD"].memory
    limits = {"AdaHessian": 2.5, "SAM": 1.5}
    named = {"Adam": "Adam", "Hessian": "AdaHessian", "SAM": "SAM", "GSAM": "GSAM", "K-FAC": "K-FAC"}
    named["optax SAM"] = "optax.contrib.sam"
    rows = [Row("memory", name, "SGD step", exactly(base / 2**20), "MiB")]
    for key, label in named.items():
        value = exactly(programs[key].memory / base)
        goals = (at_most(value.median, limits[label]),) if label in limits else ()
        rows.append(Row("memory", name, label, value, "SGD's peak", goals=goals))
    return rows


def fraction_rows(
    name: str, case: Case, timer: Timer, draws: int, fractions: tuple = (1.0, 0.5, 0.25, 0.125)
) -> list[Row]:
    """probe_fraction: a step's cost, and the variance of the estimate D over `draws` probes, summed over entries and
    over that of the first fraction. The Hessian is that of the whole batch."""
    model, params, batch = case.make()
    programs: dict[str, Program] = {"SGD": Step(optax.sgd(0.01), model.loss, params, batch)}
    for f in fractions:
        opt = adahessian(1e-4, probe_fraction=f)
        programs[str(f)] = Step(opt, model.loss, params, batch, refresh=True)
    times = timer.measure(programs)
    noise = {f: variance(model, params, batch, f, draws) for f in fractions}
    rows = [
        Row("probe_fraction", name, f"{f:g} of the batch", ratio(times, str(f), "SGD"), "SGD steps") for f in fractions
    ]
    return rows + [
        Row(
            "probe_fraction",
            name,
            f"{f:g} of the batch",
            exactly(noise[f] / noise[fractions[0]]),
            "variance of D, whole batch's",
        )
        for f in fractions
    ]


def variance(model: Any, params: Any, batch: Any, fraction: float, draws: int) -> float:
    """Σ over entries of the variance of one estimate."""

    @jax.jit
    def draw(seed: Any) -> Any:
        state = adahessian(1.0, seed=seed).init(params)
        d = hessian_diagonal(model.loss, params, batch, state, fraction)
        return jnp.concatenate([a.ravel() for a in jax.tree.leaves(d)])

    return float(np.stack([draw(seed) for seed in range(draws)]).astype(np.float64).var(0, ddof=1).sum())
