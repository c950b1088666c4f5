"""The banks: every wrong answer gets its own message, every right one passes, on visible and on hidden inputs."""

import functools
import importlib
import inspect
import pkgutil

import jax
import numpy as np
import pytest

from course_lib import checks

UNITS = sorted(
    m.name.removeprefix("unit_") for m in pkgutil.iter_modules(checks.__path__) if m.name.startswith("unit_")
)
NAMES = [f"{u}.{k}" for u in UNITS for k in importlib.import_module(f"course_lib.checks.unit_{u}").EXERCISES]
SEEDS = ["check", "a class"]


@pytest.fixture(autouse=True)
def keys_may_be_reused():
    """Some mistakes of the banks are the reuse of a key."""
    with jax.debug_key_reuse(False):
        yield


@functools.cache
def values(name, seed, which):
    """The values of a function of the bank: None is the reference, a message a mistake, a number a right one."""
    task = checks.exercise(name)
    functions = {None: task.reference, **task.mistakes, **dict(enumerate(task.right))}
    return checks.run(functions[which], name, f"{seed} {name}")


def verdict(name, seed, which):
    """What the judge says, with every function of the bank run once."""
    task = checks.exercise(name)
    for message in ("", *task.mistakes):
        if checks.same(values(name, seed, which), values(name, seed, message or None), task.rtol):
            return message
    return "another value"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_gets_its_own_message(name, seed):
    mistakes = checks.exercise(name).mistakes
    assert {message: verdict(name, seed, message) for message in mistakes} == {message: message for message in mistakes}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_right_answer_passes(name, seed):
    assert {verdict(name, seed, place) for place in range(len(checks.exercise(name).right))} == {""}


@pytest.mark.parametrize("name", NAMES)
def test_the_judge_itself_names_the_last_mistake_of_the_bank(name):
    message, wrong = list(checks.exercise(name).mistakes.items())[-1]
    seed = f"{SEEDS[0]} {name}"
    assert checks.judge(name, checks.run(wrong, name, seed), seed) == message


@pytest.mark.parametrize("name", NAMES)
def test_a_bank_has_what_the_syllabus_asks_for(name):
    task = checks.exercise(name)
    assert len(task.mistakes) >= 4
    assert len(task.right) >= 2
    assert all("lecture " + name[:2] in message for message in task.mistakes)


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_can_be_told_to_a_student(name):
    """By the names that the reference's signature gives them: a wrapped reference needs functools.wraps."""
    task = checks.exercise(name)
    names = list(inspect.signature(task.reference).parameters)
    for case in task.inputs(np.random.default_rng(0)):
        text = checks.describe(task, case)
        assert all(f"{name} = " in text for name in names)
        assert len(text) < 600


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["01.nll_normal", "01.nll_categorical", "01.output_fisher"])
def test_the_cheap_banks_hold_on_more_seeds(name, seed):
    assert verdict(name, seed, 0) == verdict(name, seed, 1) == ""
    assert all(verdict(name, seed, message) == message for message in checks.exercise(name).mistakes)


@pytest.mark.parametrize("seed", range(50))
def test_no_two_sizes_of_the_inputs_agree(seed):
    """Else dividing by one would be dividing by the other."""
    inputs = {
        name: checks.exercise(f"01.{name}").inputs(np.random.default_rng(seed))
        for name in ("fisher_enumerated", "fisher_sampled")
    }
    for _, theta, x, k in inputs["fisher_enumerated"]:
        assert len({len(x), x.shape[1], k, theta.size}) == 4
    for _, _, theta, x, _, keys in inputs["fisher_sampled"]:
        assert keys.shape[1] == len(x)
        assert len({*keys.shape, x.shape[1], theta.size}) == 4
