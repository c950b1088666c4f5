"""The course as web pages, from the notebooks as they are stored: `python -m tools.site [FOLDER]` makes site/.

What Sphinx reads is put together in build/site-source: the pages of docs/, the notebooks under their own paths, and the
pages made here and in tools.claims. Nothing is executed. MathJax comes from npm, by its hash in docs/package-lock.json,
and is copied into the site, so that a page asks nothing of any other host.
"""

import argparse
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import jax
import nbformat
from nbformat import NotebookNode

from course_lib.claims import CLAIM_MIME
from tools import claims
from tools.notebooks import NEEDS_KERNEL, ROOT

STAGE = ROOT / "build/site-source"
PACKAGES = ROOT / ".cache/npm"
SOLUTIONS = "SITE_SOLUTIONS"  # in the environment: any text puts the solutions on the pages of the exercises, folded


# ---- putting the source together ----


def stage() -> None:
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", STAGE, ignore=shutil.ignore_patterns("*.csv", "*.json", "*.png", "__pycache__"))
    for path in [*claims.notebooks("lectures"), *sorted((ROOT / "exercises").glob("*/*.ipynb"))]:
        copy = STAGE / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for name, text in generated().items():
        (STAGE / name).parent.mkdir(exist_ok=True)
        (STAGE / name).write_text(text + "\n", encoding="utf-8")
    shutil.copy(package("mathjax") / "es5/tex-svg.js", STAGE / "_static")


def package(name: str) -> Path:
    """The folder of a package of docs/package-lock.json, installed by its hash."""
    lock = ROOT / "docs/package-lock.json"
    copy = PACKAGES / lock.name
    if not copy.is_file() or copy.read_bytes() != lock.read_bytes():
        PACKAGES.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "docs/package.json", PACKAGES)
        shutil.copy(lock, PACKAGES / "npm-shrinkwrap.json")
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=PACKAGES, check=True
        )
        shutil.copy(lock, copy)  # last: what was not installed whole is installed again
    return PACKAGES / "node_modules" / name


def generated() -> dict[str, str]:
    """{file: text} of the pages that nobody writes."""
    pages = {
        "claims.md": claims.page(),
        "claim_tests.md": claims.tests_page(),
        "explorables.md": explorables_page(),
        "runtimes.md": runtimes_page(),
        "map.md": map_page(),
    }
    return pages | {f"library/{module}.md": module_page(module) for module in claims.modules()}


def module_page(module: str) -> str:
    return f"# {module.removeprefix('course_lib.')}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```"


# ---- what a notebook gets on its way to a page; what is downloaded stays as it was ----


def page_of(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook with equations and claims that can be linked to, folds, and a word on what needs a kernel."""
    known = equations()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = outside_math(anchored(folded(cell.source)), lambda text: linked(text, known))
    cells = [piece for cell in notebook.cells for piece in _pieces(cell)]
    waiting = sum(NEEDS_KERNEL in str(cell.get("outputs", "")) for cell in cells)
    if waiting:
        cells.insert(1, nbformat.v4.new_markdown_cell(KERNEL_NOTE.format(waiting=waiting)))
    if os.environ.get(SOLUTIONS) and (solved := ROOT / "solutions" / name / f"{name}.ipynb").is_file():
        cells = list(_with_solutions(cells, nbformat.read(solved, 4)))
    notebook.cells = cells
    return notebook


KERNEL_NOTE = """\
:::{{note}}
Text, figures and the figures with sliders work on this page. Cells to be changed and run (here {waiting}) say *needs a
kernel*: for those, open the page on Binder or Colab (the rocket above), or download it.
:::"""


def equations() -> dict[str, str]:
    """{"1.3": "eq-1-3"}: every numbered equation of the lectures, and the target before it."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in claims.notebooks())
    return {number: "eq-" + number.replace(".", "-") for number in re.findall(r"\\\\tag\{(\d+\.\d+)\}", text)}


def anchored(text: str) -> str:
    """The text with a target before each numbered equation."""

    def with_target(block: re.Match) -> str:
        tag = re.search(r"\\tag\{(\d+)\.(\d+)\}", block[0])
        return f"\n\n(eq-{tag[1]}-{tag[2]})=\n{block[0].lstrip()}" if tag else block[0]

    return re.sub(r"\n*(?<!\\)\$\$.*?\$\$", with_target, text, flags=re.DOTALL)


def folded(text: str) -> str:
    """<details> as a fold whose title may hold mathematics."""
    fold = re.compile(r"<details><summary>(.*?)</summary>(.*?)</details>", re.DOTALL)
    return fold.sub(lambda m: f"::::{{dropdown}} {' '.join(m[1].split())}\n{m[2].strip()}\n::::\n", text)


def outside_math(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` made on what is neither mathematics nor code nor a link."""
    parts = re.split(
        r"(\$\$.*?\$\$|\$[^$]+\$|```.*?```|`[^`]+`|\[[^\]]*\]\([^)]*\)|^\(.*\)=$)", text, flags=re.DOTALL | re.MULTILINE
    )
    return "".join(part if k % 2 else change(part) for k, part in enumerate(parts))


