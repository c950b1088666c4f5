"""Unit 07. AdaHessian beside SGD, Adam and AdamW, tuned alike: AdaHessian Tables 2-8, small.

Two tasks. vision: MNIST-1D, a net of two convolutions. text: the next character of Python's own help topics, from the
twelve before it. `race` and `frequency` take the numbers that `tune` chose: compute `tune` first.
"""

import re
from collections.abc import Callable
from functools import cache
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from course_lib import data
from course_lib.experiments import Experiment, load, rounded
from course_lib.likelihoods import Categorical
from course_lib.models import Batch, Model
from course_lib.networks import Conv, Dense, Network, Tape
from course_lib.optimizers import adahessian
from course_lib.optimizers.adahessian import Block
from course_lib.training import sweep

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,_()"  # 32 symbols
CONTEXT = 12  # characters
CHUNK = 1000  # characters that go to one of the three parts together


class ConvNet(nn.Module):
    """(n, 40) signals: two convolutions with stride 2, of 8 and 16 channels, and a dense layer. 2042 parameters."""

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        x = x[..., None]
        for features in (8, 16):
            x = nn.relu(Conv(features, stride=2)(x, tape))
        return Dense(10)(x.reshape(len(x), -1), tape)


class CharNet(nn.Module):
    """(n, CONTEXT) places in ALPHABET: 8 numbers a character, 64 hidden units, the next character's logits."""

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        x = Dense(8, use_bias=False)(jax.nn.one_hot(x, len(ALPHABET), dtype=jnp.float32), tape)
        x = nn.relu(Dense(64)(x.reshape(len(x), -1), tape))
        return Dense(len(ALPHABET))(x, tape)


class Task(NamedTuple):
    """What is trained, in float32."""

    net: Network
    train: Batch
    validation: Batch
    test: Batch
    batch_size: int

    @property
    def model(self) -> Model:
        return Model(self.net, Categorical())


@cache
def vision() -> Task:
    found = data.mnist1d()
    train, validation, test = ((jnp.asarray(x, jnp.float32), y) for x, y in (found.train, found.validation, found.test))
    return Task(Network(ConvNet()), train, validation, test, 64)


def text() -> str:
    """The help topics in the order of their names, in lower case; what is not in ALPHABET counts as a space."""
    lower = " ".join(topics[name] for name in sorted(topics)).lower()
    return " ".join(re.sub(f"[^{re.escape(ALPHABET)}]", " ", lower).split())


def contexts(chunks: list[str], every: int) -> tuple[Int[Array, "n 12"], Int[Array, " n"]]:
    """Pairs (twelve characters, the next one) from every `every`-th place; none reaches over the end of a chunk."""
    codes = [np.array([ALPHABET.index(c) for c in chunk]) for chunk in chunks]
    windows = np.concatenate([np.lib.stride_tricks.sliding_window_view(c, CONTEXT + 1)[::every] for c in codes])
    return jnp.asarray(windows[:, :-1], jnp.int32), jnp.asarray(windows[:, -1], jnp.int32)


@cache
def characters() -> Task:
    """Of ten chunks of the text eight are for training, one for validation, one for the test."""
    whole = text()
    chunks = [whole[i : i + CHUNK] for i in range(0, len(whole) - CHUNK + 1, CHUNK)]
    validation, test = chunks[8::10], chunks[9::10]
    train = [c for i, c in enumerate(chunks) if i % 10 < 8]
    return Task(Network(CharNet()), contexts(train, 4), contexts(validation, 10), contexts(test, 10), 128)


TASKS: dict[str, Callable[[], Task]] = {"vision": vision, "text": characters}
STEPS = {"vision": 400, "text": 500}


def windows_and_columns(path: Any, leaf: Array) -> Block:
    """A convolution over its window, a matrix over the weights into one output, as the public code does in 2-D."""
    return {3: (0,), 2: (0,)}.get(leaf.ndim)


class Method(NamedTuple):
    """make(rate schedule, decay, seed) -> optimizer; the largest of the eight rates; the three decays."""

    make: Callable[..., Any]
    top: float
    decays: tuple[float, float, float]

    def hypers(self, num_rates: int = 8) -> dict[str, Float[Array, " hypers"]]:
        """Every rate, a factor of 2 apart, with every decay."""
        rates = self.top * 2.0 ** -np.arange(num_rates)
        grid = np.meshgrid(rates, self.decays, indexing="ij")
        return dict(zip(("rate", "decay"), (jnp.asarray(a.ravel(), jnp.float32) for a in grid), strict=True))


def with_l2(make: Callable) -> Callable:
    return lambda rate, decay, seed: optax.chain(optax.add_decayed_weights(decay), make(rate))


def second_order(**words: Any) -> Callable:
    words = {"block_size": windows_and_columns} | words
    return lambda rate, decay, seed: adahessian(rate, weight_decay=decay, seed=seed, **words)


METHODS = {
    "SGD": Method(with_l2(lambda rate: optax.sgd(rate, momentum=0.9)), 1.6, (0.0, 3e-4, 3e-3)),
    "Adam": Method(with_l2(optax.adam), 0.2, (0.0, 1e-3, 1e-2)),
    "AdamW": Method(lambda rate, decay, seed: optax.adamw(rate, weight_decay=decay), 0.2, (0.0, 3e-2, 3e-1)),
    "AdaHessian": Method(second_order(), 0.4, (0.0, 1e-3, 1e-2)),
}
MULTIPLES = (0.5, 1, 2, 3, 4, 5, 6, 10)  # of the chosen rate: AdaHessian Table 6


