"""What Binder would build, as repo2docker writes it down; nothing is built here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("environment.yml", "postBuild", "requirements.lock", "pyproject.toml")


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory):
    """The Dockerfile, and repo2docker's own words before it."""
    folder = tmp_path_factory.mktemp("repository")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    options = ["--debug", "--no-build", "--user-id", "1000", "--user-name", "student"]
    command = [sys.executable, "-m", "repo2docker", *options, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return run.stdout + run.stderr


def test_the_python_is_the_one_of_the_stored_outputs(dockerfile):
    assert "conda environment for python=3.11" in dockerfile


def test_the_environment_is_ours_and_then_postbuild_runs(dockerfile):
    update = dockerfile.index('env update -p ${NB_PYTHON_PREFIX} --file "environment.yml"')
    copied = dockerfile.index("COPY --chown=1000:1000 src/ ${REPO_DIR}/")
    assert copied < update < dockerfile.index("RUN ./postBuild")


def test_every_package_that_it_installs_is_pinned_with_its_hash():
    """environment.yml names the lock and nothing beside it (tests/setup); here, that the lock leaves nothing open."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    packages = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", re.sub(r"^\s*#.*\n", "", lock, flags=re.M), re.DOTALL | re.M)
    assert len(packages) > 80
    assert [p.splitlines()[0] for p in packages if not re.match(r"[\w.\[\]-]+==", p) or "--hash=sha256:" not in p] == []
