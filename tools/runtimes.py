"""Seconds and peak memory of every notebook, into docs/RUNS.csv: `python -m tools.runtimes [NAME ...]`.

Each is run in a kernel of its own, from a cold start and without a compilation cache; exercises by their solutions.
The peak is what the kernel's process had resident at most.
"""

import csv
import datetime
import os
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nbformat

from tools.notebooks import ROOT, execute

RUNS = ROOT / "docs/RUNS.csv"
FIELDS = ("notebook", "seconds", "cpu_seconds", "peak_mb", "date")


def measured() -> list[Path]:
    """The notebooks that are run: lectures and solutions."""
    return sorted((ROOT / "lectures").glob("*.ipynb")) + sorted((ROOT / "solutions").glob("*/*.ipynb"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def measure(path: Path) -> tuple[int, int, int]:
    """Seconds, CPU seconds and peak in MB. In its own process: ru_maxrss is the largest of all children ever."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, path).result()


def _measure(path: Path) -> tuple[int, int, int]:
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.monotonic()
    execute(nbformat.read(path, as_version=4), path.name, path.parent)
    seconds = time.monotonic() - start
    kernel = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = kernel.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return round(seconds), round(kernel.ru_utime + kernel.ru_stime), round(peak)


def write(rows: list[dict[str, str]]) -> None:
    with RUNS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["notebook"]))


def main() -> int:
    """Measure the notebooks whose path holds one of the names given; none: all. Rows of notebooks that are gone go."""
    rows = {row["notebook"]: row for row in csv.DictReader(RUNS.read_text(encoding="utf-8").splitlines())}
    for path in measured():
        if any(word in name(path) for word in sys.argv[1:] or [""]):
            numbers = map(str, measure(path))
            today = datetime.date.today().isoformat()
            rows[name(path)] = dict(zip(FIELDS, [name(path), *numbers, today], strict=True))
            write([row for key, row in rows.items() if (ROOT / key).is_file()])
            print(rows[name(path)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
