"""What the optimizers' tests say of trees."""

import jax
import jax.numpy as jnp
import numpy as np


def same(a, b):
    """Bit for bit, and in dtype; typed keys too."""

    def bits(x):
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return (x.dtype, np.asarray(x).tobytes())

    assert jax.tree.map(bits, a) == jax.tree.map(bits, b)


def loop_with_checkpoint(update, params, state, steps):
    """`steps` jitted updates of a chain (clip, optimizer with a key), which half-way goes through numpy and back."""
    step = jax.jit(update, donate_argnums=1)
    for t in range(steps):
        params, state = step(params, state)
        if t == steps // 2 - 1:
            clip, own = state
            stored = jax.tree.map(np.asarray, (params, own._replace(key=jax.random.key_data(own.key))))
            params, own = jax.tree.map(jnp.asarray, stored)
            state = (clip, own._replace(key=jax.random.wrap_key_data(own.key)))
    return params, state
