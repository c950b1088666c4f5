"""Unit 08. Small networks trained with SGD and with SAM: one function for all settings, a piece is a grid of them."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from course_lib import data
from course_lib.curvature.products import hvp
from course_lib.curvature.spectrum import lanczos, tridiagonal
from course_lib.experiments import Experiment
from course_lib.likelihoods import Categorical
from course_lib.models import Model
from course_lib.networks import MLP, Network
from course_lib.optimizers.sam import random_sam, sam
from course_lib.sharpness import m_sharpness, surrogate_gap
from course_lib.training import Sweep, sweep

BATCH, STEPS, SEEDS = 64, 1500, [0, 1, 2, 3, 4]
NET = Network(MLP((64, 64), outputs=10))
MODEL = Model(NET, Categorical())
RATES, DECAYS, RHOS = [0.03, 0.1, 0.2], [0.0, 1e-3, 3e-3, 1e-2, 3e-2], [0.05, 0.1, 0.2, 0.3, 0.5]
Part = tuple[Any, Any]


def parts(task: str = "mnist1d", noise: float = 0.0) -> tuple[Part, Part, Part]:
    """(train, validation, test) in float32. A share `noise` of the labels of the first two is another class instead."""
    source = {"mnist1d": data.mnist1d, "digits": data.digits}[task]()
    rng = np.random.default_rng(0)

    def part(xy: Part, noise: float) -> Part:
        wrong = rng.random(len(xy[1])) < noise
        labels = (np.asarray(xy[1]) + wrong * rng.integers(1, 10, len(wrong))) % 10
        return jnp.asarray(xy[0], jnp.float32), jnp.asarray(labels, jnp.int32)

    return part(source.train, noise), part(source.validation, noise), part(source.test, 0.0)


def optimizer(hyper: dict, seed: Any, variant: dict | None, steps: int) -> optax.GradientTransformation:
    """SGD with momentum 0.9 and a cosine schedule to 0; around it SAM, with the options in `variant`. None: without."""
    rate = optax.cosine_decay_schedule(hyper["rate"], steps)
    base = optax.chain(optax.add_decayed_weights(hyper["decay"]), optax.sgd(rate, momentum=0.9))
    if variant is None:
        return base
    if variant.get("p") == "random":
        return random_sam(base, hyper["rho"], seed)
    return sam(base, hyper["rho"], **variant | ({"p": math.inf} if variant.get("p") == "inf" else {}))


def trained(
    train: Part,
    rates: Sequence[float],
    decays: Sequence[float],
    rhos: Sequence[float],
    variant: dict | None,
    seeds: Sequence[int],
    steps: int = STEPS,
    stop: int | None = None,
    init: Any = None,
) -> Sweep:
    """Every rate with every decay and ρ, in this order, and every seed. stop: only the first steps of the schedule."""
    grid = np.array(list(itertools.product(rates, decays, rhos)), np.float32).T
    return sweep(
        MODEL.loss,
        lambda hyper, seed: optimizer(hyper, seed, variant, steps),
        init or (lambda key: NET.init(key, train[0][:1])),
        train,
        dict(zip(("rate", "decay", "rho"), grid, strict=True)),
        seeds,
        stop or steps,
        batch_size=BATCH,
    )


@jax.jit
def accuracies(params: Any, part: Part) -> Any:
    """(hypers, seeds): the share that is classified rightly."""
    hits = jax.vmap(jax.vmap(lambda p: jnp.mean(jnp.argmax(NET(p, part[0]), 1) == part[1])))
    return hits(params)


def rounded(values: Any, digits: int = 4) -> Any:
    """Nested lists of Python numbers; None where one is not finite."""
    values = np.asarray(values, float)
    if values.ndim:
        return [rounded(v, digits) for v in values]
    return round(float(values), digits) if np.isfinite(values) else None


def grid(
    task: str = "mnist1d",
    noise: float = 0.0,
    rates: Sequence[float] = (),
    decays: Sequence[float] = (0.0,),
    rhos: Sequence[float] = (0.0,),
    variant: dict | None = None,
    seeds: Sequence[int] = (),
    steps: int = STEPS,
) -> dict[str, Any]:
    """Accuracies (settings, seeds) on the three parts, and the mean training loss of the first 20 steps."""
    train, validation, test = parts(task, noise)
    runs = trained(train, rates, decays, rhos, variant, seeds, steps)
    return {
        "first": rounded(runs.losses[..., :20].mean(-1)),
        "train": rounded(accuracies(runs.params, train)),
        "validation": rounded(accuracies(runs.params, validation)),
        "test": rounded(accuracies(runs.params, test)),
    }


def top_eigenvalues(params: Any, batch: Part, order: int = 25) -> Any:
    """The ten largest Ritz values of the Hessian, descending."""
    alphas, betas, _ = lanczos(lambda v: hvp(MODEL.loss, params, batch, v), jax.random.key(1), params, order)
    return jnp.linalg.eigvalsh(tridiagonal(alphas, betas))[::-1][:10]


def spectrum(
    rate: float, decay: float, rho: float, variant: dict | None, stop: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """After `stop` steps: eigenvalues (seeds, 10) of the Hessian of the training loss, that loss, and the surrogate
    gaps (seeds, 3) that 1, 5 and 20 ascent steps find at ρ = 0.1."""
    train, _, _ = parts()
    runs = trained(train, [rate], [decay], [rho], variant, seeds, stop=stop)

    def measure(p: Any) -> Any:
        gaps = [surrogate_gap(MODEL.loss, p, train, 0.1, steps) for steps in (1, 5, 20)]
        return top_eigenvalues(p, train), MODEL.loss(p, train), jnp.stack(gaps)

    eigenvalues, loss, gaps = jax.jit(lambda p: jax.lax.map(measure, p))(jax.tree.map(lambda a: a[0], runs.params))
    return {"eigenvalues": rounded(eigenvalues, 3), "loss": rounded(loss, 5), "gaps": rounded(gaps, 5)}


def sharpness(
    rates: Sequence[float],
    decays: Sequence[float],
    rhos: Sequence[float],
    variant: dict | None,
    radius: float = 0.05,
    sizes: Sequence[int] = (1, 10, 100, 1000, 3000),
    seeds: Sequence[int] = (0, 1),
) -> dict[str, Any]:
    """Of each model: the test error less the training error, and its m-sharpness at this radius for every m."""
    train, _, test = parts()
    params = trained(train, rates, decays, rhos, variant, seeds).params
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), params)

    def measure(p: Any) -> Any:
        return jnp.stack([m_sharpness(MODEL.loss, p, train, radius, m) for m in sizes])

    values = jax.jit(lambda p: jax.lax.map(measure, p))(flat)
    gap = (accuracies(params, train) - accuracies(params, test)).ravel()
    return {"gap": rounded(gap), "sharpness": rounded(values.T)}


def finetune(
    rates: Sequence[float],
    decays: Sequence[float],
    rhos: Sequence[float],
    variant: dict | None,
    examples: int = 200,
    seeds: Sequence[int] = SEEDS,
    steps: int = 300,
) -> dict[str, Any]:
    """Accuracies as in `grid` on a few signals that run backwards, from networks that learned the forward ones."""
    train, validation, test = parts()
    before = trained(train, *PRETRAINED, [0.0], None, seeds).params
    keys = jnp.stack([jax.random.key_data(jax.random.key(s)) for s in seeds])

    def init(key: Any) -> Any:
        place = jnp.argmax(jnp.all(keys == jax.random.key_data(key), axis=1))
        return jax.tree.map(lambda a: a[0, place], before)

    few, validation, test = ((x[:, ::-1], y) for x, y in ((train[0][:examples], train[1][:examples]), validation, test))
    runs = trained(few, rates, decays, rhos, variant, seeds, steps, init=init)
    return {
        "train": rounded(accuracies(runs.params, few)),
        "validation": rounded(accuracies(runs.params, validation)),
        "test": rounded(accuracies(runs.params, test)),
    }


PRETRAINED = ([0.2], [1e-3])  # rate and decay
CHOSEN = {0.0: (0.2, 1e-3), 0.2: (0.2, 3e-3), 0.4: (0.1, 3e-3), 0.6: (0.03, 1e-2)}  # SGD's, by noise: rate and decay
RATE, RHO = 0.2, 0.3  # SAM's, without noise and decay


def of_noise(noise: float) -> list[dict]:
    """SGD and SAM tuned over as many settings, and SAM on top of the rate and decay that SGD chose."""
    rate, decay = CHOSEN[noise]
    common = {"noise": noise, "seeds": SEEDS, "steps": STEPS}
    return [
        common | {"rates": RATES, "decays": DECAYS, "variant": None},
        common | {"rates": RATES, "rhos": RHOS, "variant": {}},
        common | {"rates": [rate], "decays": [decay], "rhos": RHOS, "variant": {}},
    ]


SHORT = {"noise": 0.4, "rates": [0.1], "rhos": [0.2], "variant": {}, "seeds": [0, 1], "steps": 40}
LONG = {"noise": 0.0, "rates": RATES, "decays": DECAYS, "variant": None, "seeds": SEEDS, "steps": 2 * STEPS}
RADII = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
VARIANTS: list[tuple[dict, list[float]]] = [
    ({}, RHOS),
    ({"p": "inf"}, [0.0005, 0.001, 0.002, 0.003, 0.005]),  # √P = 86
    ({"p": "random"}, [1.0, 2.0, 3.0, 5.0, 8.0]),
    ({"second_order": True}, RHOS),
    ({"ascent_steps": 2}, RHOS),
    ({"ascent_steps": 5}, RHOS),
    ({"m": 16}, RHOS),
    ({"m": 4}, RHOS),
    ({"m": 1}, RHOS),
]

EXPERIMENTS = {
    "noise": Experiment(grid, [SHORT, LONG, *(piece for noise in CHOSEN for piece in of_noise(noise))]),
    "rho": Experiment(
        grid,
        [
            {"task": task, "rates": rates, "rhos": [0.0, *RADII], "variant": {}, "seeds": SEEDS}
            for task, rates in (("mnist1d", [RATE]), ("digits", [0.1, 0.2]))
        ],
    ),
    "variants": Experiment(
        grid, [{"rates": [RATE], "rhos": radii, "variant": v, "seeds": SEEDS} for v, radii in VARIANTS]
    ),
    "spectrum": Experiment(
        spectrum,
        [
            {"rate": rate, "decay": 0.0, "rho": rho, "variant": {}, "stop": stop, "seeds": SEEDS}
            for rate, stop, radii in (
                (RATE, 50, (0.0, RHO)),
                (RATE, 300, (0.0, RHO)),
                (RATE, STEPS, (0.0, 0.1, RHO)),
                (0.03, STEPS, (0.0, 0.1)),
            )
            for rho in radii
        ],
    ),
    "sharpness": Experiment(
        sharpness,
        [
            {"rates": RATES, "decays": DECAYS, "rhos": [0.0], "variant": None},
            {"rates": RATES, "decays": [0.0], "rhos": RHOS, "variant": {}},
        ],
    ),
    "finetune": Experiment(
        finetune,
        [
            {"rates": RATES, "decays": DECAYS, "rhos": [0.0], "variant": None},
            {"rates": RATES, "decays": [0.0], "rhos": RHOS, "variant": {}},
        ],
    ),
}
