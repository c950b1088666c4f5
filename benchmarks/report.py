"""Rows of results: as a table, as JSON, as one plot."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.timing import Stats
from course_lib import plots

PACKAGES = ["jax", "jaxlib", "flax", "optax", "matfree", "numpy", "torch", "pytorch_optimizer"]
PACKAGES += ["curvlinops-for-pytorch", "nngeometry", "backpack-for-pytorch", "pyhessian"]


@dataclass(frozen=True)
class Goal:
    """What issue 3 asks for, and whether this run has it."""

    text: str
    met: bool


@dataclass(frozen=True)
class Row:
    """One measured thing. theory, flops and peers are in the same unit as value; None where there is none."""

    part: str
    case: str
    name: str
    value: Stats
    unit: str
    theory: float | None = None
    flops: float | None = None
    peers: dict[str, Stats] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()


def below_peers(value: Stats, peers: dict[str, Stats]) -> list[Goal]:
    return [Goal(f"< {name}", value.median < peer.median) for name, peer in peers.items()]


def at_most(value: float, limit: float, text: str | None = None) -> Goal:
    return Goal(text or f"≤ {limit:g}", value <= limit)


# --- table ---


def table(rows: Iterable[Row]) -> str:
    """One block a part and case; medians with quartiles in brackets."""
    lines: list[str] = []
    last = None
    for row in rows:
        if (row.part, row.case, row.unit) != last:
            last = (row.part, row.case, row.unit)
            lines += ["", f"{row.part} · {row.case} · {row.unit}", HEAD, "-" * len(HEAD)]
        lines.append(line(row))
    return "\n".join(lines)


HEAD = f"{'':34}{'here':>24}{'theory':>8}{'FLOPs':>8}  peers · goals"


def line(row: Row) -> str:
    numbers = "".join(f"{'' if n is None else f'{n:.2f}':>8}" for n in (row.theory, row.flops))
    peers = [f"{name} {short(peer.median)}" for name, peer in row.peers.items()]
    goals = [f"{goal.text} {'met' if goal.met else 'MISSED'}" for goal in row.goals]
    return f"{row.name:34}{spread(row.value):>24}{numbers}  {' · '.join(peers + goals)}".rstrip()


def short(x: float) -> str:
    return f"{x:.3g}"


def spread(value: Stats) -> str:
    if value.lower == value.upper:
        return short(value.median)
    return f"{short(value.median)} [{short(value.lower)}, {short(value.upper)}]"


# --- JSON ---


def document(rows: Iterable[Row], seconds: float, quick: bool) -> dict[str, Any]:
    """All that one needs to read the numbers a year later."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seconds": round(seconds, 1),
        "quick": quick,
        "versions": versions(),
        "machine": {
            "devices": [device.device_kind for device in jax.devices()],
            "backend": jax.default_backend(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "rows": [asdict(row) | {"value": stats_dict(row.value), "peers": peers_dict(row)} for row in rows],
    }


def stats_dict(value: Stats) -> dict[str, float]:
    return value._asdict()


def peers_dict(row: Row) -> dict[str, dict[str, float]]:
    return {name: stats_dict(peer) for name, peer in row.peers.items()}


def commit() -> str:
    """The commit, with + where files differ from it; "unknown" outside a checkout."""
    run = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(run, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def versions() -> dict[str, str | None]:
    """None where a package is not installed: its column is absent then."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def save(rows: list[Row], out: Path, seconds: float, quick: bool) -> None:
    """OUT/benchmarks.json, and OUT/benchmarks.png where steps were measured."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document(rows, seconds, quick), indent=1, ensure_ascii=False)
    (out / "benchmarks.json").write_text(text + "\n", encoding="utf-8")
    if any(row.part == "steps" for row in rows):
        fig = plot(rows)
        fig.savefig(out / "benchmarks.png", dpi=2 * fig.dpi)
        plt.close(fig)


# --- plot ---


def plot(rows: Iterable[Row]) -> Figure:
    """A panel for each network: what a step costs in SGD steps, measured, counted and as the papers have it."""
    plots.use_style()
    steps = [row for row in rows if row.part == "steps" and row.unit == "SGD steps"]
    cases = list(dict.fromkeys(row.case for row in steps))
    height = 1.2 + 0.36 * max(sum(row.case == case for row in steps) for case in cases)
    fig, axes = plt.subplots(1, len(cases), figsize=(5 + 2.8 * len(cases), height), sharey=True, squeeze=False)
    for ax, case in zip(axes[0], cases, strict=True):
        panel(ax, [row for row in steps if row.case == case])
        ax.set(title=case, xlabel="cost, SGD steps")
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def panel(ax: Any, rows: list[Row]) -> None:
    """Ours on each algorithm's line, what it is compared with a little above and below."""
    values, color = [row.value for row in rows], plots.OKABE_ITO
    bars = [[v.median - v.lower for v in values], [v.upper - v.median for v in values]]
    x = [v.median for v in values]
    ax.errorbar(x, range(len(rows)), xerr=bars, fmt="o", color=color["blue"], label="here, with quartiles")
    series = {
        "FLOPs compiled": ("|", "black", -0.25, [row.flops for row in rows]),
        "paper": ("x", "vermillion", -0.25, [row.theory for row in rows]),
    }
    peers = dict.fromkeys(name for row in rows for name in row.peers)
    for name, mark, hue in zip(peers, "s^Dv", ("green", "purple", "orange", "sky"), strict=False):
        series[name] = (mark, hue, 0.25, [row.peers[name].median if name in row.peers else None for row in rows])
    for label, (mark, hue, lift, xs) in series.items():
        points = [(x, y + lift) for y, x in enumerate(xs) if x]
        if points:
            ax.plot(*zip(*points, strict=True), mark, color=color[hue], linestyle="none", label=label, markersize=5)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.set(xscale="log")
    ticks = [t for t in (1, 2, 3, 5, 10, 30, 100) if t <= 1.2 * max(x)]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
