"""`evp send`: files, standard input, one event by hand; an account by code, and exit codes."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.e2e.commands import Finished, background, evp, terminal
from tests.support.make import event, ndjson
from tests.support.up import EVP, Up

EVENTS = 3_000


def made(source: str, count: int) -> bytes:
    """Return so many events of a source, one a line."""
    return ndjson(*(event(number, source=source) for number in range(count))) + b"\n"


def send(up: Up, *arguments: str, stdin: bytes = b"") -> Finished:
    """Run `evp send` where it finds the running `evp up`."""
    return evp("send", *arguments, environ=up.environ, cwd=up.folder, stdin=stdin)


@pytest.mark.slow
def test_a_file_twice(up: Up, tmp_path: Path) -> None:
    """All lines are accepted and stored once; sent again they are accepted and add nothing."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(made("twice", EVENTS))
    expected = Counter(f"e{number}" for number in range(EVENTS))
    for _ in range(2):
        done = send(up, str(file))
        assert (done.code, done.out, done.err) == (0, "3000 accepted, 0 refused\n", "")
    send(up, "--type", "last", "--source", "twice", "--id", "last")
    up.wait_stored("twice", EVENTS + 1)
    assert up.stored("twice") == expected + Counter(["last"])


def test_standard_input(up: Up) -> None:
    """With - the lines come from standard input; blank ones don't count."""
    done = send(up, "-", stdin=b"\n" + made("stdin", 10) + b"\n\n")
    assert (done.code, done.out) == (0, "10 accepted, 0 refused\n")
    up.wait_stored("stdin", 10)


def test_refused_lines(up: Up) -> None:
    """Each refused line is counted by its code and told by its number; the others are accepted."""
    good = made("refused", 600).splitlines()
    bad = [b'{"source": "no type"}', b'{"type": "t", "id": 7}', b"{half", b'{"type": "t", "id": 8}']
    lines = [bad[0], *good[:300], bad[1], *good[300:], bad[2], b"x" * (300 * 1024), bad[3]]
    done = send(up, "-", stdin=b"\n".join(lines))
    assert done.code == 1
    told = done.out.splitlines()
    assert told[0] == "600 accepted, 5 refused"
    counted = {"1 event_too_large", "1 invalid_event", "2 invalid_id", "1 invalid_json"}
    assert {line.strip() for line in told[1:5]} == counted
    places = [re.match(r"  line (\d+): (\w+): .+", line) for line in told[5:]]
    assert [place.groups() for place in places if place] == [
        ("1", "invalid_event"),
        ("302", "invalid_id"),
        ("603", "invalid_json"),
        ("604", "event_too_large"),
        ("605", "invalid_id"),
    ]
    up.wait_stored("refused", 600)


def test_json_account(up: Up) -> None:
    """With --json the account is one JSON object on standard output."""
    done = send(up, "-", "--json", stdin=made("json", 3) + b"[]\n")
    assert done.code == 1
    account = json.loads(done.out)
    assert account["accepted"] == 3
    assert account["refused"] == {"invalid_event": 1}
    assert account["examples"][0]["line"] == 4


def test_one_event_by_hand(up: Up) -> None:
    """Flags make one event; its data is JSON."""
    flags = {
        "--type": "signup",
        "--data": '{"plan": "pro", "seats": [1, 2.5, null]}',
        "--source": "hand",
        "--id": "h-1",
        "--subject": "user_7",
        "--time": "2026-01-02T03:04:05.678+02:00",
    }
    done = send(up, *(part for flag in flags.items() for part in flag))
    assert (done.code, done.out) == (0, "1 accepted, 0 refused\n")
    up.wait_stored("hand", 1)
    with up.store() as db:
        found = db.events.find_one({"source": "hand"})
    assert found["data"] == {"plan": "pro", "seats": [1, 2.5, None]}
    assert (found["type"], found["id"], found["subject"]) == ("signup", "h-1", "user_7")
    assert found["time"].isoformat() == "2026-01-02T01:04:05.678000+00:00"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a FILE"),
        (["none.ndjson"], "can't read none.ndjson: No such file or directory"),
        (["."], "can't read .: Is a directory"),
        (["-", "--data", "1", "--id", "7"], "--data and --id belong to --type"),
        (["--type", "t", "--key", "a\nb"], "printable"),
    ],
)
def test_wrong_use(up: Up, arguments: list[str], told: str) -> None:
    """What makes no sense is one line that says what would, and exit 2."""
    done = send(up, *arguments)
    assert done.code == 2
    assert told in done.one_line


