"""Unit 05. The diagonal of the Fisher as preconditioner: AdaGrad, RMSProp and Adam as members of one family.

Martens eq. 10: θ ← θ - α (B + λI)^{-ξ} g, with B a diagonal. What the methods differ in is where B comes from:

| method            | B                                  | arguments                                          |
| ----------------- | ---------------------------------- | -------------------------------------------------- |
| SGD               | any: ξ = 0                         | power=0, eps=0                                     |
| AdaGrad           | Σ g²                               | b2=1                                               |
| RMSProp           | decayed mean of g²                 | bias_correction=False                              |
| Adam              | decayed mean of g², and m of g     | b1=0.9                                             |
| the true diagonal | mean over x of s², y sampled       | model=model, power=1, damping=1e-3                 |

All but the last square the gradient of the whole batch, g = mean over examples. That is neither the diagonal of F (the
labels are the data's) nor that of F̄ (the mean is squared, not the squares averaged): Martens §11.2 on its wrong scale.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from course_lib.curvature.diagonals import fisher_diagonal_mc
from course_lib.models import Model, Params
from course_lib.optimizers.common import (
    Number,
    all_finite,
    at,
    cast_like,
    debiased,
    decayed,
    quotient,
    require_params,
    where,
    wide,
    zero_count,
    zero_moment,
)


class DiagonalFisherState(NamedTuple):
    """count: steps taken; skipped: steps not taken; key: of the sampled labels (None without a model).

    m: decayed gradients, b: the diagonal B, both like the parameters, in at least float32, before bias correction.
    """

    count: Int[Array, ""]  # type: ignore[assignment]  # tuple.count is of no use here, and optax has the name too
    skipped: Int[Array, ""]
    key: Key[Array, ""] | None
    m: Params
    b: Params


def diagonal_fisher(
    learning_rate: Number,
    b1: Number = 0.0,
    b2: Number = 0.999,
    power: Number = 0.5,
    damping: Number = 0.0,
    eps: Number = 1e-8,
    bias_correction: bool = True,
    model: Model | None = None,
    seed: Any = 0,
) -> optax.GradientTransformationExtraArgs:
    """θ ← θ - learning_rate · m̂ / ((B̂ + damping)^power + eps). Martens eq. 10; AdaHessian eq. 2-5, Table 1.

    b1, b2: decays of m and B, in [0, 1). b2 = 1 accumulates the plain sum of squares (AdaGrad).
    power: ξ. ½ makes the step independent of the gradient's scale; 1 divides by B as Newton's method would, which is
        right for the Fisher and wrong for squared gradients (Martens §11.1).
    damping: λ, in units of B, inside the power (optax's eps_root). eps: Adam's, outside it. One of them must be
        positive where a gradient can meet a zero of B.
    bias_correction: m̂ = m/(1 - b1ᵗ), B̂ = B/(1 - b2ᵗ) at step t = 1, 2, ...; else m and B as they are, from zero.
    model: B is the diagonal of the Fisher over the batch's x, one label an example sampled from the model at every step
        (Chapelle and Erhan; Martens §11.1). The batch's y is ignored. None: B is of the squared gradients.
    seed: of the labels' key, which the state keeps.

    Every number may be a traced scalar or a schedule of the count from 0. update(grads, state, params, batch=batch)
    reads params and batch with a model only, and the loss never. A step whose gradient or square is not finite is
    skipped. Raises ValueError for a model without params or batch.
    """

    def init(params: Params) -> DiagonalFisherState:
        key = None if model is None else jax.random.key(seed)
        return DiagonalFisherState(zero_count(), zero_count(), key, zero_moment(params), zero_moment(params))

    def update(
        grads: Params,
        state: DiagonalFisherState,
        params: Params | None = None,
        *,
        loss: Callable | None = None,
        batch: Any = None,
        **others: Any,
    ) -> tuple[Params, DiagonalFisherState]:
        numbers = (learning_rate, b1, b2, power, damping, eps)
        lr, beta1, beta2, xi, lam, e = (at(n, state.count) for n in numbers)
        g = wide(grads)
        squares = jax.tree.map(jnp.square, g) if model is None else sampled_squares(model, state, params, batch)
        ok = all_finite(g, squares)
        m, b = decayed(state.m, g, beta1), decayed(state.b, squares, beta2)
        t = state.count + 1
        m_hat, b_hat = (debiased(m, beta1, t), debiased(b, beta2, t)) if bias_correction else (m, b)
        step = jax.tree.map(lambda m, b: jnp.where(ok, -lr * quotient(m, (b + lam) ** xi + e), 0), m_hat, b_hat)
        m, b = where(ok, (m, b), (state.m, state.b))
        new = DiagonalFisherState(state.count + ok, state.skipped + ~ok, state.key, m, b)
        return cast_like(step, grads), new

    return optax.GradientTransformationExtraArgs(init, update)


def sampled_squares(model: Model, state: DiagonalFisherState, params: Params | None, batch: Any) -> Params:
    """An unbiased draw of diag F: mean over the batch's x of s², s the score at a label sampled from the model.

    Its key is the state's with the number of calls folded in, so a skipped step does not come back to its own labels.
    """
    params = require_params(params, "diagonal_fisher with a model")
    if batch is None:
        raise ValueError("diagonal_fisher with a model needs the inputs: call update(..., batch=(x, y))")
    assert state.key is not None  # init made one: there is a model
    key = jax.random.fold_in(state.key, state.count + state.skipped)
    return fisher_diagonal_mc(model, params, batch, key)[0]
