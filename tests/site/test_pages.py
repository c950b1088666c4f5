"""What a notebook, a docstring and a table become on their way to a page, and what is measured of the notebooks."""

import itertools
import re

import nbformat
import pytest
from nbformat import v4

from course_lib.claims import CLAIM_MIME
from course_lib.explorables import MAX_BYTES
from tools import claims, runtimes, site
from tools.notebooks import NEEDS_KERNEL, ROOT

STORED = runtimes.measured()


def page_of(*cells, name="01_x"):
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# A title"), *cells])
    return [cell.source for cell in site.page_of(notebook, name).cells]


def test_equations_get_targets_and_their_numbers_links(monkeypatch):
    monkeypatch.setattr(site, "equations", lambda: {"1.3": "eq-1-3"})
    text = "So\n\n$$a=b. \\tag{1.3}$$\n\nBy (1.3), `(1.3)` and $(1.3)$; not by (1.4)."
    _, page = page_of(v4.new_markdown_cell(text))
    assert "\n\n(eq-1-3)=\n$$a=b. \\tag{1.3}$$\n" in page
    assert "By [(1.3)](#eq-1-3), `(1.3)` and $(1.3)$; not by (1.4)." in page


def test_every_number_of_an_equation_in_the_lectures_is_that_of_one():
    """(1.3) in a text leads somewhere: a bracketed number of the same form that is no equation is a slip."""
    known = site.equations()
    for path in claims.notebooks():
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
        referred = re.findall(r"(?:[Ee]quations?|eq\.|[Bb]y|[Ii]n) \((\d+\.\d+)\)", text)
        assert set(referred) <= set(known), path.name
        tags = re.findall(r"\\tag\{(\d+)\.(\d+)\}", text)
        assert len(set(tags)) == len(tags), f"{path.name}: two equations have one number"
        assert {int(unit) for unit, _ in tags} <= {int(path.name[:2])}


def test_a_citation_in_a_lecture_leads_to_the_claim():
    _, page = page_of(v4.new_markdown_cell("See Martens eq. 4 and Martens eq. 99."))
    assert page == "See [Martens eq. 4](#claim-m-4) and Martens eq. 99."


def test_a_fold_may_have_mathematics_in_its_title():
    _, page = page_of(v4.new_markdown_cell("<details><summary>What is\n$x$?</summary>\n\nA number.\n</details>"))
    assert page == "::::{dropdown} What is $x$?\nA number.\n::::\n"


def test_a_verdict_stands_between_its_target_and_its_words():
    data = {"claim": "M-3", "verdict": "holds", "evidence": "to 6e-17"}
    cell = v4.new_code_cell(
        "verdict(...)", outputs=[v4.new_output("display_data", {CLAIM_MIME: data, "text/plain": ""})]
    )
    _, target, code, said = page_of(cell)
    assert target == "(cell-m-3)="
    assert code == "verdict(...)"
    assert "[M-3](#claim-m-3): **holds** (to 6e-17)" in said


def test_links_out_of_docs_lead_to_a_page_or_to_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "STAGE", tmp_path)
    (tmp_path / "here.ipynb").touch()
    text = "[a](../here.ipynb#b) [c](../LICENSE) [d](map.md)"
    assert site.led_out(text, "R/blob/main") == "[a](here.ipynb#b) [c](R/blob/main/LICENSE) [d](map.md)"


def test_a_page_says_how_many_cells_need_a_kernel():
    waiting = v4.new_code_cell("interact(f)", outputs=[v4.new_output("display_data", {"text/plain": NEEDS_KERNEL})])
    _, note, _ = page_of(waiting)
    assert "(here 1)" in note
    assert not any("needs a" in text for text in page_of(v4.new_code_cell("1 + 1")))


