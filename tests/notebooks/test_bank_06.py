"""The bank of unit 06 on more seeds: what its inputs promise, and the mistakes that NumPy alone can tell apart."""

import numpy as np
import pytest

from course_lib import checks

NUMPY_ONLY = ["kron_times", "factors", "damped_factors", "apply_inverse", "kfac_step"]  # nothing compiles


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_the_bank_holds_on_more_seeds(name, seed):
    task = checks.exercise(f"06.{name}")
    functions = {"": task.reference, **task.mistakes}
    values = {message: checks.run(f, f"06.{name}", f"seed {seed}") for message, f in functions.items()}
    for message, found in values.items():
        assert [m for m, other in values.items() if checks.same(found, other, task.rtol)] == [message]
    for right in task.right:
        assert checks.same(checks.run(right, f"06.{name}", f"seed {seed}"), values[""], task.rtol)


@pytest.mark.parametrize("seed", range(30))
def test_no_two_sizes_of_the_inputs_agree(seed):
    """Else dividing by one would be dividing by the other, and a transposed matrix would fit."""
    rng = np.random.default_rng(seed)
    for a, g in checks.exercise("06.factors").inputs(rng):
        assert len({len(a), a.shape[1], a.shape[1] + 1, g.shape[1]}) == 4
    for W, A, G, _, a, *_ in checks.exercise("06.kfac_step").inputs(rng):
        assert len({len(a), len(W), len(G)}) == 3
        assert len(A) == len(W) == a.shape[1] + 1
        assert np.linalg.cond(np.kron(A, G)) < 30
