"""Units 05-11. The training loops of the experiments: `fit` for one run, `sweep` for many at once.

A run is a function of its arguments alone: batch t comes from batches(t), random numbers from keys in the state. So a
checkpoint holds all that a resumed run needs, which goes on bit for bit, and a sweep gives what single runs would give.
"""

import contextlib
import functools
import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from IPython import get_ipython
from jaxtyping import Array, Float, Int

from course_lib.files import whole
from course_lib.models import Params
from course_lib.optimizers.common import all_finite

ORDER = 271828  # folded into a seed's key for the order of the data, so that its other uses draw other numbers
Optimizer: TypeAlias = optax.GradientTransformation


class TrainState(NamedTuple):
    """All that changes in a run. step: steps taken, and the number of the next batch."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any


class Fit(NamedTuple):
    """history: (steps,) in float64, the loss at each step's batch before the step. state: what a checkpoint holds."""

    params: Params
    history: np.ndarray
    state: TrainState


class DivergedError(ArithmeticError):
    """A loss that is not finite, or above the bound. history: (steps,), up to and with that loss."""

    def __init__(self, history: np.ndarray, bound: float):
        self.history = history
        what = f"{history[-1]:.4g}" + (f", above the bound {bound:g}" if history[-1] > bound else "")
        last = f"the last finite loss was {history[-2]:.4g}" if len(history) > 1 else "it is the first: see the data"
        super().__init__(
            f"step {len(history) - 1}: the loss is {what}; {last}. "
            "Lower the learning rate, warm it up, or clip the gradients (optax.clip_by_global_norm)"
        )


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or of another run. The file stays as it is."""


class LostProcessError(RuntimeError):
    """Another process of this run is gone, so no step can be taken. The checkpoint is that of the last look."""


def start(optimizer: Optimizer, params: Params) -> TrainState:
    """The state before the first step."""
    params = jax.tree.map(jnp.asarray, params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def advance(loss: Callable, optimizer: Optimizer, state: TrainState, batch: Any) -> tuple[TrainState, Float[Array, ""]]:
    """The state after a step, and loss(params, batch) before it.

    Any optimizer finds what it asks for: loss and batch (ours), value, grad and value_fn (optax's line searches, which
    hand on to value_fn what they do not know themselves).
    """
    value, grads = jax.value_and_grad(loss)(state.params, batch)
    search = {"value": value, "grad": grads, "value_fn": lambda p, loss=loss, batch=batch: loss(p, batch)}
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(grads, state.opt_state, state.params, loss=loss, batch=batch, **search)
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), value


compiled_advance = jax.jit(advance, static_argnums=(0, 1))


# ---- the order of the data: of seed and epoch alone ----


class Minibatches(NamedTuple):
    """A function t -> the batch of step t: `size` of the n rows of data's leaves (n, ...), without replacement.

    Each epoch has an order of its own, whose last n mod size rows are left out. ValueError unless 1 ≤ size ≤ n.
    """

    data: Any
    size: int
    seed: int = 0

    def __call__(self, step: int) -> Any:
        epoch, place = divmod(step, len_of(self.data, self.size) // self.size)
        return take(self.data, epoch_order(len_of(self.data, self.size), self.size, self.seed, epoch)[place])

    def __repr__(self) -> str:
        return f"{self.size} of {len_of(self.data, self.size)} rows, seed {self.seed}"


def len_of(data: Any, size: int) -> int:
    """n, where data has leaves (n, ...) and n ≥ size; ValueError where not."""
    lengths = {jnp.shape(a)[:1] for a in jax.tree.leaves(data)}
    if len(lengths) != 1 or not all(n and 1 <= size <= n[0] for n in lengths):
        raise ValueError(f"data needs leaves (n, ...) of one n, and 1 to n rows a batch; got n {lengths}, size {size}")
    return lengths.pop()[0]


def shuffled(n: int, size: int, seed: Any, epoch: Any) -> Int[Array, "batches size"]:
    """The rows of each batch of an epoch; seed and epoch may be traced."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), ORDER), epoch)
    return jax.random.permutation(key, n)[: n // size * size].reshape(-1, size)


epoch_order = functools.lru_cache(8)(jax.jit(shuffled, static_argnums=(0, 1)))


@jax.jit
def take(data: Any, rows: Int[Array, " size"]) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a)[rows], data)


# ---- one run ----


