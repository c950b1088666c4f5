"""Unit 09. The trainings of lecture 09: a small MLP on MNIST-1D under SGD, SAM, GSAM and their relatives.

methods     for each method, settings drawn at random and chosen on the validation part
first_steps the first steps of a chosen run once more, for the lecture to compute live
curvature   nets over a grid of ρ and α: the eigenvalue from the gap beside power iteration (GSAM Fig. 4)
transfer    five classes learnt by each method, then SGD on a hundred examples of the other five (GSAM Table 3)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from course_lib import data
from course_lib.curvature.products import hvp
from course_lib.curvature.spectrum import power_iteration
from course_lib.experiments import Experiment
from course_lib.networks import MLP, Network
from course_lib.optimizers.entropy_sgd import entropy_sgd
from course_lib.optimizers.gsam import gsam, min_f_h, min_sum, rho_like_learning_rate
from course_lib.optimizers.sam import sam
from course_lib.training import advance, start, sweep

NET = Network(MLP((64, 64), outputs=10))
BATCH, STEPS = 100, 500
LOW = 0.01  # the last learning rate, as a share of the first
INNER, INNER_RATE = 5, 0.1  # of Entropy-SGD
SEEDS = (0, 1, 2, 3, 4)

# log10 of the ends between which settings are drawn.
LR = {"sgd": (-2.0, -0.5), "adamw": (-3.2, -1.7), "adabelief": (-3.2, -1.7)}
DECAY = {"sgd": (-5.0, -2.5), "adamw": (-4.0, -1.0), "adabelief": (-4.0, -1.0)}
RHO = (-1.7, -0.2)
NARROW_LR, NARROW_RHO = (-1.2, -0.3), (-1.7, -0.5)  # around what the first, shorter runs chose
ASAM_RHO = (-0.7, 0.8)  # ten times larger

METHODS = {
    "sgd": "sgd",
    "sgd_twice": "sgd",  # as many gradients as SAM
    "sam": "sgd",
    "sam_decay": "sgd",
    "gsam": "sgd",
    "gsam_const": "sgd",
    "min_sum": "sgd",
    "min_f_h": "sgd",
    "asam": "sgd",
    "asam_ascent": "sgd",
    "entropy": "sgd",
    "mixup": "sgd",
    "mixup_sam": "sgd",
    "mixup_gsam": "sgd",
    "adamw": "adamw",
    "adamw_sam": "adamw",
    "adamw_gsam": "adamw",
    "adabelief": "adabelief",
    "adabelief_sam": "adabelief",
    "adabelief_gsam": "adabelief",
}


# ---- data and loss ----


@functools.cache
def parts() -> tuple[Any, Any, Any]:
    """(train, validation, test) of MNIST-1D in float32; labels are one-hot, so that mixtures of them are labels too."""

    def part(pair: Any) -> Any:
        x, y = (np.asarray(a) for a in pair)
        return x.astype(np.float32), np.eye(10, dtype=np.float32)[y]

    d = data.mnist1d()
    return part(d.train), part(d.validation), part(d.test)


def loss(params: Any, batch: Any) -> jax.Array:
    """The mean cross-entropy with labels that may be mixtures, in nats."""
    x, y = batch
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(NET(params, x)), axis=1))


def accuracy(params: Any, batch: Any) -> jax.Array:
    """The share of right answers; 0 for a run that diverged."""
    z = NET(params, batch[0])
    right = jnp.argmax(z, axis=1) == jnp.argmax(batch[1], axis=1)
    return jnp.mean(right & jnp.all(jnp.isfinite(z), axis=1))


accuracies = jax.jit(jax.vmap(jax.vmap(accuracy, (0, None)), (0, None)))


def init(key: jax.Array) -> Any:
    return NET.init(key, jnp.zeros((1, 40), jnp.float32))


def mixed(pair: Any, copies: int = 4, beta: float = 0.4) -> Any:
    """Mixup: copies of the data, each example mixed with a random other one, weights from Beta(beta, beta)."""
    rng = np.random.default_rng(0)
    n = len(pair[0])

    def copy() -> Any:
        share = rng.beta(beta, beta, size=(n, 1)).astype(np.float32)
        other = rng.permutation(n)
        return tuple(share * a + (1 - share) * a[other] for a in pair)

    return tuple(np.concatenate(arrays) for arrays in zip(*(copy() for _ in range(copies)), strict=True))


# ---- optimizers ----


def cosine(lr: Any, steps: int) -> Callable:
    """Up to lr in a twentieth of the steps, then down to LOW lr along a cosine."""
    warm = max(steps // 20, 1)

    def rate(count: Any) -> Any:
        t = jnp.asarray(count, jnp.float32)
        done = jnp.clip((t - warm) / (steps - warm), 0, 1)
        return lr * jnp.minimum((t + 1) / warm, LOW + (1 - LOW) * 0.5 * (1 + jnp.cos(jnp.pi * done)))

    return rate


def base_optimizer(name: str, rate: Any, decay: Any) -> optax.GradientTransformation:
    if name == "sgd":
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.9))
    if name == "adamw":
        return optax.adamw(rate, weight_decay=decay)
    belief = optax.scale_by_belief()
    return optax.chain(belief, optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate))


def steps_of(method: str, steps: int) -> int:
    """Every method but `sgd`, `adamw`, `adabelief` and `mixup` spends 2 · steps gradients."""
    return {"sgd_twice": 2 * steps, "entropy": 2 * steps // INNER}.get(method, steps)


def make(method: str, steps: int) -> Callable:
    """(hyper, seed) -> the optimizer of a method; hyper has lr, rho, alpha and wd."""
    ascent, steps = method.removeprefix(METHODS[method] + "_").removeprefix("mixup_"), steps_of(method, steps)

    def optimizer(h: Any, seed: Any) -> optax.GradientTransformation:
        rate = cosine(h["lr"], steps)
        base = base_optimizer(METHODS[method], rate, h["wd"])
        if ascent == "entropy":  # the step is then about lr times the mean gradient of the inner steps
            base = base_optimizer("sgd", lambda t: rate(t) / (h["alpha"] * INNER), h["wd"])
            return entropy_sgd(base, h["alpha"] / INNER_RATE, INNER, INNER_RATE, seed=seed)
        falling = rho_like_learning_rate(rate, h["lr"], h["rho"], LOW * h["lr"], h["rho"] / 4)
        made = {
            "sam": lambda: sam(base, h["rho"]),
            "sam_decay": lambda: sam(base, falling),
            "gsam": lambda: gsam(base, falling, h["alpha"]),
            "gsam_const": lambda: gsam(base, h["rho"], h["alpha"]),
            "min_sum": lambda: gsam(base, falling, h["alpha"], combine=min_sum),
            "min_f_h": lambda: gsam(base, falling, h["alpha"], combine=min_f_h),
            "asam": lambda: sam(base, h["rho"], adaptive=True),
            "asam_ascent": lambda: gsam(base, h["rho"], h["alpha"], adaptive=True),
        }
        return made.get(ascent, lambda: base)()

    return optimizer


def draws(method: str, trials: int, narrow: bool = False) -> dict[str, jax.Array]:
    """`trials` settings; the same random numbers for every method, each within the method's own ends."""
    u = np.random.default_rng(9).uniform(size=(trials, 4))
    base = METHODS[method]

    def between(ends: tuple[float, float], u: np.ndarray) -> jax.Array:
        return jnp.asarray(10 ** (ends[0] + (ends[1] - ends[0]) * u), jnp.float32)

    rho = ASAM_RHO if "asam" in method else NARROW_RHO if narrow else RHO
    top = 0.5 if method == "min_sum" else 1.0  # the paper's λ
    return {
        "lr": between(NARROW_LR if narrow else LR[base], u[:, 0]),
        "wd": between(DECAY[base], u[:, 1]),
        "rho": between(rho, u[:, 2]),
        "alpha": jnp.asarray(top * (0.05 + 0.95 * u[:, 3]), jnp.float32),
    }


