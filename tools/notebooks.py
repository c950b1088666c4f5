"""From source/*.py to the notebooks that students open: `python -m tools.notebooks build [UNIT ...]`.

source/lectures/NN_name.py   -> lectures/NN_name.ipynb, executed
source/exercises/NN_name.py  -> solutions/NN_name/NN_name.ipynb, executed, and from that, by nbgrader's own
                                generate_assignment, exercises/NN_name/NN_name.ipynb

A rebuild gives the same bytes where nothing changed: cell ids come from the cell's text, times and random ids are
left out. A notebook is replaced only by one that ran to its end.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 300  # seconds; FACTS of this project: a kernel once hung in a run without one
WIDGET = "application/vnd.jupyter.widget-view+json"
NEEDS_KERNEL = "Needs a kernel: run this cell to get its sliders."


METADATA = {  # without the patch version of the Python that built it
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


class BuildError(Exception):
    """A notebook that could not be built; the message names file, cell and error."""


def lectures(unit: str = "") -> list[Path]:
    """The lecture sources whose number starts with `unit`."""
    return sorted((ROOT / "source/lectures").glob(f"{unit}*_*.py"))


def exercises(unit: str = "") -> list[Path]:
    """The exercise sources whose number starts with `unit`."""
    return sorted((ROOT / "source/exercises").glob(f"{unit}*_*.py"))


def lecture_path(source: Path) -> Path:
    return ROOT / "lectures" / f"{source.stem}.ipynb"


def solution_path(source: Path) -> Path:
    return ROOT / "solutions" / source.stem / f"{source.stem}.ipynb"


def exercise_path(source: Path) -> Path:
    return ROOT / "exercises" / source.stem / f"{source.stem}.ipynb"


# ---- the text part ----


def read_source(source: Path) -> NotebookNode:
    """The notebook that a py:percent file stands for, without outputs: fixed metadata, ids from the text."""
    cells = [_plain(cell) for cell in jupytext.read(source, fmt="py:percent").cells]
    ids = _ids([cell.source for cell in cells])
    for cell, cell_id in zip(cells, ids, strict=True):
        cell.id = cell_id
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def _plain(cell: NotebookNode) -> NotebookNode:
    """The cell with what its marker says in notebook metadata: tags, or nbgrader's form of an exercise's marks."""
    marks = {k: v for k, v in cell.metadata.items() if k != "lines_to_next_cell"}  # jupytext's own
    tags = marks.pop("tags", [])
    cell.metadata = NotebookNode({"tags": tags} if tags else {})
    if marks:
        cell.metadata["nbgrader"] = nbgrader_metadata(marks)
    return cell


def nbgrader_metadata(marks: dict[str, Any]) -> NotebookNode:
    """nbgrader's metadata for one of our marks.

    answer="name": the student writes here. check="name": a visible check, read-only. hidden="name" points=2: the
    graded probe. derivation="name" points=5: text, graded by hand. ValueError for any other mark.
    """
    kinds = {  # kind: (grade, locked, solution)
        "answer": (False, False, True),
        "check": (False, True, False),
        "hidden": (True, True, False),
        "derivation": (True, False, True),
    }
    points = marks.pop("points", None)
    if len(marks) != 1 or (kind := next(iter(marks))) not in kinds or (points is not None) != kinds[kind][0]:
        raise ValueError(f"a cell is marked with one of {sorted(kinds)}, graded ones with points too; got {marks}")
    grade, locked, solution = kinds[kind]
    data = {"grade": grade, "grade_id": f"{kind}-{marks[kind]}", "locked": locked, "solution": solution}
    return NotebookNode(data | {"schema_version": 3, "task": False} | ({"points": points} if grade else {}))


def _ids(texts: list[str]) -> list[str]:
    """One id a cell: a hash of its text and of how often that text stood before, so that a new cell moves no other."""
    seen: Counter[str] = Counter()
    ids = []
    for text in texts:
        ids.append(hashlib.sha256(f"{seen[text]}:{text}".encode()).hexdigest()[:12])
        seen[text] += 1
    return ids


def text_part(notebook: NotebookNode) -> list[dict]:
    """What a source determines of its notebook: the cells without outputs, counts and the alt text that a run adds."""
    keep = ("tags", "nbgrader")
    return [
        {
            "id": cell.id,
            "type": cell.cell_type,
            "source": cell.source,
            **{k: cell.metadata[k] for k in keep if k in cell.metadata},
        }
        for cell in notebook.cells
    ]


# ---- running ----


def execute(notebook: NotebookNode, name: str, folder: Path) -> NotebookNode:
    """The notebook, run top to bottom in a fresh kernel in `folder`. BuildError names the cell that failed."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0", "CI": "1"}  # CI: no progress lines
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=40"],  # the kernel's warnings about its transport are not the notebook's
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise BuildError(_failure(notebook, name, str(error))) from None
    return clean(notebook)


