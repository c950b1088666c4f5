"""The builder: the same bytes twice, nothing half-written, errors that name file and cell."""

import nbformat
import pytest

from tools import notebooks

LECTURE = """# %% [markdown]
# # A lecture

# %% tags=["claim:X"]
import ipywidgets
import sys

print("one", object())
print("warned", file=sys.stderr)

# %%
ipywidgets.interact(lambda a: a, a=(0, 3));
"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course in an empty folder; source(text) writes its only lecture."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "source/lectures").mkdir(parents=True)
    (tmp_path / "source/exercises").mkdir()

    def source(text):
        path = tmp_path / "source/lectures/01_a.py"
        path.write_text(text)
        return path

    return source


def test_two_builds_give_the_same_bytes(course):
    path = notebooks.lecture_path(course(LECTURE))
    notebooks.build("01")
    first = path.read_bytes()
    notebooks.build("")
    assert path.read_bytes() == first
    assert b"0x\\u2026" in first or "0x…".encode() in first
    assert notebooks.NEEDS_KERNEL.encode() in first
    assert b"widget-view" not in first


def test_a_cell_that_fails_is_named_and_replaces_nothing(course, tmp_path):
    path = notebooks.lecture_path(course("# %%\nx = 1\n"))
    notebooks.build("01")
    before = path.read_bytes()
    course("# %%\nx = 1\n\n# %%\n1 / 0\n")
    with pytest.raises(notebooks.BuildError, match=r"(?s)01_a\.py: cell \[2\] failed.*1 / 0.*ZeroDivisionError"):
        notebooks.build("01")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_unit_that_does_not_exist_is_named(course):
    with pytest.raises(notebooks.BuildError, match="starts with '07'"):
        notebooks.build("07")


def test_a_new_cell_changes_no_other_id(course):
    before = [c.id for c in notebooks.read_source(course("# %%\na = 1\n\n# %%\nb = 1\n\n# %%\na = 1\n")).cells]
    after = [
        c.id
        for c in notebooks.read_source(course("# %%\na = 1\n\n# %%\nnew = 1\n\n# %%\nb = 1\n\n# %%\na = 1\n")).cells
    ]
    assert len(set(before)) == 3
    assert [i for i in after if i in before] == before


@pytest.mark.parametrize(
    "marks", [{"anser": "f"}, {"hidden": "f"}, {"answer": "f", "points": 2}, {"answer": "f", "check": "f"}]
)
def test_a_mark_that_does_not_exist_is_refused(marks):
    with pytest.raises(ValueError, match="a cell is marked with one of"):
        notebooks.nbgrader_metadata(marks)


def test_marks_become_what_nbgrader_validates(course):
    source = course(
        '# %% answer="f"\nf = 1\n\n# %% hidden="f" points=2\nf\n\n# %% [markdown] derivation="d" points=5\n# Why?\n'
    )
    notebook = notebooks.read_source(source)
    nbformat.validate(notebook)
    kinds = [tuple(c.metadata.nbgrader[k] for k in ("grade", "locked", "solution")) for c in notebook.cells]
    assert kinds == [(False, False, True), (True, True, False), (True, False, True)]
    assert [c.metadata.nbgrader.get("points") for c in notebook.cells] == [None, 2, 5]
