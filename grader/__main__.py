"""The instructor's command, `python -m grader grade`, and the student's, `python -m grader precheck`."""

import argparse
import os
import sys
from pathlib import Path

from grader import precheck, sandbox, seed, submissions, units
from grader.sandbox import Limits, Sandbox, SandboxError

WRONG_USAGE = (units.UnitError, submissions.SubmissionsError, seed.SeedError)


def main(words: list[str] | None = None) -> int:
    """0: everyone has a row. 1: the grader itself failed. 2: wrong usage. 130: interrupted."""
    options = parser().parse_args(words)
    try:
        return options.run(options)
    except WRONG_USAGE as error:
        print(f"grader: {error}", file=sys.stderr)
        return 2
    except (submissions.GraderError, SandboxError, OSError) as error:
        print(f"grader: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ngrader: interrupted. What is graded is kept; the same command goes on from there.", file=sys.stderr)
        return 130


def grade(options: argparse.Namespace) -> int:
    from grader import report  # a student's environment has not all that this needs
    from grader.grade import Rules, grade_class, statuses

    unit = units.load(options.unit)
    found = submissions.find(options.submissions, options.lms, unit.name, unit.recognise)
    secret = seed.of_unit(seed.of_class(options.out, options.seed), unit.name)
    if not options.unsafe:
        sandbox.check(Sandbox())
    rules = Rules(options.unit, secret, limits(options.timeout), options.unsafe)
    records = grade_class(found, rules, options.out, options.jobs, options.scheduler)
    report.publish(options.out, unit.name, found, records, options.lms)
    counts = ", ".join(f"{number} {status}" for status, number in statuses(records).items())
    print(f"{unit.name}: {counts}. Open {options.out}/report.html; points by hand go into {options.out}/{report.HAND}.")
    return 0


def check(options: argparse.Namespace) -> int:
    print(precheck.report(options.notebook, limits(options.timeout)))
    return 0


def limits(timeout: int) -> Limits:
    return Limits(cell=timeout, total=5 * timeout)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m grader", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_grade(commands.add_parser("grade", help="grade a class's submissions of one unit"))
    _add_precheck(commands.add_parser("precheck", help="run one notebook as the grader would, without hidden tests"))
    return top


def _add_grade(command: argparse.ArgumentParser) -> None:
    systems = [name for name in submissions.LAYOUTS if name]
    command.add_argument("unit", help="its number, such as 01")
    command.add_argument(
        "submissions", type=Path, help="a folder with a folder for each student, or a zip or tar of it"
    )
    command.add_argument(
        "--out", type=Path, required=True, help="where grades, feedback and the class seed go; private"
    )
    command.add_argument(
        "--jobs", type=_positive, default=os.cpu_count(), help="notebooks at a time (default: all cores)"
    )
    command.add_argument("--scheduler", default="", help="the address of a Dask scheduler: grade on its workers")
    command.add_argument("--lms", choices=systems, default="", help="SUBMISSIONS is this system's download")
    command.add_argument("--seed", default="", help="the class seed, on first use; otherwise one is drawn")
    command.add_argument("--unsafe", action="store_true", help="no sandbox: only for code you would run anyway")
    _add_timeout(command)
    command.set_defaults(run=grade)


def _add_precheck(command: argparse.ArgumentParser) -> None:
    command.add_argument("notebook", type=Path)
    _add_timeout(command)
    command.set_defaults(run=check)


def _add_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument("--timeout", type=_positive, default=60, help="seconds a cell; a notebook has five times that")


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is not positive")
    return number


if __name__ == "__main__":
    sys.exit(main())
