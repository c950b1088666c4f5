"""What the banks of several units share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import DTypeLike


def on_numpy(f: Callable) -> Callable:
    """f with its arrays as NumPy's, in their own dtype: nothing to compile."""

    @functools.wraps(f)
    def wrapped(*arguments: Any) -> Any:
        return f(*(np.asarray(a) if isinstance(a, jax.Array) else a for a in arguments))

    return wrapped


def signed(rng: np.random.Generator, shape: Any, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Entries of both signs, away from 0 and from ±1, so that no square and no root can hide."""
    return (rng.choice([-1, 1], shape) * rng.uniform(0.2, 0.9, shape)).astype(dtype)
