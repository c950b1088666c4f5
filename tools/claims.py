"""What the sources claim and what became of it: docs/CLAIMS.csv, and every mark that leads to one of its rows.

A mark is one of four, and the pages say nothing of a row that no mark says:

    verdict("M-3", ...)             in a lecture's cell with the tag "claim:M-3": the verdict and its numbers
    @pytest.mark.claim("M-3")       on a test; the functions of course_lib that the test calls are the row's functions
    Martens eq. 3                   in a docstring: the function is the row's, and the words become a link to the row
    a row of docs/DEVIATIONS.csv    where the course leaves its source: the function that does, a test that shows it
"""

import ast
import csv
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from course_lib.claims import CLAIM_MIME
from tools.notebooks import ROOT

TAG = "claim:"


# ---- the rows, and the places in the sources that they stand for ----


def table(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of docs/."""
    return list(csv.DictReader((ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()))


@cache
def rows() -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in table("CLAIMS.csv")}


KINDS = {"alg": "algorithm", "thm": "theorem", "tables": "table"}
NUMBER = r"\d+(?:\.\d+)*"
PLACE = (
    rf"(?:(?:eq|Fig|Alg|Thm)\.|Tables?|Algorithm|Theorem|Lemma) {NUMBER}(?:[-/]{NUMBER})?(?: \d+\b)*|§{NUMBER}|C\.\d"
)
CITATION = re.compile(rf"\b(Martens|AdaHessian|SAM|GSAM|VIT),? (?:{PLACE})(?:, (?:{PLACE}))*")


def places(text: str) -> set[tuple[str, str]]:
    """{("eq", "4"), ("table", "1")} of "eq. 4 Table 1"; a range such as "eq. 2-5" gives all of it."""
    found = set()
    for place in re.findall(PLACE, text):
        kind, numbers = re.fullmatch(r"(§|C\.|[A-Za-z]+)\.? ?(.*)", place).groups()  # type: ignore[union-attr]
        kind = KINDS.get(kind.lower(), kind.lower())
        found |= {(kind, number) for part in numbers.split() for number in _numbers(part)}
    return found


def _numbers(part: str) -> list[str]:
    first, _, last = part.replace("/", "-").partition("-")
    if first.isdecimal() and last.isdecimal():
        return [str(n) for n in range(int(first), int(last) + 1)]
    return [n for n in (first, last) if n]


def cited(citation: re.Match) -> list[str]:
    """The rows that the words of a citation stand for; none for a place that no row is about."""
    wanted = places(citation[0])
    return [id for id, row in rows().items() if row["source"] == citation[1] and wanted & places(row["where"])]


def label(id: str) -> str:
    """Where the row stands on the page of claims."""
    return f"claim-{id.lower()}"


# ---- marks in the lectures ----


@dataclass(frozen=True)
class Verdict:
    claim: str
    verdict: str
    evidence: str
    lecture: str  # the notebook's stem


def notebooks(folder: str = "lectures") -> list[Path]:
    return sorted((ROOT / folder).glob("*.ipynb"))


@cache
def verdicts() -> tuple[Verdict, ...]:
    """What the cells of the stored lectures found, in their order."""
    return tuple(verdict for path in notebooks() for verdict in verdicts_of(nbformat.read(path, 4), path.stem))


def verdicts_of(notebook: Any, lecture: str) -> Iterator[Verdict]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if data := output.get("data", {}).get(CLAIM_MIME):
                yield Verdict(data["claim"], data["verdict"], data["evidence"], lecture)


# ---- marks on the tests ----


@dataclass(frozen=True)
class MarkedTest:
    claims: tuple[str, ...]
    path: str  # from the repository's root
    name: str
    code: str
    functions: tuple[str, ...]  # of course_lib, by their full names

    @property
    def label(self) -> str:
        return f"{Path(self.path).stem}-{self.name}".replace("_", "-").lower()


@cache
def marked_tests() -> tuple[MarkedTest, ...]:
    return tuple(test for path in sorted((ROOT / "tests").rglob("test_*.py")) for test in _marked_in(path))


def _marked_in(path: Path) -> Iterator[MarkedTest]:
    text = path.read_text(encoding="utf-8")
    if "mark.claim(" not in text:
        return
    tree = ast.parse(text)
    names = _imported(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (claims := _claims(node)):
            code = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
            yield MarkedTest(claims, str(path.relative_to(ROOT)), node.name, code, _called(node, names))


def _claims(test: ast.FunctionDef) -> tuple[str, ...]:
    marks = [d for d in test.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == "pytest.mark.claim"]
    return tuple(ast.literal_eval(argument) for mark in marks for argument in mark.args)


def _imported(tree: ast.Module) -> dict[str, Any]:
    """What a test file calls by which name, of what it takes from course_lib."""
    froms = [
        node for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib")
    ]
    return {
        alias.asname or alias.name: _member(f"{node.module}.{alias.name}") for node in froms for alias in node.names
    }


def _member(name: str) -> Any:
    """The module or the member of one with this full name. ModuleNotFoundError where there is none."""
    module, _, member = name.rpartition(".")
    loaded = importlib.import_module(module)
    return getattr(loaded, member) if hasattr(loaded, member) else importlib.import_module(name)


def _called(test: ast.FunctionDef, names: dict[str, Any]) -> tuple[str, ...]:
    """The functions and classes of course_lib that a test uses, as `name` or as `module.name`."""
    used = [names[node.id] for node in ast.walk(test) if isinstance(node, ast.Name) and node.id in names]
    for node in ast.walk(test):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.append(getattr(names.get(node.value.id), node.attr, None))
    return tuple(dict.fromkeys(full_name(item) for item in used if callable(item) and _ours(item)))


def _ours(item: Any) -> bool:
    return getattr(item, "__module__", "").startswith("course_lib.") and not item.__name__.startswith("_")


def full_name(item: Any) -> str:
    return f"{item.__module__}.{item.__qualname__}"


# ---- the library ----


def modules() -> list[str]:
    """The modules that people read, by their full names; not the banks of mistakes."""
    paths = sorted((ROOT / "course_lib").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name for name in names if not re.search(r"\.(_|unit_)", name)]


def members(module: str) -> dict[str, Any]:
    """The public functions and classes that a module defines and describes."""
    found = {n: v for n, v in vars(importlib.import_module(module)).items() if callable(v) and not n.startswith("_")}
    return {n: v for n, v in found.items() if getattr(v, "__module__", "") == module and inspect.getdoc(v)}


def units(module: str) -> set[str]:
    """{"08", "09", "10"} of a module whose docstring starts "Units 08-10."."""
    first = re.match(r"Units? (.*?)\. ", f"{importlib.import_module(module).__doc__} ")
    numbers = re.findall(r"\b(\d\d)(?:-(\d\d))?\b", first[1] if first else "")
    return {f"{n:02d}" for low, high in numbers for n in range(int(low), int(high or low) + 1)}


@cache
def functions() -> dict[str, tuple[str, ...]]:
    """The functions of each row: those whose docstring cites its place, and those that its tests call.

    A test calls more than it is about. Where one of them belongs to the row's unit, those of other units are left out.
    """
    found: dict[str, list[str]] = {id: [] for id in rows()}
    for module in modules():
        for item in members(module).values():
            for citation in CITATION.finditer(inspect.getdoc(item) or ""):
                matches = cited(citation)
                if len(matches) == 1:  # a section that several rows are about says nothing of any one of them
                    found[matches[0]].append(full_name(item))
    for test in marked_tests():
        for id in test.claims:
            found.get(id, []).extend(_of_unit(test.functions, rows().get(id, {}).get("unit", "")))
    return {id: tuple(dict.fromkeys(names)) for id, names in found.items()}


def _of_unit(names: tuple[str, ...], unit: str) -> tuple[str, ...]:
    own = tuple(name for name in names if unit in units(name.rpartition(".")[0]))
    return own or names


# ---- marks that point nowhere ----


def problems() -> list[str]:
    """One line for each mark that points nowhere; a test wants none."""
    marks = [(v.claim, f"a verdict of {v.lecture}") for v in verdicts()]
    marks += [(id, f"{test.path}, {test.name}") for test in marked_tests() for id in test.claims]
    marks += [(id, f"a cell of {path.stem}") for path in notebooks() for id in _tags(path)]
    lost = [f"{where}: there is no claim {id}" for id, where in marks if id not in rows()]
    return lost + [line for row in table("DEVIATIONS.csv") for line in _lost_deviation(row)]


def _tags(path: Path) -> list[str]:
    tags = [tag for cell in nbformat.read(path, 4).cells for tag in cell.metadata.get("tags", [])]
    return [tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)]


def _lost_deviation(row: dict[str, str]) -> Iterator[str]:
    module, _, name = row["function"].rpartition(".")
    if module not in modules() or name not in members(module):
        yield f"DEVIATIONS.csv: there is no function {row['function']}"
    path, _, test = row["test"].partition("::")
    if not (ROOT / path).is_file() or f"def {test}(" not in (ROOT / path).read_text(encoding="utf-8"):
        yield f"DEVIATIONS.csv: there is no test {row['test']}"


# ---- the pages ----


def page() -> str:
    """The page of claims, in MyST Markdown."""
    given = {verdict.claim: verdict for verdict in verdicts()}
    parts = ["# Claims and verdicts", INTRODUCTION, _summary(given)]
    for source, (heading, key) in PAPERS.items():
        own = [row for row in rows().values() if row["source"] == source]
        parts += [f"## {heading}", f"{{cite}}`{key}`" if key else ""]
        parts += [_entry(row, given.get(row["id"])) for row in own]
    return "\n\n".join(
        [*parts, "## Where the course leaves its sources", DEVIATIONS, *map(_deviation, table("DEVIATIONS.csv"))]
    )


INTRODUCTION = """\
Every equation, algorithm, table and figure that the course follows is a row here. The verdict is that of the lecture's
cell which computed it, with its numbers; nothing on this page is typed. A row is **open** until a lecture has said what
it found. *In part* and *not here* speak of our scale: small networks, small data, two processor cores.
*Not tried* says why."""
DEVIATIONS = """\
Deliberately, with the reason, the function that does it and the test that shows it. Everything else that differs from
a source is a mistake: say so, please."""
PAPERS = {  # the heading of each source, and its key in references.bib
    "slides": ("The slides", ""),
    "Martens": ("Martens: new insights on the natural gradient", "martens2020"),
    "AdaHessian": ("AdaHessian", "yao2021"),
    "SAM": ("SAM", "foret2021"),
    "VIT": ("When vision transformers outperform ResNets", "chen2022"),
    "GSAM": ("GSAM", "zhuang2022"),
}


def _summary(given: dict[str, Verdict]) -> str:
    found = [given[id].verdict if id in given else "open" for id in rows()]
    return (
        "; ".join(f"**{found.count(word)}** {word}" for word in dict.fromkeys(sorted(found)))
        + f"; {len(found)} in all."
    )


def _entry(row: dict[str, str], verdict: Verdict | None) -> str:
    id = row["id"]
    if verdict:
        said = f"**{verdict.verdict}** — {plain(verdict.evidence)} ([lecture {row['unit']}](#cell-{id.lower()}))"
    else:
        said = f"**open** — no lecture of unit {row['unit']} has given a verdict yet"
    tests = [
        f"[{test.name.removeprefix('test_').replace('_', ' ')}](#{test.label})"
        for test in marked_tests()
        if id in test.claims
    ]
    links = [f"{{py:obj}}`~{name}`" for name in functions()[id]]
    return f"""\
({label(id)})=
**{id}** · {row["where"]} · {plain(row["statement"])}
: {said}
: Library: {", ".join(links) or "open"}. Test: {"; ".join(tests) or "open"}."""


def _deviation(row: dict[str, str]) -> str:
    path, _, name = row["test"].partition("::")
    return f"""\
**{plain(row["source"])}** · {{py:obj}}`~{row["function"]}`
: There: {plain(row["there"])}
: Here: {plain(row["here"])}
: Why: {plain(row["why"])} Test: `{name}` in `{path}`."""


def plain(text: str) -> str:
    """The text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>$|~^])", r"\\\1", text)


def tests_page() -> str:
    """The marked tests, to be read."""
    parts = ["# Tests of the claims", "Each proves what its rows state; the name of a row leads back to its verdict."]
    for test in marked_tests():
        claims = ", ".join(f"[{id}](#{label(id)})" for id in test.claims)
        title = test.name.removeprefix("test_").replace("_", " ")
        parts.append(f"({test.label})=\n## {title}\n\n{claims} · `{test.path}`\n\n```python\n{test.code}\n```")
    return "\n\n".join(parts)
