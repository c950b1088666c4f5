"""The student's side: run a notebook as the grader would, without the hidden tests, and say what it would trip over."""

from pathlib import Path

from course_lib import checks
from grader import sandbox, submissions, units
from grader.sandbox import Limits, Run, Sandbox
from grader.units import CHECK, HIDDEN, Cell, Unit

SLOW = 0.5  # of the time limit


def report(path: Path, limits: Limits) -> str:
    """What a student should know before handing in. SubmissionsError where the file is no notebook of a unit."""
    notebook = _read(path)
    unit = _unit(notebook, path)
    assembled = unit.assemble(notebook)
    code = [cell for cell in assembled.cells if cell.kind == "code" and not cell.grade_id.startswith(HIDDEN)]
    result = sandbox.run([cell.source for cell in code], _box(limits))
    lines = [f"{path.name}, {unit.name}", *(f"! {note}" for note in assembled.notes if "put back" in note)]
    return "\n".join([*lines, *_trouble(code, result), *_slow(result, limits), _passed(code, result)])


def _box(limits: Limits) -> Sandbox:
    """The grader's sandbox; a machine without one runs its own user's code as always."""
    try:
        sandbox.check(Sandbox())
        return Sandbox(limits)
    except sandbox.SandboxError:
        return Sandbox(limits, unsafe=True)


def _read(path: Path) -> submissions.Notebook:
    try:
        return submissions.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise submissions.SubmissionsError(f"{path}: {error}") from None


def _unit(notebook: submissions.Notebook, path: Path) -> Unit:
    """The unit that most of the notebook's cells belong to."""
    best = max(map(units.load, units.numbers()), key=lambda unit: unit.recognise(notebook))
    if not best.recognise(notebook):
        raise submissions.SubmissionsError(f"{path} has no cell of any exercise of the course")
    return best


def _trouble(code: list[Cell], result: Run) -> list[str]:
    """What ended the run, and the first cell that failed, with its error."""
    lines = (
        [f"✗ the run ended early in code cell {(result.failed_cell or 0) + 1}: {result.failure}"]
        if result.failure
        else []
    )
    for index, cell in enumerate(code):
        errors = [o for o in result.outputs.get(index, []) if o["output_type"] == "error"]
        if errors and errors[0]["ename"] not in ("NotImplementedError", "CheckFailed"):
            shown = "\n".join(f"    {line}" for line in "\n".join(errors[0]["traceback"]).splitlines())
            return [
                *lines,
                f"✗ the first cell that fails is code cell {index + 1}, {cell.grade_id or 'your own'}:",
                shown,
            ]
    return lines


def _slow(result: Run, limits: Limits) -> list[str]:
    if result.seconds < SLOW * limits.total:
        return []
    return [f"! it ran for {result.seconds:.0f} s; the grader stops a notebook after {limits.total} s"]


def _passed(code: list[Cell], result: Run) -> str:
    """How many visible checks pass, and what the others say."""
    said = {
        cell.grade_id.removeprefix(CHECK): _verdict(result.outputs.get(index))
        for index, cell in enumerate(code)
        if cell.grade_id.startswith(CHECK)
    }
    passed = [name for name, verdict in said.items() if not verdict]
    rest = [f"  {name}: {verdict}" for name, verdict in said.items() if verdict]
    return "\n".join([f"{len(passed)} of {len(said)} visible checks pass", *rest])


def _verdict(outputs: list[dict] | None) -> str:
    """'' where a check printed that it passed."""
    if outputs is None:
        return "not run"
    for output in outputs:
        if output["output_type"] == "error":
            return (
                f"{output['ename']}: {output['evalue']}"
                if output["ename"] != checks.CheckFailed.__name__
                else output["evalue"]
            )
        if output.get("text", "").startswith("…"):
            return "no answer yet"
    return ""
