"""The same sandbox and judge behind nbgrader's own commands: autograde, a point by hand, autograde again, feedback."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from notebooks_of_students import NAME, ROOT, SCRIPT, WRONG, changed, grade_id, save, solved

GRADEBOOK = """
import sys
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    notebook = book.find_submission(sys.argv[1], "ann").notebooks[0]
    coin = next(g for g in notebook.grades if g.name == "derivation-coin")
    if sys.argv[2:]:
        coin.manual_score = float(sys.argv[2])
        book.db.commit()
    print(notebook.score, coin.manual_score)
"""


def hostile(book):
    for cell in book.cells:
        if grade_id(cell) == "answer-nll_normal":
            cell.source = WRONG + f"\nimport os\nfrom IPython.display import HTML\nprint(os.getuid())\nHTML({SCRIPT!r})"
        if grade_id(cell) == "derivation-coin":
            cell.source = f"{SCRIPT} [x](javascript:alert(1)) [y][z] and $a<b$\n\n[z]: java&#115;cript:alert(1)"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    for kind in ("solutions", "exercises"):
        shutil.copytree(ROOT / kind / NAME, folder / kind / NAME)
    for part in ("nbgrader_config.py", "grader"):
        (folder / part).symlink_to(ROOT / part)
    save(changed(solved(), hostile), folder / "submitted/ann" / NAME / f"{NAME}.ipynb")
    return folder


def python(course, *words):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [sys.executable, *words], cwd=course, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def test_nbgraders_own_road(course, box):
    python(course, "-m", "nbgrader", "generate_assignment", NAME, "--create", "--force")
    python(course, "-m", "nbgrader", "autograde", NAME)
    assert (course / "class.json").exists()
    assert python(course, "-c", GRADEBOOK, NAME, "4").split() == ["19.0", "4.0"]

    python(course, "-m", "nbgrader", "autograde", NAME, "--force")
    assert python(course, "-c", GRADEBOOK, NAME).split() == ["19.0", "4.0"], "a point by hand was lost"
    run = nbformat.read(course / "autograded/ann" / NAME / f"{NAME}.ipynb", as_version=4)
    assert "65534" in str(run.cells), "it did not run as the sandbox's user"

    python(course, "-m", "nbgrader", "generate_feedback", NAME)
    page = (course / "feedback/ann" / NAME / f"{NAME}.html").read_text()
    assert "this is the log-likelihood" in page
    assert "PWNED'</script>" not in page
    assert "<img src=x" not in page
    assert not re.search(r"href=\W*java", page)
