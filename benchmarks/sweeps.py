"""Part 3: many small trainings at once. 8 learning rates × 5 seeds, in the ways that one could write it."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.cases import Case
from benchmarks.report import Goal, Row, at_most
from benchmarks.timing import Program, Timer, Times, ratio, stats
from course_lib import training
from course_lib.networks import MLP

CASE = Case(MLP((100, 100), 10), (40,), 100)
RATES = tuple(10 ** (-2 + 0.25 * i) for i in range(8))
SEEDS = tuple(range(5))


def sweep_rows(
    name: str, timer: Timer, steps: int = 300, rates: tuple = RATES, seeds: tuple = SEEDS, looped: int = 4
) -> list[Row]:
    """Seconds for all runs. looped: how many of the runs the loop of jitted steps does, the last times number/looped:
    its runs are alike, and all of them would take a third of a minute a turn."""
    runs = list(itertools.product(rates, seeds))
    train, advance, start = make(CASE, steps)
    grid = jnp.asarray(rates, jnp.float32), jnp.asarray(seeds)

    def nested(each: Callable) -> Callable:
        return jax.jit(lambda rates, seeds: each(lambda r: each(lambda s: train(r, s), seeds), rates))

    def in_map(f: Callable, xs: Any) -> Any:
        return jax.lax.map(f, xs)

    def in_vmap(f: Callable, xs: Any) -> Any:
        return jax.vmap(f)(xs)

    side_by_side, in_turn, alone = nested(in_vmap), nested(in_map), jax.jit(train)
    library = jax.jit(lambda rates, seeds: library_sweep(CASE, rates, seeds, steps))

    def loop_of_steps() -> Any:
        return [loop(advance, start, rate, seed, steps) for rate, seed in runs[:looped]]

    programs: dict[str, Program] = {
        "one vmap": lambda: side_by_side(*grid),
        "lax.map": lambda: in_turn(*grid),
        "training.sweep": lambda: library(*grid),
        "loop of jitted scans": lambda: [alone(rate, seed) for rate, seed in runs],
        "loop of jitted steps": loop_of_steps,
    }
    times = dict(timer.measure(programs))
    times["loop of jitted steps"] = times["loop of jitted steps"] * len(runs) / looped
    case = f"{name}, {len(runs)} runs of {steps} steps"
    goals = {"training.sweep": tuple(goals_of(times))}
    rows = [Row("sweep", case, key, stats(times[key]), "s", goals=goals.get(key, ())) for key in times]
    over = "of the loop of scans"
    return rows + [Row("sweep", case, key, ratio(times, key, "loop of jitted scans"), over) for key in times]


def goals_of(times: Times) -> list[Goal]:
    """Issue 3, Measure 3, of the library's own: it picks by device."""
    steps = ratio(times, "loop of jitted steps", "training.sweep").median
    scans = ratio(times, "training.sweep", "loop of jitted scans").median
    return [
        Goal(f"{steps:.3g} x faster than steps, ≥ 10", steps >= 10),
        at_most(scans, 1.0, f"{scans:.3g} of scans, ≤ 1"),
    ]


def make(case: Case, steps: int) -> tuple[Callable, Callable, Callable]:
    """(train(rate, seed) -> losses (steps,), one jitted step, start(seed) -> (params, state))."""
    model, _, batch = case.make()
    net: Any = model.apply

    def start(seed: Any) -> Any:
        params = net.init(jax.random.key(seed), batch[0])
        return params, optax.sgd(0.0).init(params)

    def advance(carry: tuple, rate: Any) -> tuple:
        params, state = carry
        loss, grads = jax.value_and_grad(model.loss)(params, batch)
        updates, state = optax.sgd(rate).update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    def train(rate: Any, seed: Any) -> Any:
        return jax.lax.scan(lambda carry, _: advance(carry, rate), start(seed), length=steps)[1]

    return train, jax.jit(advance), jax.jit(start)


def loop(advance: Callable, start: Callable, rate: float, seed: int, steps: int) -> Any:
    carry = start(seed)
    for _ in range(steps):
        carry, loss = advance(carry, rate)
    return loss


def library_sweep(case: Case, rates: Any, seeds: Any, steps: int) -> Any:
    """Compiled by the caller: a call of training.sweep alone compiles anew each time, as a notebook's one call does."""
    model, _, batch = case.make()
    net: Any = model.apply
    init = lambda key: net.init(key, batch[0])  # noqa: E731
    return training.sweep(model.loss, lambda rate, seed: optax.sgd(rate), init, batch, rates, seeds, steps).losses
