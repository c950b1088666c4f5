"""`python -m course_lib.experiments [NN.name ...]`: compute what is missing of these experiments, or of all.

Each piece is kept in .cache/experiments as soon as it is there, so an interrupted run goes on. A piece is known by its
keywords alone: after a change of the code that computes it, `--again` starts anew.
"""

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from course_lib.experiments import RESULTS, Experiment, experiment, names, plain, write

PARTS = Path(".cache/experiments")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m course_lib.experiments", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NN.name", help="all, where none is given")
    parser.add_argument("--again", action="store_true", help="compute every piece, whatever is stored")
    chosen = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)  # as in the lectures
    for name in chosen.names or names():
        if chosen.again:
            write(part(name), record(name, []))
        compute(name, experiment(name))


def part(name: str) -> Path:
    return PARTS / f"{name}.json"


def known(name: str) -> list[dict[str, Any]]:
    """The pieces that an earlier run left, in its part where it was stopped; none of another version or device."""
    path = next((path for path in (part(name), RESULTS / f"{name}.json") if path.exists()), None)
    if path is None:
        return []
    old, now = json.loads(path.read_text()), record(name, [])
    if (old["versions"], old["device"]) == (now["versions"], now["device"]):
        return old["pieces"]
    print(f"{name}: stored with {old['versions']} on {old['device']}, so all is computed again", flush=True)
    return []


def compute(name: str, chosen: Experiment) -> None:
    """Every piece once; the result replaces the stored one only when all are there."""
    old, pieces = known(name), plain(chosen.pieces)
    done = [found for found in old if found["with"] in pieces]
    for piece in pieces:
        if piece not in [found["with"] for found in done]:
            done.append(timed(chosen, piece))
            write(part(name), record(name, done))
            print(f"{name}: {len(done)} of {len(pieces)} pieces, {done[-1]['seconds']:.1f} s", flush=True)
    done.sort(key=lambda found: pieces.index(found["with"]))
    if done != old or part(name).exists():
        write(RESULTS / f"{name}.json", record(name, done))
    part(name).unlink(missing_ok=True)
    print(f"{name}: all {len(pieces)} pieces are there")


def timed(chosen: Experiment, piece: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    gave = plain(chosen.run(**piece))
    return {"with": piece, "gave": gave, "seconds": round(time.perf_counter() - start, 2)}


def record(name: str, pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The result with what made it."""
    device = jax.devices()[0]
    return {
        "name": name,
        "command": f"python -m course_lib.experiments {name}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("jax", "jaxlib", "numpy", "optax", "flax")},
        "device": device.platform if device.platform == "cpu" else device.device_kind,
        "pieces": pieces,
    }


if __name__ == "__main__":
    main()
