"""Runs that take longer than a lecture may: computed once by `make experiments`, loaded by the lectures.

course_lib/experiments/unit_NN.py holds EXPERIMENTS = {"name": Experiment(...)}; `python -m course_lib.experiments
NN.name` computes its pieces one after the other and goes on where it was stopped; the numbers, with seeds, versions
and the command that made them, are results/NN.name.json. A lecture says that it loads them, and runs a piece again.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from course_lib.files import whole

RESULTS = Path(__file__).parent / "results"
PREFIX = "unit_"


@dataclass(frozen=True)
class Experiment:
    """`run(**piece)` gives the numbers (a dict that JSON can hold) of each of `pieces`; seeds stand in the pieces."""

    run: Callable[..., dict[str, Any]]
    pieces: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """What `python -m course_lib.experiments` wrote: pieces[i] = {"with": keywords, "gave": numbers, "seconds": s}."""

    name: str
    command: str
    date: str
    versions: dict[str, str]
    device: str
    pieces: tuple[dict[str, Any], ...]

    @property
    def seconds(self) -> float:
        """Of all pieces together, on `device`."""
        return math.fsum(piece["seconds"] for piece in self.pieces)

    def where(self, **keywords: Any) -> list[dict[str, Any]]:
        """The numbers of the pieces that were run with these keywords, in order. LookupError where there is none."""
        found = [p["gave"] for p in self.pieces if keywords.items() <= p["with"].items()]
        if not found:
            raise LookupError(
                f"no piece of {self.name} was run with {keywords}; the first was with {self.pieces[0]['with']}"
            )
        return found


def names() -> list[str]:
    """Every experiment, as NN.name."""
    units = sorted(path.stem.removeprefix(PREFIX) for path in Path(__file__).parent.glob(f"{PREFIX}[0-9][0-9].py"))
    return [f"{unit}.{name}" for unit in units for name in _unit(unit)]


def experiment(name: str) -> Experiment:
    """The experiment called NN.name. LookupError, with the names that there are, for any other."""
    if name not in names():
        raise LookupError(f"there is no experiment {name!r}; there are: {', '.join(names())}")
    unit, _, short = name.partition(".")
    return _unit(unit)[short]


def load(name: str) -> Result:
    """The stored numbers. FileNotFoundError with the command that makes them; ValueError where its pieces changed."""
    path, pieces = RESULTS / f"{name}.json", experiment(name).pieces
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not there; `python -m course_lib.experiments {name}` computes it")
    stored = json.loads(path.read_text())
    result = Result(**stored | {"pieces": tuple(stored["pieces"])})
    if [p["with"] for p in result.pieces] != plain(pieces):
        raise ValueError(f"{path.name} has other pieces than the code: `python -m course_lib.experiments {name}` again")
    return result


def rerun(name: str, **keywords: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the numbers of one piece computed now, those stored); the keywords name the piece. LookupError otherwise."""
    found = [p for p in load(name).pieces if keywords.items() <= p["with"].items()]
    if len(found) != 1:
        raise LookupError(f"{keywords} fits {len(found)} pieces of {name}: name one")
    return plain(experiment(name).run(**found[0]["with"])), found[0]["gave"]


def plain(numbers: Any) -> Any:
    """As JSON gives it back. ValueError for nan and infinity, which JSON has not: say None and why."""
    return json.loads(json.dumps(numbers, allow_nan=False))


def rounded(values: Any, digits: int = 5) -> Any:
    """Nested lists of Python numbers with so many digits; None for what is not finite."""
    values = np.asarray(values, float)
    if values.ndim:
        return [rounded(v, digits) for v in values]
    return float(f"{values:.{digits}g}") if np.isfinite(values) else None


def write(path: Path, data: Any) -> None:
    """As JSON, in a file that is whole and that all may read."""
    with whole(path) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(json.dumps(data, indent=1).encode() + b"\n")


def _unit(unit: str) -> dict[str, Experiment]:
    return import_module(f"{__name__}.{PREFIX}{unit}").EXPERIMENTS
