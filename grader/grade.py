"""Grade one submission, and a class: the same function here in a pool and on a Dask cluster.

A graded submission is a record, a dict of plain data in OUT/records, written whole or not at all. A record that is
there with the fingerprint of the same notebook, unit, seed and limits is not made again: that is how an interrupted
class goes on, and how a changed submission can never keep its old grade.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import platformdirs
from nbformat.v4 import new_code_cell
from tqdm import tqdm

from course_lib import checks
from grader import sandbox, units
from grader.judge import exercise_name, verdict
from grader.sandbox import Limits, Sandbox
from grader.submissions import GraderError, Submission
from grader.units import Assembled, Cell, Unit

Record = dict[str, Any]

REFERENCE_LIMITS = Limits(cell=300, total=900)  # our own solution, which has a whole compilation cache to fill


@dataclass(frozen=True)
class Rules:
    """What is the same for the whole class. class_seed is the seed of this unit, which the sandbox may see."""

    unit: str
    class_seed: str
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False

    def fingerprint(self, submission: Submission) -> str:
        """Of everything that the submission's grade rests on."""
        parts = [asdict(submission), asdict(self), units.load(self.unit).fingerprint]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# ---- one submission ----


def grade(submission: Submission, rules: Rules) -> Record:
    """The submission's record. It ends in a status and a reason, whatever the notebook does."""
    unit = units.load(rules.unit)
    blank = {"student": submission.student, "unit": unit.name, "fingerprint": rules.fingerprint(submission)}
    if submission.notebook is None:
        status = "missing" if submission.missing else "failed"
        nothing = {"seconds": 0.0, "costs": {}, "failed_cell": None, "notes": [], "cells": []}
        wrong = "not handed in" if submission.missing else submission.problem
        questions = [_question(q, wrong) for q in unit.questions]
        return blank | nothing | {"status": status, "reason": submission.problem, "questions": questions}
    assembled = unit.assemble(submission.notebook)
    return blank | _graded(unit, assembled, rules, list(submission.notes))


def _graded(unit: Unit, assembled: Assembled, rules: Rules, notes: list[str]) -> Record:
    box = Sandbox(rules.limits, rules.class_seed, None if rules.unsafe else warm_cache(rules), unsafe=rules.unsafe)
    code = [cell for cell in assembled.cells if cell.kind == "code"]
    result = sandbox.run([cell.source for cell in code], box)
    shown = {id(cell): result.outputs.get(index, []) for index, cell in enumerate(code)}
    return {
        "status": "failed" if result.failure else "graded",
        "reason": _reason(result, code),
        "seconds": round(result.seconds, 2),
        "costs": {name: round(seconds, 3) for name, seconds in result.costs.items()},
        "failed_cell": result.failed_cell,
        "questions": judged(unit, code, result, rules.class_seed),
        "notes": notes + assembled.notes,
        "cells": [_shown(cell, shown.get(id(cell), [])) for cell in assembled.cells],
    }


def _reason(result: sandbox.Run, code: list[Cell]) -> str:
    if not result.failure:
        return ""
    known = result.failed_cell is not None and 0 <= result.failed_cell < len(code)
    where = f"code cell {result.failed_cell + 1}, {_first_line(code[result.failed_cell])}" if known else "before a cell"  # type: ignore[operator,index]
    return f"{where}: {result.failure}; what stands below was not run"


def _first_line(cell: Cell) -> str:
    return repr((cell.source.strip().splitlines() or [""])[0][:60])


def judged(unit: Unit, code: list[Cell], result: sandbox.Run, class_seed: str) -> list[dict]:
    """The points of every question; those that a person gives are open."""
    return [_open(q) if q.hand else _judged(q, code, result, class_seed) for q in unit.questions]


def _judged(question: units.Question, code: list[Cell], result: sandbox.Run, class_seed: str) -> dict:
    index = next(i for i, cell in enumerate(code) if cell.grade_id == question.grade_id)
    if index not in result.outputs:
        return _question(question, "not run: the notebook stopped before")
    cell = new_code_cell(code[index].source)
    cell.outputs = result.outputs[index]
    wrong = verdict(cell, class_seed)
    return _question(question, wrong, named=wrong in checks.exercise(exercise_name(cell)).mistakes)


def _question(question: units.Question, wrong: str, named: bool = False) -> dict:
    """named: `wrong` is a mistake of the bank."""
    points = question.points * (not wrong)
    return _open(question) | {"points": None if question.hand else points, "wrong": wrong, "named": named}


