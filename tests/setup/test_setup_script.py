"""tools/setup.sh: a whole environment or one line that says what to do, and never a half one taken for whole."""

import os
import sys
import time
from pathlib import Path

import pytest

PYTHON_3_8 = f"""exec '{sys.executable}' -c 'import sys; sys.version_info = (3, 8, 18); exec(sys.argv[2])' "$@"\n"""
NO_ENSUREPIP = f"""\
case "$1 $2" in "-m venv") echo "ensurepip is not available"; exit 1 ;; esac
exec '{sys.executable}' "$@"
"""
UV = Path(sys.executable).with_name("uv")
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens


def test_the_second_run_installs_nothing_and_is_quick(course):
    assert course.make("setup") == (0, [])
    assert len(course.calls("installs")) == 2  # the lock, then the course's own package
    started = time.monotonic()
    assert course.make("setup") == (0, [])
    assert time.monotonic() - started < 3
    assert course.calls("installs") == []


def test_the_lock_is_installed_by_hash_and_the_package_without_its_dependencies(course):
    course.make("setup")
    lock, package = course.calls("installs")
    assert "--require-hashes" in lock
    assert lock.endswith("-r requirements.lock")
    assert package.endswith("--no-deps --no-build-isolation -e .")


def test_too_old_a_python_by_name(course):
    course.command("python3.8", PYTHON_3_8)
    code, lines = course.make("setup", "PYTHON=python3.8")
    assert code != 0
    assert len(lines) == 1
    assert "3.11 or newer" in lines[0]
    assert "PYTHON=" in lines[0]
    assert not course.stamp


def test_too_old_a_python_on_the_path(course):
    for name in ("python3.11", "python3", "python3.12", "python3.13", "python3.14"):
        course.command(name, PYTHON_3_8)
    code, lines = course.make("setup")
    assert code != 0
    assert len(lines) == 1
    assert "no Python 3.11 or newer" in lines[0]


def test_a_python_without_venv(course):
    course.command("python3.11", NO_ENSUREPIP)
    code, lines = course.make("setup")
    assert code != 0
    assert len(lines) == 1
    assert "apt install python3-venv" in lines[0]
    assert not course.stamp


def test_no_network_with_pip(course):
    (course.bin / "uv").unlink()
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", "PIP_INDEX_URL": NOWHERE}
    code, lines = course.make("setup", f"PYTHON={sys.executable}", **pip)
    assert code != 0
    assert len(lines) == 1
    assert "no network" in lines[0]
    assert course.stamp.startswith("unfinished")


def test_no_network_with_uv(course):
    course.command("uv", f"""exec '{UV}' "$@"\n""")
    uv = {"UV_CACHE_DIR": str(course.bin / "cache"), "UV_HTTP_RETRIES": "0", "UV_DEFAULT_INDEX": NOWHERE}
    code, lines = course.make("setup", **uv)
    assert code != 0
    assert len(lines) == 1
    assert "no network" in lines[0]
    assert course.stamp.startswith("unfinished")


def test_another_failure_is_not_called_a_network_failure(course):
    course.command("uv", "echo 'cause: dns error' >&2; exit 1\n")
    assert "no network" in course.make("setup")[1][0]
    course.command("uv", "echo 'error: hash mismatch' >&2; exit 1\n")
    code, lines = course.make("setup")
    assert code != 0
    assert len(lines) == 1
    assert "no network" not in lines[0]
    assert ".venv/setup.log" in lines[0]
    assert "hash mismatch" in (course.folder / ".venv/setup.log").read_text()


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $PPID"], ids=["failed", "killed"])
def test_a_half_made_environment_is_never_taken_for_whole(course, end):
    working = (course.bin / "uv").read_text()
    course.command("uv", end + "\n")
    assert course.make("setup")[0] != 0
    (course.bin / "uv").write_text(working)
    assert course.make("setup") == (0, [])
    assert len(course.calls("installs")) == 2
    assert course.stamp.startswith("student")


def test_a_failed_update_is_not_taken_for_the_old_environment(course):
    working, lock = (course.bin / "uv").read_text(), course.folder / "requirements.lock"
    course.make("setup")
    old = lock.read_text()
    lock.write_text(old + "# changed\n")
    course.command("uv", "exit 1\n")
    assert course.make("setup")[0] != 0
    lock.write_text(old)
    (course.bin / "uv").write_text(working)
    course.calls("installs")
    assert course.make("setup") == (0, [])
    assert len(course.calls("installs")) == 2


def test_a_venv_that_died_in_the_making_is_made_again(course):
    (course.folder / ".venv/bin").mkdir(parents=True)
    (course.folder / ".venv/bin/python").symlink_to(sys.executable)
    assert course.make("setup") == (0, [])
    assert (course.folder / ".venv/pyvenv.cfg").exists()


@pytest.mark.parametrize("file", ["requirements.lock", "pyproject.toml"])
def test_a_change_is_installed_into_the_same_environment(course, file):
    course.make("setup")
    course.calls("installs")
    (course.folder / ".venv/mine").touch()
    with (course.folder / file).open("a") as changed:
        changed.write("# changed\n")
    assert course.make("setup") == (0, [])
    assert len(course.calls("installs")) == 2
    assert (course.folder / ".venv/mine").exists()


def test_a_moved_folder_gets_a_new_environment(course):
    course.make("setup")
    (course.folder / ".venv/mine").touch()
    course.folder = course.folder.rename(course.folder.with_name("moved course"))
    assert course.make("setup") == (0, [])
    assert not (course.folder / ".venv/mine").exists()


def test_a_developers_environment_serves_a_student(course):
    course.make("dev")
    assert "-r requirements-dev.lock" in course.calls("installs")[0]
    assert course.make("setup") == (0, [])
    assert course.calls("installs") == []


def test_a_students_environment_does_not_serve_a_developer(course):
    course.make("setup")
    course.calls("installs")
    course.make("dev")
    assert "-r requirements-dev.lock" in course.calls("installs")[0]


def test_newest_uses_no_lock_and_no_cache_and_is_never_whole(course):
    for _ in range(2):  # what was newest yesterday is not today
        course.make("dev", "SETUP=newest")
        (install,) = course.calls("installs")
        assert ".lock" not in install
        assert "--upgrade --no-cache-dir" in install
    course.make("setup")
    assert len(course.calls("installs")) == 2


def test_notebooks_are_signed_once_and_again_when_they_change(course):
    names = ["lectures/01.ipynb", "exercises/01/my 01.ipynb"]
    for name in names:
        (course.folder / name).parent.mkdir(parents=True)
        (course.folder / name).touch()
    course.make("setup")
    assert course.calls("jupyter-calls") == ["trust " + " ".join(names)]
    course.make("setup")
    assert course.calls("jupyter-calls") == []
    later = time.time() + 10
    os.utime(course.folder / names[1], (later, later))
    course.make("setup")
    assert course.calls("jupyter-calls") == ["trust " + names[1]]