# ---- measures ----


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)


def of_each(measure: Callable, params: Any, *rest: Any) -> Any:
    """measure(params of one run, its entries of rest), one run after the other; (hypers, seeds) first."""
    one = lambda xs: measure(wide(xs[0]), *xs[1:])  # noqa: E731
    return jax.jit(lambda xs: jax.lax.map(lambda x: jax.lax.map(one, x), xs))((params, *rest))


def top_eigenvalue(params: Any) -> jax.Array:
    """σ_max of the training loss on 500 examples, by at most 60 products."""
    batch = wide(tuple(a[:500] for a in parts()[0]))
    return power_iteration(lambda v: hvp(loss, params, batch, v), jax.random.key(0), params, 60, 1e-3)[0]


def from_the_gap(params: Any, rho: Any, steps: int = 20) -> dict[str, jax.Array]:
    """Three estimates of σ_max from the gap at this ρ, on the same 500 examples: by one step, by several, and by
    several with both the steps and the gap taken on both sides.
    """
    batch = wide(tuple(a[:500] for a in parts()[0]))
    theta, unravel = ravel_pytree(params)

    def h(vector: Any) -> jax.Array:
        return loss(unravel(vector), batch)

    def up(epsilon: Any, _: Any = None) -> tuple[Any, None]:
        g = jax.grad(h)(theta + epsilon)
        return rho * g / jnp.linalg.norm(g), None

    def along(epsilon: Any, _: Any = None) -> tuple[Any, None]:
        d = jax.grad(h)(theta + epsilon) - jax.grad(h)(theta - epsilon)
        return rho * d / jnp.linalg.norm(d), None

    first, _ = up(jnp.zeros_like(theta))
    several, _ = jax.lax.scan(up, first, length=steps - 1)
    sides, _ = jax.lax.scan(along, first, length=steps - 1)
    return {
        "one": 2 * (h(theta + first) - h(theta)) / rho**2,
        "several": 2 * (h(theta + several) - h(theta)) / rho**2,
        "both_sides": (h(theta + sides) + h(theta - sides) - 2 * h(theta)) / rho**2,
    }


