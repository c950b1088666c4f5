"""Binder, conda and CI: the Python and the pins of the lock, and nothing beside them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PYTHON = "3.11"


def test_one_python_everywhere():
    test_workflow = (ROOT / ".github/workflows/test.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"python={PYTHON}" in ENVIRONMENT["dependencies"]
    assert f"--python-version {PYTHON} " in (ROOT / "Makefile").read_text()  # what the locks are made for
    assert re.findall(r'python-version: "(.+)"', test_workflow) == [PYTHON]
    assert project["requires-python"] == f">={PYTHON}"
    assert "set -- python3.11 " in (ROOT / "tools/setup.sh").read_text()


def test_conda_brings_python_and_pip_and_the_lock_everything_else():
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    assert ENVIRONMENT["dependencies"] == [f"python={PYTHON}", "pip", {"pip": ["-r requirements.lock"]}]


def test_the_package_is_installed_without_fetching_anything():
    assert "pip install --no-deps --no-build-isolation ." in (ROOT / "postBuild").read_text()


def test_scripts_that_others_start_are_executable():
    for name in ("postBuild", ".ci/run", "tools/setup.sh"):
        assert os.access(ROOT / name, os.X_OK), name


def test_workflows_may_only_read_and_ci_runs_the_one_script():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}, path.name
    assert "run: bash .ci/run" in (ROOT / ".github/workflows/test.yml").read_text()
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert re.search(r"^make floors$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)


def test_licences_and_citation_agree_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["license"] == "MIT AND CC-BY-4.0"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert "SPDX-License-Identifier: CC-BY-4.0\n" in (ROOT / "LICENSE-TEXT").read_text()
    assert citation["version"] == project["version"]


def test_an_installed_course_lib_holds_every_file_of_the_folder(tmp_path):
    """Binder has no editable installation: what the wheel leaves out is missing there, and only there."""
    copy = tmp_path / "course"
    shutil.copytree(ROOT / "course_lib", copy / "course_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("course_lib/")}
    assert packed == {str(p.relative_to(copy)) for p in (copy / "course_lib").rglob("*") if p.is_file()}
