"""The banks: every wrong answer gets its own message, every right one passes, on visible and on hidden inputs."""

import importlib
import pkgutil

import jax
import pytest

from course_lib import checks

UNITS = sorted(
    m.name.removeprefix("unit_") for m in pkgutil.iter_modules(checks.__path__) if m.name.startswith("unit_")
)
NAMES = [f"{u}.{k}" for u in UNITS for k in importlib.import_module(f"course_lib.checks.unit_{u}").EXERCISES]
MISTAKES = [(name, message) for name in NAMES for message in checks.exercise(name).mistakes]
RIGHT = [(name, i) for name in NAMES for i in range(len(checks.exercise(name).right))]


@pytest.fixture(autouse=True)
def keys_may_be_reused():
    """Some mistakes of the banks are the reuse of a key."""
    with jax.debug_key_reuse(False):
        yield


def ids(values):
    return [f"{name}-{str(what)[:40]}" for name, what in values]


@pytest.mark.parametrize(("name", "message"), MISTAKES, ids=ids(MISTAKES))
@pytest.mark.parametrize("seed", ["check", "a class", "another class"])
def test_every_mistake_gets_its_own_message(name, message, seed):
    seed = f"{seed} {name}"
    values = checks.run(checks.exercise(name).mistakes[message], name, seed)
    assert checks.judge(name, values, seed) == message


@pytest.mark.parametrize(("name", "which"), RIGHT, ids=ids(RIGHT))
@pytest.mark.parametrize("seed", ["check", "a class", "another class"])
def test_every_right_answer_passes(name, which, seed):
    seed = f"{seed} {name}"
    values = checks.run(checks.exercise(name).right[which], name, seed)
    assert checks.judge(name, values, seed) == ""
