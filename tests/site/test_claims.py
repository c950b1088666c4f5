"""The page of claims says what the marks say: each leads to a row, and what has no mark is open."""

import nbformat
import pytest

from tools import claims
from tools.claims import CITATION, MarkedTest, Verdict


def test_no_mark_points_nowhere():
    assert claims.problems() == []


@pytest.fixture
def unknown(monkeypatch):
    """One mark of each kind that leads to no row, function or test."""
    deviation = {"function": "course_lib.optimizers.sam.no_such", "test": "tests/library/test_data.py::test_no_such"}
    monkeypatch.setattr(claims, "verdicts", lambda: (Verdict("X-1", "holds", "", "09_x"),))
    monkeypatch.setattr(claims, "marked_tests", lambda: (MarkedTest(("X-2",), "tests/test_x.py", "test_x", "", ()),))
    monkeypatch.setattr(claims, "_tags", lambda path: ["X-3"])
    monkeypatch.setattr(claims, "table", lambda name: [deviation])


def test_marks_that_point_nowhere_are_found(unknown):
    found = "\n".join(claims.problems())
    for word in ("no claim X-1", "no claim X-2", "no claim X-3", "no_such", "test_no_such"):
        assert word in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eq. 4", {("eq", "4")}),
        ("eq. 2-5 Table 1", {("eq", n) for n in "2345"} | {("table", "1")}),
        ("Tables 1-3 5", {("table", n) for n in "1235"}),
        ("Thm. 1/2 eq. 4-5", {("theorem", "1"), ("theorem", "2"), ("eq", "4"), ("eq", "5")}),
        ("abstract/§6", {("§", "6")}),
        ("C.6 Fig. 7", {("c.", "6"), ("fig", "7")}),
        ("Algorithm 1", claims.places("Alg. 1")),
        ("p. 4", set()),
    ],
)
def test_places_are_read(text, expected):
    assert claims.places(text) == expected


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("as Martens eq. 4 has it", ["M-4"]),
        ("GSAM Lemma 3.3.", ["GSAM-l3"]),
        ("(AdaHessian eq. 9)", ["AH-9"]),
        ("SAM eq. 1-3, Algorithm 1", ["SAM-1", "SAM-2", "SAM-3"]),
        ("GSAM eq. 6", ["GSAM-6"]),
        ("Martens eq. 99", []),
    ],
)
def test_a_citation_leads_to_its_rows(text, rows):
    assert claims.cited(CITATION.search(text)) == rows


@pytest.mark.parametrize("text", ["Martens & Grosse §6.3", "eq. 4", "Martens 2020", "ASAM eq. 1"])
def test_other_words_are_no_citation(text):
    assert not CITATION.search(text)


def test_verdicts_come_from_the_cells():
    """Those of a notebook, whatever else it shows."""
    data = {"claim": "M-3", "verdict": "holds", "evidence": "to 6e-17"}
    outputs = [
        nbformat.v4.new_output("stream", text="x"),
        nbformat.v4.new_output("display_data", {claims.CLAIM_MIME: data}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    assert list(claims.verdicts_of(notebook, "01_x")) == [Verdict("M-3", "holds", "to 6e-17", "01_x")]


def test_every_lecture_that_gives_a_verdict_is_linked():
    page = claims.page()
    assert len(claims.verdicts()) >= 8
    for verdict in claims.verdicts():
        assert f"(#cell-{verdict.claim.lower()})" in page
        assert claims.plain(verdict.evidence) in page


def test_a_row_without_marks_is_open(monkeypatch):
    monkeypatch.setattr(claims, "verdicts", lambda: ())
    monkeypatch.setattr(claims, "marked_tests", lambda: ())
    claims.functions.cache_clear()
    page = claims.page()
    claims.functions.cache_clear()
    assert page.count(": **open**") == len(claims.rows())
    assert "Library: open. Test: open." in page
    assert f"**{len(claims.rows())}** open; {len(claims.rows())} in all" in page


def test_every_row_is_on_the_page_once():
    page = claims.page()
    for id in claims.rows():
        assert page.count(f"({claims.label(id)})=") == 1


def test_functions_are_those_that_tests_call_and_docstrings_name():
    found = claims.functions()
    assert "course_lib.optimizers.natural_gradient.natural_gradient" in found["M-ngd"]
    assert "course_lib.optimizers.sam.dual_norm_perturbation" in found["SAM-2"]
    assert "course_lib.sharpness.surrogate_gap" in found["GSAM-l3"]
    for names in found.values():
        for name in names:
            module, _, member = name.rpartition(".")
            assert member in claims.members(module)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("sharpness", {"08", "09", "10"}),
        ("curvature.products", {"02", "03", "04"}),
        ("likelihoods", {"01"}),
        ("data", set()),
    ],
)
def test_units_are_read_from_docstrings(module, expected):
    assert claims.units(f"course_lib.{module}") == expected


def test_text_comes_out_as_it_was_typed():
    assert claims.plain("a*b_c|d|<e> $f$ [g]") == r"a\*b\_c\|d\|\<e\> \$f\$ \[g\]"
