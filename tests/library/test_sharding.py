"""A batch that lies on eight devices gives the steps that it gives on one. (For sam and gsam, one step: test_sam.py.)

JAX makes the eight out of one CPU, and only at its start: so a Python of its own, one for all optimizers.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest

OPTIMIZERS = {
    "adahessian": "adahessian(0.1, seed=1)",
    "adahessian, half the batch for its probe": "adahessian(0.1, seed=1, probe_fraction=0.5)",
    "diagonal_fisher, sampled labels": "diagonal_fisher(0.1, model=model, power=1, damping=0.1, seed=2)",
    "entropy_sgd": "entropy_sgd(optax.sgd(0.1), num_steps=3)",
    "kfac, sampled labels": "kfac(model, 0.1, damping=0.1, seed=3)",
    "natural_gradient": "natural_gradient(model, 0.5, damping=0.1)",
    "newton": "newton(0.5, damping=1.0)",
    "sam, a group across two devices": "sam(optax.sgd(0.1), m=4)",
    "random_sam": "random_sam(optax.adam(0.1), seed=4)",
}
CODE = """
    import json
    import jax, jax.numpy as jnp, numpy as np, optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from course_lib.likelihoods import Categorical
    from course_lib.models import Model
    from course_lib.networks import dense
    from course_lib.optimizers import *
    from course_lib.training import fit

    def apply(params, x, tape=None):
        return dense(params["out"], jnp.tanh(dense(params["in"], x, tape)), tape)

    rng = np.random.default_rng(0)
    w, b, v = (rng.normal(size=s) for s in [(3, 4), 4, (4, 3)])
    params = {"in": {"kernel": w, "bias": b}, "out": {"kernel": v}}
    batch = jnp.asarray(rng.normal(size=(16, 3))), jnp.arange(16) % 3
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    model = Model(apply, Categorical())

    def off(optimizer):
        one, eight = (fit(model.loss, optimizer, params, lambda t: b, 3).state for b in (batch, split))
        assert {len(a.devices()) for a in jax.tree.leaves(eight.params)} == {8}
        moved = max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(params)))
        gaps = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), one.params, eight.params)
        return float(max(jax.tree.leaves(gaps)) / moved)

    print(json.dumps({name: off(eval(call)) for name, call in OPTIMIZERS.items()}))
"""


@pytest.fixture(scope="module")
def off():
    """Per optimizer: the largest difference of a parameter after three steps, over the largest move of one."""
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
    }
    code = f"OPTIMIZERS = {OPTIMIZERS!r}\n" + textwrap.dedent(CODE)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_are_the_same_on_eight_devices(name, off):
    assert off[name] < 1e-9  # sums in another order, in float64
