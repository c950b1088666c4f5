"""The bank of unit 02 on more seeds: a number of halvings is a small number, and two mistakes could agree by chance."""

import numpy as np
import pytest

from course_lib import checks

NUMPY_ONLY = ["line_search", "trust_region_step"]  # nothing compiles, so many seeds are cheap


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_the_bank_holds_on_more_seeds(name, seed):
    task = checks.exercise(f"02.{name}")
    functions = {"": task.reference, **task.mistakes}
    values = {message: checks.run(f, f"02.{name}", f"seed {seed}") for message, f in functions.items()}
    for message, found in values.items():
        assert [m for m, other in values.items() if checks.same(found, other, task.rtol)] == [message]
    for right in task.right:
        assert checks.same(checks.run(right, f"02.{name}", f"seed {seed}"), values[""], task.rtol)


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
