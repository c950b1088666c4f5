"""The locks: hashes on every pin, one set of pins, and what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = PROJECT["dependencies"]
DEV = BASE + PROJECT["optional-dependencies"]["dev"]
# The Python that the stored outputs were made with, on the system that Binder and CI run.
PYTHON_3_11 = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux", "os_name": "posix"}
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def entries(lock: str) -> list[str]:
    """One entry a pin: the requirement and its hashes, joined as the installers join them."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


def pins(lock: str) -> dict[str, set[str]]:
    """Every version of every package, whatever the system."""
    found: dict[str, set[str]] = {}
    for entry in entries(lock):
        pin = Requirement(entry.partition(" --hash=")[0])
        found.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier).removeprefix("=="))
    return found


def versions_on_3_11(lock: str) -> dict[str, str]:
    chosen = {}
    for entry in entries(lock):
        pin = Requirement(entry.partition(" --hash=")[0])
        if pin.marker is None or pin.marker.evaluate(PYTHON_3_11):
            chosen[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return chosen


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_entry_is_one_exact_pin_with_hashes(lock):
    assert len(entries(lock)) > 50
    for entry in entries(lock):
        assert re.match(r"[\w.-]+==[\w.+!]+ ", entry), entry
        assert HASH.search(entry), entry
        assert "://" not in entry


@pytest.mark.parametrize(("lock", "wanted"), [("requirements.lock", BASE), ("requirements-dev.lock", DEV)])
def test_the_lock_satisfies_pyproject(lock, wanted):
    locked = versions_on_3_11(lock)
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"run `make lock`: {name} is in pyproject.toml and not in {lock}"
        assert requirement.specifier.contains(locked[name]), f"run `make lock`: {name} {locked[name]} in {lock}"


def test_developers_have_the_students_pins():
    student, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name: dev.get(name) for name in student} == student
