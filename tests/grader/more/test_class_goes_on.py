"""Interrupted, killed, resubmitted, on a cluster: nobody is lost, nobody is graded twice, nobody keeps an old grade."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from notebooks_of_students import NAME, RIGHT, ROOT, WRONG, bare, save, short

from grader import seed, submissions, units
from grader.grade import Rules, grade_class
from grader.sandbox import Limits

SLOW = "import time; time.sleep(2)"


@pytest.fixture
def submitted(tmp_path, caches):
    folder = tmp_path / "submitted"
    for number in range(8):
        save(bare(SLOW, f"print({number})"), folder / f"s{number}" / f"{NAME}.ipynb")
    return folder


def records(out):
    return [json.loads(path.read_text()) for path in (out / "records").glob("*.json")]


def command(submitted, out):
    words = [sys.executable, "-m", "grader", "grade", "01", submitted, "--out", out, "--seed", "a class of the tests"]
    return [str(word) for word in words]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_goes_on_after_an_interruption(submitted, tmp_path, how, rows):
    out = tmp_path / "out"
    with subprocess.Popen(command(submitted, out), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while len(list((out / "records").glob("*.json"))) < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        assert process.wait(20) == (130 if how == signal.SIGINT else -9)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], "a sandbox outlived its grader"
    kept = {path: path.stat().st_mtime_ns for path in (out / "records").glob("*.json")}
    assert 3 <= len(kept) < 8
    assert not (out / "grades.csv").exists()

    run = subprocess.run(command(submitted, out), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(rows(out)) == 8
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_changed_submission_is_graded_again_and_a_broken_one_keeps_no_grade(tmp_path, grade, rows):
    path, out = tmp_path / "submitted/ann" / f"{NAME}.ipynb", tmp_path / "out"
    for book, score, status in ((short(WRONG), 0, "graded"), (short(RIGHT), 2, "graded"), ("{", 0, "failed")):
        save(book, path)
        run = grade(tmp_path / "submitted", out, "--seed", "a class of the tests")
        assert run.returncode == 0, run.stderr
        assert (float(rows(out)["ann"]["score"]), rows(out)["ann"]["status"]) == (score, status)


def test_two_classes_get_other_inputs_from_seeds_that_do_not_tell_the_class(tmp_path, grade, rows):
    told = "import os\nprint('INPUTS', os.environ['COURSE_SEED'])"
    save(short(RIGHT, told), tmp_path / "submitted/ann" / f"{NAME}.ipynb")
    said = []  # the seed of the unit, as each class's sandbox saw it
    for name in ("one", "two"):
        run = grade(tmp_path / "submitted", tmp_path / name, "--seed", f"class {name} of the tests")
        assert run.returncode == 0, run.stderr
        assert float(rows(tmp_path / name)["ann"]["score"]) == 2
        said.append(records(tmp_path / name)[0]["cells"][1]["outputs"][0]["text"].split()[1])
    assert said == [seed.of_unit(f"class {name} of the tests", NAME) for name in ("one", "two")]
    assert said[0] != said[1]


@pytest.fixture
def cluster(caches):
    distributed = pytest.importorskip("distributed", reason="`pip install distributed` brings --scheduler")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as found:
        yield found


def test_a_cluster_loses_nobody_when_a_worker_dies(submitted, tmp_path, cluster):
    unit = units.load("01")
    found = submissions.find(submitted, "", unit.name, unit.recognise)
    rules = Rules("01", seed.of_unit("a class of the tests", unit.name), Limits())
    out = tmp_path / "out"
    victim = next(iter(cluster.workers.values())).process.pid

    def kill_half_way():
        while len(list((out / "records").glob("*.json"))) < 2:
            time.sleep(0.1)
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill_half_way)
    thread.start()
    graded = grade_class(found, rules, out, jobs=2, scheduler=cluster.scheduler_address)
    thread.join()
    assert sorted(r["student"] for r in graded) == [f"s{n}" for n in range(8)]
    assert len(records(out)) == 8
    assert {r["status"] for r in graded} == {"graded"}
