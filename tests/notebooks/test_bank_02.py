"""What the inputs of unit 02's exercises promise, on many seeds."""

import numpy as np
import pytest

from course_lib import checks


@pytest.mark.parametrize("seed", range(50))
def test_what_the_inputs_promise(seed):
    """A saddle among the damped steps and the balls, a step inside and outside, no Armijo test near a tie."""
    rng = np.random.default_rng(seed)
    for _, h, radius in checks.exercise("02.trust_region_step").inputs(rng):
        assert np.abs(np.linalg.eigvalsh(h)).min() > 0.3
        assert radius > 0
    for h, theta, d, g, c, _ in checks.exercise("02.line_search").inputs(rng):
        assert g @ d < 0
        rises = [float(h(theta + t * d) - h(theta) - c * t * (g @ d)) for t in 0.5 ** np.arange(7)]
        assert np.abs(rises).min() > 1e-6 * abs(float(g @ d)) * 0.5**6