def rounded(array: Any, digits: int = 5) -> Any:
    return [float(f"{float(a):.{digits}g}") for a in np.ravel(array)]


# ---- the experiments ----


def methods(method: str, trials: int, steps: int, narrow: bool = False) -> dict[str, Any]:
    """Of `trials` settings with five seeds each, the one with the best validation mean. Accuracies are shares."""
    train, validation, test = parts()
    train = mixed(train) if "mixup" in method else train
    hypers, num_steps = draws(method, trials, narrow), steps_of(method, steps)
    runs = sweep(loss, make(method, steps), init, train, hypers, SEEDS, num_steps, batch_size=BATCH)
    tried = np.asarray(accuracies(runs.params, validation))
    best = int(tried.mean(axis=1).argmax())
    chosen = jax.tree.map(lambda a: a[best : best + 1], runs.params)
    each = jax.tree.map(lambda a: a[0], chosen)
    return {
        "settings": {name: rounded(values[best])[0] for name, values in hypers.items()},
        "tried": rounded(tried.mean(axis=1), 4),
        "validation": rounded(tried[best], 4),
        "test": rounded(accuracies(chosen, test), 4),
        "train_loss": rounded(jax.vmap(loss, (0, None))(each, parts()[0])),
        "sigma": rounded(of_each(top_eigenvalue, chosen)),
        "early": rounded(runs.losses[best, 0, :15]),
    }


def first_steps(method: str, settings: dict[str, float], steps: int) -> dict[str, Any]:
    """The first losses of the run with the first seed, whose whole schedule is `steps` long."""
    hyper = {name: jnp.full(1, value, jnp.float32) for name, value in settings.items()}
    losses = sweep(loss, make(method, steps), init, parts()[0], hyper, SEEDS[:1], 15, batch_size=BATCH).losses
    return {"early": rounded(losses[0, 0])}


