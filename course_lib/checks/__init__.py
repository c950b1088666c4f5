"""What an exercise notebook calls: `check` tells a student what went wrong, `probe` hands their values to the grader.

The exercises of unit NN are data, in course_lib/checks/unit_NN.py: a reference, random inputs, and a bank of known
mistakes, {message: function that makes it}. A test proves that every mistake is told from the reference and from
every other.
"""

import hashlib
import importlib
import inspect
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from IPython.display import display

PROBE_MIME = "application/vnd.beyond-the-gradient.probe+json"
SEED_VARIABLE = "COURSE_SEED"  # an instructor's secret: another class, other hidden inputs

Case = tuple[Any, ...]  # the arguments of one call
Values = list[list[np.ndarray]]  # per case, the arrays that the call returned


@dataclass(frozen=True)
class Exercise:
    """One graded function.

    reference: the right function. inputs: rng -> several cases, other numbers and shapes for another rng.
    mistakes: {message: wrong function}; the message says what is wrong and where the lecture treats it.
    right: other ways to write it that must pass. returns: what the values are called, where there are several.
    rtol: relative to the largest entry of an array, at float64.
    """

    reference: Callable
    inputs: Callable[[np.random.Generator], Sequence[Case]]
    mistakes: Mapping[str, Callable]
    right: Sequence[Callable]
    returns: Sequence[str] = ()
    rtol: float = 1e-8


class CheckFailed(AssertionError):
    """A check that found a wrong value. A notebook shows its message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"✗ {self}"]


def exercise(name: str) -> Exercise:
    """The exercise of a name such as "01.score". ValueError that lists the names where there is none."""
    unit, _, key = name.partition(".")
    if not unit.isdecimal() or not key:
        raise ValueError(f'the name of an exercise is its unit and function, such as "01.score"; got {name!r}')
    exercises = importlib.import_module(f"{__name__}.unit_{unit}").EXERCISES
    if key not in exercises:
        raise ValueError(f"unit {unit} has no exercise {key!r}; it has {', '.join(exercises)}")
    return exercises[key]


def check(student: Callable, name: str) -> None:
    """Compare the student's function with the reference on several random inputs.

    Prints a line where they agree or where there is no answer yet. Raises CheckFailed where they differ, with the
    name of the mistake if it is a known one, and where the student's function raises something itself.
    """
    seed = f"check {name}"
    try:
        values = run(student, name, seed)
    except NotImplementedError:
        print(f"… {name}: no answer yet. Write it in the cell above, run that, then run this cell again.")
        return
    verdict = judge(name, values, seed)
    if verdict:
        raise CheckFailed(f"{name}: {verdict}")
    print(f"✓ {name}: your values are the reference's on {len(values)} random inputs.")


def probe(student: Callable, name: str) -> None:
    """Emit the student's values on hidden inputs, for a judge that stands outside: nothing here knows the answer."""
    data = probe_data(student, name)
    display({PROBE_MIME: data, "text/plain": f"probe {name}: {len(data['values'])} values"}, raw=True)


def probe_data(student: Callable, name: str) -> dict:
    """The student's values on hidden inputs as plain data."""
    values = run(student, name, hidden_seed(name))
    return {"name": name, "values": [[to_json(a) for a in case] for case in values]}


def hidden_seed(name: str, class_seed: str = "") -> str:
    """What the hidden inputs come from: the class seed, if not given that of the environment, and the exercise."""
    return f"{class_seed or os.environ.get(SEED_VARIABLE) or 'no class seed'} {name}"


def run(function: Callable, name: str, seed: str) -> Values:
    """The function's values on fresh inputs: nobody sees an array that another function may have changed."""
    task = exercise(name)
    return [_call(function, task, case) for case in task.inputs(rng(seed))]


def judge(name: str, values: Values, seed: str, run: Callable[..., Values] = run) -> str:
    """What is wrong with these values of exercise `name` on the inputs of `seed`; '' where nothing is.

    run(function, name, seed): how the reference and the mistakes are run. A grader passes one that remembers.
    """
    task = exercise(name)
    expected = run(task.reference, name, seed)
    if same(values, expected, task.rtol):
        return ""
    for message, wrong in task.mistakes.items():
        if same(values, run(wrong, name, seed), task.rtol):
            return message
    return _first_difference(values, expected, task, task.inputs(rng(seed)))


def rng(seed: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))


def _call(function: Callable, task: Exercise, case: Case) -> list[np.ndarray]:
    try:
        result = function(*case)
    except NotImplementedError:
        raise
    except Exception as error:
        raise CheckFailed(f"your function raised {_where(error)}\non the input {describe(task, case)}") from error
    if result is None:
        raise CheckFailed("your function returns nothing. Is `return` missing?")
    if isinstance(result, dict):
        raise CheckFailed(f"your function returns a dictionary, with {', '.join(map(str, result))}; see its docstring.")
    several = isinstance(result, tuple) or (isinstance(result, list) and len(result) == len(task.returns))
    try:
        return [np.asarray(a) for a in (result if several else (result,))]
    except ValueError as error:
        raise CheckFailed(f"your function returns a {type(result).__name__} that is no array: {error}") from error


