"""`verify` over several partitions: each is proved by itself, and named where something is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from evp.settings import Settings
from evp.storage import evidence
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.partitions import note
from evp.verify.report import Kind, Scope
from tests.support.apart import move
from tests.support.make import event
from tests.support.missing import take_away
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.verifying import Accepting, accepting, clean, look, the_finding
from tests.support.workers import changed, drain

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

REPAIR = Scope(repair=True)


@pytest.fixture
def two(settings: Settings) -> Settings:
    """Settings of two partitions."""
    return changed(settings, partitions=2)


@pytest.fixture
async def servers(two: Settings, link: Link, db: Database) -> AsyncIterator[list[Accepting]]:
    """A server's way into each partition; each has accepted three frames, stored by nobody yet."""
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(accepting(two, number)) for number in range(2)]
        for number, one in enumerate(ways):
            await one.singles(3, first=10 * number)
            await one.record_in_log()
            await one.record_in_store(db)
        yield ways


async def test_clean(servers: list[Accepting], db: Database, two: Settings) -> None:
    """What is in the log, and then in the store, is counted of all partitions."""
    counts = (await clean(two)).counts
    assert (counts.epochs, counts.in_log_frames, counts.frames) == (2, 6, 0)
    await drain(two)
    report = await clean(two)
    assert (report.partitions, report.counts.stored, report.counts.in_log_frames) == (2, 6, 0)
    assert (await clean(two, Scope(sample=2))).counts.ids_checked == 2


async def test_partitions_nobody_writes_to_any_more(
    servers: list[Accepting], db: Database, settings: Settings, link: Link
) -> None:
    """With PARTITIONS lowered all there ever were are read: the log or the store knows them."""
    keys = Keys(settings.stream)
    await note(link, keys, 2)
    assert (await clean(settings)).counts.in_log_frames == 6
    await drain(changed(settings, partitions=2))
    await link.call("DEL", keys.partitions)
    report = await clean(settings)
    assert (report.partitions, report.counts.stored) == (2, 6)


async def test_a_partition_that_servers_alone_know(
    servers: list[Accepting], db: Database, settings: Settings, link: Link
) -> None:
    """Where neither log nor settings tell of it, what servers recorded in the store does."""
    await link.call("DEL", Keys(settings.stream).partitions)
    report = await clean(settings)
    assert (report.partitions, report.counts.in_log_frames) == (2, 6)
    nobody = changed(settings, redis_url="redis://127.0.0.1:1/0")
    report = await look(nobody)
    assert (report.findings, report.undecided_frames, report.partitions) == ([], 6, 2)


async def test_entry_deleted(
    servers: list[Accepting], db: Database, two: Settings, link: Link
) -> None:
    """A hole is one of its partition's epoch, and is named with it."""
    [entry] = await servers[1].singles(1, first=20)
    await servers[1].singles(1, first=21)
    await link.call("XDEL", Keys(two.stream, 1).stream, entry)
    finding = await the_finding(two)
    assert (finding.kind, finding.partition, finding.srv) == (Kind.HOLE, 1, servers[1].srv)
    assert (finding.first_seq, finding.last_seq) == (4, 4)


async def test_stream_lost(servers: list[Accepting], db: Database, two: Settings) -> None:
    """A stream that is gone with all that was recorded there is a loss in its partition alone."""
    async with Link.opened(two.redis_url) as link:
        keys = Keys(two.stream, 1)
        await link.call("DEL", *keys.all())
    finding = await the_finding(two)
    assert (finding.kind, finding.partition, finding.events) == (Kind.HOLE, 1, 3)


async def test_entry_lost_while_it_was_written(
    servers: list[Accepting], db: Database, two: Settings, link: Link
) -> None:
    """A frame is looked for in its own partition: another has an entry with the same id."""
    [entry] = await servers[1].frames([event(20), event(21)])
    await servers[1].record_in_store(db)
    await drain(two)
    await db["outcomes"].delete_many({})
    await db["events"].delete_many({"id": {"$in": ["e20", "e21"]}})
    await link.call("DEL", two.stream)
    await link.call("XADD", two.stream, entry, "type", "other")
    await link.call("XDEL", Keys(two.stream, 1).stream, entry)
    finding = await the_finding(two, Scope())
    assert (finding.kind, finding.partition, finding.entry_id) == (Kind.ENTRY_LOST, 1, entry)
    assert (await look(two, REPAIR)).counts.repaired_frames == 4


