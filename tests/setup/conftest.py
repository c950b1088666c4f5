"""The set-up's own files, copied into a folder with spaces, beside a Python and an installer that fetch nothing."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    "Makefile",
    "pyproject.toml",
    "requirements.lock",
    "requirements-dev.lock",
    "tools/setup.sh",
    "tools/lab.py",
]

# The real Python, except that its .venv has no pip: that saves three seconds a test.
QUICK_PYTHON = f"""\
case "$1 $2" in "-m venv") exec '{sys.executable}' -m venv --without-pip "$3" ;; esac
exec '{sys.executable}' "$@"
"""
# Notes its calls; what it installs is a `jupyter` that notes its calls too.
QUICK_UV = """\
echo "$@" >>installs
printf '#!/bin/sh\\necho "$@" >>jupyter-calls\\n' >.venv/bin/jupyter
chmod +x .venv/bin/jupyter
"""


@dataclass
class Course:
    folder: Path
    bin: Path

    def command(self, name: str, script: str) -> None:
        """Put a shell script on the PATH, before the machine's own commands."""
        path = self.bin / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> tuple[int, list[str]]:
        """Exit code and lines on stderr, without make's own last word."""
        run = subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.bin.parent), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return run.returncode, [line for line in run.stderr.splitlines() if not line.startswith("make: ")]

    def calls(self, file: str) -> list[str]:
        """What a noting command was called with since the last look."""
        path = self.folder / file
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    @property
    def stamp(self) -> str:
        path = self.folder / ".venv/setup.stamp"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def course(tmp_path: Path) -> Course:
    folder = tmp_path / "my course"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    course = Course(folder, tmp_path / "bin")
    course.bin.mkdir()
    course.command("python3.11", QUICK_PYTHON)
    course.command("uv", QUICK_UV)
    return course
