"""What a student is told before handing in."""

import pytest
from notebooks_of_students import WRONG, bare, changed, delete_hidden, edit_check, save, short

from grader.__main__ import main


@pytest.fixture
def precheck(capsys):
    """(exit code, what was printed) of `python -m grader precheck`."""

    def run(path, *words):
        code = main(["precheck", str(path), *words])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_checks_are_counted_and_a_mistake_is_named(tmp_path, box, precheck):
    book = changed(changed(short(WRONG), edit_check), delete_hidden)
    save(book, tmp_path / "mine.ipynb")
    _, said = precheck(tmp_path / "mine.ipynb")
    assert "! check-nll_normal was edited; it was put back" in said
    assert "! hidden-nll_normal was deleted; it was put back" in said
    assert "0 of 7 visible checks pass" in said
    assert "nll_normal: 01.nll_normal: this is the log-likelihood" in said


def test_the_first_cell_that_fails_is_shown_with_its_traceback(tmp_path, box, precheck):
    save(bare("x = 1", "x = 2\n1 / 0", "1 / 0"), tmp_path / "mine.ipynb")
    _, said = precheck(tmp_path / "mine.ipynb")
    assert "the first cell that fails is code cell 2" in said
    assert "ZeroDivisionError" in said
    assert "1 / 0" in said


def test_too_slow_is_said(tmp_path, box, precheck):
    save(bare("import time", "time.sleep(60)"), tmp_path / "mine.ipynb")
    _, said = precheck(tmp_path / "mine.ipynb", "--timeout", "2")
    assert "ran too long" in said


def test_another_file_is_wrong_usage(tmp_path, precheck):
    save("text", tmp_path / "mine.ipynb")
    code, said = precheck(tmp_path / "mine.ipynb")
    assert (code, "is no notebook" in said) == (2, True)
    save('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', tmp_path / "empty.ipynb")
    code, said = precheck(tmp_path / "empty.ipynb")
    assert (code, "no cell of any exercise" in said) == (2, True)
    assert precheck(tmp_path / "nowhere.ipynb")[0] == 2
