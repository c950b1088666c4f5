"""Runs inside the sandbox: `python worker.py` takes a notebook's code cells from stdin and gives their outputs.

stdin: {"cells": [source, ...], "timeout": seconds a cell}. stdout: one JSON object a line: {"start": i} before cell i,
{"cell": i, "outputs": [...], "compile": seconds} after it, {"end": true} at the end. Whatever reads this must take it
for a stranger's words: the student's code runs in this very process and can write there too. That costs nothing, since
outputs are judged by their values alone. It saves the second process that a Jupyter kernel is, and two thirds of the
start: the shell is IPython's own, as in a kernel, without the wires to a front end.
"""

import json
import os
import shutil
import signal
import sys
from io import TextIOBase
from typing import Any, TextIO

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

STREAM_LIMIT = 100_000  # characters that a cell may print; probes are never cut
ALARM_EVERY = 5  # seconds from one alarm to the next: a callback of JAX's may swallow the first
COMPILING = "/jax/core/compile/"  # how JAX's own measurements of compiling start
KEPT_HOME = "/opt/cache/home"  # fonts and data sets that the trusted run left there

outputs: list[dict] = []  # of the cell that runs, in nbformat's form


class TimedOut(KeyboardInterrupt):
    """Raised in a cell that ran too long; like Ctrl-C, `except Exception` does not swallow it."""


class Stream(TextIOBase):
    """sys.stdout or sys.stderr: what is written becomes the cell's output, in its place among the others."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.room = STREAM_LIMIT

    def write(self, text: str) -> int:
        kept = text[: self.room]
        self.room -= len(kept)
        if kept and outputs and outputs[-1].get("name") == self.name:
            outputs[-1]["text"] += kept
        elif kept:
            outputs.append({"output_type": "stream", "name": self.name, "text": kept})
        return len(text)


class Publisher(DisplayPublisher):
    """What `display` shows."""

    def publish(self, data: Any, metadata: Any = None, source: Any = None, **_: Any) -> None:
        outputs.append({"output_type": "display_data", "data": data, "metadata": metadata or {}})

    def clear_output(self, wait: bool = False) -> None:
        outputs.clear()


class Result(DisplayHook):
    """The value of a cell's last line."""

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: dict, md_dict: dict | None = None) -> None:
        outputs.append({"output_type": "display_data", "data": format_dict, "metadata": md_dict or {}})


class Shell(InteractiveShell):
    """IPython's shell, whose outputs are recorded as a notebook's."""

    display_pub_class = Publisher
    displayhook_class = Result

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        outputs.append({"output_type": "error", "ename": etype.__name__, "evalue": str(evalue), "traceback": stb})

    def enable_gui(self, gui: str | None = None) -> None:
        """No windows; %matplotlib inline asks."""

    def ask_exit(self) -> None:
        """`exit()` in a cell ends nothing: the next cell runs."""


class CompileClock:
    """The seconds that JAX spent tracing and compiling since the last reading; 0 where it is not imported."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.listens = False

    def read(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        if not self.listens and "jax" in sys.modules:
            self.listens = True
            sys.modules["jax"].monitoring.register_event_duration_secs_listener(self.add)
        return seconds

    def add(self, event: str, seconds: float, **_: Any) -> None:
        if event.startswith(COMPILING):
            self.seconds += seconds


def private_stdout() -> TextIO:
    """The line to the grader. Whatever else is written to the descriptors 1 and 2 belongs to no cell and is dropped."""
    line = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return line


def stop_cell(signum: int, frame: Any) -> None:
    raise TimedOut("this cell ran too long and was stopped")


def run_cell(shell: Shell, source: str, timeout: int) -> None:
    """Leave the cell's outputs in `outputs`."""
    outputs.clear()
    sys.stdout, sys.stderr = Stream("stdout"), Stream("stderr")
    try:
        signal.setitimer(signal.ITIMER_REAL, timeout, ALARM_EVERY)
        shell.run_cell(source, store_history=True)
    except KeyboardInterrupt as error:  # it came between two cells
        shell._showtraceback(type(error), error, [str(error)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    if os.path.isdir(KEPT_HOME):
        shutil.copytree(KEPT_HOME, os.environ["HOME"], dirs_exist_ok=True)
    task = json.load(sys.stdin)
    line = private_stdout()
    shell, clock = Shell.instance(), CompileClock()
    signal.signal(signal.SIGALRM, stop_cell)

    def say(message: dict) -> None:
        line.write(json.dumps(message, default=repr) + "\n")
        line.flush()

    for index, source in enumerate(task["cells"]):
        say({"start": index})
        run_cell(shell, source, task["timeout"])
        say({"cell": index, "outputs": outputs, "compile": clock.read()})
    say({"end": True})


if __name__ == "__main__":
    main()
