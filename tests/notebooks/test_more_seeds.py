"""Banks on more seeds than test_checks has: two mistakes could agree by chance, as where a number of halvings is small.

The functions are those that NumPy alone computes, so many seeds are cheap.
"""

import pytest

from course_lib import checks

SEEDS = {
    12: ["02.line_search", "02.trust_region_step"],
    6: [f"06.{name}" for name in ("kron_times", "factors", "damped_factors", "apply_inverse", "kfac_step")],
}
CASES = [(name, seed) for seeds, names in SEEDS.items() for name in names for seed in range(seeds)]


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_the_bank_holds_on_more_seeds(name, seed):
    task = checks.exercise(name)
    functions = {"": task.reference, **task.mistakes}
    values = {message: checks.run(f, name, f"seed {seed}") for message, f in functions.items()}
    for message, found in values.items():
        assert [m for m, other in values.items() if checks.same(found, other, task.rtol)] == [message]
    for right in task.right:
        assert checks.same(checks.run(right, name, f"seed {seed}"), values[""], task.rtol)
