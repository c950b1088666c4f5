"""A stranger's words at the border: what comes out of a sandbox becomes plain text, checked images and probes here.

Nothing else gets in, so nothing behind has to ask again: no HTML, no SVG, no JavaScript, no Markdown, no LaTeX, no
widget. A notebook viewer would run or fetch what stands in those.
"""

import base64
import json
import math
import re
from typing import Any

from nbconvert.filters import strip_ansi

from course_lib.checks import PROBE_MIME

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
PNG = b"\x89PNG\r\n\x1a\n"


def text(value: Any) -> str:
    """Text without terminal colours, control characters and halves of surrogate pairs."""
    encodable = str(value).encode("utf-8", "replace").decode()
    return CONTROL.sub("", strip_ansi(encodable))


def message(line: bytes) -> dict[str, Any]:
    """A line of the worker as a message with checked fields; {} for whatever else a stranger wrote there."""
    try:
        said = json.loads(line)
        if "start" in said:
            return {"start": int(said["start"])}
        if "cell" in said:
            clean = [cleaned for output in said["outputs"] if (cleaned := _output(output))]
            return {"cell": int(said["cell"]), "outputs": clean, "compile": _seconds(said["compile"])}
        return {"end": True} if "end" in said else {}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return {}


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{seconds} is no time")
    return seconds


def _output(output: dict) -> dict | None:
    """One output in nbformat's form, or None where nothing of it may pass."""
    kind = output["output_type"]
    if kind == "stream":
        name = "stderr" if output["name"] == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": text(output["text"])}
    if kind == "error":
        lines = [text(line) for line in output["traceback"]]
        return {
            "output_type": "error",
            "ename": text(output["ename"]),
            "evalue": text(output["evalue"]),
            "traceback": lines,
        }
    data = _data(output["data"])
    return {"output_type": "display_data", "data": data, "metadata": {}} if data else None


def _data(data: dict) -> dict:
    """The kinds that cannot act: plain text, an image that is a PNG, and the values of a probe."""
    kept: dict[str, Any] = {}
    if "text/plain" in data:
        kept["text/plain"] = text(data["text/plain"])
    if PROBE_MIME in data:
        kept[PROBE_MIME] = data[PROBE_MIME]
    if image := _png(data.get("image/png")):
        kept["image/png"] = image
    return kept


def _png(value: Any) -> str:
    """The image in base64, written anew; '' where it is none."""
    if not isinstance(value, str):
        return ""
    content = base64.b64decode(value)
    return base64.b64encode(content).decode() if content.startswith(PNG) else ""
