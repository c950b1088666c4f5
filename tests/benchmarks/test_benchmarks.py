"""The benchmarks run, and what they write has its form. No test looks at how long anything took."""

import json
import sys

import jax
import numpy as np
import optax
import pytest

from benchmarks import __main__ as command
from benchmarks import peers, report, timing
from benchmarks.cases import CASES, Case
from benchmarks.growth import growth_rows
from benchmarks.products import beside, fisher_rows, lanczos_rows, product_rows
from benchmarks.profile import profile_rows
from benchmarks.report import Goal, Row
from benchmarks.steps import Step, adahessian_name, cycle, flops, fraction_rows, step_rows
from benchmarks.sweeps import sweep_rows
from benchmarks.timing import Timer, exactly, ratio, stats
from course_lib.curvature.products import value_grad_hvp
from course_lib.networks import MLP

CASE = Case(MLP((3,), 4), (2,), 4)
ONCE = Timer(rounds=2, turn=0.0)


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    """As in the developers' environment, so that the columns are the same everywhere."""
    monkeypatch.setattr(peers, "AVAILABLE", False)


@pytest.fixture(scope="module")
def rows():
    """One small case of each part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "AVAILABLE", False)
        return [
            *step_rows("tiny", CASE, ONCE),
            *fraction_rows("tiny", CASE, ONCE, 2, (1.0, 0.5)),
            *product_rows("tiny", CASE, ONCE),
            *fisher_rows("tiny", CASE, ONCE),
            *lanczos_rows("tiny", CASE, ONCE, order=2),
            *sweep_rows("tiny", ONCE, 2, (0.1, 0.2), (0,), looped=1),
            *growth_rows(ONCE, {"order": (1, 2)}),
            *profile_rows("tiny", CASE, ONCE),
        ]


PARTS = {"steps", "memory", "probe_fraction", "products", "fisher", "lanczos", "sweep", "growth", "profile"}


def test_every_part_has_finite_numbers_in_order(rows):
    assert {row.part for row in rows} == PARTS
    for row in rows:
        assert np.isfinite(row.value).all()
        assert row.value.lower <= row.value.median <= row.value.upper
        if row.part != "growth":  # a power may be negative
            assert row.value.lower >= 0


def test_json_says_what_ran_where_and_the_goals(rows, tmp_path):
    report.save(rows, tmp_path / "new", 1.0, quick=True)
    read = json.loads((tmp_path / "new" / "benchmarks.json").read_text())
    assert set(read) == {"when", "commit", "seconds", "quick", "versions", "machine", "rows"}
    assert read["versions"]["jax"] == jax.__version__
    assert read["machine"]["devices"]
    assert len(read["rows"]) == len(rows)
    for row in read["rows"]:
        assert set(row) == {"part", "case", "name", "value", "unit", "theory", "flops", "peers", "goals"}
        assert set(row["value"]) == {"median", "lower", "upper"}
        assert all(set(goal) == {"text", "met"} and type(goal["met"]) is bool for goal in row["goals"])
    assert (tmp_path / "new" / "benchmarks.png").stat().st_size > 10_000


def test_the_table_has_a_line_a_row_and_says_met_or_missed(rows):
    text = report.table(rows)
    for row in rows:
        assert any(line.startswith(row.name[:34]) for line in text.splitlines())
    assert " met" in text or "MISSED" in text


def test_steps_have_what_the_issue_asks_for(rows):
    steps = {row.name: row for row in rows if row.part == "steps" and row.unit == "SGD steps"}
    assert list(steps)[:6] == ["Adam", *(adahessian_name(every) for every in range(1, 6))]
    assert {"SAM", "GSAM", "K-FAC"} < set(steps)
    assert [steps[adahessian_name(every)].theory for every in range(1, 6)] == [2.0, 1.5, 1.33, 1.25, 1.2]
    assert "optax.contrib.sam" in steps["SAM"].peers
    counted = [steps[adahessian_name(every)].flops for every in range(1, 6)]
    assert counted == sorted(counted, reverse=True)  # the rarer, the cheaper, as the compiler counts


def test_flops_of_a_hessian_product_through_dense_layers_are_nearly_two_gradients():
    """Gradient and Hz over a gradient: the papers' theory has 2."""
    model, params, batch = Case(MLP((64, 64), 10), (16,), 64).make()
    v = jax.tree.map(lambda a: a * 0, params)
    both = jax.jit(lambda p, b: value_grad_hvp(model.loss, p, b, v)).lower(params, batch).compile()
    alone = jax.jit(jax.grad(model.loss)).lower(params, batch).compile()
    assert 2.5 < flops(both) / flops(alone) < 3.1