async def test_the_same_entry_id(db: Database, two: Settings, link: Link) -> None:
    """Plain entries with one id in two partitions are two events, each in its own place."""
    for number in range(2):
        stream = Keys(two.stream, number).stream
        await link.call("XADD", stream, "1000-1", "type", "t", "data", f"{number}")
    assert (await clean(two)).counts.in_log_events == 2
    await drain(two)
    counts = (await clean(two)).counts
    assert (counts.external_events, counts.stored, counts.in_log_events) == (2, 2, 0)
    await db["outcomes"].delete_many({})
    await db["events"].delete_one({"data": 1})
    finding = await the_finding(two)
    assert (finding.kind, finding.partition) == (Kind.ACKED_NOT_STORED, 1)


async def test_repair_delivers_again(servers: list[Accepting], db: Database, two: Settings) -> None:
    """What the store lacks is delivered once more by the partition that has it."""
    await drain(two)
    for name in ("frames", "outcomes", "events"):
        await db[name].delete_many({})
    report = await look(two)
    assert [(one.kind, one.partition) for one in report.findings] == [
        (Kind.ACKED_NOT_STORED, 0),
        (Kind.ACKED_NOT_STORED, 1),
    ]
    assert (await look(two, REPAIR)).counts.redelivered_frames == 6
    await drain(two)
    assert (await clean(two)).counts.stored == 6
    # So it is where a frame's header is there.
    await db["outcomes"].delete_many({})
    await db["events"].delete_many({})
    assert (await look(two, REPAIR)).counts.redelivered_frames == 6
    await drain(two)
    assert (await clean(two)).counts.stored == 6


async def test_one_partition_away(
    servers: list[Accepting],
    db: Database,
    two: Settings,
    link: Link,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What only its log could tell is undecided, and it is named; the others are judged."""
    take_away(monkeypatch, two, 1)
    report = await look(two)
    assert (report.findings, report.exit_code, report.undecided_frames) == ([], 3, 3)
    assert report.log_error is not None
    assert report.log_error.startswith("partition 1: can't reach the log at ")
    await link.call("DEL", two.stream)
    report = await look(two, Scope(acknowledge="why not"))
    [finding] = report.findings
    assert (finding.kind, finding.partition, report.undecided_frames) == (Kind.HOLE, 0, 3)
    assert "partition 1: " in (report.acknowledge_error or "")


@pytest.mark.parametrize("when", ["epoch_rows", "frame_pages"])
async def test_one_partition_goes_away_meanwhile(
    db: Database,
    two: Settings,
    link: Link,
    own_log_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """Before it was read, or since: what only its log could tell is undecided, the rest is told."""
    move(monkeypatch, two, 1, own_log_server)
    async with accepting(two, 0) as first, accepting(two, 1) as second:
        for number, one in enumerate((first, second)):
            await one.singles(3, first=10 * number)
            await one.record_in_store(db)
    await drain(two)
    frames = [row["_id"] async for row in db["frames"].find({"partition": 1})]
    await db["outcomes"].delete_many({"_id": {"$in": frames}})
    await db["events"].delete_many({"id": {"$in": ["e0", "e10", "e11", "e12"]}})
    original = getattr(evidence, when)

    async def then_kill(*args: Any, **named: Any) -> AsyncIterator[Any]:
        await asyncio.to_thread(own_log_server.kill)
        async for row in original(*args, **named):
            yield row

    monkeypatch.setattr(f"evp.verify.run.{when}", then_kill)
    report = await look(two)
    [finding] = report.findings
    assert (finding.kind, finding.partition) == (Kind.EVENT_MISSING, 0)
    assert (report.exit_code, report.undecided_frames, report.counts.in_log_frames) == (1, 3, 0)
    assert (report.log_error or "").startswith("partition 1: ")
