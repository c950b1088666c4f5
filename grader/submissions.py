"""Find every student's notebook in a folder, an archive or a download of a learning management system.

Only regular files named *.ipynb are ever read, into memory and up to a size; nothing is unpacked onto the disk, so
there is nothing that a link or a path with .. could reach. What is wrong with one student's files is that student's
`problem`; an archive that tries to leave its folder is refused whole, with the entry named.
"""

import functools
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
import yaml

from grader.outputs import text

NOTEBOOK_SIZE = 20 << 20  # bytes; a notebook with many figures has a few MB
MOST_NOTEBOOKS = 20  # of one student that are looked at
METADATA = "submission_metadata.yml"  # of Gradescope, beside the folders


class SubmissionsError(ValueError):
    """The folder or archive cannot be used; the message says what to do."""


class GraderError(Exception):
    """The grader itself cannot go on; no student's fault."""


@dataclass(frozen=True)
class NotebookCell:
    """A cell of a student's notebook. grade_id: what nbgrader's metadata says, which may be anything."""

    kind: str
    source: str
    id: str = ""
    grade_id: str = ""


@dataclass(frozen=True)
class Notebook:
    cells: list[NotebookCell]


@dataclass(frozen=True)
class Submission:
    """One student's row. problem: why there is no notebook; missing: nothing was handed in.

    identity: what the learning management system knows the student by.
    """

    student: str
    notebook: Notebook | None = None
    problem: str = ""
    missing: bool = False
    identity: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A file of the folder or archive. read(limit): its first bytes; a link has none."""

    path: PurePosixPath
    regular: bool
    read: Callable[[int], bytes]


def find(source: Path, lms: str, unit: str, recognise: Callable[[Notebook], int]) -> list[Submission]:
    """Every student's submission, by name. `recognise` counts a unit's own cells in a notebook."""
    if not source.exists():
        raise SubmissionsError(f"{source} does not exist")
    entries = list(_folder(source) if source.is_dir() else _archive(source))
    students = _by_student(entries, lms, unit)
    if not students:
        raise SubmissionsError(f"{source} holds no submissions: {LAYOUTS[lms]}")
    return [_submission(name, identity, files, unit, recognise) for (name, identity), files in students]


# ---- reading ----


def _folder(top: Path) -> Iterator[Entry]:
    """Every file below `top`; links are not followed. A student's empty folder is an entry too."""
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        for name in [*files, *(f for f in folders if (here / f).is_symlink() or not any((here / f).iterdir()))]:
            path = here / name
            yield Entry(PurePosixPath(path.relative_to(top)), _regular(path), functools.partial(_read_file, path))


def _regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _read_file(path: Path, limit: int) -> bytes:
    """Refuses a link even if the file became one after it was listed."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        return file.read(limit)


def _archive(path: Path) -> Iterator[Entry]:
    try:
        entries = list(_zip(path) if zipfile.is_zipfile(path) else _tar(path))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise SubmissionsError(f"{path} is neither a folder nor a zip or tar archive: {error}") from None
    for entry in entries:
        if entry.path.is_absolute() or ".." in entry.path.parts:
            raise SubmissionsError(f"{path} is refused: its entry {text(entry.path)!r} leads out of the archive")
    return iter(entries)


def _zip(path: Path) -> Iterator[Entry]:
    archive = zipfile.ZipFile(path)
    for info in archive.infolist():
        link = stat.S_ISLNK(info.external_attr >> 16)
        name = PurePosixPath(info.filename.replace("\\", "/"))
        yield Entry(name, not link and not info.is_dir(), functools.partial(_read_zip, archive, info))


def _read_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(info) as file:
        return file.read(limit)


def _tar(path: Path) -> Iterator[Entry]:
    archive = tarfile.open(path)  # noqa: SIM115 - open as long as its entries are read
    for member in archive:
        yield Entry(PurePosixPath(member.name), member.isreg(), functools.partial(_read_tar, archive, member))


def _read_tar(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # only regular members are read
    return file.read(limit)


# ---- whose file is it ----

Student = tuple[str, dict[str, str]]

LAYOUTS = {
    "": "it has a folder for each student, with the notebook in it",
    "canvas": "a Canvas download has files named name_12345_67890_file.ipynb",
    "moodle": "a Moodle download has folders named 'Name_12345_assignsubmission_file_'",
    "gradescope": "a Gradescope export has folders named submission_12345",
}
CANVAS = re.compile(r"(?P<name>.+?)(?:_LATE)?_(?P<id>\d+)_\d+_.+")
MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_file.*")


def _by_student(entries: list[Entry], lms: str, unit: str) -> list[tuple[Student, list[Entry]]]:
    whose = _gradescope(entries) if lms == "gradescope" else {"canvas": _canvas, "moodle": _moodle}.get(lms, _plain)
    students: dict[str, tuple[Student, list[Entry]]] = {}
    skip = 0 if lms else _wrapper(entries, unit)
    for entry in entries:
        parts = entry.path.parts[skip:]
        if parts and "__MACOSX" not in parts and (student := whose(parts)):
            students.setdefault(student[0], (student, []))[1].append(entry)
    return [students[name] for name in sorted(students)]


def _wrapper(entries: list[Entry], unit: str) -> int:
    """1 where everything lies in one more folder, as archives often have it; 0 otherwise."""
    files = [e.path.parts for e in entries if e.regular and "__MACOSX" not in e.path.parts]
    one = len({parts[0] for parts in files}) == 1 and all(len(parts) > 2 for parts in files)
    return int(one and not any(parts[1] == unit for parts in files))


def _plain(parts: tuple[str, ...]) -> Student | None:
    """<student>/…; files beside the students' folders and hidden folders are nobody's."""
    stray = len(parts) < 2 and "." in parts[0]
    return None if stray or parts[0].startswith(".") else (text(parts[0]), {})


def _canvas(parts: tuple[str, ...]) -> Student | None:
    match = CANVAS.fullmatch(parts[-1])
    return (
        (f"{text(match['name'])} ({match['id']})", {"id": match["id"], "name": text(match["name"])}) if match else None
    )


def _moodle(parts: tuple[str, ...]) -> Student | None:
    match = MOODLE.fullmatch(parts[0])
    return (
        (f"{text(match['name'])} ({match['id']})", {"id": match["id"], "name": text(match["name"])}) if match else None
    )


def _gradescope(entries: list[Entry]) -> Callable[[tuple[str, ...]], Student | None]:
    """Names stand in a metadata file beside the folders submission_<number>; without it the folder's name has to do."""
    known = _gradescope_metadata(entries)

    def whose(parts: tuple[str, ...]) -> Student | None:
        folder = next((part for part in parts if re.fullmatch(r"submission_\d+", part)), "")
        if not folder:
            return None
        person = (known.get(folder) or {}).get(":submitters", [{}])[0]
        identity = {key: text(person.get(f":{key}") or "") for key in ("name", "sid", "email")}
        return f"{identity['name']} ({folder})" if identity["name"] else folder, identity | {"folder": folder}

    return whose