def _failure(notebook: NotebookNode, name: str, error: str) -> str:
    code = [c for c in notebook.cells if c.cell_type == "code"]
    number = max((c.execution_count or 0 for c in code), default=0)
    return f"{name}: cell [{number}] failed, nothing was replaced.\n{error}"


def clean(notebook: NotebookNode) -> NotebookNode:
    """Outputs that a second run would give again to the byte, with each figure's alt text where myst-nb reads it."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _merged([_clean_output(output) for output in cell.outputs])
            alts = [output.get("metadata", {}).get("image/png", {}).get("alt") for output in cell.outputs]
            for alt in filter(None, alts):
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def _clean_output(output: NotebookNode) -> NotebookNode:
    """No memory addresses; a widget view holds random ids and shows nothing without a kernel: say so instead."""
    if WIDGET in output.get("data", {}):
        return nbformat.v4.new_output("display_data", {"text/plain": NEEDS_KERNEL})
    if "text" in output:
        output.text = re.sub(r"0x[0-9a-f]{6,}", "0x…", output.text)
    return output


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Pieces of one stream as one output: how a kernel cuts a stream differs from run to run."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" == merged[-1].output_type and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


# ---- the student's version ----


def release(solution: NotebookNode, name: str) -> NotebookNode:
    """The exercise notebook: what nbgrader's generate_assignment makes of the solution."""
    with tempfile.TemporaryDirectory() as course:
        source = Path(course, "solutions", name, f"{name}.ipynb")
        write(solution, source)
        shutil.copy(ROOT / "nbgrader_config.py", course)
        command = [sys.executable, "-m", "nbgrader", "generate_assignment", name, "--create", "--force"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by name
        run = subprocess.run(command, cwd=course, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        if run.returncode:
            raise BuildError(f"{name}: nbgrader generate_assignment failed.\n{run.stderr}")
        return nbformat.read(Path(course, "exercises", name, f"{name}.ipynb"), as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write whole or not at all."""
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    part.replace(path)


# ---- the command ----


def build_lecture(source: Path) -> None:
    path = lecture_path(source)
    path.parent.mkdir(exist_ok=True)
    write(execute(read_source(source), source.name, path.parent), path)


def build_exercise(source: Path) -> None:
    """Solution and exercise: both are made before either is replaced."""
    solution = solution_path(source)
    solution.parent.mkdir(parents=True, exist_ok=True)
    solved = execute(read_source(source), source.name, solution.parent)
    exercise = release(solved, source.stem)
    write(solved, solution)
    write(exercise, exercise_path(source))


def build(unit: str) -> None:
    """Build every notebook of the unit, or of all units for ''. BuildError if there is none or one fails."""
    jobs = [(build_lecture, s) for s in lectures(unit)] + [(build_exercise, s) for s in exercises(unit)]
    if not jobs:
        raise BuildError(f"no source/lectures or source/exercises file starts with '{unit}'")
    for job, source in jobs:
        start = time.monotonic()
        job(source)
        print(f"{source.relative_to(ROOT)}: built in {time.monotonic() - start:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["build"])
    parser.add_argument("units", nargs="*", default=[""], help="unit numbers, such as 01; none: all")
    try:
        for unit in parser.parse_args().units:
            build(unit)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