def fit(
    loss: Callable,
    optimizer: Optimizer,
    params: Params,
    batches: Callable,
    num_steps: int,
    *,
    checkpoint: str | os.PathLike | None = None,
    every: int = 100,
    bound: float = np.inf,
    progress: bool | None = None,
) -> Fit:
    """num_steps steps of any optimizer, of this library or optax, on loss(params, batch) -> ().

    batches: t -> the batch of step t: Minibatches(data, size, seed), or `lambda t: data` for all data in each step. On
        several devices a batch that is sharded over them is enough, and on several processes (jax.distributed) too.
    checkpoint: a file; several processes give the same one, on a disk that they share. Where it exists the run goes on
        from it; every `every` steps, and at the end, it is renewed. It knows Minibatches and the state's shapes, but
        not the loss and the optimizer's numbers: keep those the same.
    every: steps between two looks at the losses, for which alone the device waits.
    bound: a loss above it is divergence. DivergedError comes before the checkpoint is renewed.
    progress: whether to show a line; None: in a terminal or notebook, unless CI is set in the environment.

    Compiled once a loss and optimizer: over several seeds keep them in variables. CheckpointError says what differs.
    LostProcessError where another process died: it says what to start again, and from which step that goes on.
    ValueError for an `every` below 1.
    """
    if every < 1:
        raise ValueError(f"every is a number of steps, 1 or more; got {every}")
    state, history = start(optimizer, params), np.zeros(0)
    if checkpoint is not None and Path(checkpoint).exists():
        state, history = load(Path(checkpoint), state, batches)
        if len(history) > num_steps:
            raise CheckpointError(f"{checkpoint} has {len(history)} steps, more than {num_steps}: name another file")
    while len(history) < num_steps:
        stop = min(len(history) + every, num_steps)
        with others_alive(len(history), checkpoint):
            state, losses = some_steps(loss, optimizer, state, batches, range(len(history), stop))
        history = np.append(history, losses)
        stop_if_diverged(history, state.params, bound)
        if checkpoint is not None:
            save(Path(checkpoint), state, history, batches)
        if interactive() if progress is None else progress:
            show_progress(len(history), num_steps, history[-1])
    return Fit(state.params, history, state)


def some_steps(
    loss: Callable, optimizer: Optimizer, state: TrainState, batches: Callable, steps: range
) -> tuple[TrainState, np.ndarray]:
    """The state after these steps, and the loss before each; the device is waited for at the end alone."""
    losses = []
    for t in steps:
        state, value = compiled_advance(loss, optimizer, state, batches(t))
        losses.append(value)
    return state, np.asarray(jax.device_get(losses), float)


@contextlib.contextmanager
def others_alive(step: int, checkpoint: str | os.PathLike | None) -> Iterator[None]:
    """LostProcessError in place of what XLA says of a connection that ended."""
    try:
        yield
    except (ValueError, RuntimeError) as error:  # jaxlib raises either
        if jax.process_count() == 1 or not re.search("Gloo|NCCL|UNAVAILABLE|heartbeat|barrier", str(error)):
            raise
        again = f"start all {jax.process_count()} processes again"
        kept = f"{checkpoint} has step {step}: {again}, they go on from there"
        raise LostProcessError(
            f"after step {step}: another process of this run is gone, or out of reach ({str(error).splitlines()[0]}). "
            f"Its own output says why. {kept if checkpoint and step else f'No checkpoint is there: {again}'}"
        ) from error


def stop_if_diverged(history: np.ndarray, params: Params, bound: float) -> None:
    """DivergedError at the first loss that is not finite or above the bound; params that are not finite count as nan,
    the loss that they will have."""
    losses = history if compiled_all_finite(params) else np.append(history, np.nan)
    bad = np.flatnonzero(~(np.isfinite(losses) & (losses <= bound)))
    if bad.size:
        raise DivergedError(losses[: bad[0] + 1], bound)


compiled_all_finite = jax.jit(all_finite)


def interactive() -> bool:
    """Whether somebody watches."""
    kernel = getattr(get_ipython(), "kernel", None)
    return not os.environ.get("CI") and (kernel is not None or sys.stdout.isatty())


def show_progress(step: int, num_steps: int, loss: float) -> None:
    """A line, written over the last one."""
    text = f"[{'#' * (30 * step // num_steps):.<30}] step {step}/{num_steps}, loss {loss:.4g}"
    print(f"\r{text:<78}", end="\n" if step == num_steps else "", flush=True)


# ---- checkpoints: the bytes of the leaves, and a table that says what they are ----


