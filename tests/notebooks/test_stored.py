"""What is stored: no drift from the sources, nothing leaked to students, a description for every figure."""

import csv
import re

import nbformat
import pytest

from course_lib.claims import CLAIM_MIME
from tools import notebooks

CLAIMS = {row["id"]: row for row in csv.DictReader((notebooks.ROOT / "docs/CLAIMS.csv").read_text().splitlines())}
REBUILD = "run `make notebooks` and commit what it changes"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def stored(kind):
    """The notebooks of a folder, without the copies that JupyterLab keeps beside them."""
    found = (notebooks.ROOT / kind).rglob("*.ipynb")
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def test_every_notebook_has_a_source():
    expected = [notebooks.lecture_path(s) for s in notebooks.lectures()]
    for source in notebooks.exercises():
        expected += [notebooks.solution_path(source), notebooks.exercise_path(source)]
    assert sorted(expected) == sorted(stored("lectures") + stored("solutions") + stored("exercises")), REBUILD


def test_a_lecture_is_its_source(lecture, read):
    text = notebooks.text_part(notebooks.read_source(lecture))
    assert text == notebooks.text_part(read(notebooks.lecture_path(lecture))), REBUILD


def test_a_solution_is_its_source(exercise, read):
    text = notebooks.text_part(notebooks.read_source(exercise))
    assert text == notebooks.text_part(read(notebooks.solution_path(exercise))), REBUILD


def test_an_exercise_is_what_nbgrader_makes_of_the_solution(exercise, read):
    made = notebooks.release(read(notebooks.solution_path(exercise)), exercise.stem)
    assert nbformat.writes(made) == nbformat.writes(read(notebooks.exercise_path(exercise))), REBUILD


REGION = re.compile(r"### BEGIN (?:SOLUTION|HIDDEN TESTS)\n(.*?)### END", re.DOTALL)


def test_no_solution_and_no_hidden_test_reaches_a_student(exercise, read):
    secret = "".join(REGION.findall("\n".join(c.source for c in read(notebooks.solution_path(exercise)).cells)))
    lines = {line.strip() for line in secret.splitlines() if len(line.strip()) > 3}
    given = "\n".join(c.source for c in read(notebooks.exercise_path(exercise)).cells)
    assert len(lines) > 20
    assert not lines & {line.strip() for line in given.splitlines()}
    assert "### " not in given
    assert not any(c.get("outputs") for c in read(notebooks.exercise_path(exercise)).cells)


@pytest.mark.parametrize("path", stored("lectures") + stored("solutions"), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_cell_was_run_without_error(path, read):
    cells = code(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert not [o for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize("path", stored("lectures") + stored("solutions"), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_figure_has_a_description(path, read):
    for cell in code(read(path)):
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                alt = output.metadata["image/png"]["alt"]
                assert len(alt) >= 20
                assert cell.metadata.mystnb.image.alt
            for tag in re.findall(r"<img\b[^>]*>", data.get("text/html", "")):
                assert re.search(r'\balt="[^"]{20,}"', tag)
            for tag in re.findall(r"<svg\b.*?</svg>", data.get("text/html", ""), re.DOTALL):
                assert "<title" in tag
                assert "<desc" in tag


def test_a_lecture_asserts_and_marks_what_is_compared(lecture, read):
    cells = code(read(notebooks.lecture_path(lecture)))
    assert sum("assert " in cell.source for cell in cells) >= 3
    compared = [cell for cell in cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert compared
    assert all(
        o.output_type == "stream" for cell in compared for o in cell.outputs if CLAIM_MIME not in o.get("data", {})
    )
    assert all(cell.outputs for cell in compared)


def test_every_claim_of_the_unit_has_its_verdict(lecture, read):
    unit = lecture.stem[:2]
    marked, given = set(), set()
    for cell in code(read(notebooks.lecture_path(lecture))):
        tags = {t.removeprefix("claim:") for t in cell.metadata.get("tags", []) if t.startswith("claim:")}
        verdicts = {o.data[CLAIM_MIME]["claim"] for o in cell.outputs if CLAIM_MIME in o.get("data", {})}
        assert tags == verdicts, f"cell {cell.source[:60]!r} is tagged {tags} and gives verdicts on {verdicts}"
        marked |= tags
        given |= verdicts
    assert given == {claim for claim, row in CLAIMS.items() if row["unit"] == unit}
