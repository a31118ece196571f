"""`evp loadtest` as a person runs it: reports, exit codes, Ctrl-C, and a server that is hurt."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.commands import Finished, background, evp, terminal
from tests.support.loads import ACCEPTED, answering, problem
from tests.support.make import event, ndjson
from tests.support.up import EVP, Up, lives
from tests.support.wait import until_now

COLUMNS = 60
SHORT = ("--duration", "300ms", "--connections", "4")


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: the servers here are those of the test."""


def load(up: Up, *arguments: str, **environ: str) -> Finished:
    """Run `evp loadtest` where it finds the running `evp up`."""
    return evp("loadtest", *arguments, environ=up.environ | environ, cwd=up.folder)


def told(done: Finished) -> dict[str, Any]:
    """Return the report of a run with --json; it is the only output."""
    assert done.err == ""
    report: dict[str, Any] = json.loads(done.out)
    assert report["asked"] == (
        report["accepted"]
        + sum(report["rejected"].values())
        + report["unanswered"]
        + report["unsent"]
    )
    return report


def generators(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the generator processes of a load test."""
    return psutil.Process(process.pid).children()


def stored_of(up: Up, source: str) -> int:
    """Return how many events of sources that begin so are stored."""
    with up.store() as db:
        return int(db.events.count_documents({"source": {"$regex": f"^{source}"}}))


def wait_sends(up: Up, before: int) -> None:
    """Wait until events of a load test arrive in the store."""
    until_now(lambda: stored_of(up, "evp-loadtest-") > before, what="the load has begun")


def test_verified(up: Up) -> None:
    """All that is asked is accepted, stored once and found by its own id; exit 0."""
    done = load(up, *SHORT, "--eps", "2000", "--warmup", "100ms", "--verify", "--json")
    report = told(done)
    assert done.code == 0
    assert (report["asked"], report["accepted"], report["requests"]) == (600, 600, 6)
    check = report["check"]
    assert (check["checked"], check["found"], check["lost"], check["doubled"]) == (800, 800, 0, 0)
    assert report["storing"]["drained"]
    assert report["storing"]["watched"] > 0
    assert 0 < report["accept_ms"]["p50"] <= report["accept_ms"]["max"]
    assert report["storing"]["stored_ms"]["p50"] > 0
    stored = up.stored(f"evp-loadtest-{report['run']}")
    assert (len(stored), set(stored.values())) == (800, {1})


@pytest.mark.slow
def test_report_in_words(up: Up) -> None:
    """Without a terminal there is the report, and nothing else: no live view, no codes."""
    done = load(up, *SHORT, "--batch", "1", "--processes", "2", "--threshold", "lost==0")
    assert (done.code, done.err) == (0, "")
    for line in (r"asked +300", r"accepted +300", r"lost +0", r"threshold lost==0 +0.00, met"):
        assert re.search(line, done.out), done.out


def test_thresholds(up: Up) -> None:
    """One that is missed is exit 99, and each is told with its figure."""
    bounds = ("--threshold", "p99<1h", "--threshold", "p50<1us", "--threshold", "asked==300")
    done = load(up, *SHORT, *(one.replace("1h", "3600s") for one in bounds), "--json")
    assert done.code == 99
    verdicts = [(one["threshold"], one["met"]) for one in told(done)["thresholds"]]
    assert verdicts == [("p99<3600s", True), ("p50<1us", False), ("asked==300", True)]


@pytest.mark.slow
def test_lost_events(up: Up) -> None:
    """Events that are not in the store are lost, by name; exit 1, and what may be the reason."""
    done = load(up, *SHORT, "--verify", EVP_MONGO_DB="elsewhere")
    assert done.code == 1
    assert re.search(r"lost +300", done.out)
    assert "lost: 0.0-0, 0.0-1, " in done.out
    assert "is it the one of the server that was loaded?" in " ".join(done.out.split())


@pytest.mark.slow
def test_events_of_a_file(up: Up, tmp_path: Path) -> None:
    """With --input the file's events take turns; each is stored under an id of its own."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(ndjson(event(1, type="first"), event(2, type="second", data="x" * 10)) + b"\n")
    done = load(up, *SHORT, "--input", str(file), "--batch", "10", "--verify", "--json")
    assert done.code == 0
    with up.store() as db:
        found = list(db.events.find({"source": f"evp-loadtest-{told(done)['run']}"}))
    assert Counter(one["type"] for one in found) == {"first": 150, "second": 150}
    assert {one["data"] for one in found if one["type"] == "second"} == {"x" * 10}


@pytest.mark.slow
def test_shape_of_made_events(up: Up) -> None:
    """Types, users and size of made events are as the flags say."""
    shape = ("--types", "3", "--users", "5", "--skew", "0", "--payload-bytes", "500")
    done = load(up, *SHORT, *shape, "--json")
    assert done.code == 0
    with up.store() as db:
        found = list(db.events.find({"source": f"evp-loadtest-{told(done)['run']}"}))
    assert len({one["type"] for one in found}) == 3
    assert len({one["subject"] for one in found}) == 5
    assert all(450 < len(json.dumps(one["data"])) < 550 for one in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--duration", "soon"], "--duration 'soon'"),
        (["--warmup", "1w"], "--warmup '1w'"),
        (["--threshold", "p99"], "--threshold 'p99'"),
        (["--verify", "--accept-only"], "--accept-only"),
        (["--input", "nowhere"], "can't read nowhere"),
        (["--url", "h:1"], "--url"),
        (["--verify", "--duration", "24h", "--eps", "1000000"], "shorter --duration"),
    ],
)
def test_wrong_flags(up: Up, arguments: list[str], says: str) -> None:
    """A flag that makes no sense is one line and exit 2, before anything is sent."""
    done = load(up, *arguments)
    assert done.code == 2
    assert says in done.one_line


