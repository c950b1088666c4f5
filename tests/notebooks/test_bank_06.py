"""What the inputs of unit 06's exercises promise, on many seeds."""

import numpy as np
import pytest

from course_lib import checks


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
