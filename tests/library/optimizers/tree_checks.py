"""What the optimizers' tests say of two trees."""

import jax
import jax.numpy as jnp
import numpy as np


def same(a, b):
    """Bit for bit, and in dtype; typed keys too."""

    def bits(x):
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return (x.dtype, np.asarray(x).tobytes())

    assert jax.tree.map(bits, a) == jax.tree.map(bits, b)
