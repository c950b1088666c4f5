"""A whole class, from a folder of strangers' notebooks to grades, feedback and the instructor's report."""

import json

import pytest
from notebooks_of_students import CLASS, NAME, save

FILES = {"Åsa Ünï Çödé": "01 (1).ipynb", "dr. j. r. o'dots": f"{NAME}-Copy1.ipynb"}
NOTHING = "nothing handed in"
SEED = "a class of the tests"


@pytest.fixture(scope="module")
def graded(tmp_path_factory, grade, box):
    """(OUT, the finished command)."""
    folder = tmp_path_factory.mktemp("class")
    for student, (book, _, _) in CLASS.items():
        save(book, folder / "submitted" / student / FILES.get(student, f"{NAME}.ipynb"))
    (folder / "submitted" / NOTHING).mkdir()
    (folder / "submitted/link").symlink_to("/etc")
    (folder / "submitted/linked notebook").mkdir()
    (folder / "submitted/linked notebook" / f"{NAME}.ipynb").symlink_to(
        folder / "submitted/Ann Honest" / f"{NAME}.ipynb"
    )
    run = grade(folder / "submitted", folder / "out", "--seed", SEED)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder / "out", run


def record(out, student):
    found = [r for path in (out / "records").iterdir() if (r := json.loads(path.read_text()))["student"] == student]
    return found[0]


def printed(out, student):
    cells = record(out, student)["cells"]
    return "".join(output.get("text", "") for cell in cells for output in cell["outputs"])


def test_everyone_has_one_row_with_a_status(graded, rows):
    out, run = graded
    grades = rows(out)
    assert len(grades) == len(CLASS) + 3 >= 30
    assert {row["status"] for row in grades.values()} == {"graded", "failed", "missing"}
    assert grades[NOTHING]["status"] == "missing"
    assert all(row["reason"] for row in grades.values() if row["status"] == "failed")
    assert f"{len(grades)}/{len(grades)}" in run.stderr
    assert "failed=" in run.stderr


@pytest.mark.parametrize("student", CLASS)
def test_each_gets_what_the_answers_are_worth(graded, rows, student):
    row = rows(graded[0])["'" + student if student.startswith("=") else student]
    _, status, points = CLASS[student]
    assert (row["status"], float(row["score"]), float(row["max_score"])) == (status, points, 22)


def test_links_are_not_followed(graded, rows):
    for student in ("link", "linked notebook"):
        row = rows(graded[0])[student]
        assert row["status"] in ("failed", "missing")
        assert float(row["score"]) == 0
    assert "is a link" in rows(graded[0])["linked notebook"]["reason"]


def test_a_known_mistake_is_named_to_the_student(graded):
    page = (graded[0] / "feedback/wrong sign.html").read_text()
    assert "this is the log-likelihood" in page


def test_an_error_is_shown_in_the_students_own_cell(graded):
    page = (graded[0] / "feedback/raises.html").read_text()
    assert "ZeroDivisionError" in page
    assert "return 1 / 0" in page
    page = (graded[0] / "feedback/os exit.html").read_text()
    assert "did not run to its end" in page
    assert "code cell 1" in page


def test_no_script_reaches_a_page(graded):
    pages = list((graded[0] / "feedback").iterdir()) + [graded[0] / "report.html"]
    for page in pages:
        content = page.read_text()
        assert "<script" not in content
        assert "onerror=" not in content.replace("&lt;img src=x onerror=", "")
        assert "default-src 'none'" in content
    assert "&lt;script&gt;" in (graded[0] / "feedback/scripts.html").read_text()


def test_a_name_is_no_formula_and_no_path(graded, rows):
    assert all(not name.startswith(("=", "+", "-", "@")) for name in rows(graded[0]))
    names = [path.name for path in (graded[0] / "feedback").iterdir()]
    assert len({name.casefold() for name in names}) == len(names) == len(CLASS) + 3


def test_what_was_put_back_and_what_was_copied_is_told_to_the_instructor(graded):
    out, _ = graded
    report = (out / "report.html").read_text()
    for words in (
        "was edited; it was put back",
        "was deleted; it was put back",
        "there twice",
        "uses course_lib: from",
    ):
        assert words in report
    assert "this is the log-likelihood" in report  # the most frequent mistake
    assert record(out, "more points")["questions"][0]["max"] == 2


def test_nothing_of_the_course_leaked(graded):
    assert not [student for student in CLASS if "FOUND" in printed(graded[0], student)]


def test_results_are_in_gradescopes_form(graded):
    result = json.loads((graded[0] / "results/Ann Honest.json").read_text())
    assert result["score"] == 17
    assert {"name", "score", "max_score", "output", "output_format"} == set(result["tests"][0])
    assert len(result["tests"]) == 7  # the derivation is a person's


def test_points_by_hand_count_and_survive_a_second_run(graded, grade, rows, tmp_path):
    out, _ = graded
    hand = (out / "hand.csv").read_text()
    (out / "hand.csv").write_text(hand.replace("Ann Honest,coin,5,,", "Ann Honest,coin,5,3.5,well argued"))
    before = {path.name: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    run = grade(out.parent / "submitted", out)
    assert run.returncode == 0, run.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before, "something ran again"
    assert float(rows(out)["Ann Honest"]["score"]) == 20.5
    assert "well argued" in (out / "feedback/Ann Honest.html").read_text()
    assert "Ann Honest,coin,5,3.5,well argued" in (out / "hand.csv").read_text()


def test_another_seed_for_the_same_class_is_refused(graded, grade):
    run = grade(graded[0].parent / "submitted", graded[0], "--seed", "another")
    assert run.returncode == 2
    assert "class.json keeps another seed" in run.stderr
    assert (graded[0] / "class.json").stat().st_mode & 0o077 == 0