def is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def table(state: TrainState, batches: Any) -> dict[str, str]:
    """What the run is made of, in words: {part: dtype and shape}."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    words = {jax.tree_util.keystr(path)[1:]: f"{a.dtype} {a.shape}" for path, a in leaves}
    return words | {"batches": repr(batches) if isinstance(batches, Minibatches) else "of a function"}


def save(path: Path, state: TrainState, history: np.ndarray, batches: Any) -> None:
    leaves = {f"leaf{i}": np.frombuffer(plain(a).tobytes(), np.uint8) for i, a in enumerate(jax.tree.leaves(state))}
    with whole(path) as file:
        np.savez(file, table=json.dumps(table(state, batches)), history=history, **leaves)  # type: ignore[arg-type]


def load(path: Path, like: TrainState, batches: Any) -> tuple[TrainState, np.ndarray]:
    """State and history. CheckpointError where the file is damaged, or of another kind of run than `like`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found, history = json.loads(str(arrays["table"])), arrays["history"]
            data = [arrays[f"leaf{i}"] for i in range(len(found) - 1)]
    except (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): delete it or put a copy back") from error
    here = table(like, batches)
    parts = [k for k in here | found if here.get(k) != found.get(k)]
    if parts:
        lines = [f"{k} is {found.get(k, 'missing')} there and {here.get(k, 'missing')} here" for k in parts[:4]]
        raise CheckpointError(f"{path} is of another run: {'; '.join(lines)}. Name another file, or delete it")
    leaves, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, map(restored, data, leaves)), history


def restored(data: np.ndarray, like: Array) -> Array:
    """The leaf with these bytes, and the shape and dtype of `like`."""
    array = jnp.asarray(np.frombuffer(data.tobytes(), plain(like).dtype).reshape(plain(like).shape))
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like)) if is_key(like) else array


# ---- many runs ----


class Sweep(NamedTuple):
    """Every setting with every seed. A run that diverged has inf or nan. params: leaves (hypers, seeds, ...)."""

    losses: Float[Array, "hypers seeds steps"]
    params: Params

    def mean(self) -> Float[Array, "hypers steps"]:
        """Over the seeds."""
        return self.losses.mean(axis=1)

    def sd(self) -> Float[Array, "hypers steps"]:
        """The sample standard deviation over the seeds; nan for a single one."""
        return self.losses.std(axis=1, ddof=1)


def sweep(
    loss: Callable,
    make_optimizer: Callable,
    init: Callable,
    data: Any,
    hypers: Any,
    seeds: Any,
    num_steps: int,
    *,
    batch_size: int | None = None,
    vmap: bool | None = None,
) -> Sweep:
    """`fit` for each setting in hypers with each seed, compiled as one program.

    make_optimizer: (hyper, seed) -> optimizer, both traced; the seed is for optimizers that draw.
    init: key -> params, from jax.random.key(seed).
    hypers: an array or list (hypers, ...), an entry a setting, or a dictionary of such. seeds: (seeds,), whole numbers.
    batch_size: of Minibatches(data, batch_size, seed). None: all data in each step.
    vmap: all runs side by side, or one after another (lax.map). None: side by side unless on a CPU, whose cores one run
        keeps busy and whose branches (lax.cond) a vmap would run on both sides.
    """
    side_by_side = jax.default_backend() != "cpu" if vmap is None else vmap

    def each(f: Callable, xs: Any) -> Any:
        return jax.vmap(f)(xs) if side_by_side else jax.lax.map(f, xs)

    def run(data: Any, hyper: Any, seed: Array) -> tuple[Array, Params]:
        optimizer, rows = make_optimizer(hyper, seed), rows_of_run(data, batch_size, seed, num_steps)

        def step(state: TrainState, rows: Array | None) -> tuple[TrainState, Array]:
            return advance(loss, optimizer, state, data if rows is None else take(data, rows))

        state, losses = jax.lax.scan(step, start(optimizer, init(jax.random.key(seed))), rows, num_steps)
        return losses, state.params

    @jax.jit
    def runs(data: Any, hypers: Any, seeds: Array) -> tuple[Array, Params]:
        return each(lambda hyper: each(lambda seed: run(data, hyper, seed), seeds), hypers)

    hypers = jax.tree.map(jnp.asarray, hypers, is_leaf=lambda a: isinstance(a, list))
    return Sweep(*runs(data, hypers, jnp.asarray(seeds)))


def rows_of_run(data: Any, size: int | None, seed: Array, num_steps: int) -> Int[Array, "steps size"] | None:
    """The rows of every step's batch; None for all data in each."""
    if size is None:
        return None
    n = len_of(data, size)
    epochs = jnp.arange(-(-num_steps // (n // size)))
    return jax.vmap(lambda epoch: shuffled(n, size, seed, epoch))(epochs).reshape(-1, size)[:num_steps]
