"""A unit as the grader needs it: what is asked, what it is worth, and a student's answers put into our own notebook."""

import ast
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from grader.submissions import Notebook

ROOT = Path(__file__).resolve().parent.parent
CHECK, HIDDEN = "check-", "hidden-"  # how grade_ids of visible checks and graded probes start: tools/notebooks.py


class UnitError(ValueError):
    """There is no such unit; the message says which there are."""


@dataclass(frozen=True)
class Question:
    """One graded cell. hand: points are given by a person."""

    grade_id: str
    points: float

    @property
    def name(self) -> str:
        return self.grade_id.partition("-")[2]

    @property
    def hand(self) -> bool:
        return not self.grade_id.startswith(HIDDEN)


@dataclass(frozen=True)
class Cell:
    """A cell as it is run and shown. grade_id: '' for the student's own."""

    kind: str
    source: str
    grade_id: str = ""


@dataclass(frozen=True)
class Assembled:
    """The cells to run, and what the instructor should know about how the submission differed."""

    cells: list[Cell]
    notes: list[str]


@dataclass(frozen=True)
class Unit:
    """The solution, and the exercise that was given out."""

    name: str
    solution: NotebookNode
    released: NotebookNode

    @functools.cached_property
    def grade_ids(self) -> dict[str, str]:
        """{id of the cell: grade_id}, in order; an editor that drops nbgrader's metadata keeps the ids of cells."""
        return {cell.id: cell.metadata.nbgrader.grade_id for cell in self.solution.cells if "nbgrader" in cell.metadata}

    @functools.cached_property
    def ours(self) -> dict[str, Cell]:
        """The cells that are not for the student to change, {grade_id: the instructor's}."""
        locked = [c for c in self.solution.cells if c.metadata.get("nbgrader", {}).get("locked")]
        return {grade_id(c): Cell(c.cell_type, c.source, grade_id(c)) for c in locked}

    @functools.cached_property
    def questions(self) -> list[Question]:
        marks = [cell.metadata.get("nbgrader", {}) for cell in self.solution.cells]
        return [Question(mark["grade_id"], float(mark["points"])) for mark in marks if mark.get("grade")]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of everything in the course that a grade of this unit rests on."""
        bank = ROOT / "course_lib/checks" / f"unit_{self.name[:2]}.py"
        return hashlib.sha256(nbformat.writes(self.solution).encode() + bank.read_bytes()).hexdigest()

    def recognise(self, notebook: Notebook) -> int:
        """How many of the unit's marked cells the notebook has: none where it is another notebook."""
        return len({self.role(cell.id, cell.grade_id) for cell in notebook.cells} - {""})

    def role(self, cell_id: str, mark: str) -> str:
        """The grade_id that a student's cell stands for; '' for a cell of their own."""
        return mark if mark in self.grade_ids.values() else self.grade_ids.get(cell_id, "")

    def assemble(self, notebook: Notebook) -> Assembled:
        """The student's cells in their order, with every cell that is ours put back as it was given out.

        A second copy of one of ours is left out, a lost one is added at the end, where every answer is defined.
        """
        cells: list[Cell] = []
        notes: list[str] = []
        for cell in notebook.cells:
            role = self.role(cell.id, cell.grade_id)
            if role in self.ours and role in {known.grade_id for known in cells}:
                notes.append(f"{role} is there twice; the second was left out")
            elif role in self.ours:
                cells.append(self.ours[role])
                notes += (
                    [f"{role} was edited; it was put back"]
                    if cell.source not in (self.given[role], self.ours[role].source)
                    else []
                )
            else:
                cells.append(Cell(cell.kind, cell.source, role))
        lost = [role for role in self.ours if role not in {cell.grade_id for cell in cells}]
        notes += [f"{role} was deleted; it was put back" for role in lost]
        return Assembled(cells + [self.ours[role] for role in lost], notes + self.borrowed(cells))

    @functools.cached_property
    def given(self) -> dict[str, str]:
        """The text of every marked cell as it was given out, {grade_id: text}."""
        return _texts(self.released)

    def borrowed(self, cells: list[Cell]) -> list[str]:
        """What a person should look at: a use of course_lib that was not given out, or the published solution."""
        given = {line.strip() for cell in self.released.cells for line in cell.source.splitlines()}
        theirs = [cell for cell in cells if cell.kind == "code" and cell.grade_id not in self.ours]
        lines = [line.strip() for cell in theirs for line in cell.source.splitlines()]
        uses = [f"uses course_lib: {line}" for line in lines if "course_lib" in line and line not in given]
        return uses + [
            f"{cell.grade_id} is the published solution, but for its layout"
            for cell in theirs
            if cell.grade_id and _same_code(cell.source, self._solved[cell.grade_id])
        ]

    @functools.cached_property
    def _solved(self) -> dict[str, str]:
        return _texts(self.solution)


def grade_id(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def _texts(notebook: NotebookNode) -> dict[str, str]:
    """The text of every marked cell, {grade_id: text}."""
    return {grade_id(cell): cell.source for cell in notebook.cells if grade_id(cell)}


def _same_code(a: str, b: str) -> bool:
    """Whether the statements are the same: comments and layout do not count. Two lines may well be, so they do not."""
    trees = _tree(a), _tree(b)
    return trees[0] == trees[1] != "" and len(b.splitlines()) > 12


def _tree(source: str) -> str:
    try:
        return ast.dump(ast.parse(TransformerManager().transform_cell(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


def numbers() -> list[str]:
    """The units that have an exercise."""
    return sorted(path.name for path in (ROOT / "solutions").iterdir() if path.is_dir())


@functools.cache
def load(number: str) -> Unit:
    """The unit whose name starts with `number`. UnitError where there is not exactly one."""
    found = [name for name in numbers() if name.startswith(number)]
    if len(found) != 1:
        raise UnitError(f"{number!r} names {len(found)} units; there are: {', '.join(numbers())}")
    name = found[0]
    solution, released = (
        nbformat.read(ROOT / kind / name / f"{name}.ipynb", as_version=4) for kind in ("solutions", "exercises")
    )
    return Unit(name, solution, released)
