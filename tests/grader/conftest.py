"""A class of submissions made from the exercise of unit 01, and the grader run on it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from notebooks_of_students import EXERCISE

from grader import sandbox

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def caches():
    """The grader's warm compilation caches stay between test runs, with the course's other caches."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(ROOT / ".cache")
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def box():
    """A sandbox. Without one these tests fail, since the grader's promises are not kept on this machine."""
    found = sandbox.Sandbox()
    sandbox.check(found)
    return found


@pytest.fixture(scope="session")
def grade():
    """python -m grader grade 01 …, as an instructor types it."""

    def run(submissions, out, *words, environment=()):
        command = [sys.executable, "-m", "grader", "grade", "01", submissions, "--out", out, *words]
        variables = os.environ | dict(environment)
        variables.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # the tests' own; it is part of a compiled program's key
        return subprocess.run(list(map(str, command)), cwd=ROOT, env=variables, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def rows():
    """grades.csv by student."""

    def read(out, name="grades.csv"):
        with (Path(out) / name).open(encoding="utf-8", newline="") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    return read


@pytest.fixture
def exercise():
    return EXERCISE.read_text(encoding="utf-8")
