"""Unit 01. A model p(y|x;θ) = R(y|f(x;θ)): a function f and a likelihood R. Source: Martens §4; slides, p. MLE."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from course_lib.likelihoods import Likelihood

Params = Any  # a pytree of float arrays
Batch = tuple[Any, Any]  # (x, y), n examples each


@dataclass(frozen=True)
class Model:
    """p(y|x;θ) = R(y|f(x;θ)).

    apply: (params, x: (n, ...)) -> z: (n, k), pure, each row of z from its own row of x alone; params is any pytree.
    likelihood: an object with nll, sample and fisher for one example (course_lib.likelihoods).
    TypeError unless both are hashable.
    """

    apply: Callable[[Any, Any], Array]
    likelihood: Likelihood

    def __post_init__(self) -> None:
        try:
            hash(self)
        except TypeError as error:
            raise TypeError(
                f"Model needs a hashable apply and likelihood (the matrices are compiled once a model): {error}. "
                "A dataclass is hashable with frozen=True; an apply can be wrapped in a function."
            ) from error

    def loss(self, params: Params, batch: Batch) -> Float[Array, ""]:
        """h(θ): the mean negative log-likelihood over the batch (x, y), in nats an example."""
        x, y = checked(batch)
        return jnp.mean(jax.vmap(self.likelihood.nll)(self.outputs(params, x), y))

    def score(self, params: Params, batch: Batch) -> Float[Array, "n P"]:
        """Rows s_i = d/dθ log p(y_i|x_i;θ), in the order of jax.flatten_util.ravel_pytree(params)."""
        return jax.vmap(lambda x, y: -flat_grad(self.nll_one, params, x, y))(*checked(batch))

    def outputs(self, params: Params, x: Array) -> Float[Array, "n k"]:
        """z = f(x;θ). ValueError where apply does not give (n, k)."""
        z = self.apply(params, x)
        if z.ndim != 2 or z.shape[0] != len(x):
            raise ValueError(
                f"apply must map x (n, ...) to z (n, k); here n = {len(x)} and z has shape {z.shape}. "
                "A single output needs k = 1: z[:, None]."
            )
        return z

    def output_one(self, params: Params, x: Array) -> Float[Array, " k"]:
        """z = f(x;θ) of one example x: (...)."""
        return self.outputs(params, x[None])[0]

    def nll_one(self, params: Params, x: Array, y: Array) -> Float[Array, ""]:
        """-log p(y|x;θ) of one example."""
        return self.likelihood.nll(self.output_one(params, x), y)


def flat_grad(f: Callable, params: Params, *args: Any) -> Float[Array, " P"]:
    """d f(params, *args)/d params as one vector."""
    return ravel_pytree(jax.grad(f)(params, *args))[0]


def checked(batch: Batch) -> Batch:
    """The pair (x, y) as arrays. ValueError where it is no pair, empty, or x and y differ in length."""
    if len(batch) != 2:
        raise ValueError(f"a batch is a pair (x, y); got {len(batch)} parts")
    x, y = jnp.asarray(batch[0]), jnp.asarray(batch[1])
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x and y need the same number n > 0 of examples; got shapes {x.shape} and {y.shape}")
    return x, y
