"""Every defence of the sandbox taken away once: the attack must reach what it wanted, or its test proves nothing."""

import json
import os
import socket

import pytest
from attacks import CONNECT, DISK, PROCESSES, WRITING, read, write
from notebooks_of_students import FORGED, ZERO, short

from grader import sandbox, units
from grader.grade import judged
from grader.sandbox import Limits, Sandbox
from grader.submissions import parse

ROOMY = Limits(resident=1 << 40)  # so that nothing but the number of processes counts


def weakened(monkeypatch, *changes):
    """Sandboxes from here on without some words of their command line: (word, what stands there instead)."""
    whole = Sandbox.command

    def command(box):
        words = whole(box)
        for word, instead in changes:
            assert word in words, f"{word} is no part of the command any more"
            words = [w for old in words for w in (instead if old == word else [old])]
        return words

    monkeypatch.setattr(Sandbox, "command", command)


def said(*cells, limits=None):
    result = sandbox.run(cells, Sandbox(limits or Limits()))
    return result, "".join(o.get("text", "") + o.get("evalue", "") for cell in result.outputs.values() for o in cell)


def test_without_its_own_files_the_host_is_read(box, monkeypatch):
    monkeypatch.setattr(Sandbox, "_as_nobody", lambda box: [])
    weakened(monkeypatch, ("--proc", ["--ro-bind", "/etc", "/etc", "--proc"]))
    assert "REACHED" in said(read("/etc/passwd"))[1]


@pytest.mark.parametrize("attack", WRITING[:2])
def test_without_the_read_only_root_it_is_written(box, monkeypatch, attack):
    weakened(monkeypatch, ("--remount-ro", ["--dir"]))
    assert "REACHED" in said(attack)[1]


def test_without_closed_namespaces_a_new_one_is_made(box, monkeypatch):
    weakened(monkeypatch, ("--disable-userns", []))
    assert "REACHED" in said(WRITING[-2])[1]


def test_without_a_network_of_its_own_the_hosts_is_there(box, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        attack = CONNECT.format(host="127.0.0.1", port=server.getsockname()[1])
        assert "REACHED" not in said(attack)[1]
        weakened(monkeypatch, ("--unshare-all", ["--unshare-all", "--share-net"]))
        assert "REACHED" in said(attack)[1]


def test_without_the_limit_on_processes_there_are_more(box, monkeypatch):
    weakened(monkeypatch, ("--nproc=128", ["--nproc=300"]))
    assert int(said(PROCESSES, limits=ROOMY)[1].split()[-1]) > 200


def test_as_root_the_limit_would_not_hold(box, monkeypatch):
    """Why a grader that is started as root drops to another user first."""
    if os.getuid() != 0:
        pytest.skip("only root can be root")
    monkeypatch.setattr(Sandbox, "_as_nobody", lambda box: [])
    assert int(said(PROCESSES, limits=ROOMY)[1].split()[-1]) > 200


def test_without_the_limit_on_files_they_are_larger(box, monkeypatch):
    weakened(monkeypatch, (f"--fsize={Limits().file_size}", []))
    assert "REACHED one large file" in said(DISK)[1]


def test_without_a_size_the_memory_disk_takes_all(box, monkeypatch):
    weakened(monkeypatch, ("--size", []), (str(Limits().disk), []))
    assert "REACHED 1" in said(DISK)[1]


def test_without_a_judge_outside_a_patched_check_says_right(box):
    """In the sandbox a student's word is law; that is why nothing in there decides."""
    patched = "def check(function, name): print('✓ right')\ncheck(None, '01.nll_normal')"
    assert "✓ right" in said(patched)[1]


def test_with_the_cache_writable_it_could_be_poisoned(box, monkeypatch, tmp_path):
    tmp_path.chmod(0o777)
    attack = write("/opt/cache/poison")
    result = sandbox.run([attack], Sandbox(cache=tmp_path))
    assert "REACHED" not in str(result.outputs)
    assert not (tmp_path / "poison").exists()


def test_without_a_class_seed_what_everybody_can_compute_would_be_right(box):
    unit = units.load("01")
    book = parse(json.dumps(short(ZERO, FORGED)).encode())
    code = [cell for cell in unit.assemble(book).cells if cell.kind == "code"]
    points = {}
    for seed in ("", "a secret"):
        result = sandbox.run([cell.source for cell in code], Sandbox(class_seed=seed))
        points[seed] = judged(unit, code, result, seed)[0]["points"]
    assert points == {"": 2, "a secret": 0}