def linked(text: str, known: dict[str, str]) -> str:
    """The text with links on the numbers of equations and on citations of places that a claim is about."""

    def to_claim(citation: re.Match) -> str:
        rows = claims.cited(citation)
        return f"[{citation[0]}](#{claims.label(rows[0])})" if rows else citation[0]

    text = claims.CITATION.sub(to_claim, text)
    return re.sub(r"\((\d+\.\d+)\)", lambda m: f"[({m[1]})](#{known[m[1]]})" if m[1] in known else m[0], text)


def led_out(text: str, repository: str) -> str:
    """A page of docs/ with its links out of that folder: to a page of the site, else to the file in the repository."""

    def lead(link: re.Match) -> str:
        return f"]({link[1]}" if (STAGE / link[1]).is_file() else f"]({repository}/{link[1]}"

    return re.sub(r"\]\(\.\./([^)#\s]+)", lead, text)


def _pieces(cell: NotebookNode) -> Iterator[NotebookNode]:
    """The cell, with each verdict of its outputs as text that leads to the claim, and a target for the way back."""
    said = [output.data[CLAIM_MIME] for output in cell.get("outputs", []) if CLAIM_MIME in output.get("data", {})]
    for data in said:
        yield nbformat.v4.new_markdown_cell(f"(cell-{data['claim'].lower()})=")
    if said:
        cell.outputs = [output for output in cell.outputs if CLAIM_MIME not in output.get("data", {})]
    yield cell
    for data in said:
        link = f"[{data['claim']}](#{claims.label(data['claim'])})"
        text = f"```{{div}} verdict\nClaim {link}: **{data['verdict']}** ({claims.plain(data['evidence'])})\n```"
        yield nbformat.v4.new_markdown_cell(text)


def _with_solutions(cells: list[NotebookNode], solved: NotebookNode) -> Iterator[NotebookNode]:
    """Each cell that a student fills in, followed by the solution in a fold."""
    answers = {_grade_id(cell): cell for cell in solved.cells}
    for cell in cells:
        yield cell
        if cell.metadata.get("nbgrader", {}).get("solution") and (answer := answers.get(_grade_id(cell))):
            text = f"```python\n{answer.source}\n```" if answer.cell_type == "code" else answer.source
            yield nbformat.v4.new_markdown_cell(f":::::{{dropdown}} Solution\n{text}\n:::::")


def _grade_id(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


# ---- docstrings: text as it is written, not reStructuredText ----


def docstring_rst(text: str) -> str:
    """A docstring of the library in reStructuredText; lines are kept where they are a table, a list or a formula."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text.strip("\n")))


ENTRY = re.compile(r"^([a-z_0-9]+(?:, [a-z_0-9]+)*): ", re.MULTILINE)


def _paragraph(text: str) -> str:
    if text.lstrip().startswith(">>>"):
        return text
    if text.startswith(" ") or re.search(r"\S {3,}\S", text):
        return "::\n\n" + "\n".join(f"   {line}" for line in text.splitlines())
    starts = [m.start() for m in ENTRY.finditer(text)]
    if not starts or starts[0] > 0:
        return _inline(text)
    entries = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    return "\n".join("* " + _inline(ENTRY.sub(r"`\1`: ", " ".join(entry.split()))) for entry in entries)


def _inline(text: str) -> str:
    """Names in backticks as code, citations as links, everything else letter by letter."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{part}`" if k % 2 else _cited(part) for k, part in enumerate(parts))


def _cited(text: str) -> str:
    done, out = 0, ""
    for citation in claims.CITATION.finditer(text):
        if ids := claims.cited(citation):
            out += _escaped(text[done : citation.start()]) + f":ref:`{citation[0]} <{claims.label(ids[0])}>`"
            done = citation.end()
    return out + _escaped(text[done:])


def _escaped(text: str) -> str:
    return re.sub(r"([\\*|_<>:])", r"\\\1", text)


def unwrap_jitted() -> None:
    """Put the plain function in the place of a jitted one, so that autodoc finds a signature and a source."""
    for module in map(importlib.import_module, claims.modules()):
        for name, item in list(vars(module).items()):
            if isinstance(item, jax.stages.Wrapped):
                setattr(module, name, inspect.unwrap(item))


# ---- generated pages ----


def explorables_page() -> str:
    """Every figure with sliders, under the lecture that it stands in."""
    parts = ["# Figures that you move", EXPLORABLES]
    for path in claims.notebooks():
        notebook = nbformat.read(path, 4)
        if found := list(explorables_in(notebook)):
            title = notebook.cells[0].source.splitlines()[0]
            parts += [f"#{title}", f"From [the lecture](lectures/{path.name})."]
            parts += [f"```{{raw}} html\n{html}\n```" for html in found]
    return "\n\n".join(parts)


EXPLORABLES = """\
All of them on one page. Move a slider with the mouse, a finger or the arrow keys; *Page Up*, *Page Down*, *Home* and
*End* go further. The values were computed beforehand by the code in the lecture, so nothing has to run."""


def explorables_in(notebook: Any) -> Iterator[str]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if 'class="x-explorable"' in (html := output.get("data", {}).get("text/html", "")):
                yield html