def _open(question: units.Question) -> dict:
    """A question that nobody has given points for yet."""
    about = {"name": question.name, "hand": question.hand, "max": question.points}
    return about | {"points": None, "wrong": "", "named": False}


def _shown(cell: Cell, outputs: list[dict]) -> dict:
    """The cell as feedback shows it: a probe's values are the grader's business, and long."""
    kept = [output for output in outputs if checks.PROBE_MIME not in output.get("data", {})]
    return {"kind": cell.kind, "source": cell.source, "grade_id": cell.grade_id, "outputs": kept}


# ---- the trusted run of the solution ----

_cache_lock = threading.Lock()


def warm_cache(rules: Rules) -> Path:
    """A compilation cache that our own solution filled in the sandbox, at the path where students' runs read it.

    It is made once, and kept where only this user writes: a cache holds code. GraderError where the solution does not
    get full marks itself: then no grade would be worth anything.
    """
    unit = units.load(rules.unit)
    key = hashlib.sha256(f"{jax.__version__} {unit.fingerprint} {rules.class_seed}".encode()).hexdigest()[:16]
    cache = platformdirs.user_cache_path("beyond-the-gradient") / "grader" / f"{unit.name}-{key}"
    jax.config.update("jax_compilation_cache_dir", str(cache / "jax"))  # the judge compiles the same references
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    with _cache_lock:
        if not (cache / "complete").exists():
            cache.mkdir(parents=True, exist_ok=True)
            _fill(cache, unit, rules)
            (cache / "complete").touch()
    return cache


def _fill(cache: Path, unit: Unit, rules: Rules) -> None:
    code = [Cell("code", c.source, units.grade_id(c)) for c in unit.solution.cells if c.cell_type == "code"]
    box = Sandbox(REFERENCE_LIMITS, rules.class_seed, cache, trusted=True)
    result = sandbox.run([cell.source for cell in code], box)
    wrong = [f"{q['name']}: {q['wrong']}" for q in judged(unit, code, result, rules.class_seed) if q["wrong"]]
    if result.failure or wrong:
        raise GraderError(f"the solution of {unit.name} does not get full marks: {result.failure} {'; '.join(wrong)}")


# ---- a class ----


def grade_class(submissions: list[Submission], rules: Rules, out: Path, jobs: int, scheduler: str) -> list[Record]:
    """Every submission's record, those of an earlier run included."""
    todo = [s for s in submissions if _stored(out, s, rules) is None]
    done = len(submissions) - len(todo)
    ready = _on_cluster(todo, rules, scheduler) if scheduler else _in_pool(todo, rules, jobs)
    failures = 0
    with tqdm(total=len(submissions), initial=done, unit="notebook") as bar:
        for record in ready:
            _store(out, record)
            failures += record["status"] == "failed"
            bar.set_postfix(failed=failures)
            bar.update()
    stored = (_stored(out, submission, rules) for submission in submissions)
    return [record for record in stored if record is not None]


def _in_pool(todo: list[Submission], rules: Rules, jobs: int) -> Iterator[Record]:
    """Threads are enough: they wait for sandboxes, which are processes of their own."""
    if any(submission.notebook for submission in todo) and not rules.unsafe:
        warm_cache(rules)
    pool = ThreadPoolExecutor(jobs)
    futures = [pool.submit(grade, submission, rules) for submission in todo]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        sandbox.stop_all()
        pool.shutdown()


def _on_cluster(todo: list[Submission], rules: Rules, scheduler: str) -> Iterator[Record]:
    """The same function on a Dask cluster, which gives a dead worker's submissions to another."""
    from distributed import Client
    from distributed import as_completed as cluster_as_completed

    with Client(scheduler) as client:
        futures = client.map(grade, todo, rules=rules, pure=False, retries=2)
        for _, record in cluster_as_completed(futures, with_results=True):
            yield record


def _path(out: Path, student: str) -> Path:
    """By the hash of the name, so that no name is a path and no two differ by case alone."""
    return out / "records" / f"{hashlib.sha256(student.encode()).hexdigest()[:32]}.json"


def _stored(out: Path, submission: Submission, rules: Rules) -> Record | None:
    try:
        record = json.loads(_path(out, submission.student).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if record["fingerprint"] == rules.fingerprint(submission) else None


def _store(out: Path, record: Record) -> None:
    write(_path(out, record["student"]), json.dumps(record))


def write(path: Path, content: str) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)


def statuses(records: Iterable[Record]) -> dict[str, int]:
    """How many records have each status."""
    found = [record["status"] for record in records]
    return {status: found.count(status) for status in ("graded", "failed", "missing")}
