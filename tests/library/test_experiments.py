"""Long runs: resumed where they stopped, stored whole, and never another code's numbers."""

import json

import pytest

from course_lib import experiments
from course_lib.experiments import Experiment
from course_lib.experiments import __main__ as command

PIECES = [{"seed": seed, "rate": rate} for seed in (0, 1) for rate in (0.1, 0.2)]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """An experiment of four pieces in an empty folder; the list of pieces that were computed; `stop` raises there."""
    ran, stop = [], []

    def run(seed, rate):
        if (seed, rate) in stop:
            raise KeyboardInterrupt
        ran.append((seed, rate))
        return {"loss": seed + rate}

    monkeypatch.setattr(experiments, "_unit", lambda unit: {"robust": Experiment(run, PIECES)})
    monkeypatch.setattr(experiments, "names", lambda: ["07.robust"])
    monkeypatch.setattr(command, "names", lambda: ["07.robust"])
    for module in (experiments, command):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "PARTS", tmp_path / "parts")
    return ran, stop


def test_every_piece_is_run_once_and_loaded(course):
    command.main([])
    command.main(["07.robust"])
    assert course[0] == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
    assert experiments.load("07.robust").where(rate=0.2) == [{"loss": 0.2}, {"loss": 1.2}]


def test_a_stopped_run_goes_on_and_leaves_no_half_result(course):
    ran, stop = course
    stop.append((1, 0.1))
    with pytest.raises(KeyboardInterrupt):
        command.main([])
    with pytest.raises(FileNotFoundError, match=r"python -m course_lib\.experiments 07\.robust"):
        experiments.load("07.robust")
    stop.clear()
    command.main([])
    assert ran == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
    assert len(experiments.load("07.robust").pieces) == 4


def test_again_computes_all_and_keeps_the_old_until_then(course):
    ran, stop = course
    command.main([])
    stop.append((0, 0.2))
    with pytest.raises(KeyboardInterrupt):
        command.main(["--again"])
    assert len(experiments.load("07.robust").pieces) == 4
    stop.clear()
    command.main([])
    assert ran[4:] == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]


def test_pieces_of_another_version_are_computed_again(course):
    command.main([])
    path = command.RESULTS / "07.robust.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["versions"]["jax"], "0.0.1"))
    command.main([])
    assert len(course[0]) == 8


def test_a_result_of_other_pieces_is_refused(course, monkeypatch):
    command.main([])
    monkeypatch.setattr(experiments, "_unit", lambda unit: {"robust": Experiment(lambda **_: {}, PIECES[:3])})
    with pytest.raises(ValueError, match="other pieces"):
        experiments.load("07.robust")


def test_one_piece_is_run_again_beside_the_stored(course):
    command.main([])
    assert experiments.rerun("07.robust", seed=1, rate=0.1) == ({"loss": 1.1}, {"loss": 1.1})
    with pytest.raises(LookupError, match="fits 2 pieces"):
        experiments.rerun("07.robust", seed=1)
    with pytest.raises(LookupError, match="no piece"):
        experiments.load("07.robust").where(seed=7)


def test_nan_is_not_stored(course, monkeypatch):
    monkeypatch.setattr(
        experiments, "_unit", lambda unit: {"robust": Experiment(lambda **_: {"a": float("nan")}, PIECES)}
    )
    with pytest.raises(ValueError, match="not JSON"):
        command.main([])


def test_what_is_committed_fits_the_code():
    """Every experiment has its result, of the pieces named there, and no result is of a lost one."""
    assert {path.stem for path in experiments.RESULTS.glob("*.json")} == set(experiments.names())
    for name in experiments.names():
        assert experiments.load(name).pieces, name


def test_another_name_is_refused():
    with pytest.raises(LookupError, match=r"no experiment '99\.nothing'"):
        experiments.experiment("99.nothing")
