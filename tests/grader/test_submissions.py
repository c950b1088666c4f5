"""Finding notebooks: folders, archives, downloads of three systems, and what is refused."""

import io
import json
import tarfile
import zipfile

import pytest
from notebooks_of_students import NAME, bare, save

from grader import units
from grader.submissions import NOTEBOOK_SIZE, SubmissionsError, find

UNIT = units.load("01")
BOOK = json.dumps(bare("1"))


def found(source, lms=""):
    return {s.student: s for s in find(source, lms, UNIT.name, UNIT.recognise)}


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, files, links=()):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


NAMES = {"Ann Lee": "01.ipynb", "Åsa": f"{NAME}-Copy1.ipynb", "j. r.": "01 (1).ipynb", "b": f"{NAME}/{NAME}.ipynb"}
FILES = {f"{student}/{name}": BOOK for student, name in NAMES.items()}


@pytest.mark.parametrize("top", ["", "class of 2026/"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_read_as_the_folder_it_holds(tmp_path, kind, top):
    files = {top + name: content for name, content in FILES.items()}
    make = {"zip": zipped, "tar": tarred}[kind]
    students = found(make(tmp_path / f"a.{kind}", files))
    assert set(students) == set(NAMES)
    assert all(s.notebook for s in students.values())


def test_a_folder_is_read_and_other_files_are_nobodys(tmp_path):
    for name, content in FILES.items():
        save(content, tmp_path / name)
    save("notes", tmp_path / "notes.txt")
    save(BOOK, tmp_path / ".ipynb_checkpoints/01.ipynb")
    assert set(found(tmp_path)) == set(NAMES)


@pytest.mark.parametrize("name", ["../evil/01.ipynb", "/etc/01.ipynb", "ann/../../01.ipynb", "..\\evil\\01.ipynb"])
def test_a_path_out_of_the_archive_is_refused_with_its_name(tmp_path, name):
    with pytest.raises(SubmissionsError, match=r"refused: its entry .*01\.ipynb' leads out of the archive"):
        found(zipped(tmp_path / "a.zip", {name: BOOK}))


def test_a_link_in_an_archive_is_that_students_problem(tmp_path):
    students = found(tarred(tmp_path / "a.tar", FILES, [("eve/01.ipynb", "/etc/passwd"), ("Ann Lee/venv", "/usr")]))
    assert "'eve/01.ipynb' is a link" in students["eve"].problem
    assert students["Ann Lee"].notebook


def test_a_zip_bomb_and_a_huge_file_are_too_large_and_nothing_else(tmp_path):
    bomb = zipped(tmp_path / "a.zip", {"eve/01.ipynb": b"0" * (500 << 20), "ann/01.ipynb": BOOK})
    assert bomb.stat().st_size < 1 << 20
    students = found(bomb)
    assert "larger than 20 MB" in students["eve"].problem
    assert students["ann"].notebook
    (tmp_path / "class/eve").mkdir(parents=True)
    with (tmp_path / "class/eve/01.ipynb").open("wb") as file:
        file.truncate(25 * NOTEBOOK_SIZE)  # 500 MB, sparse
    assert "larger than 20 MB" in found(tmp_path / "class")["eve"].problem


def test_canvas(tmp_path):
    files = {"leeann_12_345_01.ipynb": BOOK, "bobo_LATE_13_346_01-1.ipynb": BOOK, "readme.txt": ""}
    students = found(zipped(tmp_path / "a.zip", files), "canvas")
    assert set(students) == {"leeann (12)", "bobo (13)"}
    assert students["bobo (13)"].identity == {"id": "13", "name": "bobo"}


def test_moodle(tmp_path):
    files = {"Ann Lee_12_assignsubmission_file_/01.ipynb": BOOK, "Ann Lee_13_assignsubmission_file_/01.ipynb": BOOK}
    students = found(zipped(tmp_path / "a.zip", files), "moodle")
    assert set(students) == {"Ann Lee (12)", "Ann Lee (13)"}


METADATA = """
submission_7:
  :submitters:
  - :name: Ann Lee
    :sid: '99'
    :email: ann@example.org
"""


def test_gradescope(tmp_path):
    files = {f"x/submission_{n}/01.ipynb": BOOK for n in (7, 8)} | {"x/submission_metadata.yml": METADATA}
    students = found(zipped(tmp_path / "a.zip", files), "gradescope")
    assert set(students) == {"Ann Lee (submission_7)", "submission_8"}
    assert students["Ann Lee (submission_7)"].identity["sid"] == "99"


def test_the_right_one_of_several_is_taken_and_said(tmp_path):
    save(BOOK, tmp_path / "ann/draft.ipynb")
    save(BOOK, tmp_path / f"ann/{NAME}.ipynb")
    save('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', tmp_path / "ann/other.ipynb")
    assert found(tmp_path)["ann"].notes == (f"2 notebooks of this unit were handed in; {NAME}.ipynb was graded",)


def test_wrong_places_say_what_is_asked_for(tmp_path):
    with pytest.raises(SubmissionsError, match="does not exist"):
        found(tmp_path / "nowhere")
    with pytest.raises(SubmissionsError, match="a folder for each student"):
        found(tmp_path)
    (tmp_path / "text").write_text("text")
    with pytest.raises(SubmissionsError, match="neither a folder nor a zip or tar"):
        found(tmp_path / "text")
    save("x", tmp_path / "strange/name.txt")
    with pytest.raises(SubmissionsError, match="Moodle download has folders named"):
        found(tmp_path, "moodle")
    with pytest.raises(units.UnitError, match=r"'77' names 0 units; there are: .*01_likelihood"):
        units.load("77")
