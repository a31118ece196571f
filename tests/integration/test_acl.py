"""Users of the log with the rights that docs/SECURITY.md gives them: enough, and no more.

What a user is denied, the log remembers (ACL LOG): after all that a role does it must be empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evp.doctor.run import examine
from evp.errors import LogNotDurable
from evp.groups.book import GroupBook
from evp.groups.describe import describe
from evp.identity import event_id
from evp.keybook import KeyBook
from evp.settings import Settings
from evp.signals import Signals
from evp.stats import look_once
from evp.storage.client import Database
from evp.stream import producer as producing
from evp.stream.client import Link
from evp.stream.durability import require_waiting
from evp.stream.keys import Keys
from evp.trace.run import trace
from evp.trace.tell import Asked
from evp.worker.stale import claim_stale
from tests.integration.test_tap import shown, tapped
from tests.support.make import event, ndjson
from tests.support.server import KEY, NDJSON, request, serving
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import append_events, consumer
from tests.support.verifying import EVERYTHING, clean, look
from tests.support.wait import until
from tests.support.workers import changed, drain, working

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

SECURITY = Path(__file__).parents[2] / "docs" / "SECURITY.md"
STREAM = "evp:events"
SECOND = f"{STREAM}:1"
EVENT_MS = 1_767_323_045_678
SERVER, WORKER, READER = "server", "worker", "reader"


@pytest.fixture
async def admin(log: Server) -> AsyncIterator[Link]:
    """An operator with all rights, once the users of the document are there."""
    async with Link.opened(log.url) as link:
        await link.call("FLUSHALL")
        for line in re.findall(r"^ACL SETUSER .*$", SECURITY.read_text(), re.MULTILINE):
            # What stands in parentheses is one argument.
            await link.call(*re.findall(r"\([^)]*\)|\S+", line))
        await link.call("ACL", "LOG", "RESET")
        yield link


@pytest.fixture
def on_log(settings: Settings, log: Server) -> Settings:
    """Settings with the stream of the document, on two partitions, with all rights."""
    return changed(settings, redis_url=log.url, stream=STREAM, partitions=2)


def as_user(settings: Settings, role: str) -> Settings:
    """Return settings with which a role dials the log."""
    url = settings.redis_url.replace("redis://", f"redis://evp-{role}:{role}-secret@")
    return changed(settings, redis_url=url)


async def denied(admin: Link) -> set[tuple[str, str]]:
    """Return who was denied what, as the log remembers it."""
    rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in await admin.call("ACL", "LOG")]
    return {(row[b"username"].decode(), row[b"object"].decode()) for row in rows}


@pytest.mark.cluster
async def test_server(
    admin: Link, on_log: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server accepts into all partitions, waiting and not, and tells what it is asked."""
    settings = as_user(on_log, SERVER)
    believed: list[Link] = []

    async def try_it(link: Link, keys: Keys) -> None:
        # It may be refused for what it answers, but for no lack of rights.
        with contextlib.suppress(LogNotDurable):
            await require_waiting(link, keys)
        believed.append(link)

    monkeypatch.setattr(producing, "require_waiting", try_it)
    for appendfsync in ("always", "everysec"):
        await admin.call("CONFIG", "SET", "appendfsync", appendfsync)
        async with serving(settings) as server:
            await until(server.is_ready, what="the server accepts")
            for number in range(4):
                sent = request(ndjson(event(number)), path="/events/batch", headers=NDJSON)
                assert (await server.ask(sent)).status == 202
            for path in ("/api/health", "/events", "/metrics", "/dead-letters"):
                assert (await server.get(path, KEY)).status == 200, path
        # The index is left, with ids that are of a time to come: it is deleted and made anew.
        await admin.call("XADD", f"{{{STREAM}}}:index", "99999999999999-0", "events", 1, "bytes", 1)
        await admin.call("DEL", STREAM, SECOND)
    await admin.call("CONFIG", "SET", "appendfsync", "always")
    async with KeyBook.opened(settings) as book:
        await book.create("ours", ("ingest",))
    assert (await look_once(settings, 0.1)).log is not None
    assert believed
    assert await denied(admin) == set()


