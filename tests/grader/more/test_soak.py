"""300 submissions in one process: the table is complete, and no process, file or memory is left behind."""

import os
import tempfile
from pathlib import Path

import psutil
from notebooks_of_students import NAME, bare, save

from grader import report, seed, submissions, units
from grader.grade import Rules, grade_class

CLASS = 300
WARM_UP = 4


def graded(folder, out, number):
    for index in range(number):
        save(
            bare(f"print({index})", "import os; os._exit(0)" if index % 7 == 0 else "1"),
            folder / f"s{index}/{NAME}.ipynb",
        )
    unit = units.load("01")
    found = submissions.find(folder, "", unit.name, unit.recognise)
    rules = Rules("01", seed.of_unit("a class of the tests", unit.name))
    records = grade_class(found, rules, out, jobs=os.cpu_count(), scheduler="")
    report.publish(out, unit.name, found, records, "")
    return records


def state():
    """(open files, children, temporary files), and the memory in MB."""
    me = psutil.Process()
    temporary = list(Path(tempfile.gettempdir()).iterdir())
    return (me.num_fds(), len(me.children(recursive=True)), len(temporary)), me.memory_info().rss >> 20


def test_nothing_is_left_behind(tmp_path, box, rows, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))  # others use the machine's too
    graded(tmp_path / "warm", tmp_path / "warm-out", WARM_UP)
    before, memory_before = state()
    records = graded(tmp_path / "class", tmp_path / "out", CLASS)
    after, memory_after = state()
    assert len(rows(tmp_path / "out")) == len(records) == CLASS
    assert {r["status"] for r in records} == {"graded", "failed"}
    assert sum(r["status"] == "failed" for r in records) == len(range(0, CLASS, 7))
    assert after == before
    assert memory_after - memory_before < 60
