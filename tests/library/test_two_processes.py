"""Two processes of one run (jax.distributed, on the loopback address): one dies, the other says so, both go on."""

import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

STEPS, EVERY, DIES_AT = 40, 10, 25
WORKER = f"""
    import os, sys
    import jax
    rank, port, checkpoint, dies = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "dies"
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize("127.0.0.1:" + port, 2, rank, heartbeat_timeout_seconds=10)
    import jax.numpy as jnp, numpy as np, optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from course_lib.training import fit

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, PartitionSpec("data"))
    x = np.random.default_rng(0).normal(size=(16, 3))
    data = x, x @ [1.0, 2.0, 3.0]
    batch = tuple(jax.make_array_from_callback(a.shape, place, lambda index, a=a: a[index]) for a in data)

    def batches(step):
        if dies and rank == 1 and step == {DIES_AT}:
            os._exit(7)
        return batch

    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    assert jax.device_count() == 2 and len(jax.local_devices()) == 1
    fitted = fit(loss, optax.adam(0.1), jnp.zeros(3), batches, {STEPS}, checkpoint=checkpoint, every={EVERY})
    np.save(f"{{checkpoint}}.{{rank}}.npy", np.append(fitted.history, fitted.params))
"""


def both(checkpoint, word=""):
    """(exit status, stderr) of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    env.pop("XLA_FLAGS", None)
    command = [sys.executable, "-c", textwrap.dedent(WORKER)]
    running = [
        subprocess.Popen([*command, str(rank), port, str(checkpoint), word], env=env, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=240)[1] for process in running]
    return [(process.returncode, error) for process, error in zip(running, errors, strict=True)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Losses and parameters of a run that nothing happened to, as each process has them."""
    checkpoint = tmp_path_factory.mktemp("whole") / "run.npz"
    assert [status for status, _ in both(checkpoint)] == [0, 0]
    return [np.load(f"{checkpoint}.{rank}.npy") for rank in (0, 1)]


def test_both_have_the_same_run(whole):
    np.testing.assert_array_equal(*whole)
    assert whole[0][STEPS - 1] < 0.1 * whole[0][0]


def test_one_dies_the_other_says_so_and_the_checkpoint_goes_on(whole, tmp_path):
    checkpoint = tmp_path / "run.npz"
    (survivor, said), (dead, _) = both(checkpoint, "dies")
    assert dead == 7
    assert survivor != 0
    assert "LostProcessError: after step 20: another process of this run is gone" in said
    assert f"{checkpoint} has step 20: start all 2 processes again" in said
    assert [status for status, _ in both(checkpoint)] == [0, 0]
    for rank in (0, 1):  # the same to the last bit, as a resumed run is on one device
        np.testing.assert_array_equal(np.load(f"{checkpoint}.{rank}.npy"), whole[rank])
