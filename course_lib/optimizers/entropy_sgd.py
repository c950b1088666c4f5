"""Unit 09. Entropy-SGD, which GSAM Fig. 5 compares with: descent on a loss smoothed over a neighbourhood.

Source: Chaudhari et al. 2017, Algorithm 1. The local entropy F(x) = log ∫ exp(-f(y) - γ/2 ‖x - y‖²) dy has the gradient
-γ (x - E[y]), and E[y] is estimated by the running mean μ of the inner steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from course_lib.optimizers.common import Number, at, cast_like, wide
from course_lib.optimizers.sam import SAMState, Tree, descend, step_key


def entropy_sgd(
    base: optax.GradientTransformation,
    gamma: Number = 1.0,
    num_steps: int = 20,
    inner_rate: Number = 0.1,
    noise: Number = 1e-4,
    average: Number = 0.75,
    seed: int | Int[Array, ""] = 0,
) -> optax.GradientTransformationExtraArgs:
    """`base`, fed with γ (x - μ), an estimate of -∇F(x). From y = μ = x, num_steps times:

        y ← y - η' (∇f(y) - γ (x - y)) + √η' ε N(0, I)
        μ ← (1 - a) μ + a y

    gamma: γ, in 1/w², larger for a smaller neighbourhood; a schedule that grows is the paper's scoping. inner_rate: η'.
    noise: ε. average: a in (0, 1]. A step costs num_steps gradients, the one from outside counted.

    The paper draws a new minibatch for each inner step; here all of them see `batch`. Its public code leaves the factor
    γ out of the update, so its rates are γ times ours. ValueError: num_steps < 1; at update, no `loss` or no params.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")

    def direction(loss: Callable, params: Tree, batch: Any, grads: Tree, state: SAMState) -> Tree:
        scope, rate, scale, a = (at(number, state.count) for number in (gamma, inner_rate, noise, average))
        x = wide(params)

        def move(y: Tree, mu: Tree, g: Tree, key: Array) -> tuple[Tree, Tree, Array]:
            key, draw = jax.random.split(key)
            z = optax.tree_utils.tree_random_like(draw, x)
            pulled = jax.tree.map(lambda x, y, g: g - scope * (x - y), x, y, wide(g))
            y = jax.tree.map(lambda y, d, z: y - rate * d + jnp.sqrt(rate) * scale * z, y, pulled, z)
            mu = jax.tree.map(lambda mu, y: (1 - a) * mu + a * y, mu, y)
            return y, mu, key

        def langevin(inner: tuple[Tree, Tree, Array], _: None) -> tuple[tuple[Tree, Tree, Array], None]:
            y, mu, key = inner
            return move(y, mu, jax.grad(loss)(cast_like(y, params), batch), key), None

        first = move(x, x, grads, step_key(seed, state))  # the gradient at x is there already
        (_, mu, _), _ = jax.lax.scan(langevin, first, length=num_steps - 1)
        return jax.tree.map(lambda x, mu: scope * (x - mu), x, mu)

    return descend("entropy_sgd", base, direction)
