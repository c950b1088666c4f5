"""Unit 01. Likelihoods R(y|z): what a network's output z says about the target y.

In nats, for one example: the batch is vmap's business.

A likelihood is any hashable object with three methods: `nll(z, y)`, `sample(key, z)` and `fisher(z)`.
Source: Martens §4, R_{y|z}; slides, p. MLE.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Key, Num

LOG_2PI = 1.8378770664093453


@runtime_checkable
class Likelihood(Protocol):
    """R(y|z) for one example with k outputs z: (k,)."""

    def nll(self, z: Array, y: Array) -> Array:
        """-log r(y|z), a scalar in nats."""
        ...

    def sample(self, key: Array, z: Array) -> Array:
        """One y drawn from R(.|z)."""
        ...

    def fisher(self, z: Array) -> Array:
        """F_R(z) = E_{y~R(.|z)}[ (d log r/dz)(d log r/dz)^T ], (k, k), exact."""
        ...


def _at_least_float32(z: Array) -> Array:
    """z, widened where it is bf16 or fp16: uniform numbers of 7 or 10 bits draw rare classes too often."""
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _same_shape(z: Array, y: Array, name: str) -> None:
    if z.ndim != 1 or z.shape != jnp.shape(y):
        raise ValueError(
            f"{name} takes one example, z and y both of shape (k,); got z {z.shape} and y {jnp.shape(y)}. "
            "Use jax.vmap for a batch, and give y one entry an output."
        )


@dataclass(frozen=True)
class Normal:
    """R(y|z) = N(z, scale² I): k independent outputs with one known standard deviation, in the unit of y.

    The mean is z, so at scale 1 the nll is half the squared error plus (k/2) log 2π.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"Normal needs a finite scale > 0 (a standard deviation), got {self.scale}")
        # A Python float: a NumPy scalar would promote float32 outputs to float64, a JAX one cannot be hashed.
        object.__setattr__(self, "scale", float(self.scale))

    def nll(self, z: Float[Array, " k"], y: Num[Array, " k"]) -> Float[Array, ""]:
        """½ ‖(y-z)/scale‖² + k (log scale + ½ log 2π). ValueError unless z and y are both (k,)."""
        _same_shape(z, y, "Normal.nll")
        return 0.5 * jnp.sum(((y - z) / self.scale) ** 2) + z.size * (math.log(self.scale) + 0.5 * LOG_2PI)

    def sample(self, key: Key[Array, ""], z: Float[Array, " k"]) -> Float[Array, " k"]:
        """z + scale·noise."""
        wide = _at_least_float32(z)
        return (wide + self.scale * jax.random.normal(key, z.shape, wide.dtype)).astype(z.dtype)

    def fisher(self, z: Float[Array, " k"]) -> Float[Array, "k k"]:
        """I / scale²."""
        return jnp.eye(z.size, dtype=z.dtype) / self.scale**2


@dataclass(frozen=True)
class Categorical:
    """R(y|z) = Cat(softmax z): z are k logits, y an integer class in 0..k-1, shape ()."""

    def nll(self, z: Float[Array, " k"], y: Integer[Array, ""]) -> Float[Array, ""]:
        """log Σ exp z - z_y, by log-sum-exp, so large logits do not overflow.

        TypeError unless y is an integer, ValueError unless z is (k,) and y (). A class out of 0..k-1 gives nan
        in the value and every derivative (a traced value cannot raise, and indexing alone would clip it in silence).
        """
        if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            raise TypeError(
                f"Categorical.nll takes an integer class y, got {jnp.result_type(y)}; jnp.argmax undoes a one-hot"
            )
        if z.ndim != 1 or jnp.shape(y) != ():
            raise ValueError(
                f"Categorical.nll takes one example, z (k,) and y (); got z {z.shape} and y {jnp.shape(y)}. "
                "Use jax.vmap for a batch."
            )
        valid = jnp.any(jnp.arange(z.size) == y)  # y < z.size would wrap around where k does not fit in y's dtype
        return jnp.where(valid, 1.0, jnp.nan) * (jax.nn.logsumexp(z) - z[y])

    def sample(self, key: Key[Array, ""], z: Float[Array, " k"]) -> Int[Array, ""]:
        """A class with probabilities softmax(z)."""
        return jax.random.categorical(key, _at_least_float32(z))

    def fisher(self, z: Float[Array, " k"]) -> Float[Array, "k k"]:
        """diag(p) - p pᵀ with p = softmax(z). Its rank is k-1: adding a constant to z changes nothing.

        The diagonal p_i (1 - p_i) is the sum of p_i p_j over the other classes: 1 - p_i would be lost to rounding
        near p_i = 1, and the matrix would not stay positive semi-definite.
        """
        p = jax.nn.softmax(z)
        pairs = jnp.outer(p, p) * (1 - jnp.eye(z.size, dtype=z.dtype))
        return jnp.diag(pairs.sum(axis=1)) - pairs


@dataclass(frozen=True)
class Bernoulli:
    """R(y|z): k independent yes/no targets y in {0, 1}; z are the log-odds of 1."""

    def nll(self, z: Float[Array, " k"], y: Num[Array, " k"]) -> Float[Array, ""]:
        """Σ log(1 + exp z) - y z, stable for large |z|. ValueError unless z and y are both (k,)."""
        _same_shape(z, y, "Bernoulli.nll")
        return jnp.sum(jax.nn.softplus(z) - y * z)

    def sample(self, key: Key[Array, ""], z: Float[Array, " k"]) -> Int[Array, " k"]:
        """Zeros and ones with probabilities sigmoid(z)."""
        return jax.random.bernoulli(key, jax.nn.sigmoid(_at_least_float32(z))).astype(jnp.int32)

    def fisher(self, z: Float[Array, " k"]) -> Float[Array, "k k"]:
        """diag(p (1-p)) with p = sigmoid(z), written so that neither factor is lost to rounding."""
        return jnp.diag(jax.nn.sigmoid(z) * jax.nn.sigmoid(-z))