def _gradescope_metadata(entries: list[Entry]) -> dict[str, Any]:
    for entry in entries:
        if entry.path.name == METADATA and entry.regular:
            return yaml.safe_load(entry.read(NOTEBOOK_SIZE)) or {}
    return {}


# ---- which file is it ----


def _submission(
    student: str, identity: dict, entries: list[Entry], unit: str, recognise: Callable[[Notebook], int]
) -> Submission:
    """The student's notebook of this unit: known by its cells, whatever its name."""
    named = [e for e in entries if e.path.suffix.lower() == ".ipynb" and ".ipynb_checkpoints" not in e.path.parts]
    readings = [_read(entry) for entry in named[:MOST_NOTEBOOKS]]
    right = [r for r in readings if r.notebook is not None and recognise(r.notebook)]
    if not right:
        return Submission(student, problem=_none(readings, unit), missing=not readings, identity=identity)
    best = max(right, key=lambda r: (r.path.stem == unit, recognise(r.notebook), str(r.path)))  # type: ignore[arg-type]
    notes = (f"{len(right)} notebooks of this unit were handed in; {best.path.name} was graded",) if right[1:] else ()
    return Submission(student, best.notebook, identity=identity, notes=notes)


@dataclass(frozen=True)
class _Reading:
    path: PurePosixPath
    notebook: Notebook | None = None
    problem: str = ""


def _none(readings: list[_Reading], unit: str) -> str:
    for reading in readings:
        if reading.problem:
            return f"{text(reading.path.name)}: {reading.problem}"
    return (
        f"{text(readings[0].path.name)} has no cell of {unit}: is it another notebook?" if readings else "no notebook"
    )


def _read(entry: Entry) -> _Reading:
    try:
        return _Reading(entry.path, parse(_content(entry)))
    except ValueError as error:
        return _Reading(entry.path, problem=str(error))


def _content(entry: Entry) -> bytes:
    if not entry.regular:
        raise ValueError(f"the entry {text(entry.path)!r} is a link or no regular file, and is not read")
    try:
        content = entry.read(NOTEBOOK_SIZE + 1)
    except (OSError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f"cannot be read ({error})") from None
    if len(content) > NOTEBOOK_SIZE:
        raise ValueError(f"is larger than {NOTEBOOK_SIZE >> 20} MB; clear its outputs and hand it in again")
    return content


def parse(content: bytes) -> Notebook:
    """The cells of a notebook file, outputs left out. ValueError says why it is none, or none that can be run."""
    try:
        book = nbformat.convert(nbformat.reader.reads(content.decode("utf-8-sig")), 4)
        cells = [_cell(cell) for cell in book.cells]
        metadata = book.metadata
        language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
    except Exception as error:  # whatever a stranger's bytes do to a parser, they are no notebook
        raise ValueError(f"is no notebook ({type(error).__name__}: {text(error)[:200]})") from None
    if language not in ("python", None):
        raise ValueError(f"is a notebook in {text(language)[:40]}, and the exercise is one in Python")
    return Notebook(cells)


def _cell(cell: dict) -> NotebookCell:
    marks = cell["metadata"].get("nbgrader") or {}
    return NotebookCell(
        cell["cell_type"], text(cell["source"]), str(cell.get("id", "")), str(marks.get("grade_id", ""))
    )
