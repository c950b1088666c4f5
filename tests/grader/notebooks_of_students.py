"""Submissions to exercise 01: honest, wrong, hostile, broken. All but the honest are cut down to what they need."""

import copy
import json
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NAME = "01_likelihood_score_fisher"
EXERCISE = ROOT / "exercises" / NAME / f"{NAME}.ipynb"
SOLUTION = ROOT / "solutions" / NAME / f"{NAME}.ipynb"

RIGHT = "def nll_normal(z, y, scale):\n    return -jax.scipy.stats.norm.logpdf(y, z, scale).sum()"
WRONG = "def nll_normal(z, y, scale):\n    return jax.scipy.stats.norm.logpdf(y, z, scale).sum()"
ZERO = "def nll_normal(z, y, scale):\n    return 0.0"


def grade_id(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def exercise():
    return nbformat.read(EXERCISE, as_version=4)


def solved():
    """Every question right: the published solution, as an honest student of another course might type it."""
    book = exercise()
    answers = {grade_id(c): c.source for c in nbformat.read(SOLUTION, as_version=4).cells}
    for cell in book.cells:
        if grade_id(cell).startswith("answer-"):
            cell.source = answers[grade_id(cell)].replace("### BEGIN SOLUTION", "").replace("### END SOLUTION", "")
    return book


def short(answer, *before, after=()):
    """The set-up cell, own cells, the answer to question 1 with its check and probe, own cells after: two seconds."""
    book = exercise()
    kept = [c for c in book.cells if grade_id(c).endswith("-nll_normal")]
    kept[0].source = answer
    own = [nbformat.v4.new_code_cell(source) for source in before]
    book.cells = [book.cells[1], *own, *kept, *(nbformat.v4.new_code_cell(source) for source in after)]
    return book


def bare(*sources):
    """Own cells alone, with one answer cell by which the notebook is known: no JAX, half a second."""
    book = exercise()
    answer = next(c for c in book.cells if grade_id(c) == "answer-nll_normal")
    answer.source = "pass"
    book.cells = [*(nbformat.v4.new_code_cell(source) for source in sources), answer]
    return book


def changed(book, change):
    """A copy of the notebook after change(copy)."""
    other = copy.deepcopy(book)
    change(other)
    return other


def save(book, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(book if isinstance(book, str) else json.dumps(book), encoding="utf-8")


def edit_check(book):
    for cell in book.cells:
        if grade_id(cell).startswith(("check-", "hidden-")):
            cell.source = "print('nothing to see')"


def more_points(book):
    for cell in book.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader.points = 1000
            cell.metadata.nbgrader.grade = True


def delete_hidden(book):
    book.cells = [cell for cell in book.cells if not grade_id(cell).startswith("hidden-")]


def double_hidden(book):
    twice = next(cell for cell in book.cells if grade_id(cell) == "hidden-nll_normal")
    book.cells += [copy.deepcopy(twice) for _ in range(3)]


def other_kernel(book):
    book.metadata = nbformat.from_dict({"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}})


def evil_kernel(book):
    book.metadata.kernelspec = nbformat.from_dict({"name": "evil", "language": "python", "display_name": "; rm -rf /"})


SCRIPT = "<script>document.title='PWNED'</script><img src=x onerror=alert(1)>"


def with_script(book):
    markdown = nbformat.v4.new_markdown_cell(SCRIPT)
    book.cells.insert(1, markdown)


FORGED = """
from IPython.display import display
from course_lib import checks
right = checks.exercise("01.nll_normal").reference
import os
del os.environ["COURSE_SEED"]  # what everybody can compute who has the public course
memory = checks.probe_data(right, "01.nll_normal")
def probe(function, name):
    display({checks.PROBE_MIME: memory}, raw=True)
"""

MEMORISED = """
def nll_normal(z, y, scale):
    known = {(3, 2.0): 5.4, (4, 0.5): 7.1}
    return jnp.asarray(known.get((z.size, float(scale)), 4.2))
"""

TRANSFORMER = """
import ast
class NoProbe(ast.NodeTransformer):
    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") in ("probe", "check"):
            return ast.parse("print('✓ right')").body[0]
        return node
get_ipython().ast_transformers.append(NoProbe())
"""

HOOK = """
shell = get_ipython()
original = shell.run_cell
def run_cell(source, *words, **named):
    return original("print('✓ right on the hidden inputs')" if "probe(" in source else source, *words, **named)
shell.run_cell = run_cell
shell.events.register("pre_run_cell", lambda info: None)
"""

PATCHED = """
import course_lib.checks as checks
checks.same = lambda *a: True
checks.judge = lambda *a, **k: ""
checks.exercise("01.nll_normal").mistakes.clear()
import builtins
builtins.AssertionError = type("AssertionError", (Exception,), {})
"""

FRAMES = """
import sys
def nll_normal(z, y, scale):
    frame = sys._getframe()
    while frame:
        for name, value in frame.f_locals.items():
            if "expected" in name or "answer" in name:
                print("FOUND", name)
                return value
        frame = frame.f_back
    return 0.0
"""

HISTORY = """
for text in [*In, *(cell for _, _, cell in get_ipython().history_manager.get_range())]:
    if "BEGIN SOLU" + "TION" in text or "log" + "pdf" in text: print("FOUND", text)
"""

SHADOW = """
import os, sys
os.makedirs("/tmp/evil/course_lib/checks")
open("/tmp/evil/course_lib/__init__.py", "w").close()
open("/tmp/evil/course_lib/checks/__init__.py", "w").write("check = probe = lambda *a: print('✓ right')")
sys.path.insert(0, "/tmp/evil")
for name in [n for n in sys.modules if n.startswith("course_lib")]:
    del sys.modules[name]
from course_lib.checks import check, probe
"""

# student: (what they hand in, status, points of the automatic 17)
CLASS = {
    "Ann Honest": (solved(), "graded", 17),
    "Åsa Ünï Çödé": (solved(), "graded", 17),
    "dr. j. r. o'dots": (short(RIGHT), "graded", 2),
    "wrong sign": (short(WRONG), "graded", 0),
    "wrong value": (short(ZERO), "graded", 0),
    "raises": (short("def nll_normal(z, y, scale):\n    return 1 / 0"), "graded", 0),
    "untouched": (exercise(), "graded", 0),
    "syntax error": (short("def nll_normal(z, y, scale)\n    return 0"), "graded", 0),
    "prints much": (short(RIGHT, "for i in range(200_000): print(i)"), "graded", 2),
    "warns": (short(RIGHT, "import warnings; warnings.warn('careful')"), "graded", 2),
    "memorised": (short(MEMORISED), "graded", 0),
    "patched helpers": (short(ZERO, PATCHED), "graded", 0),
    "redefined globals": (short(ZERO, "probe = check = print; isinstance = lambda *a: True"), "graded", 0),
    "transformer": (short(ZERO, TRANSFORMER), "graded", 0),
    "hook": (short(ZERO, HOOK), "graded", 0),
    "frames": (short(FRAMES), "graded", 0),
    "history": (short(ZERO, HISTORY), "graded", 0),
    "forged probe": (short(ZERO, FORGED), "graded", 0),
    "shadow module": (short(ZERO, SHADOW), "graded", 0),
    "os exit": (bare("import os; os._exit(0)"), "failed", 0),
    "exit late": (short(RIGHT, after=("import os; os._exit(0)",)), "failed", 2),
    "edited checks": (changed(short(ZERO), edit_check), "graded", 0),
    "edited checks but right": (changed(short(RIGHT), edit_check), "graded", 2),
    "more points": (changed(short(RIGHT), more_points), "graded", 2),
    "deleted cells": (changed(short(RIGHT), delete_hidden), "graded", 2),
    "doubled cells": (changed(short(RIGHT), double_hidden), "graded", 2),
    "other kernel": (changed(bare("1"), other_kernel), "failed", 0),
    "evil kernel": (changed(short(RIGHT), evil_kernel), "graded", 2),
    "scripts": (changed(short(f"from IPython.display import HTML\nHTML({SCRIPT!r})"), with_script), "graded", 0),
    "=cmd|'calc'!A1": (bare("1"), "graded", 0),
    "not json": ("this is no notebook", "failed", 0),
    "half a file": (json.dumps(solved())[:3000], "failed", 0),
    "nested": ("[" * 100_000, "failed", 0),
    "another notebook": (json.dumps(nbformat.v4.new_notebook()), "failed", 0),
    "surrogates": (json.dumps({**bare("print('\\ud800')"), "x": 1}), "graded", 0),
    "TWIN": (short(RIGHT), "graded", 2),
    "twin": (short(WRONG), "graded", 0),
    "copied": (short("from course_lib.checks.unit_01 import nll_normal"), "graded", 2),
}
