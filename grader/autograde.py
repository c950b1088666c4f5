"""Steps of `nbgrader autograde` that are ours, through nbgrader_config.py: run in the sandbox, judge outside, disarm.

All the rest is nbgrader's: its database, the formgrader for derivations, feedback, export.
"""

import re
from pathlib import Path
from typing import Any

from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor

from grader import sandbox, seed
from grader.grade import Rules, warm_cache
from grader.judge import verdict
from grader.sandbox import Sandbox
from grader.units import HIDDEN, grade_id

ACTIVE = re.compile(r"<(?=[A-Za-z/!?])|\](?=[(:\[])")  # the start of a tag, the middle of a link


def unit_seed(resources: dict) -> str:
    """The seed of the unit that is being graded; the class's is kept in the folder where nbgrader runs."""
    return seed.of_unit(seed.of_class(Path.cwd()), resources["nbgrader"]["assignment"])


class SandboxExecute(NbGraderPreprocessor):
    """Run the code cells in the sandbox, in the place of nbgrader's Execute, and keep of their outputs what cannot act.

    A notebook that does not run to its end keeps the outputs of the cells that did; the others say why they did not.
    """

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        rules = Rules(resources["nbgrader"]["assignment"], unit_seed(resources))
        box = Sandbox(rules.limits, rules.class_seed, warm_cache(rules))
        result = sandbox.run([cell.source for cell in code], box)
        stopped = new_output("error", ename="NotRun", evalue=result.failure, traceback=[result.failure])
        for index, cell in enumerate(code):
            cell.outputs = from_dict(result.outputs.get(index, [stopped]))
            cell.execution_count = index + 1
        return nb, resources


class JudgeProbes(NbGraderPreprocessor):
    """Replace the outputs of every graded probe by the verdict: text for full points, an error for none."""

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> tuple[NotebookNode, Any]:
        if grade_id(cell).startswith(HIDDEN):
            cell.outputs = [_output(verdict(cell, unit_seed(resources)))]
        return cell, resources


class NeutralText(NbGraderPreprocessor):
    """Make HTML and links in Markdown cells text: feedback and formgrader render it in the instructor's browser.

    A space does it, and leaves formulas as they are: "a< b" is no tag, "[x] (y)" no link.
    """

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> tuple[NotebookNode, Any]:
        if cell.cell_type != "code":
            cell.source = ACTIVE.sub(r"\g<0> ", cell.source)
            cell.pop("attachments", None)
        return cell, resources


def _output(wrong: str) -> NotebookNode:
    if wrong:
        return new_output("error", ename="Wrong", evalue=wrong, traceback=[f"✗ {wrong}"])
    return new_output("stream", name="stdout", text="✓ right on the hidden inputs\n")
