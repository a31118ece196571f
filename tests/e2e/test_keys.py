"""`evp keys`: made once and shown once, listed, revoked under load, rotated."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Background, background, evp
from tests.e2e.log import events_in_log
from tests.e2e.test_serve import address, wait_ready
from tests.support.wait import until_now

REFUSED_S_MAX = 5.0
KEY = re.compile(r"evp_[0-9a-f]{10}_[0-9a-f]{64}\n")


@pytest.fixture
def serving(shared: dict[str, str], tmp_path: Path, stored: Any) -> Iterator[Background]:
    """Two server processes on one port."""
    with background("serve", "--processes", "2", environ=shared, cwd=tmp_path, name="s") as serving:
        yield serving


def url_of(serving: Background) -> str:
    """Return the address of the servers, once they are ready."""
    url = address(serving)
    wait_ready(url)
    return url


def created(shared: dict[str, str], cwd: Path, *arguments: str) -> str:
    """Make a key as a script does and return it."""
    done = evp("keys", "create", *arguments, environ=shared, cwd=cwd)
    assert done.code == 0, done.err
    assert KEY.fullmatch(done.out)
    return done.out.strip()


def answer(url: str, key: str) -> str:
    """Send one event with a key; return status and code of the answer."""
    headers = {"content-type": "application/json", "x-api-key": key}
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/events", b'{"type": "t", "id": "first"}', headers)
        reply = connection.getresponse()
        return f"{reply.status} {json.loads(reply.read()).get('code', '')}".strip()


def wait_answer(url: str, key: str, wanted: str, within_s: float = REFUSED_S_MAX) -> None:
    """Wait until both processes answer so: each looks by itself."""
    until_now(
        lambda: [answer(url, key) for _ in range(8)] == [wanted] * 8,
        what=f"{wanted} is answered",
        within_s=within_s,
    )


def rows(shared: dict[str, str], cwd: Path, *flags: str) -> dict[str, Any]:
    """Return what `evp keys list --json` tells, by id."""
    done = evp("keys", "list", "--json", *flags, environ=shared, cwd=cwd)
    assert done.code == 0
    return {row["id"]: row for row in json.loads(done.out)}


def test_life_of_a_key(
    shared: dict[str, str], tmp_path: Path, serving: Background, stored: Any
) -> None:
    """It works within seconds, is listed without its secret, and stops to work once revoked."""
    url = url_of(serving)
    key = created(shared, tmp_path, "shop", "--expires", "90d", "--rate", "5000")
    key_id, secret = key.split("_")[1:]
    wait_answer(url, key, "202")
    row = rows(shared, tmp_path)[key_id]
    assert (row["name"], row["state"], row["scopes"], row["rate_per_s"]) == (
        "shop",
        "live",
        ["ingest"],
        5000,
    )
    text = evp("keys", "list", environ=shared, cwd=tmp_path).out
    assert "shop" in text
    assert "5,000" in text
    kept = stored.api_keys.find_one()
    assert kept["_id"] == key_id
    assert secret not in text + json.dumps(row) + str(kept) + serving.text
    asked = evp("keys", "revoke", "shop", environ=shared, cwd=tmp_path)
    assert asked.code == 2
    assert "add --yes" in asked.one_line
    done = evp("keys", "revoke", "shop", "--yes", environ=shared, cwd=tmp_path)
    assert (done.code, done.out) == (
        0,
        f"shop ({key_id}) is revoked; servers refuse it within 5 s\n",
    )
    wait_answer(url, key, "401 unauthenticated")
    assert rows(shared, tmp_path) == {}
    assert rows(shared, tmp_path, "--all")[key_id]["state"] == "revoked"


def test_scopes(shared: dict[str, str], tmp_path: Path, serving: Background) -> None:
    """A key that may read only sends nothing, and a whole file is not sent in pieces for that."""
    url = url_of(serving)
    key = created(shared, tmp_path, "dash", "--scope", "read")
    file = tmp_path / "events.ndjson"
    file.write_text('{"type": "t"}\n' * 400)
    wait_answer(url, key, "403 forbidden")
    done = evp("send", str(file), "--url", url, "--key", key, environ=shared, cwd=tmp_path)
    assert done.code == 1
    assert "400 forbidden" in done.out


def test_rotation(shared: dict[str, str], tmp_path: Path, serving: Background) -> None:
    """Two keys of a name work beside each other for the time of grace, then the old one ends."""
    url = url_of(serving)
    old = created(shared, tmp_path, "shop")
    wait_answer(url, old, "202")
    grace = ("--grace", "6s", "--json")
    done = evp("keys", "rotate", "shop", *grace, environ=shared, cwd=tmp_path)
    told = json.loads(done.out)
    new = told["key"]
    assert told["made"]["name"] == "shop"
    assert [one["id"] for one in told["old"]] == [old.split("_")[1]]
    ends_at = datetime.fromisoformat(told["old"][0]["expires_at"])
    wait_answer(url, new, "202")
    if datetime.now(UTC) < ends_at - timedelta(seconds=1):
        assert answer(url, old) == "202"
    wait_answer(url, old, "401 unauthenticated", within_s=6 + REFUSED_S_MAX)
    assert datetime.now(UTC) > ends_at
    assert answer(url, new) == "202"


def test_revoked_under_load(shared: dict[str, str], tmp_path: Path, serving: Background) -> None:
    """On connections that send without a pause it ends within five seconds, in every process."""
    url = url_of(serving)
    key = created(shared, tmp_path, "load")
    wait_answer(url, key, "202")
    lanes = [Lane(url, key, number) for number in range(6)]
    for lane in lanes:
        lane.start()
    try:
        until_now(lambda: all(len(lane.accepted) > 200 for lane in lanes), what="there is load")
        done = evp("keys", "revoke", "load", "--yes", environ=shared, cwd=tmp_path)
        revoked_at_s = time.monotonic()
        assert done.code == 0
        for lane in lanes:
            lane.join(REFUSED_S_MAX + 1)
        assert not any(lane.is_alive() for lane in lanes), "one is still let in"
    finally:
        for lane in lanes:
            lane.stopped.set()
            lane.join()
    assert [lane.end for lane in lanes] == [b"HTTP/1.1 401 Unauthorized"] * len(lanes)
    assert max(lane.ended_at_s for lane in lanes) - revoked_at_s < REFUSED_S_MAX
    accepted = [event_id for lane in lanes for event_id in lane.accepted]
    in_log = events_in_log(shared)
    del in_log["first"]
    assert in_log == Counter(accepted)


class Lane(threading.Thread):
    """One connection that sends event after event, each with the same head, until refused."""

    def __init__(self, url: str, key: str, number: int) -> None:
        super().__init__()
        self.stopped = threading.Event()
        self.accepted: list[str] = []
        self.end = b""
        self.ended_at_s = 0.0
        host, port = url.removeprefix("http://").split(":")
        self._where = (host, int(port))
        self._number = number
        self._head = (
            f"POST /events HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            f"x-api-key: {key}\r\ncontent-length: "
        ).encode()

    def run(self) -> None:
        """Send."""
        with socket.create_connection(self._where, timeout=10) as connection:
            while not self.stopped.is_set():
                event_id = f"{self._number}-{len(self.accepted)}"
                body = b'{"type": "t", "id": "%b"}' % event_id.encode()
                connection.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
                answer = connection.recv(4096)
                if not answer.startswith(b"HTTP/1.1 202 "):
                    self.end, self.ended_at_s = answer.partition(b"\r\n")[0], time.monotonic()
                    return
                self.accepted.append(event_id)


def test_pace(shared: dict[str, str], tmp_path: Path, serving: Background) -> None:
    """`evp send` and `evp loadtest` wait as they are told, and everything is accepted."""
    url = url_of(serving)
    key = created(shared, tmp_path, "slow", "--rate", "250")
    wait_answer(url, key, "202")
    file = tmp_path / "events.ndjson"
    file.write_text("".join(f'{{"type": "t", "id": "{n}"}}\n' for n in range(600)))
    done = evp("send", str(file), "--url", url, "--key", key, environ=shared, cwd=tmp_path)
    assert (done.code, done.out) == (0, "600 accepted, 0 refused\n")
    command = ("loadtest", "--eps", "2000", "--duration", "1s", "--batch", "10", "--accept-only")
    tested = evp(
        *command, "--url", url, "--key", key, "--json", environ=shared, cwd=tmp_path, within_s=60
    )
    told = json.loads(tested.out)
    assert "rate_limited" in json.dumps(told)
    assert tested.code == 0, tested.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "two words"], "'two words' is no name"),
        (["create", "a", "--scope", "write"], "--scope 'write'"),
        (["create", "a", "--expires", "soon"], "--expires 'soon'"),
        (["rotate", "a", "--grace", "soon"], "--grace 'soon'"),
        (["revoke", "nobody", "--yes"], "there is no key nobody"),
        (["rotate", "nobody"], "there is no live key nobody"),
    ],
)
def test_wrong_use(shared: dict[str, str], tmp_path: Path, arguments: list[str], says: str) -> None:
    """What makes no sense is one line and exit 2."""
    done = evp("keys", *arguments, environ=shared, cwd=tmp_path)
    assert done.code == 2
    assert says in done.one_line


def test_engines_that_are_away(shared: dict[str, str], tmp_path: Path) -> None:
    """Without the log none is made, exit 3; what the store has is listed, with a note."""
    key_id = created(shared, tmp_path, "shop").split("_")[1]
    no_log = shared | {"EVP_REDIS_URL": "redis://127.0.0.1:1"}
    done = evp("keys", "create", "other", environ=no_log, cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "can't reach the log" in done.one_line
    done = evp("keys", "list", "--json", environ=no_log, cwd=tmp_path)
    assert [row["id"] for row in json.loads(done.out)] == [key_id]
    assert done.one_line.startswith("there may be more: can't reach the log")
    done = evp("keys", "revoke", key_id, "--yes", environ=no_log, cwd=tmp_path)
    assert done.code == 3
    assert f"{key_id} is revoked in the store" in done.one_line
    done = evp("keys", "revoke", key_id, "--yes", "--json", environ=shared, cwd=tmp_path)
    assert done.code == 0
    assert [row["state"] for row in json.loads(done.out)] == ["revoked"]
