"""Judge the probes that a submission emitted: the values are compared here, where no student's code runs.

`python -m grader grade` and nbgrader's autograde (grader/autograde.py) both ask `verdict`.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
from nbformat import NotebookNode

from course_lib import checks

jax.config.update("jax_enable_x64", True)  # as the exercises' first cell does


def verdict(cell: NotebookNode, class_seed: str = "") -> str:
    """What is wrong with the values that a hidden cell emitted; '' where they are right."""
    errors = [o for o in cell.outputs if o["output_type"] == "error"]
    if errors:
        return f"{errors[0]['ename']}: {errors[0]['evalue']}"
    probes = [o["data"][checks.PROBE_MIME] for o in cell.outputs if checks.PROBE_MIME in o.get("data", {})]
    if len(probes) != 1:
        return f"the hidden cell emitted {len(probes)} sets of values, not one"
    name = exercise_name(cell)
    try:
        values = parse(probes[0], name)
    except ValueError as error:
        return f"the hidden cell emitted something that is not its values ({error})"
    seed = checks.hidden_seed(name, class_seed)
    asked = len(remembered(checks.exercise(name).reference, name, seed))
    if len(values) != asked:
        return f"the hidden cell emitted values for {len(values)} inputs, and there are {asked}"
    return checks.judge(name, values, seed, remembered)


@functools.cache
def remembered(function: Callable, name: str, seed: str) -> checks.Values:
    """checks.run once for a class: every submission is compared with the same reference and the same mistakes."""
    return checks.run(function, name, seed)


def exercise_name(cell: NotebookNode) -> str:
    """The exercise that the cell's own text probes: the instructor's text has been put back before the run."""
    match = re.search(r'\bprobe\(\w+, "([\w.]+)"\)', cell.source)
    if match is None:
        raise ValueError(f"the hidden cell {cell.metadata.nbgrader.grade_id} calls no probe")
    return match[1]


def parse(probe: Any, name: str) -> checks.Values:
    """The arrays of a probe. ValueError for whatever else a stranger may have put there."""
    try:
        if probe["name"] != name:
            raise ValueError(f"a probe of {probe['name']!r}")
        return [[checks.from_json(array) for array in case] for case in probe["values"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