def trained(
    task: str, make: Callable, hypers: dict, seeds: list[int], steps: int, parts: tuple[str, ...], share: float = 0.1
) -> dict:
    """Loss (nats) and accuracy on the parts after `steps`, rows a setting, columns a seed; None where it diverged.

    The rate rises over the first `share` of the steps and falls to 0 along half a cosine, for every method.
    """
    it = TASKS[task]()

    def optimizer(hyper: dict, seed: Array) -> Any:
        def rate(count: Array) -> Array:
            t = count.astype(jnp.float32) + 1
            rise, fall = jnp.minimum(1, t / max(share * steps, 1)), 0.5 * (1 + jnp.cos(jnp.pi * t / (steps + 1)))
            return hyper["rate"] * rise * fall

        return make(rate, hyper["decay"], seed)

    def init(key: Array) -> Any:
        return it.net.init(key, it.train[0][:1])

    runs = sweep(it.model.loss, optimizer, init, it.train, hypers, seeds, steps, batch_size=it.batch_size)

    @jax.jit
    def judged(params: Any, x: Array, y: Array) -> tuple[Array, Array]:
        z = it.net(params, x)
        return it.model.loss(params, (x, y)), jnp.mean(jnp.argmax(z, axis=1) == y)

    over_all = jax.jit(lambda p, x, y: jax.lax.map(lambda row: jax.lax.map(lambda q: judged(q, x, y), row), p))
    gave: dict[str, Any] = {"early": rounded(runs.losses[:, :, min(10, steps - 1)])}
    for part in parts:
        loss, accuracy = over_all(runs.params, *getattr(it, part))
        gave |= {f"{part} loss": rounded(loss), f"{part} accuracy": rounded(accuracy)}
    return gave


def means(rows: list) -> np.ndarray:
    """Over the seeds; inf where one diverged."""
    return np.array([np.mean([np.inf if v is None else v for v in row]) for row in rows])


def tune(task: str, method: str, steps: int, seeds: list[int]) -> dict:
    """Every setting's validation loss; `chosen`: the place of the smallest mean. The test part is not looked at."""
    chosen_from = METHODS[method].hypers()
    gave = trained(task, METHODS[method].make, chosen_from, seeds, steps, ("validation",))
    best = int(means(gave["validation loss"]).argmin())
    numbers = {name: float(f"{float(values[best]):.6g}") for name, values in chosen_from.items()}
    return gave | {"place": best, "chosen": numbers}


def chosen(task: str, method: str) -> dict[str, float]:
    return load("07.tune").where(task=task, method=method, steps=STEPS[task])[0]["chosen"]


def race(task: str, method: str, seeds: list[int]) -> dict:
    """Fresh seeds at MULTIPLES of the chosen rate, with the chosen decay: Tables 2-4 at 1, Table 6 at all."""
    numbers = chosen(task, method)
    hypers = {
        "rate": jnp.asarray([numbers["rate"] * m for m in MULTIPLES], jnp.float32),
        "decay": jnp.full(len(MULTIPLES), numbers["decay"], jnp.float32),
    }
    return trained(task, METHODS[method].make, hypers, seeds, STEPS[task], ("test",))


def blocks(block: int, magnitude: bool, seeds: list[int]) -> dict:
    """Table 7: AdaHessian with b consecutive entries a block, at seven rates, without decay; vision."""
    rates = METHODS["AdaHessian"].top * 2.0 ** -np.arange(-2, 5)
    hypers = {"rate": jnp.asarray(rates, jnp.float32), "decay": jnp.zeros(7, jnp.float32)}
    make = second_order(block_size=block, magnitude=magnitude)
    return trained("vision", make, hypers, seeds, STEPS["vision"], ("validation", "test"))


def frequency(every: int, seeds: list[int]) -> dict:
    """Table 8: AdaHessian with a Hessian every few steps, all else as `tune` chose; vision."""
    numbers = {name: jnp.full(1, value, jnp.float32) for name, value in chosen("vision", "AdaHessian").items()}
    return trained("vision", second_order(update_every=every), numbers, seeds, STEPS["vision"], ("test",))


def warmup(method: str, share: float, seeds: list[int]) -> dict:
    """vision at the eight rates of the method, without decay, with a warm-up of this share of the steps or none."""
    rates = METHODS[method].top * 2.0 ** -np.arange(8)
    hypers = {"rate": jnp.asarray(rates, jnp.float32), "decay": jnp.zeros(8, jnp.float32)}
    return trained("vision", METHODS[method].make, hypers, seeds, STEPS["vision"], ("validation",), share)


FRESH = [100, 101, 102, 103, 104]
EXPERIMENTS = {
    "tune": Experiment(
        tune,
        [{"task": t, "method": m, "steps": STEPS[t], "seeds": [0, 1, 2]} for t in TASKS for m in METHODS]
        + [{"task": "vision", "method": "AdaHessian", "steps": 30, "seeds": [0]}],
    ),
    "race": Experiment(race, [{"task": t, "method": m, "seeds": FRESH} for t in TASKS for m in METHODS]),
    "blocks": Experiment(
        blocks,
        [{"block": b, "magnitude": False, "seeds": FRESH} for b in (1, 8, 32, 128)]
        + [{"block": 32, "magnitude": True, "seeds": FRESH}],
    ),
    "frequency": Experiment(frequency, [{"every": n, "seeds": FRESH} for n in (1, 2, 3, 4, 5)]),
    "warmup": Experiment(warmup, [{"method": m, "share": 0.0, "seeds": [0, 1, 2]} for m in ("AdamW", "AdaHessian")]),
}
