"""Judge the probes that a submission emitted: the values are compared here, where no student's code runs.

`nbgrader autograde` uses it through nbgrader_config.py, after it has run the notebook. Nothing here is a sandbox: until
there is one, grade only submissions that you would run yourself.
"""

import re
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor

from course_lib import checks

HIDDEN = "hidden-"  # how the grade_id of a graded probe starts, see tools/notebooks.py


class JudgeProbes(NbGraderPreprocessor):
    """Replace the outputs of every graded probe by the verdict: text for full points, an error for none."""

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> tuple[NotebookNode, Any]:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if grade_id.startswith(HIDDEN):
            cell.outputs = [_output(verdict(cell))]
        return cell, resources


def verdict(cell: NotebookNode) -> str:
    """What is wrong with the values that a hidden cell emitted; '' where they are right."""
    errors = [o for o in cell.outputs if o.output_type == "error"]
    if errors:
        return f"{errors[0].ename}: {errors[0].evalue}"
    probes = [o.data[checks.PROBE_MIME] for o in cell.outputs if checks.PROBE_MIME in o.get("data", {})]
    if len(probes) != 1:
        return f"the hidden cell emitted {len(probes)} sets of values, not one"
    name = exercise_name(cell)
    try:
        values = parse(probes[0], name)
    except ValueError as error:
        return f"the hidden cell emitted something that is not its values ({error})"
    return checks.judge(name, values, checks.hidden_seed(name))


def exercise_name(cell: NotebookNode) -> str:
    """The exercise that the cell's own text probes: nbgrader has put the instructor's text back before the run."""
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


def _output(wrong: str) -> NotebookNode:
    if wrong:
        return new_output("error", ename="Wrong", evalue=wrong, traceback=[f"✗ {wrong}"])
    return new_output("stream", name="stdout", text="✓ right on the hidden inputs\n")