# --- the clock ---


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def program(self, seconds):
        def run():
            self.now += seconds

        return run


@pytest.mark.parametrize("turn", [0.0, 1.0, 100.0])
def test_seconds_a_call_whatever_the_turn(monkeypatch, turn):
    clock = Clock(monkeypatch)
    times = Timer(rounds=3, turn=turn).measure({"one": clock.program(1.0), "three": clock.program(3.0)})
    assert times["one"].tolist() == [1.0] * 3
    assert ratio(times, "three", "one") == exactly(3.0)


def test_ratios_are_taken_round_by_round():
    """A machine that is five times slower in the second round changes no ratio."""
    times = {"a": np.array([2.0, 10.0, 2.0]), "b": np.array([1.0, 5.0, 1.0])}
    assert ratio(times, "a", "b") == exactly(2.0)
    assert stats(times["b"]) == (1.0, 1.0, 3.0)


def test_a_cycle_is_a_mean_over_its_steps():
    assert cycle(3.0, 1.0, 1) == 3.0
    assert cycle(3.0, 1.0, 4) == 1.5


def test_goals_against_peers_are_of_the_ratio():
    times = {"here": np.array([1.0, 1.0]), "a": np.array([2.0, 2.0]), "b": np.array([1.05, 1.05])}
    row = beside("part", "case", "name", times, {"a": 0.5, "b": 0.9})
    assert [goal.met for goal in row.goals] == [True, False]
    assert report.below_peers(exactly(1.0), {"x": exactly(1.0), "y": exactly(2.0)}) == [
        Goal("< x", False),
        Goal("< y", True),
    ]


def test_a_step_goes_on_from_the_last_one():
    model, params, batch = CASE.make()
    step = Step(optax.sgd(0.5), model.loss, params, batch)
    first = jax.tree.map(np.asarray, step()[0])
    second = jax.tree.map(np.asarray, step()[0])
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, first, jax.grad(model.loss)(first, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), second, expected)  # float32
    assert step.flops > 0
    assert step.memory > 0


# --- the command ---


def test_parts_are_chosen_by_name_or_by_what_stands_before_the_colon():
    parts = dict.fromkeys(["steps:a", "steps:b", "sweep"], list)
    assert list(command.chosen(parts, [])) == list(parts)
    assert list(command.chosen(parts, ["steps"])) == ["steps:a", "steps:b"]
    assert list(command.chosen(parts, ["steps:b", "sweep"])) == ["steps:b", "sweep"]
    with pytest.raises(SystemExit, match="no part"):
        command.chosen(parts, ["sweeps"])


def test_both_sets_of_parts_measure_the_same_things():
    full, quick = (({name.split(":")[0] for name in parts()}) for parts in (command.full, command.quick))
    assert full == quick
    assert {name for name in command.full() if name.startswith("steps:")} == {f"steps:{name}" for name in CASES}


def test_the_command_prints_what_it_missed_and_writes_its_files(monkeypatch, tmp_path, capsys):
    missed = Row("sweep", "case", "name", exactly(2.0), "s", goals=(Goal("≤ 1", False),))
    monkeypatch.setattr(command, "quick", lambda: {"sweep": lambda: [missed]})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--out", str(tmp_path)])
    command.main()
    printed = capsys.readouterr().out
    assert "torch and its packages are not here" in printed
    assert "Goals missed:\nsweep · case · name: ≤ 1" in printed
    assert json.loads((tmp_path / "benchmarks.json").read_text())["quick"]
    assert not (tmp_path / "benchmarks.png").exists()
