"""`evp serve`: what it answered with 202 is in the log, however it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from evp.engines.engine import free_port
from tests.conftest import API_KEY
from tests.e2e.commands import Background, background, evp
from tests.e2e.feed import feeding
from tests.e2e.log import events_in_log
from tests.support.wait import until_now

STOP_S_MAX = 5.0


def ask(url: str, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    """Return status and body of an answer; 0 if there is none."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    headers = {"content-type": "application/json", "x-api-key": API_KEY}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except OSError:
        return 0, None
    finally:
        connection.close()


def address(serving: Background) -> str:
    """Return the address that a server tells in its log."""
    serving.wait_says('"event":"serving"')
    found = re.search(r'"host":"([\d.]+)","port":(\d+)', serving.text)
    assert found is not None
    return f"http://{found[1]}:{found[2]}"


def wait_ready(url: str) -> None:
    """Wait until a server is ready."""
    until_now(lambda: ask(url, "GET", "/api/ready")[0] == 200, what="ready")


def test_sigterm_under_load(shared: dict[str, str], tmp_path: Path) -> None:
    """It ends with 0, and each event it answered with 202 is in the log, once."""
    with background("serve", environ=shared, cwd=tmp_path) as serving:
        url = address(serving)
        with feeding(url, API_KEY, "sigterm") as feed:
            feed.wait_more(1_000)
            stopped = serving.stop(signal.SIGTERM)
            accepted = feed.stop()
    assert stopped.code == 0
    assert stopped.seconds < STOP_S_MAX
    in_log = events_in_log(shared)
    assert len(accepted) >= 1_000
    assert accepted - in_log == {}
    assert "Traceback" not in serving.text


def test_two_processes_on_one_port(shared: dict[str, str], tmp_path: Path) -> None:
    """One that is killed is replaced while the other goes on; SIGTERM ends both with 0."""
    port = free_port()
    command = ("serve", "--port", str(port), "--processes", "2")
    with background(*command, environ=shared, cwd=tmp_path) as serving:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url)
        parent = psutil.Process(serving.process.pid)
        first, second = parent.children()
        with feeding(url, API_KEY, "two") as feed:
            feed.wait_more(500)
            first.send_signal(signal.SIGKILL)
            feed.wait_more(500)
            serving.wait_says("child started again")
            accepted = feed.finish()
        assert second.is_running()
        stopped = serving.stop(signal.SIGTERM)
    assert stopped.code == 0
    assert accepted - events_in_log(shared) == {}
    assert not second.is_running()


def test_engines_that_are_away(shared: dict[str, str], tmp_path: Path) -> None:
    """It starts and lives, tells why it is not ready, accepts nothing, and ends with 0."""
    log_port = free_port()
    shared["EVP_REDIS_URL"] = f"redis://user:hunter2@127.0.0.1:{log_port}/0"
    shared["EVP_MONGO_URL"] = f"mongodb://127.0.0.1:{free_port()}"
    with background("serve", environ=shared, cwd=tmp_path) as serving:
        url = address(serving)
        assert ask(url, "GET", "/api/live")[0] == 200
        status, ready = ask(url, "GET", "/api/ready")
        assert status == 503
        assert ready["code"] == "log_unavailable"
        assert f"127.0.0.1:{log_port}" in ready["detail"]
        status, refused = ask(url, "POST", "/events", '{"type": "t"}')
        assert (status, refused["code"]) == (503, "log_unavailable")
        started_at_s = time.monotonic()
        stopped = serving.stop()
        assert time.monotonic() - started_at_s < 2 * STOP_S_MAX
    assert stopped.code == 0
    assert "hunter2" not in serving.text + json.dumps([ready, refused])
    assert "Traceback" not in serving.text


def test_second_signal_forces(shared: dict[str, str], tmp_path: Path) -> None:
    """A request that never ends holds up the first signal, not the second."""
    shared["EVP_SHUTDOWN_TIMEOUT_S"] = "30"
    with background("serve", environ=shared, cwd=tmp_path) as serving:
        url = address(serving)
        wait_ready(url)
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(b"POST /events HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\n{")
            os.kill(serving.process.pid, signal.SIGTERM)
            serving.wait_says("no longer ready")
            assert serving.stop(signal.SIGINT).seconds < 15


def test_busy_port(shared: dict[str, str], tmp_path: Path) -> None:
    """A port that is taken is one line and exit 3."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = evp("serve", "--port", port, environ=shared, cwd=tmp_path)
    assert done.code == 3
    assert done.one_line.startswith(f"evp: can't listen on 127.0.0.1:{port}: Address")


def test_development_key_is_made(clean: dict[str, str], tmp_path: Path) -> None:
    """Without keys one is made, kept for its owner only, and is the one that works."""
    clean |= {"EVP_PORT": "0", "EVP_REDIS_URL": "redis://127.0.0.1:1", "EVP_DRAIN_DELAY_MS": "0"}
    with background("serve", environ=clean, cwd=tmp_path) as serving:
        url = address(serving)
        key = tmp_path / "data" / "api_key"
        assert key.stat().st_mode & 0o777 == 0o600
        send = ("send", "--type", "t", "--url", url, "--key", "another")
        assert "unauthenticated" in evp(*send, environ=clean, cwd=tmp_path).out
        assert serving.stop().code == 0
    assert key.read_text().strip() not in serving.text


def test_data_directory_that_can_not_be_used(clean: dict[str, str], tmp_path: Path) -> None:
    """Where the key can't be kept, one line says so, and the exit code is 2."""
    (tmp_path / "data").write_text("")
    done = evp("serve", "--port", "0", environ=clean, cwd=tmp_path)
    assert done.code == 2
    assert "can't keep data in" in done.one_line
