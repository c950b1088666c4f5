"""No committed file says where packages were fetched from or on which machine it was made."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Written so that this file does not hold what it looks for.
PATTERNS = {
    "registry": re.compile(rb"https?://[^\s\"'<>]*(?:py[p]i|python[h]osted|npm[j]s|/sim[p]le\b|deb[.]debian)"),
    "index option": re.compile(rb"(?:index|registry|find[-_]links)[-_ ]?(?:url)?[= ]+[\"']?(?:https?|file):"),
    "path of a machine": re.compile(rb"(?<![\w.])/(?:wor[k]|roo[t]|home/\w+|Users/\w+)/"),
    "this folder": re.compile(re.escape(str(ROOT).encode()) + rb"\b"),
}


def committed() -> list[Path]:
    """What git tracks, and what the next `git add` would."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git clone")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def findings(data: bytes) -> list[str]:
    return [f"{kind}: {hit.group().decode()}" for kind, p in PATTERNS.items() if (hit := p.search(data))]


@pytest.mark.parametrize(
    "line",
    [
        "--index-" + "url https://mirror.example.org/",
        "https://mirror.example.org/sim" + "ple/jax/",
        "  File /wo" + "rk/main/course_lib/data.py:3",
        "/ho" + "me/ada/course/.venv",
        f"{ROOT}/lectures",
    ],
)
def test_the_search_finds_what_it_is_for(line):
    assert findings(line.encode())


def test_no_file_has_a_registry_address_or_a_path_of_this_machine():
    found = {str(path.relative_to(ROOT)): hits for path in committed() if (hits := findings(path.read_bytes()))}
    assert found == {}
