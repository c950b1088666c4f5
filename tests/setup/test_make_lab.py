"""`make lab`: the first lecture on the port that was asked for, or one line."""

import json
import socket

# Stands in for JupyterLab: `python -m jupyterlab` finds it in the folder it starts in.
LAB = "import json, sys; json.dump(sys.argv[1:], open('arguments.json', 'w'))\n"


def test_it_opens_the_first_lecture_on_that_port_with_the_course_as_its_root(course):
    (course.folder / "jupyterlab.py").write_text(LAB)
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert course.make("lab", f"PORT={free}", "LAB_FLAGS=--no-browser") == (0, [])
    arguments = json.loads((course.folder / "arguments.json").read_text())
    assert arguments[0] == "lectures/01_likelihood_score_fisher.ipynb"
    assert f"--port={free}" in arguments
    assert f"--ServerApp.root_dir={course.folder}" in arguments
    assert arguments[-1] == "--no-browser"


def test_a_taken_port_is_one_line_that_names_a_free_one(course):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        code, lines = course.make("lab", f"PORT={taken}")
    assert code != 0
    assert len(lines) == 1
    other = lines[0].rpartition("make lab PORT=")[2]
    socket.create_server(("127.0.0.1", int(other))).close()


def test_a_port_that_is_no_number_is_one_line(course):
    code, lines = course.make("lab", "PORT=eighty")
    assert code != 0
    assert len(lines) == 1
    assert "not a port number" in lines[0]


def test_help_lists_every_target(course):
    makefile = (course.folder / "Makefile").read_text()
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    described = {line.split(":")[0] for line in makefile.splitlines() if ":" in line and " ## " in line}
    assert set(phony.split()[1:]) == described
