"""Ways to lose, double or stall events that belong to no one part of evp: each one provoked."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bson import ObjectId

from evp import clock
from evp.errors import AckUnknown
from evp.identity import canonical, event_id
from evp.limits import BATCH_BODY_BYTES_MAX, KIB, MIB
from evp.settings import Settings
from evp.storage import schema
from evp.storage.client import Database
from evp.storage.ledger import record_servers
from evp.storage.writer import Writer
from evp.stream import client as client_module
from evp.stream import consumer as consumer_module
from evp.stream.client import Link
from evp.stream.consumer import Consumer
from evp.stream.info import log_facts
from evp.stream.keys import Keys
from evp.stream.scripts import APPEND
from evp.verify.report import Kind
from tests.support.frames import document, frame_of_documents
from tests.support.make import event, ndjson, open_frame
from tests.support.proxy import proxying
from tests.support.server import JSON, NDJSON, InProcess, request, serving
from tests.support.servers import Server, program_log
from tests.support.stores import (
    MAY_LEAVE_SOCKETS,
    WRITE_MS,
    documents,
    fail,
    in_rounds,
    store,
)
from tests.support.streams import append_events, connected, consumer
from tests.support.verifying import clean, look
from tests.support.wait import until
from tests.support.workers import (
    TROUBLE,
    carrier_of,
    changed,
    drain,
    heard,
    of_level,
    until_drained,
    until_pending,
    working,
)

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

Opener = Callable[..., Consumer]

NEWEST_COMMANDS = (7, 2, 0)
"""evp runs on servers that know what this version of Redis knows."""


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Opener]:
    """Makes consumers; closes them at the end."""
    async with contextlib.AsyncExitStack() as ends:

        def open_one(name: str = "c-1", **changes: Any) -> Consumer:
            made = consumer(settings, name, **changes)
            ends.push_async_callback(made.close)
            return made

        yield open_one


async def ask(url: str, *command: str | int) -> Any:
    """Send one command as an operator does."""
    link = await Link.open(url)
    try:
        return await link.call(*command)
    finally:
        await link.close()


async def exactly(db: Database, count: int) -> None:
    """Check that the events e0, e1, … are stored once each."""
    found = await db[schema.EVENTS].find({}, {"id": 1}).to_list()
    assert Counter(one["id"] for one in found) == Counter(f"e{n}" for n in range(count))


async def connections_of(url: str) -> int:
    """Return how many connections a server has taken, this look's included."""
    stats = (await ask(url, "INFO", "stats")).decode()
    return int(stats.partition("total_connections_received:")[2].split()[0])


# Waiting for entries