def runtimes_page() -> str:
    rows = [
        [run["notebook"].rpartition("/")[2], run["notebook"].partition("/")[0], *list(run.values())[1:]]
        for run in claims.table("RUNS.csv")
    ]
    return RUNTIMES + "\n".join(f"| {' | '.join(row)} |" for row in rows)


RUNTIMES = """\
# Run times

Each notebook from a cold start, with the kernel's start and every compilation, on two processor cores that others use
too, without a GPU: *seconds* is what a clock says, *CPU seconds* what both cores worked for it. The peak is the largest
resident memory of the kernel: Binder promises 1 GB and stops at 2, so a test asks for less than 1,500 MB. Measured by
`python -m tools.runtimes`.

| notebook | of | seconds | CPU seconds | peak, MB | measured |
|---|---|---:|---:|---:|---|
"""


# ---- the map: units as boxes, an arrow from each to what needs it ----

BOX, GAP = (152, 66), (30, 36)
TO_COME = ' class="to-come"'


def map_page() -> str:
    units = claims.table("UNITS.csv")
    rows = [f"| {u['unit']} | {_unit_link(u)} | {u['needs'] or 'nothing'} | {u['about']} |" for u in units]
    table = "| unit | | needs | what it is about |\n|---|---|---|---|\n" + "\n".join(rows)
    return f"{MAP}\n\n```{{raw}} html\n{map_svg(units)}\n```\n\n{table}"


MAP = """\
# Map of the course

An arrow leads from a unit to one that builds on it. Units without an arrow between them can be taken in any order. The
table below says the same in words. A dashed box is a unit whose lecture is still to come."""


def lecture_of(unit: str) -> str:
    """The notebook's stem, or '' where the lecture is still to come."""
    return next((path.stem for path in claims.notebooks() if path.stem.startswith(f"{unit}_")), "")


def _unit_link(unit: dict[str, str]) -> str:
    stem = lecture_of(unit["unit"])
    return f"[{unit['title']}](lectures/{stem}.ipynb)" if stem else unit["title"]


def map_svg(units: list[dict[str, str]]) -> str:
    """Boxes in the columns and rows of UNITS.csv, and an arrow for each need."""
    corner = {u["unit"]: (int(u["column"]) * (BOX[0] + GAP[0]), int(u["row"]) * (BOX[1] + GAP[1])) for u in units}
    arrows = [_arrow(corner[need], corner[u["unit"]]) for u in units for need in u["needs"].split()]
    width, height = (max(c[axis] for c in corner.values()) + BOX[axis] + 2 for axis in (0, 1))
    words = "; ".join(f"{u['unit']} needs {u['needs'].replace(' ', ' and ') or 'nothing'}" for u in units)
    return f"""\
<div class="map"><svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {width} {height}" role="group"
  aria-label="Units of the course: {escape(words)}">
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0,0L8,4L0,8z"/></marker></defs>
{"".join(arrows)}
{"".join(_box(u, corner[u["unit"]]) for u in units)}
</svg></div>"""


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From the bottom of one box to the top of another; one that passes rows of boxes goes down between two columns."""
    side = (end[0] > start[0]) - (end[0] < start[0])
    x0, x1 = start[0] + BOX[0] // 2 + 44 * side, end[0] + BOX[0] // 2 - 44 * side
    y0, y1, bend = start[1] + BOX[1], end[1] - 1, GAP[1]
    if side and y1 - y0 > GAP[1]:
        lane = end[0] + (BOX[0] + GAP[0] // 2 if side < 0 else -GAP[0] // 2)
        turn = f"C{x0},{y0 + bend // 2} {lane},{y0} {lane},{y0 + bend}V{y1 - bend}"
        turn += f"C{lane},{y1 - bend // 2} {x1},{y1 - bend} {x1},{y1}"
    else:
        turn = f"C{x0},{y0 + bend} {x1},{y1 - bend} {x1},{y1}"
    return f'<path class="arrow" marker-end="url(#tip)" d="M{x0},{y0}{turn}"/>'


def _box(unit: dict[str, str], corner: tuple[int, int]) -> str:
    x, y = corner
    stem = lecture_of(unit["unit"])
    words = [
        f'<text x="{x + 12}" y="{y + 38 + 18 * k}">{escape(line)}</text>'
        for k, line in enumerate(unit["short"].split("|"))
    ]
    rectangle = f'<rect{"" if stem else TO_COME} x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="8"/>'
    drawn = f'{rectangle}<text class="number" x="{x + 12}" y="{y + 19}">{unit["unit"]}</text>{"".join(words)}'
    return f'<a href="lectures/{stem}.html">{drawn}</a>' if stem else drawn


# ---- the command ----


def build(folder: Path) -> int:
    """Sphinx over the staged source; warnings are errors. Returns its exit status."""
    stage()
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E", "-c", str(ROOT / "docs")]
    return subprocess.run([*command, "-d", str(STAGE) + "-doctrees", str(STAGE), str(folder)], cwd=ROOT).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site")
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    return build(folder)


if __name__ == "__main__":
    sys.exit(main())
