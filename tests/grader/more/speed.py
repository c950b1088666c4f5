"""`python tests/grader/more/speed.py 20`: the grader beside stock `nbgrader autograde`, on the same honest submissions.

Both grade the same notebooks in one run; ours with its sandbox, from an empty cache, so the trusted run of the solution
is in its time. Prints wall and CPU seconds (of the whole machine, so let it be quiet), the rate, whether the scores are
the same, and where the time of a notebook goes. Ends with 1 where the rate is not twice nbgrader's or a score differs.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from notebooks_of_students import NAME, RIGHT, ROOT, grade_id, save, solved

STOCK = """
exec(open({config!r}).read())
c.Autograde.autograde_preprocessors = [
    "nbgrader.preprocessors.Execute" if step == "grader.autograde.SandboxExecute" else step
    for step in c.Autograde.autograde_preprocessors
]
"""
SCORES = """
import json
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    print(json.dumps({s.student.id: s.score for s in book.assignment_submissions(NAME)}))
"""
OTHER_WAYS = {
    "answer-nll_normal": RIGHT,
    "answer-score": "def score(log_prob, theta, x, y):\n"
    "    return jnp.stack([jax.grad(log_prob)(theta, a, b) for a, b in zip(x, y)])",
    "answer-output_fisher": "def output_fisher(z):\n"
    "    p = jax.nn.softmax(z)\n    return jnp.diag(p) - jnp.outer(p, p)",
}


def submissions(folder, number):
    """Honest ones: each answers some of the questions in another way than ours."""
    for index in range(number):
        book = solved()
        chosen = [name for bit, name in enumerate(OTHER_WAYS) if index >> bit & 1]
        for cell in book.cells:
            cell.source = OTHER_WAYS[grade_id(cell)] if grade_id(cell) in chosen else cell.source
        save(book, folder / f"s{index:03d}" / NAME / f"{NAME}.ipynb")


def timed(words, folder, environment):
    """(wall seconds, CPU seconds of the machine) of a command; a sandbox's CPU is in no parent's account."""
    before, start = psutil.cpu_times(), time.monotonic()
    run = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr[-3000:])
    after = psutil.cpu_times()
    return time.monotonic() - start, after.user + after.system - before.user - before.system


def course(top):
    for kind in ("solutions", "exercises"):
        shutil.copytree(ROOT / kind / NAME, top / kind / NAME)
    (top / "grader").symlink_to(ROOT / "grader")
    (top / "nbgrader_config.py").write_text(STOCK.format(config=str(ROOT / "nbgrader_config.py")))


def with_nbgrader(top, environment):
    """(wall, CPU, scores). JAX's own settings are those of a terminal."""
    (top / "class.json").write_text(json.dumps({"seed": "speed"}))
    unit_seed = f"from grader import seed; print(seed.of_unit('speed', {NAME!r}))"
    secret = subprocess.check_output([sys.executable, "-c", unit_seed], cwd=ROOT, text=True).strip()
    timed(["-m", "nbgrader", "generate_assignment", NAME, "--create", "--force"], top, environment)
    wall, cpu = timed(["-m", "nbgrader", "autograde", NAME], top, environment | {"COURSE_SEED": secret})
    scores = subprocess.check_output(
        [sys.executable, "-c", SCORES.replace("NAME", repr(NAME))], cwd=top, env=environment, text=True
    )
    return wall, cpu, json.loads(scores)


def with_ours(top, environment):
    words = ["-m", "grader", "grade", "01", top / "submitted", "--out", top / "out", "--seed", "speed"]
    wall, cpu = timed(list(map(str, words)), ROOT, environment | {"XDG_CACHE_HOME": str(top / "cache")})
    with (top / "out/grades.csv").open() as file:
        return wall, cpu, {row["student"]: float(row["score"]) for row in csv.DictReader(file)}


def costs(out):
    records = [json.loads(path.read_text()) for path in (out / "records").glob("*.json")]
    return {part: sum(r["costs"][part] for r in records) / len(records) for part in records[0]["costs"]}


def main(number):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        course(top)
        submissions(top / "submitted", number)
        ours, theirs = with_ours(top, environment), with_nbgrader(top, environment)
        for name, (wall, cpu, _) in {"grader, sandboxed": ours, "nbgrader autograde": theirs}.items():
            print(f"{name:20} {wall:6.1f} s wall, {cpu:6.1f} s CPU, {60 * number / wall:5.1f} notebooks a minute")
        print("a notebook here:", ", ".join(f"{part} {seconds:.2f} s" for part, seconds in costs(top / "out").items()))
    same = ours[2] == theirs[2] and set(ours[2].values()) == {17.0}
    print(f"the scores are {'the same' if same else 'NOT the same'}; {theirs[0] / ours[0]:.2f} times nbgrader's rate")
    return not (same and theirs[0] / ours[0] >= 2)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