def test_solutions_are_left_out_unless_asked_for(monkeypatch):
    stem = "01_likelihood_score_fisher"
    exercise = ROOT / f"exercises/{stem}/{stem}.ipynb"
    monkeypatch.delenv(site.SOLUTIONS, raising=False)
    without = "\n".join(c.source for c in site.page_of(nbformat.read(exercise, 4), stem).cells)
    monkeypatch.setenv(site.SOLUTIONS, "1")
    folded = [
        c.source for c in site.page_of(nbformat.read(exercise, 4), stem).cells if "{dropdown} Solution" in c.source
    ]
    answer = "return 0.5 * jnp.sum(((y - z) / scale) ** 2)"
    assert answer not in without
    assert any(answer in text for text in folded)
    assert len(folded) == 8  # seven functions and the derivation


@pytest.mark.parametrize(
    ("docstring", "rst"),
    [
        ("‖g‖_q of a*b, |x| and `name`.", "‖g‖\\_q of a\\*b, \\|x\\| and ``name``."),
        ("See Martens eq. 4.", "See :ref:`Martens eq. 4 <claim-m-4>`."),
        ("rho: the radius.\nm, n: two\n    numbers.", "* ``rho``\\: the radius.\n* ``m, n``\\: two numbers."),
        ("    y = x + 1", "::\n\n       y = x + 1"),
        ("a    what it is\nb    another", "::\n\n   a    what it is\n   b    another"),
        (">>> 1 + 1\n2", ">>> 1 + 1\n2"),
    ],
)
def test_docstrings_are_text_and_not_markup(docstring, rst):
    assert site.docstring_rst(docstring) == rst


def test_the_map_has_every_unit_after_what_it_needs():
    units = claims.table("UNITS.csv")
    row = {unit["unit"]: int(unit["row"]) for unit in units}
    assert list(row) == [f"{n:02d}" for n in range(12)]
    assert all(row[need] < row[unit["unit"]] for unit in units for need in unit["needs"].split())
    places = [(unit["column"], unit["row"]) for unit in units]
    assert len(set(places)) == len(places)
    svg = site.map_svg(units)
    assert svg.count('class="arrow"') == sum(len(unit["needs"].split()) for unit in units)
    assert svg.count("<rect") == len(units)
    assert "11 needs 06 and 07 and 10" in svg


@pytest.mark.parametrize("path", claims.notebooks(), ids=lambda path: path.stem)
def test_every_lecture_has_a_figure_that_moves(path):
    figures = list(site.explorables_in(nbformat.read(path, 4)))
    assert figures or path.stem.startswith("00"), "no explorable"
    assert all(len(html.encode()) <= MAX_BYTES for html in figures)


@pytest.mark.parametrize("path", STORED, ids=runtimes.name)
def test_every_notebook_was_measured_and_fits_in_binders_memory(path):
    rows = {row["notebook"]: row for row in claims.table("RUNS.csv")}
    assert runtimes.name(path) in rows, "run `python -m tools.runtimes " + path.stem + "`"
    assert int(rows[runtimes.name(path)]["peak_mb"]) < 1500


def test_the_measure_sees_the_memory_of_the_kernel(tmp_path):
    """A notebook that fills 300 MB more than another."""
    peaks = []
    for megabytes in (300, 0):
        path = tmp_path / f"{megabytes}.ipynb"
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(f"x = b'1' * ({megabytes} << 20)")]), path)
        peaks.append(runtimes.measure(path)[2])
    assert 250 < peaks[0] - peaks[1] < 400


def test_names_of_pages_that_are_made_are_not_those_of_pages_that_are_written():
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").glob("*.md")}
    assert not written & set(site.generated())


def test_the_lock_of_the_scripts_names_versions_and_hashes_and_no_address():
    text = (ROOT / "docs/package-lock.json").read_text(encoding="utf-8")
    assert "resolved" not in text
    versions = re.findall(r'"node_modules/([\w-]+)": \{\s+"version": "([\d.]+)",\s+"integrity": "sha512-', text)
    assert dict(versions).keys() == {"mathjax", "axe-core"}
    package = (ROOT / "docs/package.json").read_text(encoding="utf-8")
    assert all(f'"{name}": "{version}"' in package for name, version in versions)


def test_labels_of_marked_tests_are_their_own():
    labels = [test.label for test in claims.marked_tests()]
    assert all(a != b for a, b in itertools.pairwise(sorted(labels)))