@pytest.mark.slow
async def test_waiting_longer_than_a_command_may_take(
    opened: Opener, own_log_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that waits longer than other commands may is no outage: one connection is kept."""
    for module in (client_module, consumer_module):
        monkeypatch.setattr(module, "LOG_COMMAND_S_MAX", 0.8)
    reader = opened(url=own_log_server.url, block_ms=2_000)
    await reader.ensure_group()
    dialled = await connections_of(own_log_server.url)
    for _ in range(2):
        assert await reader.read(1) == []
    # This look has dialled once itself.
    assert await connections_of(own_log_server.url) == dialled + 1


async def test_two_that_wait_for_one_entry(db: Database, link: Link, settings: Settings) -> None:
    """Workers that are woken for what another one gets go on waiting, and nobody complains."""
    settings = changed(settings, read_block_ms=300)
    with heard() as lines:
        async with working(settings), working(settings):
            for number in range(15):
                await append_events(settings, 1, first=number)
                await until_drained(settings)
    assert of_level(lines, *TROUBLE) == []
    await exactly(db, 15)


# Appending


async def test_lost_reply_of_an_append(db: Database, link: Link, settings: Settings) -> None:
    """Nothing but the client appends again; the two frames that there are give one event."""
    async with proxying(settings.redis_url) as proxy:
        proxy.drop_reply(f"EVALSHA {APPEND.digest}")
        async with connected(settings, url=proxy.url) as producer:
            with pytest.raises(AckUnknown):
                await producer.append(open_frame(event(0)), 1)
            assert await link.call("XLEN", settings.stream) == 1
            await producer.connect()
            await producer.append(open_frame(event(0)), 1)
        assert proxy.lost == 1
    assert await link.call("XLEN", settings.stream) == 2
    await drain(settings)
    await exactly(db, 1)
    outcomes = await documents(db, schema.OUTCOMES)
    assert sorted((one["stored"], one["duplicate"]) for one in outcomes) == [(0, 1), (1, 0)]
    await clean(settings)


async def test_lost_reply_hides_no_loss(db: Database, link: Link, settings: Settings) -> None:
    """A frame that is lost is missed, although one of unknown outcome came just before it."""
    async with proxying(settings.redis_url) as proxy:
        proxy.drop_reply(f"EVALSHA {APPEND.digest}")
        async with connected(settings, url=proxy.url) as producer:
            with pytest.raises(AckUnknown):
                await producer.append(open_frame(event(0)), 1)
            await producer.connect()
            lost = await producer.append(open_frame(event(1)), 1)
            closed, open_ = producer.epochs()
    rows = [(one.srv, one.acknowledged_seq, one.events, one.unknown) for one in closed + open_]
    await record_servers(db, rows, 0)
    await link.call("XDEL", settings.stream, lost)
    await drain(settings)
    await exactly(db, 1)
    told = [(one.kind, one.first_seq, one.events) for one in (await look(settings)).findings]
    assert told == [(Kind.HOLE, 1, 1)]


async def test_largest_request_is_one_frame(settings: Settings, link: Link) -> None:
    """As large a body as is taken, of events of 900 bytes, is one frame and one answer."""
    filler = "x" * 850
    count = (BATCH_BODY_BYTES_MAX - KIB) // 920
    body = ndjson(*({"type": "t", "id": f"e{number}", "data": filler} for number in range(count)))
    assert BATCH_BODY_BYTES_MAX * 0.9 < len(body) < BATCH_BODY_BYTES_MAX
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        reply = await server.ask(request(body, path="/events/batch", headers=NDJSON))
        assert msgspec.json.decode(reply.body)["accepted"] == count
        [frame] = await server.frames()
        assert (frame.count, await server.entries()) == (count, 1)


# What the log's file has lost


@pytest.fixture
def log_on_disk(tmp_path: Path) -> Iterator[Server]:
    """A log whose files the test can reach."""
    server = program_log(tmp_path / "log")
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("cut_bytes", [1, 700, 3_000])
async def test_end_of_the_logs_file_is_damaged(
    settings: Settings, db: Database, log_on_disk: Server, tmp_path: Path, cut_bytes: int
) -> None:
    """What a torn file has lost is lost, and named to the frame; all else is stored."""
    settings = changed(settings, redis_url=log_on_disk.url)
    async with connected(settings) as producer:
        for number in range(20):
            await producer.append(open_frame(event(number)), 1)
        [epoch] = producer.epochs()[1]
    await record_servers(db, [(epoch.srv, epoch.acknowledged_seq, epoch.events, 0)], 0)
    await asyncio.to_thread(log_on_disk.kill)
    file = max((tmp_path / "log" / "appendonlydir").glob("*.incr.aof"))
    with file.open("r+b") as open_file:
        open_file.truncate(file.stat().st_size - cut_bytes)
    await asyncio.to_thread(log_on_disk.start)
    kept = int(await ask(settings.redis_url, "XLEN", settings.stream))
    assert 0 < kept < 20
    await drain(settings)
    await exactly(db, kept)
    [finding] = (await look(settings)).findings
    assert (finding.kind, finding.first_seq, finding.last_seq) == (Kind.HOLE, kept + 1, 20)
    assert finding.events == 20 - kept


# Looking at the log


async def test_lag_that_the_log_can_not_tell(
    opened: Opener, settings: Settings, link: Link, keys: Keys
) -> None:
    """Where the log itself can't tell the lag, evp's own account of what waits does not shrink."""
    await append_events(settings, 10)
    reader = opened()
    await reader.ensure_group()
    found = await reader.read(4)
    rows = await link.call("XRANGE", settings.stream, "-", "+")
    await link.call("XDEL", settings.stream, rows[7][0])
    [flat] = await link.call("XINFO", "GROUPS", settings.stream)
    assert dict(zip(flat[::2], flat[1::2], strict=True))[b"lag"] is None
    [group] = (await log_facts(link, keys)).groups
    assert (group.pending, group.pending_events) == (len(found), len(found))
    assert group.lag_events == 10 - len(found)


async def test_no_command_is_too_new(
    settings: Settings, db: Database, own_log_server: Server
) -> None:
    """All that servers, workers, claims and looks ask of the log is known to Redis 7.2."""
    url = own_log_server.url
    settings = changed(settings, redis_url=url, claim_idle_ms=100)
    async with serving(settings) as server, working(settings):
        await until(server.is_ready, what="the server accepts")
        await post(server, b'{"type": "t", "id": "e0"}')
        await until_drained(settings)
    gone = consumer(settings, "gone-1")
    await append_events(settings, 1, first=1)
    assert len(await gone.read(1)) == 1
    await gone.close()
    async with working(settings):
        await until_drained(settings)
    await clean(settings)
    stats = (await ask(url, "INFO", "commandstats")).decode()
    names = {line[8:].partition(":")[0] for line in stats.splitlines() if line.startswith("cmd")}
    assert {"xreadgroup", "xautoclaim", "xack", "xadd", "xtrim"} <= names
    for name in names:
        flat = await ask(url, "COMMAND", "DOCS", *name.split("|")[:1])
        facts = dict(zip(flat[1][::2], flat[1][1::2], strict=True))
        since = tuple(map(int, facts[b"since"].decode().split(".")))
        assert since <= NEWEST_COMMANDS, name


# Writing


async def test_nothing_is_acked_without_its_write_concern(
    settings: Settings, link: Link, failing: Server
) -> None:
    """Documents that are there but may be rolled back are not acked until they are sure."""
    settings = changed(settings, mongo_url=failing.url)
    unsure: dict[str, Any] = {"writeConcernError": {"code": 91, "errmsg": "primary stepped down"}}
    async with store(failing.url, settings.mongo_db) as db:
        await append_events(settings, 4, each=2)
        with heard() as lines:
            async with working(settings):
                async with fail(db, "insert", **unsure):
                    await until(lambda: len(of_level(lines, "warning")) > 0, what="it was refused")
                    await until(lambda: is_tried_again(db), what="it was written all the same")
                    await until_pending(settings, 2)
                    assert await documents(db, schema.OUTCOMES) == []
                await until_drained(settings)
        await exactly(db, 4)
        outcomes = await documents(db, schema.OUTCOMES)
        assert [(one["stored"], one["dead"]) for one in outcomes] == [(2, []), (2, [])]
        assert await documents(db, schema.DEAD_LETTERS) == []


async def is_tried_again(db: Database) -> bool:
    """Return True if a header or an event is in the store."""
    return bool(await db[schema.FRAMES].find_one() or await db[schema.EVENTS].find_one())


async def test_cancelled_anywhere_nothing_is_acked_unwritten(
    opened: Opener, db: Database, link: Link, settings: Settings
) -> None:
    """Whenever a worker is cancelled, what it has acked is settled, and the rest comes again."""
    reader = opened()
    await reader.ensure_group()
    group, cancelled, acked = (settings.stream, settings.consumer_group), 0, 0
    chance = random.Random(1)
    for number in range(60):
        await append_events(settings, 1, first=number)
        found = await reader.read(10)
        carrier = carrier_of(settings, reader, db)
        carrying = asyncio.create_task(carrier.carry(found, asyncio.Event()))
        in_rounds(chance.randrange(1, 60), carrying.cancel)
        await asyncio.wait([carrying])
        cancelled += carrying.cancelled()
        pending = {row[0].decode() for row in await link.call("XPENDING", *group, "-", "+", 100)}
        done = [one.frame.frame_id for one in found if one.frame and one.entry_id not in pending]
        acked += len(done)
        assert await db[schema.OUTCOMES].count_documents({"_id": {"$in": done}}) == len(done)
    await reader.give_back()
    assert cancelled > 10
    assert acked > 0
    await drain(changed(settings, consumer_name="c"))
    await exactly(db, 60)


async def test_batch_larger_than_a_message(db: Database) -> None:
    """What the driver must send in several messages is stored and counted as any other."""
    writer = Writer(db, 6 * WRITE_MS)
    frames = []
    for first in (0, 30):
        frame_id = ObjectId()
        rows = (document(first + n, frame_id, data="x" * MIB) for n in range(30))
        frames.append(frame_of_documents(frame_id, *rows))
    written = await writer.write(frames)
    outcomes = [one.outcome for one in written]
    assert [(one.stored, list(one.dead)) for one in outcomes if one] == [(30, []), (30, [])]
    await exactly(db, 60)


# Clocks


@pytest.mark.parametrize("hours", [-1, 1])
async def test_clock_that_jumps(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """An event that is sent again after the clock was set has the same id, and is stored once."""
    untimed = b'{"type": "t", "id": "e0"}'
    timed = b'{"type": "t", "id": "e1", "time": "2026-01-02T03:04:05Z"}'
    async with serving(settings) as server, working(settings):
        await until(server.is_ready, what="the server accepts")
        before = [await post(server, body) for body in (untimed, timed)]
        await until_drained(settings)
        set_clock(monkeypatch, timedelta(hours=hours))
        after = [await post(server, body) for body in (untimed, timed)]
        await until_drained(settings)
    assert before == after
    assert before[0] == canonical(event_id("evp", "e0", 0))
    await exactly(db, 2)
    outcomes = await documents(db, schema.OUTCOMES)
    assert sum(one["stored"] for one in outcomes) == 2
    assert sum(one["duplicate"] for one in outcomes) == 2
    await clean(settings)


def set_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Set the wall clock of evp forward or back."""
    now_ns = time.time_ns

    class Shifted(datetime):
        """A clock that goes wrong."""

        @classmethod
        def now(cls, tz: tzinfo | None = UTC) -> Any:
            """Return the time as this clock tells it."""
            return datetime.now(tz) + by

    monkeypatch.setattr(clock, "datetime", Shifted)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(by.total_seconds() * 1e9))


async def post(server: InProcess, body: bytes) -> str:
    """Send one event; return the id that it got."""
    reply = await server.ask(request(body, headers=JSON))
    assert reply.status == 202
    return str(msgspec.json.decode(reply.body)["event_id"])