def _where(error: Exception) -> str:
    """The error, and the line of a notebook's cell that it came from, without the frames of this module and JAX."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"\nin line {f.lineno}: {f.line}" for f in frames if "ipykernel" in f.filename or "<ipython" in f.filename]
    return f"{type(error).__name__}: {error}{lines[-1] if lines else ''}"


def describe(task: Exercise, case: Case) -> str:
    """The arguments of a call in a line: small arrays in full, others by shape and dtype."""
    names = inspect.signature(task.reference).parameters
    return ", ".join(f"{name} = {_describe(value)}" for name, value in zip(names, case, strict=True))


def _describe(value: Any) -> str:
    if callable(value):
        return "a function"
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"keys of shape {value.shape}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_describe(entry)}" for name, entry in value.items()) + "}"
    array = np.asarray(value)
    if array.size <= 8:
        return np.array2string(array, precision=4, separator=", ") + (" (float32)" if array.dtype == np.float32 else "")
    return f"{array.dtype} array of shape {array.shape}"


def same(a: Values, b: Values, rtol: float) -> bool:
    """Whether the shapes are equal and every entry is, to rtol times the largest entry (nan equals nan)."""
    return len(a) == len(b) and all(_same_case(x, y, rtol) for x, y in zip(a, b, strict=True))


def _same_case(a: list[np.ndarray], b: list[np.ndarray], rtol: float) -> bool:
    return len(a) == len(b) and all(_close(x, y, rtol) for x, y in zip(a, b, strict=True))


def _close(a: np.ndarray, b: np.ndarray, rtol: float) -> bool:
    if a.shape != b.shape or a.dtype.kind not in "biuf":
        return False
    if b.dtype == np.float32:
        rtol = max(rtol, 2e-5)  # a few hundred roundings of 6e-8 each
    largest = np.abs(b[np.isfinite(b)]).max(initial=1e-8)  # a matrix of zeros is met up to rounding too
    return bool(np.allclose(a, b, rtol=rtol, atol=rtol * largest, equal_nan=True))


def _first_difference(values: Values, expected: Values, task: Exercise, cases: Sequence[Case]) -> str:
    """The first case with a wrong value, for a mistake that nobody has met yet."""
    triples = zip(values, expected, cases, strict=True)
    got, want, case = next(t for t in triples if not _same_case(t[0], t[1], task.rtol))
    if len(got) != len(want):
        asked = "one value" if len(want) == 1 else f"a tuple of {len(want)}"
        return f"your function returns {len(got)} value(s), and {asked} is asked for."
    names = task.returns or ("your value",)
    name, a, b = next(t for t in zip(names, got, want, strict=True) if not _close(t[1], t[2], task.rtol))
    return f"{name} is wrong on the input {describe(task, case)}: {_contrast(a, b)}"


def _contrast(a: np.ndarray, b: np.ndarray) -> str:
    if a.shape != b.shape:
        return f"it has shape {a.shape}, and {b.shape} is asked for."
    if _short(a) == _short(b):
        return (
            f"it is\n{_short(a)}\nand differs from the right one by {np.abs(a - b).max():.0e}, too much for "
            f"rounding in {b.dtype}. A difference quotient, or a smaller type than the input's?"
        )
    return f"it is\n{_short(a)}\nand the right one is\n{_short(b)}"


def _short(array: np.ndarray) -> str:
    return np.array2string(array, precision=5, threshold=20, edgeitems=2)


def to_json(array: np.ndarray) -> dict:
    """An array as plain data: shape, dtype and the numbers in C order, as text that keeps every digit, nan and inf."""
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a function of this course returns numbers, not {array.dtype}")
    return {"shape": list(array.shape), "dtype": array.dtype.name, "data": [repr(float(v)) for v in array.ravel()]}


def from_json(data: Mapping) -> np.ndarray:
    """The inverse of to_json. ValueError for anything else, also for what a stranger may have written there."""
    try:
        numbers = [float(v) for v in data["data"]]
        dtype = np.dtype(str(data["dtype"]))
        shape = tuple(int(n) for n in data["shape"])
        if dtype.kind not in "biuf":
            raise ValueError(f"dtype {dtype}")
        with np.errstate(invalid="raise"):  # inf is no integer
            return np.array(numbers).astype(dtype).reshape(shape)
    except (KeyError, TypeError, OverflowError, FloatingPointError) as error:
        raise ValueError(f"not an array of a probe: {error}") from error