@pytest.mark.cluster
async def test_worker(admin: Link, on_log: Settings, db: Database) -> None:
    """Workers write, take over, trim and clear up; what one has left is claimed by hand."""
    settings = as_user(on_log, WORKER)
    await append_events(on_log, 30, each=3)
    at_once = changed(settings, log_retention_s=0, log_retention_bytes=0)
    async with working(at_once), working(at_once):

        async def is_trimmed() -> bool:
            return int(await admin.call("XLEN", STREAM)) <= 1

        await until(is_trimmed, what="what is done is trimmed")
    gone = consumer(settings, "gone-1")
    await append_events(on_log, 6, first=30, each=3)
    await gone.read(2)
    await gone.close()
    signals: Signals = asyncio.Queue()
    account = await claim_stale(settings, 0, signals, lambda _account: None)
    assert (account.clean, account.removed) == (True, ["gone-1"])
    await clean(settings, EVERYTHING)
    assert await denied(admin) == set()


@pytest.mark.cluster
async def test_reader(admin: Link, on_log: Settings, db: Database) -> None:
    """Whoever looks sees all; only two checks of `evp doctor` want more, and say so."""
    await append_events(on_log, 6, each=3)
    await drain(on_log)
    settings = as_user(on_log, READER)
    assert (await look_once(settings, 0.1)).log is not None
    await look(settings, EVERYTHING)
    wanted = Asked(event_id("test", "e1", EVENT_MS), search=True)
    assert (await trace(settings, wanted, lambda _done, _total: None)) is not None
    async with tapped(settings) as tap:
        assert len(await shown(tap, 6)) == 6
    assert (await describe(settings, settings.consumer_group)).exists
    async with GroupBook.opened(settings) as book:
        assert [row.name for row in await book.rows()] == [settings.consumer_group]
    assert await denied(admin) == set()
    report = await examine(settings, lambda _check: None)
    assert {one.check for one in report.not_checked} == {"too_old", "not_trimmed"}


FORBIDDEN = (
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "SCAN 0",
    "CONFIG SET dir /tmp",
    "SHUTDOWN",
    "DEBUG SLEEP 0",
    "ACL LIST",
    "SCRIPT FLUSH",
    "CLIENT KILL TYPE normal",
    "REPLICAOF NO ONE",
    "MONITOR",
    f"DEL {STREAM}",
    f"UNLINK {STREAM}",
    f"RENAME {STREAM} x",
    f"XDEL {STREAM} 1-1",
    f"XGROUP DESTROY {STREAM} g",
    "GET another:key",
    "XADD another:stream * a b",
    "PUBLISH channel text",
)
BY_ROLE = {
    SERVER: (
        f"XREADGROUP GROUP g c STREAMS {STREAM} >",
        f"XACK {STREAM} g 1-1",
        f"XTRIM {STREAM} MAXLEN 0",
    ),
    WORKER: (f"XADD {STREAM} * a b", f"SET {{{STREAM}}}:partitions 1", f"DEL {{{STREAM}}}:index"),
    READER: (
        f"XADD {STREAM} * a b",
        f"XTRIM {STREAM} MAXLEN 0",
        f"XACK {STREAM} g 1-1",
        f"HSET {{{STREAM}}}:api_keys a b",
        f"SET {{{STREAM}}}:slot:g:worker-1 x",
    ),
}


@pytest.mark.parametrize("role", [SERVER, WORKER, READER])
async def test_no_more_than_that(admin: Link, role: str) -> None:
    """No role can empty, list, set or delete what is not its own to do so with."""
    allowed = []
    for command in (*FORBIDDEN, *BY_ROLE[role]):
        answer = await admin.call("ACL", "DRYRUN", f"evp-{role}", *command.split())
        if answer == b"OK":
            allowed.append(command)
    assert allowed == []
