"""An exercise as a student meets it, run in a kernel: untouched, and half done through nbgrader's autograde."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat

from tools import notebooks


def copy_of(notebook):
    return nbformat.reads(nbformat.writes(notebook), as_version=4)


def grade_id(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def test_the_untouched_exercise_stops_in_every_answer_cell_and_nowhere_else(exercise, read):
    notebook = copy_of(read(notebooks.exercise_path(exercise)))
    nbclient.NotebookClient(notebook, timeout=120, allow_errors=True).execute()
    raised = {
        grade_id(cell): [o.ename for o in cell.outputs if o.output_type == "error"]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    answers = {name for name in raised if name.startswith("answer-")}
    assert len(answers) >= 6
    assert {name: errors for name, errors in raised.items() if errors} == {n: ["NotImplementedError"] for n in answers}


# Right, right in another way, wrong, raising, shape wrong, and the rest untouched.
HALF_DONE = {
    "nll_normal": "def nll_normal(z, y, scale):\n    return -jax.scipy.stats.norm.logpdf(y, z, scale).sum()",
    "nll_categorical": "def nll_categorical(z, y):\n    return -jnp.log(jax.nn.softmax(z)[y])",
    "output_fisher": "def output_fisher(z):\n    return z + 'one'",
    "score": "def score(log_prob, theta, x, y):\n    return jax.grad(log_prob)(theta, x[0], y[0])",
}
SCORES = """
import sys
from nbgrader.api import Gradebook
with Gradebook(sys.argv[1]) as gb:
    notebook = gb.find_submission(sys.argv[2], "ann").notebooks[0]
    print({g.name.removeprefix("hidden-"): g.auto_score for g in notebook.grades})
"""


def nbgrader(course, *words):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=course, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def test_autograde_gives_points_for_right_values_only(tmp_path, read):
    source = notebooks.exercises("01")[0]
    name = source.stem
    for kind in ("solutions", "exercises"):
        shutil.copytree(notebooks.ROOT / kind / name, tmp_path / kind / name)
    for part in ("nbgrader_config.py", "grader"):
        (tmp_path / part).symlink_to(notebooks.ROOT / part)
    submission = copy_of(read(notebooks.exercise_path(source)))
    for cell in submission.cells:
        key = grade_id(cell).removeprefix("answer-")
        cell.source = HALF_DONE.get(key, cell.source) if grade_id(cell).startswith("answer-") else cell.source
    path = tmp_path / "submitted/ann" / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(submission, path)

    for words in (("generate_assignment", name, "--create"), ("autograde", name)):
        run = nbgrader(tmp_path, "nbgrader", *words, "--force")
        assert run.returncode == 0, run.stderr
    database = f"sqlite:///{tmp_path}/gradebook.db"
    run = subprocess.run([sys.executable, "-c", SCORES, database, name], capture_output=True, text=True, check=True)
    scores = eval(run.stdout)
    assert scores.pop("nll_normal") == 2
    assert scores.pop("derivation-coin") in (0, None)
    assert set(scores.values()) == {0}
    assert len(scores) == 6
