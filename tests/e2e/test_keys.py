"""`evp keys`: made once and shown once, listed, revoked under load, rotated."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pymongo import MongoClient
from redis import Redis

from evp.stream.keys import Keys
from tests.e2e.commands import Background, background, evp
from tests.e2e.log import events_in_log
from tests.e2e.test_serve import address, wait_ready
from tests.support.up import clean_environ
from tests.support.wait import until_now

REFUSED_S_MAX = 5.0
LANES = ("l0", "l1", "l2", "l3", "l4", "l5")
KEY = re.compile(r"evp_[0-9a-f]{10}_[0-9a-f]{64}\n")


class Servers(NamedTuple):
    """Two server processes on one port, the environment of commands for them, and a folder."""

    url: str
    environ: dict[str, str]
    cwd: Path
    process: Background


@pytest.fixture(scope="module")
def servers(
    log_url: str, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """Servers for all tests of this module; each makes keys of its own."""
    folder, name = tmp_path_factory.mktemp("keys"), f"t{secrets.token_hex(6)}"
    environ = clean_environ(
        EVP_REDIS_URL=log_url,
        EVP_MONGO_URL=store_url,
        EVP_MONGO_DB=name,
        EVP_STREAM=name,
        EVP_PORT="0",
        EVP_API_KEYS="test-key",
        EVP_DATA_DIR=str(folder / "data"),
        EVP_DRAIN_DELAY_MS="0",
    )
    with background("serve", "--processes", "2", environ=environ, cwd=folder) as process:
        yield Servers(url_of(process), environ, folder, process)
    with MongoClient[Any](store_url) as client:
        client.drop_database(name)
    with Redis.from_url(log_url) as log:
        log.delete(*Keys(name).all())


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


@pytest.mark.slow
def test_life_of_a_key(servers: Servers) -> None:
    """It works within seconds, is listed without its secret, and stops to work once revoked."""
    url, shared, tmp_path, serving = servers
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
    with MongoClient[Any](shared["EVP_MONGO_URL"]) as client:
        [kept] = client[shared["EVP_MONGO_DB"]].api_keys.find({"_id": key_id})
    assert kept["name"] == "shop"
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
    assert key_id not in rows(shared, tmp_path)
    assert rows(shared, tmp_path, "--all")[key_id]["state"] == "revoked"


def test_production_begins_without_a_key(shared: dict[str, str], tmp_path: Path) -> None:
    """In production nothing is made up: a server wants its secret, and waits for the first key."""
    del shared["EVP_API_KEYS"]
    shared |= {"EVP_ENV": "production", "EVP_HOST": "127.0.0.1"}
    refused = evp("serve", environ=shared, cwd=tmp_path)
    assert refused.code == 2
    assert "EVP_JWT_SECRET" in refused.err
    secret = {"EVP_JWT_SECRET": "s" * 32}
    with background("serve", environ=shared | secret, cwd=tmp_path) as serving:
        url = url_of(serving)
        serving.wait_says("there are no keys")
        assert answer(url, "") == "401 unauthenticated"
        wait_answer(url, created(shared, tmp_path, "shop"), "202")
        assert serving.stop().code == 0
    assert not (tmp_path / "data" / "api_key").exists()


def test_scopes(servers: Servers) -> None:
    """A key that may read only sends nothing, and a whole file is not sent in pieces for that."""
    url, shared, tmp_path, _ = servers
    key = created(shared, tmp_path, "dash", "--scope", "read")
    file = tmp_path / "events.ndjson"
    file.write_text('{"type": "t"}\n' * 400)
    wait_answer(url, key, "403 forbidden")
    done = evp("send", str(file), "--url", url, "--key", key, environ=shared, cwd=tmp_path)
    assert done.code == 1
    assert "400 forbidden" in done.out


@pytest.mark.slow
def test_rotation(servers: Servers) -> None:
    """Two keys of a name work beside each other for the time of grace, then the old one ends."""
    url, shared, tmp_path, _ = servers
    old = created(shared, tmp_path, "web")
    wait_answer(url, old, "202")
    grace = ("--grace", "5s", "--json")
    done = evp("keys", "rotate", "web", *grace, environ=shared, cwd=tmp_path)
    told = json.loads(done.out)
    new = told["key"]
    assert told["made"]["name"] == "web"
    assert [one["id"] for one in told["old"]] == [old.split("_")[1]]
    ends_at = datetime.fromisoformat(told["old"][0]["expires_at"])
    wait_answer(url, new, "202")
    if datetime.now(UTC) < ends_at - timedelta(seconds=1):
        assert answer(url, old) == "202"
    wait_answer(url, old, "401 unauthenticated", within_s=5 + REFUSED_S_MAX)
    assert datetime.now(UTC) > ends_at
    assert answer(url, new) == "202"


@pytest.mark.slow
def test_revoked_under_load(servers: Servers) -> None:
    """On connections that send without a pause it ends within five seconds, in every process."""
    url, shared, tmp_path, _ = servers
    key = created(shared, tmp_path, "load")
    wait_answer(url, key, "202")
    lanes = [Lane(url, key, number) for number in range(len(LANES))]
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
    assert {one: count for one, count in in_log.items() if one[:2] in LANES} == Counter(accepted)


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
                event_id = f"{LANES[self._number]}-{len(self.accepted)}"
                body = b'{"type": "t", "id": "%b"}' % event_id.encode()
                connection.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
                answer = connection.recv(4096)
                if not answer.startswith(b"HTTP/1.1 202 "):
                    self.end, self.ended_at_s = answer.partition(b"\r\n")[0], time.monotonic()
                    return
                self.accepted.append(event_id)


@pytest.mark.slow
def test_pace(servers: Servers) -> None:
    """`evp send` and `evp loadtest` wait as they are told, and everything is accepted."""
    url, shared, tmp_path, _ = servers
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


@pytest.mark.slow
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