def curvature(rhos: list[float], alphas: list[float], seeds: list[int], steps: int) -> dict[str, Any]:
    """Of each net, over ρ, then α, then seed: σ_max, its estimates, accuracy and training loss."""
    grid = np.array([(rho, alpha) for rho in rhos for alpha in alphas], np.float32)

    def optimizer(h: Any, seed: Any) -> Any:
        return gsam(base_optimizer("sgd", cosine(0.1, steps), 0.0), h["rho"], h["alpha"])

    hypers = {"rho": grid[:, 0], "alpha": grid[:, 1]}
    runs = sweep(loss, optimizer, init, parts()[0], hypers, seeds, steps, batch_size=BATCH)
    rho = jnp.repeat(jnp.asarray(grid[:, :1], float), len(seeds), axis=1)
    found = of_each(from_the_gap, runs.params, rho)
    small = of_each(from_the_gap, runs.params, jnp.full_like(rho, 0.02))
    estimates = found | {f"{name}_small": values for name, values in small.items()}
    return {name: rounded(values) for name, values in estimates.items()} | {
        "sigma": rounded(of_each(top_eigenvalue, runs.params)),
        "validation": rounded(accuracies(runs.params, parts()[1]), 4),
        "last_losses": rounded(runs.losses[..., -20:].mean(-1)),
    }


def transfer(method: str, settings: dict[str, float], steps: int) -> dict[str, Any]:
    """Accuracy on classes 5 to 9 after SGD on twenty examples of each, from weights that a method trained on 0 to 4.

    The last layer is new, and the rate is chosen on the validation part. method "none" starts from random weights.
    """
    (x, y), validation, test = parts()
    source = y.argmax(1) < 5

    def target(pair: Any) -> Any:
        keep = pair[1].argmax(1) >= 5
        return tuple(a[keep] for a in pair)

    params = jax.jit(jax.vmap(lambda s: init(jax.random.key(s))))(1000 + jnp.asarray(SEEDS))
    if method != "none":
        hyper = {name: jnp.full(1, value, jnp.float32) for name, value in settings.items()}
        made = make(method, steps)
        runs = sweep(loss, made, init, (x[source], y[source]), hyper, SEEDS, steps_of(method, steps), batch_size=BATCH)
        params = jax.tree.map(lambda a: a[0], runs.params) | {"Dense_2": params["Dense_2"]}

    rng = np.random.default_rng(0)
    rows = [
        np.concatenate([rng.choice(np.flatnonzero(y.argmax(1) == c), 20, False) for c in range(5, 10)]) for _ in SEEDS
    ]
    rates = jnp.asarray([0.01, 0.03, 0.1, 0.3], jnp.float32)

    @jax.jit
    def tuned(params: Any, x: Any, y: Any, rates: Any) -> Any:
        def one(params: Any, x: Any, y: Any, rate: Any) -> Any:
            optimizer = optax.sgd(rate, momentum=0.9)

            def step(state: Any, _: None) -> Any:
                return advance(loss, optimizer, state, (x, y))

            return jax.lax.scan(step, start(optimizer, params), length=150)[0].params

        return jax.vmap(jax.vmap(one, (0, 0, 0, None)), (None, None, None, 0))(params, x, y, rates)

    nets = tuned(params, jnp.asarray(x[np.array(rows)]), jnp.asarray(y[np.array(rows)]), rates)
    chosen = int(np.asarray(accuracies(nets, target(validation))).mean(axis=1).argmax())
    return {"rate": float(rates[chosen]), "test": rounded(accuracies(nets, target(test))[chosen], 4)}


TRIALS = 8
CHOSEN = {"lr": 0.24258, "wd": 1.6762e-05, "rho": 0.071647, "alpha": 0.62564}  # by `methods`, for all of these:
FOLLOWED = ("sgd", "sam", "gsam")

EXPERIMENTS = {
    "methods": Experiment(
        methods,
        [{"method": m, "trials": TRIALS, "steps": STEPS} for m in METHODS]
        + [{"method": m, "trials": 6, "steps": 4 * STEPS, "narrow": True} for m in (*FOLLOWED, "sgd_twice")],
    ),
    "first_steps": Experiment(first_steps, [{"method": m, "settings": CHOSEN, "steps": STEPS} for m in FOLLOWED]),
    "curvature": Experiment(
        curvature,
        [
            {"rhos": [0.02, 0.05, 0.1, 0.2], "alphas": [0.0, 0.2, 0.5, 1.0], "seeds": [0, 1, 2], "steps": 1200},
        ],
    ),
    "transfer": Experiment(transfer, [{"method": m, "settings": CHOSEN, "steps": STEPS} for m in ("none", *FOLLOWED)]),
}