@pytest.mark.slow
@pytest.mark.parametrize("text", [b"", b"[1]\n", b'{"type": "t"}\n{half\n', b'{"data": 1e999}\n'])
def test_wrong_files(up: Up, tmp_path: Path, text: bytes) -> None:
    """A file without events, or with a line that is none, is exit 2 and says where."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(text)
    done = load(up, "--input", str(file))
    assert done.code == 2
    assert f"{file}" in done.one_line


def test_wrong_key(up: Up) -> None:
    """A key that is refused ends the load soon; the report says so by code; exit 1."""
    done = load(up, "--key", "wrong", "--eps", "20000", "--duration", "10m", "--json")
    report = told(done)
    assert done.code == 1
    assert set(report["rejected"]) == {"unauthenticated"}
    assert report["gave_up"].startswith("401 unauthenticated: ")


@pytest.mark.slow
def test_nobody_there(clean: dict[str, str], up: Up, tmp_path: Path) -> None:
    """Without server, log or store one line says what is away and what to do; exit 3."""
    nowhere = "127.0.0.1:1"
    done = load(up, "--url", f"http://{nowhere}")
    assert done.code == 3
    assert f"no answer from evp at {nowhere}" in done.one_line
    assert "`evp up` starts it" in done.one_line
    done = evp("loadtest", "--key", "k", environ=clean, cwd=tmp_path)
    assert done.code == 3
    assert "can't reach the log" in done.one_line
    assert "--accept-only" in done.one_line


@pytest.mark.slow
async def test_accept_only(clean: dict[str, str], tmp_path: Path) -> None:
    """With --accept-only a server without engines is measured, and retries are counted apart."""
    busy = problem(503, "backlog_full", "retry-after: 0.1")
    async with answering(lambda number, _body: ACCEPTED if number else busy) as server:
        at = ("--url", server.url, "--key", "k", "--accept-only", "--batch", "10", "--json")
        run = asyncio.to_thread(evp, "loadtest", *at, *SHORT, environ=clean, cwd=tmp_path)
        done = await run
        report = told(done)
        assert (done.code, report["accepted"], report["retried"]) == (0, 300, {"backlog_full": 1})
        assert (report["storing"], report["check"]) == (None, None)
        assert len(set(server.ids)) == 300


@pytest.mark.slow
def test_a_stall_shows(up: Up) -> None:
    """A server that stands still for a second makes requests late, none fewer; all are stored."""
    pid = up.children["serve-1"]
    flags = ("--eps", "500", "--batch", "5", "--duration", "2s", "--connections", "4")
    before = stored_of(up, "evp-loadtest-")
    with background(
        "loadtest", *flags, "--verify", "--json", environ=up.environ, cwd=up.folder
    ) as loading:
        wait_sends(up, before)
        os.kill(pid, signal.SIGSTOP)
        try:
            # Long enough for a dozen times the requests that the connections can hold.
            with pytest.raises(subprocess.TimeoutExpired):
                loading.process.wait(1.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert loading.wait().code == 0
    report = json.loads(loading.text)
    assert (report["asked"], report["accepted"]) == (1_000, 1_000)
    assert report["accept_ms"]["max"] > 900
    assert report["accept_ms"]["p99"] > 500
    assert report["late"] > 100
    assert report["check"]["found"] == 1_000


@pytest.mark.slow
def test_server_that_is_killed(up: Up) -> None:
    """A server that dies and is started again costs connections, and no event counts twice."""
    flags = ("--eps", "500", "--batch", "5", "--duration", "1500ms", "--connections", "4")
    before = stored_of(up, "evp-loadtest-")
    with background(
        "loadtest", *flags, "--verify", "--json", environ=up.environ, cwd=up.folder
    ) as loading:
        wait_sends(up, before)
        up.wait_restarted("serve-1", up.kill_child("serve-1"))
        assert loading.wait().code == 0, loading.text
    report = json.loads(loading.text)
    assert (report["asked"], report["accepted"], report["unsent"]) == (750, 750, 0)
    check = report["check"]
    assert (check["found"], check["lost"], check["doubled"]) == (750, 0, 0)


@pytest.mark.slow
def test_generator_that_is_killed(up: Up) -> None:
    """A generator process that is killed ends the test: one line and exit 3."""
    before = stored_of(up, "evp-loadtest-")
    with background("loadtest", environ=up.environ, cwd=up.folder) as loading:
        wait_sends(up, before)
        [generator] = generators(loading.process)
        generator.kill()
        assert loading.wait().code == 3
    assert f"a load generator (process {generator.pid}) ended before its time" in loading.text
    assert len(loading.text.splitlines()) == 1


def test_killed_with_its_generators(up: Up) -> None:
    """Where the command itself is killed, its generators end as well."""
    before = stored_of(up, "evp-loadtest-")
    with background("loadtest", environ=up.environ, cwd=up.folder) as loading:
        wait_sends(up, before)
        [generator] = generators(loading.process)
        loading.stop(signal.SIGKILL)
        until_now(lambda: not lives(generator), what="its generator ends")


def test_ctrl_c(up: Up) -> None:
    """In a terminal it shows how it stands; Ctrl-C ends the load, and the report is told."""
    before = stored_of(up, "evp-loadtest-")
    command = [*EVP, "loadtest", "--duration", "60s", "--verify"]
    with terminal(command, environ=up.environ, cwd=up.folder, columns=COLUMNS) as screen:
        screen.wait_shows("of 60 s")
        wait_sends(up, before)
        screen.press_ctrl_c()
        stopped = screen.wait_ended()
    assert stopped.code == 0, screen.text
    assert "ended before its time" in screen.text
    assert re.search(r"lost +0", screen.text)
    assert "Traceback" not in screen.text
    assert max(map(len, screen.lines)) <= COLUMNS


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that lets everybody in and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_second_ctrl_c(clean: dict[str, str], tmp_path: Path, silent: str) -> None:
    """Whoever presses Ctrl-C again doesn't wait for the last answers: exit 130, nothing left."""
    at = ("--url", silent, "--key", "k", "--accept-only", "--connections", "4", "--batch", "7")
    command = [*EVP, "loadtest", *at]
    with terminal(command, environ=clean, cwd=tmp_path, columns=COLUMNS) as screen:
        screen.wait_shows(" 28")
        [generator] = generators(screen.process)
        screen.press_ctrl_c()
        screen.wait_shows("waiting for the last answers")
        screen.press_ctrl_c()
        assert screen.wait_ended().code == 130
        until_now(lambda: not lives(generator), what="its generator ends")
    assert "Traceback" not in screen.text
