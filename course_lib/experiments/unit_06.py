"""Unit 06. SGD, Adam and K-FAC on two tasks of the digits, tuned alike on the validation part.

A piece is one method on one task with one budget of steps: every setting of its grid with the tuning seeds, then the
chosen one with new seeds. Trainings are in float32, on batches of 128, with constant rates.
"""

import math
import time
from collections.abc import Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from course_lib import data
from course_lib.experiments import Experiment, rounded
from course_lib.likelihoods import Categorical, Normal
from course_lib.models import Model
from course_lib.networks import MLP, Network
from course_lib.optimizers.kfac import kfac
from course_lib.training import advance, rows_of_run, start, take

BATCH, BLOCK = 128, 5  # images a step, steps a call
LOOKS = 40  # evaluations in a run, at most: one a block
MODELS = {
    "autoencoder": Model(Network(MLP((32, 16, 6, 16, 32), 64, jnp.tanh)), Normal()),
    "classifier": Model(Network(MLP((32, 32), 10, jnp.tanh)), Categorical()),
}
# Twenty settings each: (rate, momentum), (rate, b2), (rate, damping, momentum).
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
PAIRS = [(0.3, 0.0), (1.0, 0.0), (0.03, 0.9), (0.1, 0.9)]
KFAC_GRID = [(rate, damping, momentum) for (rate, momentum), damping in product(PAIRS, (0.01, 0.03, 0.1, 0.3, 1.0))]
GRIDS: dict[str, Sequence[tuple[float, ...]]] = {
    "SGD": list(product(RATES, (0.0, 0.9))),
    "Adam": list(product(RATES, (0.99, 0.999))),
    "K-FAC": KFAC_GRID,
    "K-FAC, observed labels": KFAC_GRID,
    "K-FAC, old inverses": KFAC_GRID,
}


def optimizer(task: str, method: str, setting: Any, seed: Any) -> optax.GradientTransformation:
    """The setting's numbers may be traced."""
    if method == "SGD":
        return optax.sgd(setting[0], setting[1])
    if method == "Adam":
        return optax.adam(setting[0], b2=setting[1])
    rate, damping, momentum = setting
    return kfac(
        MODELS[task],
        rate,
        damping,
        momentum=momentum,
        update_every=10 if method == "K-FAC, old inverses" else 1,
        labels="observed" if method == "K-FAC, observed labels" else "sampled",
        seed=seed,
    )


@cache
def parts(task: str) -> tuple[Any, Any, Any]:
    """(x, y) for training, validation and test in float32. The autoencoder's y is its x, the pixels on one scale for
    all, such that their mean variance is 1: pixels that are nearly always blank would be outliers otherwise."""
    digits = data.digits()
    scale = digits.scale / jnp.sqrt(jnp.mean((digits.train[0] * digits.scale) ** 2))

    def part(x: Any, y: Any) -> tuple[Any, Any]:
        x = jnp.asarray(x if task == "classifier" else x * scale, jnp.float32)
        return x, y if task == "classifier" else x

    return part(*digits.train), part(*digits.validation), part(*digits.test)


@partial(jax.jit, static_argnums=(0, 1))
def begin(task: str, method: str, setting: Any, seed: Any) -> Any:
    """The state before the first step: parameters drawn with the seed, zero moments."""
    model: Any = MODELS[task]
    params = model.apply.init(jax.random.key(seed), parts(task)[0][0])
    return start(optimizer(task, method, setting, seed), params)


@partial(jax.jit, static_argnums=(0, 1))
def block(task: str, method: str, setting: Any, seed: Any, state: Any, rows: Any) -> Any:
    """The state after the steps with these rows."""
    opt, loss = optimizer(task, method, setting, seed), MODELS[task].loss

    def step(state: Any, row: Any) -> tuple[Any, None]:
        return advance(loss, opt, state, take(parts(task)[0], row))[0], None

    return jax.lax.scan(step, state, rows)[0]


@partial(jax.jit, static_argnums=0)
def measure(task: str, params: Any, part: Any) -> tuple[Any, Any]:
    """(error, accuracy): squared error a pixel and 0 for the autoencoder, nats and the share that is right."""
    z = MODELS[task].outputs(params, part[0])
    if task == "autoencoder":
        return jnp.mean((z - part[1]) ** 2), jnp.zeros(())
    return MODELS[task].loss(params, part), jnp.mean(z.argmax(axis=1) == part[1])


def train(task: str, method: str, setting: Any, seed: int, steps: int) -> dict[str, Any]:
    """The validation error at the start and after each look, the test part where it was lowest, CPU seconds."""
    _, validation, test = parts(task)
    rows = np.asarray(rows_of_run(parts(task)[0], BATCH, jnp.asarray(seed), steps))
    rows = rows.reshape(min(LOOKS, steps // BLOCK), -1, BLOCK, BATCH)
    setting = tuple(jnp.float32(number) for number in setting)
    state = begin(task, method, setting, seed)
    block(task, method, setting, seed, state, rows[0, 0])  # compiles
    curve, best, seconds = [float(measure(task, state.params, validation)[0])], state.params, 0.0
    for blocks in rows:
        since = time.process_time()
        for some in blocks:
            state = jax.block_until_ready(block(task, method, setting, seed, state, some))
        seconds += time.process_time() - since
        curve.append(float(measure(task, state.params, validation)[0]))
        best = state.params if curve[-1] == min(c for c in curve if not math.isnan(c)) else best
    return {"curve": curve, "test": [float(a) for a in measure(task, best, test)], "seconds": seconds}


def run(
    task: str, method: str, steps: int, settings: list[int] | None, tuning: list[int], seeds: list[int]
) -> dict[str, Any]:
    """settings: which of the grid, None for all. The one with the lowest error on the validation part, at the best
    place of the mean over the tuning seeds, is run with the other seeds. A run that diverged has None for an error."""
    grid = [GRIDS[method][i] for i in settings or range(len(GRIDS[method]))]
    curves = [[train(task, method, setting, seed, steps)["curve"] for seed in tuning] for setting in grid]
    lowest = [np.where(np.isfinite(c), c, np.inf).mean(axis=0).min() for c in curves]
    chosen = int(np.argmin(lowest))
    runs = [train(task, method, grid[chosen], seed, steps) for seed in seeds]
    return {
        "setting": list(grid[chosen]),
        "chosen": chosen,
        "lowest": rounded(lowest),
        "curves": [rounded(r["curve"]) for r in runs],
        "test": rounded([r["test"][0] for r in runs]),
        "accuracy": rounded([r["test"][1] for r in runs]),
        "milliseconds": round(1e3 * sum(r["seconds"] for r in runs) / (steps * len(seeds)), 4),
    }


def piece(task: str, method: str, steps: int, **other: Any) -> dict[str, Any]:
    return dict(task=task, method=method, steps=steps, settings=None, tuning=[100, 101], seeds=list(range(5))) | other


QUICK = dict(settings=[2, 10], tuning=[100], seeds=[0])
RACES: list[dict[str, Any]] = [
    *(piece("classifier", method, 40, **QUICK) for method in ("SGD", "Adam", "K-FAC")),
    *(piece(task, method, 200) for task in MODELS for method in GRIDS),
    *(piece(task, method, 1000) for task in MODELS for method in ("SGD", "Adam")),
]

EXPERIMENTS = {"race": Experiment(run, RACES)}
