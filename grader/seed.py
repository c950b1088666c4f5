"""The class seed: what hidden inputs come from. The course and its solutions are public, so this is the only secret.

It is kept with the class's grades, never in the course, and drawn when it is first asked for. A unit's sandbox sees a
seed of that unit only, so what leaks from one unit is worth nothing in another.
"""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

FILE = "class.json"


class SeedError(ValueError):
    """Two seeds for one class; the message says where the first is kept."""


def of_class(folder: Path, given: str = "") -> str:
    """The seed kept in `folder`; on first use the given one, or one drawn at random."""
    path = folder / FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"seed": given or secrets.token_hex(16)}, file)
    kept = json.loads(path.read_text(encoding="utf-8"))["seed"]
    if given not in ("", kept):
        raise SeedError(
            f"{path} keeps another seed than --seed; leave --seed away, or use another OUT for another class"
        )
    return kept


def of_unit(class_seed: str, unit: str) -> str:
    """The seed that the sandbox sees. Nobody finds the class's, or another unit's, from it."""
    return hmac.new(class_seed.encode(), unit.encode(), hashlib.sha256).hexdigest()
