"""Times that can be compared: taken in turns within one run, and compared turn by turn."""

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

Program = Callable[[], Any]  # does its work once; what it returns is waited for
Times = Mapping[str, np.ndarray]  # seconds a call of each program, one entry a round


class Stats(NamedTuple):
    """Median and quartiles of what the rounds gave."""

    median: float
    lower: float
    upper: float


def stats(values: Any) -> Stats:
    lower, median, upper = np.quantile(np.asarray(values, float), [0.25, 0.5, 0.75])
    return Stats(float(median), float(lower), float(upper))


def exactly(value: float) -> Stats:
    """What is counted and not measured has no spread."""
    return Stats(float(value), float(value), float(value))


@dataclass(frozen=True)
class Timer:
    """rounds: how often each program has its turn. turn: the seconds that a turn takes, at least; at least one call.

    Programs take turns in a new random order each round, so that what slows the machine for a while slows all of them.
    A short program is called once before its clock starts: the other framework's threads fall asleep meanwhile.
    """

    rounds: int = 7
    turn: float = 0.15

    def measure(self, programs: Mapping[str, Program]) -> Times:
        for program in programs.values():  # compiles, and fills caches
            call(program)
        order, times = list(programs), {name: np.zeros(self.rounds) for name in programs}
        shuffle = random.Random(0).shuffle
        for round_ in range(self.rounds):
            shuffle(order)
            gc.collect()
            for name in order:
                times[name][round_] = self.one_turn(programs[name])
        return times

    def one_turn(self, program: Program) -> float:
        """Seconds a call, the mean over a turn."""
        start = time.perf_counter()
        call(program)
        first = time.perf_counter() - start
        if first > self.turn:
            return first
        start, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - start < self.turn:
            call(program)
            calls += 1
        return (time.perf_counter() - start) / calls


def call(program: Program) -> None:
    """JAX returns before the work is done; a torch program waits for itself."""
    jax.block_until_ready(program())


def ratio(times: Times, name: str, over: str) -> Stats:
    """Turn by turn: what slowed both in a round is not in it."""
    return stats(times[name] / times[over])
