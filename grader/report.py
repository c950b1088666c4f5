"""What an instructor and the students get: tables, feedback, the class at a glance, the file for the LMS.

Everything here is made anew from the records and from OUT/hand.csv, so a point given by hand is in every file after the
next run, and no run changes what was given. Students' words are escaped in HTML and cannot be formulas in a table.
"""

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2

from grader.grade import Record, statuses, write
from grader.submissions import GraderError, Submission

HAND = "hand.csv"
HAND_COLUMNS = ["student", "question", "max_points", "points", "comment"]
PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("grader"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def publish(out: Path, unit: str, submissions: list[Submission], records: list[Record], lms: str) -> None:
    """Write every file of OUT, each whole or not at all."""
    names = file_names([record["student"] for record in records])
    _give_hand_points(out, records)
    for record in records:
        page = PAGES.get_template("feedback.html.jinja").render(record=record, total=total(record))
        write(out / "feedback" / f"{names[record['student']]}.html", page)
        write(out / "results" / f"{names[record['student']]}.json", json.dumps(gradescope(record), indent=1))
    write(out / "grades.csv", table(GRADES, [_row(record) for record in records]))
    write(out / "questions.csv", table(QUESTIONS, [row for record in records for row in _question_rows(record)]))
    write(out / "report.html", PAGES.get_template("report.html.jinja").render(overview(unit, records)))
    if lms:
        write(out / f"{lms}.csv", LMS_FILES[lms](unit, submissions, records))


# ---- names and tables ----


def file_names(students: list[str]) -> dict[str, str]:
    """A file name for each: readable, no path, and apart from all others where upper and lower case are the same."""
    plain = {s: re.sub(r"[^\w .()@+-]", "_", unicodedata.normalize("NFC", s)).strip(" .")[:100] for s in students}
    taken = Counter(name.casefold() for name in plain.values())
    number: Counter[str] = Counter()
    names = {}
    for student in sorted(students):
        key = plain[student].casefold()
        number[key] += 1
        names[student] = f"{plain[student]}~{number[key]}" if taken[key] > 1 or not key else plain[student]
    return names


def table(columns: list[str], rows: list[dict[str, Any]]) -> str:
    """CSV, with text that a spreadsheet would take for a formula made text."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: harmless(value) for column, value in row.items()} for row in rows)
    return buffer.getvalue()


def harmless(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


# ---- points ----


def total(record: Record) -> dict[str, float]:
    """Points so far, all points, and how many a person has still to give."""
    questions = record["questions"]
    return {
        "score": _plain(sum(q["points"] or 0 for q in questions)),
        "max": _plain(sum(q["max"] for q in questions)),
        "open": _plain(sum(q["max"] for q in questions if q["points"] is None)),
    }


def _plain(points: float) -> float:
    return int(points) if points == int(points) else round(points, 4)


def _give_hand_points(out: Path, records: list[Record]) -> None:
    """Read what was given by hand into the records, and write the file with a row for whoever has none yet."""
    given = _hand(out / HAND)
    rows = []
    for record in records:
        for question in record["questions"]:
            if question["hand"]:
                key = {"student": harmless(record["student"]), "question": question["name"]}
                row = given.pop((key["student"], key["question"]), {"points": "", "comment": ""})
                question["points"], question["comment"] = _points(row["points"], question, record), row["comment"]
                rows.append(key | {"max_points": _plain(question["max"])} | row)
    rows += [{"student": s, "question": q} | row for (s, q), row in given.items()]  # of students not in this run
    write(out / HAND, table(HAND_COLUMNS, rows))


def _hand(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = set(HAND_COLUMNS) - set(rows[0] if rows else HAND_COLUMNS)
    if missing:
        raise GraderError(f"{path} has no column {', '.join(sorted(missing))}; a spreadsheet may have renamed it")
    columns = ("max_points", "points", "comment")
    return {(row["student"], row["question"]): {c: row[c] or "" for c in columns} for row in rows}


def _points(written: str, question: dict, record: Record) -> float | None:
    if not written.strip():
        return None
    try:
        points = float(written.replace(",", "."))
    except ValueError:
        points = -1.0
    if not 0 <= points <= question["max"]:
        where = f"{record['student']}, {question['name']}"
        raise GraderError(
            f"{HAND}: {where} has {written!r} points; it takes a number from 0 to {_plain(question['max'])}"
        )
    return points


GRADES = ["student", "unit", "status", "score", "max_score", "reason", "seconds"]
QUESTIONS = ["student", "question", "points", "max_points", "wrong"]


def _row(record: Record) -> dict[str, Any]:
    points = total(record)
    return record | {"score": points["score"], "max_score": points["max"]}


def _question_rows(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "student": record["student"],
            "question": q["name"],
            "points": q["points"],
            "max_points": q["max"],
            "wrong": q["wrong"],
        }
        for q in record["questions"]
    ]


# ---- other people's formats ----


def gradescope(record: Record) -> dict[str, Any]:
    """The results.json of Gradescope's autograder; what a person grades is not in its score until it is given."""
    given = [q for q in record["questions"] if q["points"] is not None]
    tests = [
        {"name": q["name"], "score": q["points"], "max_score": q["max"], "output": q["wrong"], "output_format": "text"}
        for q in given
    ]
    return {
        "score": total(record)["score"],
        "execution_time": round(record["seconds"]),
        "output": record["reason"],
        "output_format": "text",
        "visibility": "after_published",
        "tests": tests,
    }


def canvas(unit: str, submissions: list[Submission], records: list[Record]) -> str:
    """What Canvas' Grades page imports."""
    columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", unit]
    people = _people(submissions, records)
    rows = [{"Student": who.get("name", s), "ID": who.get("id", ""), unit: r["score"]} for s, who, r in people]
    possible = {"Student": "    Points Possible", unit: people[0][2]["max_score"]}
    return table(columns, [possible, *rows])


def moodle(unit: str, submissions: list[Submission], records: list[Record]) -> str:
    """Moodle's offline grading worksheet."""
    columns = ["Identifier", "Full name", "Grade", "Maximum grade", "Feedback comments"]
    rows = [
        {
            "Identifier": f"Participant {who.get('id', '')}",
            "Full name": who.get("name", student),
            "Grade": row["score"],
            "Maximum grade": row["max_score"],
            "Feedback comments": row["reason"],
        }
        for student, who, row in _people(submissions, records)
    ]
    return table(columns, rows)


def gradescope_table(unit: str, submissions: list[Submission], records: list[Record]) -> str:
    """The columns of Gradescope's own export of grades."""
    columns = ["Name", "SID", "Email", "Total Score", "Max Points", "Status", "Submission ID"]
    rows = [
        {
            "Name": who.get("name") or student,
            "SID": who.get("sid", ""),
            "Email": who.get("email", ""),
            "Total Score": row["score"],
            "Max Points": row["max_score"],
            "Status": row["status"].capitalize(),
            "Submission ID": who.get("folder", "").removeprefix("submission_"),
        }
        for student, who, row in _people(submissions, records)
    ]
    return table(columns, rows)


def _people(submissions: list[Submission], records: list[Record]) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    identity = {submission.student: submission.identity for submission in submissions}
    return [(r["student"], identity[r["student"]], _row(r)) for r in records]


LMS_FILES = {"canvas": canvas, "moodle": moodle, "gradescope": gradescope_table}


# ---- the class at a glance ----


def overview(unit: str, records: list[Record]) -> dict[str, Any]:
    """What the report's page shows."""
    return {
        "unit": unit,
        "counts": statuses(records),
        "distribution": _distribution([total(r)["score"] for r in records], total(records[0])["max"]),
        "questions": _questions(records),
        "seconds": _seconds([r for r in records if r["seconds"]]),
        "noted": [r for r in records if r["notes"] or r["reason"]],
    }


def _distribution(scores: list[float], most: float) -> list[tuple[str, int]]:
    """How many students are in each tenth of the points."""
    tenths = Counter(min(int(10 * score / most), 9) for score in scores)
    return [(f"{most * i / 10:g} to {most * (i + 1) / 10:g}", tenths[i]) for i in range(10)]


def _questions(records: list[Record]) -> list[dict[str, Any]]:
    """Every question that the grader decides, the hardest first, with the bank's mistake that was made most often."""
    rows = []
    for index, question in enumerate(records[0]["questions"]):
        answers = [r["questions"][index] for r in records if r["status"] != "missing"]
        said = Counter(a["wrong"] for a in answers if a["named"])
        often = said.most_common(1)
        mistake = f"{often[0][1]} ×: {often[0][0]}" if often else ""
        right = sum(a["points"] == a["max"] for a in answers)
        rows.append(
            {
                "name": question["name"],
                "right": right,
                "answers": len(answers),
                "mistake": mistake,
                "hand": question["hand"],
            }
        )
    return sorted((row for row in rows if not row["hand"]), key=lambda row: row["right"])


def _seconds(records: list[Record]) -> dict[str, Any]:
    times = [r["seconds"] for r in records] or [0.0]
    parts = {
        name: sum(r["costs"].get(name, 0) for r in records) / len(times)
        for name in ("start", "import", "compile", "cells")
    }
    return {"total": sum(times), "mean": sum(times) / len(times), "most": max(times), "parts": parts}
