"""`evp verify` as a person runs it: beside a running evp, piped, on terminals, without engines."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e import commands
from tests.e2e.commands import Background, background, terminal
from tests.support.make import event, ndjson
from tests.support.servers import Server
from tests.support.stores import hanging
from tests.support.up import EVP, Up, clean_environ
from tests.support.wait import until_now

COLUMNS = 60
NOBODY = {
    "EVP_REDIS_URL": "redis://127.0.0.1:1/0",
    "EVP_MONGO_URL": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100",
}


@pytest.fixture(scope="module")
def fed(up: Up) -> Up:
    """A running `evp up` that has stored something."""
    events = ndjson(*(event(number, source="verify") for number in range(50)))
    commands.evp("send", "-", environ=up.environ, cwd=up.folder, stdin=events)
    up.wait_stored("verify", 50)
    return up


@pytest.mark.parametrize(
    "flags", [[], ["--all"], ["--since", "24h"], ["--sample", "3"], ["--since", "90s"]]
)
def test_clean(fed: Up, flags: list[str]) -> None:
    """Beside everything that runs it is clean, exit 0, in a few lines and without escape codes."""
    done = commands.evp("verify", *flags, environ=fed.environ, cwd=fed.folder)
    assert (done.code, done.err) == (0, ""), done.out
    assert re.match(r"evp:events, \w+: clean", done.out)
    assert re.search(r"acknowledged +[\d,]+ events in [\d,]+ frames", done.out)
    assert max(map(len, done.out.splitlines())) <= 80


def test_json(fed: Up) -> None:
    """--json prints one object, with names that stay."""
    done = commands.evp("verify", "--json", environ=fed.environ, cwd=fed.folder)
    report = json.loads(done.out)
    assert set(report) == {
        "clean", "stream", "partitions", "database", "scope", "began_at", "took_s", "counts",
        "log_error", "acknowledge_error", "undecided_frames", "findings_total", "findings_by_kind",
        "findings", "acknowledged_total", "acknowledged",
    }  # fmt: skip
    assert (report["clean"], report["findings"], report["log_error"]) == (True, [], None)
    assert report["counts"]["stored"] >= 50


def test_finding(fed: Up) -> None:
    """What is missing is told with what it means, exit 1; in JSON it is one of the findings."""
    with fed.store() as store:
        one = store.events.find_one({"source": "verify"})
        store.events.delete_one({"_id": one["_id"]})
        try:
            done = commands.evp("verify", environ=fed.environ, cwd=fed.folder)
            asked = commands.evp("verify", "--json", environ=fed.environ, cwd=fed.folder)
            noted = commands.evp(
                "verify", "--acknowledge", "a test", environ=fed.environ, cwd=fed.folder
            )
            again = commands.evp("verify", "--json", environ=fed.environ, cwd=fed.folder)
        finally:
            store.events.insert_one(one)
    assert (done.code, asked.code, done.err) == (1, 1, "")
    assert "1 event_missing" in done.out
    assert "they were deleted" in " ".join(done.out.split())
    [finding] = json.loads(asked.out)["findings"]
    assert (finding["kind"], finding["frame_id"]) == ("event_missing", str(one["frame_id"]))
    assert finding["event_ids"][0] in done.out
    assert (noted.code, again.code, noted.err) == (0, 0, "")
    assert "clean (acknowledged: 1)" in noted.out
    assert noted.out.rstrip().endswith(": a test")
    [known] = json.loads(again.out)["acknowledged"]
    assert (known["key"], known["acknowledged"]["reason"]) == (finding["key"], "a test")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--since", "yesterday"], "wanted a span"),
        (["--since", "2026-01-01T00:00:00"], "wanted a span"),
        (["--since", "24"], "wanted a span"),
        (["--since", "999999d"], "wanted a span"),
        (["--since", "2999-01-01T00:00:00Z"], "still to come"),
        (["--all", "--since", "1h"], "--all looks at everything"),
        (["--all", "--sample", "5"], "--all looks at everything"),
        (["--acknowledge", " "], "wanted a reason"),
        (["--acknowledge", "x" * 501], "wanted a reason"),
        (["--acknowledge", "known", "--since", "1h"], "--acknowledge looks at everything"),
        (["--acknowledge", "known", "--sample", "5"], "--acknowledge looks at everything"),
        (["--sample", "0"], "--sample"),
        (["--sample", "x"], "--sample"),
    ],
)
def test_wrong_use(clean: dict[str, str], tmp_path: Path, flags: list[str], told: str) -> None:
    """A flag that makes no sense is exit 2 and says what was wanted."""
    done = commands.evp("verify", *flags, environ=clean, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_without_engines(clean: dict[str, str], tmp_path: Path) -> None:
    """Without a store it is one line and exit 3."""
    done = commands.evp("verify", environ=clean | NOBODY, cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "the store can't be used now" in done.one_line


def test_without_a_log(shared: dict[str, str], tmp_path: Path) -> None:
    """Without the log it looks at the store, says what it could not see, and ends with 3."""
    environ = shared | {"EVP_REDIS_URL": NOBODY["EVP_REDIS_URL"]}
    done = commands.evp("verify", environ=environ, cwd=tmp_path)
    assert (done.code, done.err) == (3, "")
    assert "clean" not in done.out
    assert "no fault in the store" in done.out
    assert "The log can't be read" in done.out


def test_terminal(fed: Up) -> None:
    """On a terminal of 60 columns and ten lines everything fits, and the bar leaves no trace."""
    words = [*EVP, "verify", "--all"]
    with terminal(words, environ=fed.environ, cwd=fed.folder, columns=COLUMNS, rows=10) as screen:
        assert screen.wait_ended().code == 0
    assert max(map(len, screen.lines)) <= COLUMNS
    assert "clean" in screen.text
    assert "Traceback" not in screen.text


def talks(one: Background, port: int) -> bool:
    """Return True if a command has a connection to a port."""
    connections = psutil.Process(one.process.pid).net_connections()
    return any(bool(each.raddr) and each.raddr.port == port for each in connections)


@pytest.mark.parametrize("is_piped", [1, 0])
def test_ctrl_c(
    own_store_server: Server, shared: dict[str, str], tmp_path: Path, is_piped: int
) -> None:
    """Ctrl-C ends it at any time with 130, even while the store hangs."""
    environ = clean_environ(**shared) | {"EVP_MONGO_URL": own_store_server.url}
    with hanging(own_store_server):
        if is_piped:
            with background("verify", environ=environ, cwd=tmp_path) as verifying:
                until_now(lambda: talks(verifying, own_store_server.port), what="it waits")
                stopped = verifying.stop(signal.SIGINT)
            text = verifying.text
        else:
            words = [*EVP, "verify"]
            with terminal(words, environ=environ, cwd=tmp_path, columns=COLUMNS) as screen:
                screen.wait_shows("records")
                screen.press_ctrl_c()
                stopped = screen.wait_ended()
            text = screen.text
    assert stopped.code == 130
    assert stopped.seconds < 8
    assert "Traceback" not in text
