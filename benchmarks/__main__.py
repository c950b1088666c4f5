"""python -m benchmarks [--quick] [--out DIR] [--only PART ...]: a table, a JSON file and a plot."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import cases, growth, peers, report
from benchmarks.cases import Case
from benchmarks.products import fisher_rows, lanczos_rows, product_rows
from benchmarks.profile import profile_rows
from benchmarks.report import Row
from benchmarks.steps import fraction_rows, step_rows
from benchmarks.sweeps import sweep_rows
from benchmarks.timing import Timer
from course_lib.networks import MLP

SMALL_MLP = Case(MLP((22, 18), 10), (40,), 1000)  # P = 1,506
Parts = dict[str, Callable[[], list[Row]]]


def full() -> Parts:
    """Every part as issue 3 has it."""
    timer, long = Timer(), Timer(turn=0.5)
    found: Parts = {f"steps:{name}": partial(step_rows, name, case, timer) for name, case in cases.CASES.items()}
    for name in ("MLP 64-512-512-10", "ResNet-8"):
        found[f"products:{name}"] = partial(product_rows, name, cases.CASES[name], timer)
        found[f"profile:{name}"] = partial(profile_rows, name, cases.CASES[name], timer)
    found["probe_fraction"] = partial(fraction_rows, "MLP 64-512-512-10", cases.MLP_512, timer, draws=200)
    found["fisher"] = partial(fisher_rows, "MLP 40-22-18-10, n = 1000", SMALL_MLP, long)
    found["lanczos:small"] = partial(lanczos_rows, "MLP 40-22-18-10, n = 1000", SMALL_MLP, timer)
    found["lanczos:large"] = partial(lanczos_rows, "MLP 64-256-256-10, n = 256", cases.MLP_256, timer)
    found["sweep"] = partial(sweep_rows, "MLP 40-100-100-10", Timer(rounds=5, turn=0.0))
    found["growth"] = partial(growth.growth_rows, Timer(rounds=5, turn=0.1), growth.GRIDS)
    return found


def quick() -> Parts:
    """The same code on small networks and few rounds: whether it runs, not what it costs."""
    timer, small = Timer(rounds=3, turn=0.01), Case(MLP((6,), 10), (4,), 20)
    found: Parts = {f"steps:{name}": partial(step_rows, name, case, timer) for name, case in cases.QUICK.items()}
    name, case = "MLP 64-32-10", cases.QUICK["MLP 64-32-10"]
    found["products"] = partial(product_rows, name, case, timer)
    found["profile"] = partial(profile_rows, name, case, timer)
    found["probe_fraction"] = partial(fraction_rows, name, case, timer, draws=20)
    found["fisher"] = partial(fisher_rows, "MLP 4-6-10", small, timer)
    found["lanczos"] = partial(lanczos_rows, "MLP 4-6-10", small, timer, order=5)
    found["sweep"] = partial(sweep_rows, "MLP 40-100-100-10", timer, 3, (0.1, 0.2), (0, 1), looped=2)
    found["growth"] = partial(growth.growth_rows, timer, growth.QUICK)
    return found


def chosen(parts: Parts, only: list[str]) -> Parts:
    """The parts whose name is in `only` or begins with one of it and a colon; all where nothing is named."""
    found = {n: f for n, f in parts.items() if not only or n in only or n.split(":")[0] in only}
    if not found:
        raise SystemExit(f"benchmarks: no part of {only}; there are {', '.join(parts)}")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=report.__doc__)
    parser.add_argument("--quick", action="store_true", help="small networks, few rounds: whether it runs")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="where JSON and plot go")
    parser.add_argument("--only", nargs="*", default=[], metavar="PART", help="as steps, steps:ResNet-8, sweep")
    return parser.parse_args()


def main() -> None:
    words, start = arguments(), time.perf_counter()
    if not peers.AVAILABLE:
        print("torch and its packages are not here (make test-peers sets them up): their columns are absent.")
    rows: list[Row] = []
    for part in chosen(quick() if words.quick else full(), words.only).values():
        new = part()
        print(report.table(new), flush=True)
        rows += new
    seconds = time.perf_counter() - start
    report.save(rows, words.out, seconds, words.quick)
    missed = [f"{row.part} · {row.case} · {row.name}: {g.text}" for row in rows for g in row.goals if not g.met]
    print(
        f"\n{seconds:.0f} s; {words.out}/benchmarks.json", *(["", "Goals missed:"] + missed if missed else []), sep="\n"
    )


if __name__ == "__main__":
    main()