def test_wrong_key(up: Up) -> None:
    """With a wrong key every event is refused, and told so."""
    done = send(up, "-", "--key", "wrong", stdin=made("key", 3))
    assert done.code == 1
    assert done.out.startswith("0 accepted, 3 refused\n  3 unauthenticated\n")
    assert up.count("key") == 0


def test_no_server(clean: dict[str, str], tmp_path: Path) -> None:
    """Without a server one line says how to start one, and the exit code is 3."""
    done = evp("send", "--type", "t", "--key", "k", environ=clean, cwd=tmp_path)
    assert done.code == 3
    assert "no answer from evp at http://127.0.0.1:3001" in done.one_line
    assert "`evp up` starts it" in done.one_line


def test_no_key(clean: dict[str, str], tmp_path: Path) -> None:
    """Without any key one line says where one can come from, and the exit code is 2."""
    done = evp("send", "--type", "t", environ=clean, cwd=tmp_path)
    assert done.code == 2
    assert "no API key" in done.one_line


@pytest.mark.slow
def test_server_that_comes_back(up: Up, tmp_path: Path) -> None:
    """A server that is killed and restarted in the middle costs a while and no event."""
    lines = made("back", 2_000).splitlines(keepends=True)
    with background("send", "-", environ=up.environ, cwd=tmp_path, stdin=PIPE) as sending:
        sending.write(b"".join(lines[:1_000]))
        up.wait_stored("back", 500)
        up.kill_child("serve-1")
        sending.write(b"".join(lines[1_000:]))
        sending.close()
        assert sending.wait().code == 0
        assert sending.text == "2000 accepted, 0 refused\n"
    up.wait_stored("back", 2_000)
    assert up.stored("back") == Counter(f"e{number}" for number in range(2_000))


def test_interrupted_account(up: Up, tmp_path: Path) -> None:
    """Ctrl-C ends it while it waits for input; it still tells what was accepted by then."""
    with background("send", "-", environ=up.environ, cwd=tmp_path, stdin=PIPE) as sending:
        sending.write(made("interrupted", 600))
        up.wait_stored("interrupted", 500)
        assert sending.stop(signal.SIGINT).code == 128 + signal.SIGINT
        assert sending.text == "500 accepted, 0 refused\n"


def test_progress_is_for_terminals_only(up: Up, tmp_path: Path) -> None:
    """A terminal sees how far it is; the result is there either way."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(made("terminal", EVENTS))
    command = [*EVP, "send", str(file)]
    with terminal(command, environ=up.environ, cwd=tmp_path, columns=60) as screen:
        assert screen.wait_ended().code == 0
    assert "━" in screen.text
    assert re.search(r"\d+ accepted, 0 refused .*0:00", screen.text)
    assert screen.lines[-2] == "3000 accepted, 0 refused"
    assert max(map(len, screen.lines)) <= 60


def test_ctrl_c_while_it_waits_for_input(up: Up, tmp_path: Path) -> None:
    """Ctrl-C ends it with 130 and without a traceback, also while nothing comes in."""
    command = [*EVP, "send", "-"]
    with terminal(command, environ=up.environ, cwd=tmp_path, columns=60) as screen:
        screen.wait_shows("sending")
        screen.press_ctrl_c()
        assert screen.wait_ended().code == 128 + signal.SIGINT
    assert "Traceback" not in screen.text
