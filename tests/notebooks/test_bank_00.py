"""Unit 00: the report on the installation where packages are missing, and the solutions folded up in the lecture."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from course_lib.checks import check
from tools import notebooks

CELLS = notebooks.read_source(notebooks.lectures("00")[0]).cells
SOLUTIONS = [
    re.sub(r"^```python\n|```$", "", s) for c in CELLS for s in re.findall(r"```python\n.*?```", c.source, re.S)
]


def run_report(*flags):
    """The lines that the first code cell prints in a new Python."""
    report = next(c.source for c in CELLS if c.cell_type == "code")
    command = [sys.executable, *flags, "-c", report]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()


def test_without_packages_each_missing_thing_is_named_with_what_to_do():
    python, *others = run_report("-I", "-S")  # the standard library alone
    assert python.startswith("ok    Python: 3.")
    assert len(others) == 5
    for line in others:
        assert line.startswith("STOP  ")
        assert re.search(r"No module named '(jax|course_lib)'. Do: .*make setup", line) or "restart the kernel" in line


def test_with_packages_all_is_well():
    lines = run_report()  # a terminal shows the figure as more lines
    assert sum(line.startswith("ok") for line in lines) == 6
    assert not [line for line in lines if line.startswith("STOP")]


@pytest.mark.parametrize("text", SOLUTIONS)
def test_the_solutions_that_the_lecture_folds_up_pass_their_checks(text, capsys):
    names = {"jax": jax, "jnp": jnp, "ravel_pytree": ravel_pytree}
    exec(text, names)
    name = re.search(r"def (\w+)", text).group(1)
    check(names[name], f"00.{name}")
    assert "✓" in capsys.readouterr().out


def test_there_are_three():
    assert len(SOLUTIONS) == 3
