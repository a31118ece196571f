"""`verify`, where the log says that a frame is done: that is no proof, the store must have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from evp.clock import from_ms, now
from evp.frame import entry_ms
from evp.identity import canonical, event_id
from evp.limits import CLOCK_SKEW_MS_MAX
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.ledger import record_servers
from evp.stream.client import Link
from evp.verify.report import Finding, Kind, Scope
from tests.support.make import event
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import consumer
from tests.support.verifying import Accepting, accepting, clean, look, the_finding
from tests.support.workers import drain

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

AT_MS = 1767323045678
STORED = ("frames", "outcomes", "events")
REPAIR = Scope(every_document=True, repair=True)


@pytest.fixture
async def server(db: Database, link: Link, settings: Settings) -> AsyncIterator[Accepting]:
    """A server process."""
    async with accepting(settings) as server:
        yield server


async def kept(db: Database) -> dict[str, list[Any]]:
    """Return a copy of what the store has of frames and events."""
    return {name: await db[name].find().to_list() for name in STORED}


async def put_back(db: Database, copy: dict[str, list[Any]]) -> None:
    """Put the store back to a copy."""
    for name, rows in copy.items():
        await db[name].delete_many({})
        if rows:
            await db[name].insert_many(rows)


def spans(findings: list[Finding]) -> list[tuple[Kind, int | None, int | None, int | None]]:
    """Return kind, first and last number, and events of findings."""
    return [(one.kind, one.first_seq, one.last_seq, one.events) for one in findings]


async def test_store_that_was_put_back(server: Accepting, db: Database, settings: Settings) -> None:
    """Frames that were stored and acked after the copy was made are named, with entry and time."""
    await server.singles(2)
    await drain(settings)
    copy = await kept(db)
    entries = await server.frames([event(2), event(3)], [event(4)])
    await server.record_in_store(db)
    await drain(settings)
    await clean(settings)
    await put_back(db, copy)
    finding = await the_finding(settings)
    assert spans([finding]) == [(Kind.ACKED_NOT_STORED, 3, 4, 3)]
    assert (finding.srv, finding.frames, finding.entry_id) == (server.srv, 2, entries[0])
    assert finding.after == from_ms(entry_ms(entries[0]))
    assert finding.before == from_ms(entry_ms(entries[1]))
    assert await the_finding(settings) == finding


async def test_repair_delivers_again_what_the_store_lacks(
    server: Accepting, db: Database, settings: Settings
) -> None:
    """With --repair workers get such frames once more, and nothing else; then all is there."""
    await server.singles(5)
    await server.record_in_store(db)
    await drain(settings)
    one = await db["frames"].find_one({"seq": 2})
    other = await db["frames"].find_one({"seq": 4})
    assert one is not None
    assert other is not None
    for frame in (one, other):
        await db["outcomes"].delete_one({"_id": frame["_id"]})
        await db["events"].delete_one({"frame_id": frame["_id"]})
    await db["frames"].delete_one({"_id": one["_id"]})
    report = await look(settings, REPAIR)
    assert spans(report.findings) == [
        (Kind.ACKED_NOT_STORED, 2, 2, 1),
        (Kind.ACKED_NOT_STORED, 4, 4, 1),
    ]
    assert report.findings[1].event_ids == [canonical(event_id("test", "e3", AT_MS))]
    assert (report.counts.redelivered_frames, report.counts.repaired_frames) == (2, 0)
    assert (await clean(settings, REPAIR)).counts.redelivered_frames == 0
    await drain(settings)
    counts = (await clean(settings)).counts
    assert (counts.frames, counts.stored, counts.duplicate, counts.dead) == (5, 5, 0, 0)
    assert counts.in_log_events == 0


async def test_group_that_was_set_forward(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """Entries that a group was made to pass over are named; those behind them wait for it."""
    await server.singles(1)
    await drain(settings)
    entries = await server.singles(3, first=1)
    await link.call("XGROUP", "SETID", settings.stream, settings.consumer_group, entries[1])
    report = await look(settings, REPAIR)
    assert spans(report.findings) == [(Kind.ACKED_NOT_STORED, 2, 3, 2)]
    await drain(settings)
    assert (await clean(settings)).counts.stored == 4


async def test_waiting_and_pending_are_no_loss(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """What a group was not given, or has not acked, or what only another group acked, is safe."""
    await server.singles(4)
    await server.record_in_store(db)
    await drain(settings)
    await link.call("XGROUP", "SETID", settings.stream, settings.consumer_group, "0")
    for name in STORED:
        await db[name].delete_many({})
    other = consumer(settings, group="others")
    await other.ensure_group()
    await other.ack(await other.read(10))
    await other.close()
    reader = consumer(settings)
    await reader.read(2)
    await reader.close()
    assert (await clean(settings)).counts.in_log_frames == 4


async def test_since(server: Accepting, db: Database, settings: Settings) -> None:
    """What was accepted before the time that is looked at is not looked for."""
    await server.singles(2)
    await server.record_in_store(db)
    await drain(settings)
    for name in STORED:
        await db[name].delete_many({})
    assert (await the_finding(settings, Scope(since=now() - timedelta(minutes=1)))).last_seq == 2
    # Nearer than that a clock may be wrong.
    later = now() + timedelta(milliseconds=CLOCK_SKEW_MS_MAX, minutes=1)
    await clean(settings, Scope(since=later))


async def test_since_where_a_late_record_has_an_older_clock(
    server: Accepting,
    db: Database,
    link: Link,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server whose clock is behind repeats a record, and hides nothing that was lost since."""
    await server.singles(2)
    await server.record_in_store(db)
    await drain(settings)
    for name in STORED:
        await db[name].delete_many({})
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    behind = now() - timedelta(hours=1)
    monkeypatch.setattr("evp.storage.ledger.now", lambda: behind)
    [row] = await db["servers"].find().to_list()
    await record_servers(db, [(row["_id"], 1, 1, 0)], 0)
    finding = await the_finding(settings, Scope(since=now() - timedelta(minutes=1)))
    assert finding.last_seq == 2


@pytest.mark.parametrize("known_by", ["record and entry", "record", "entry"])
async def test_since_with_an_old_record(
    server: Accepting,
    db: Database,
    link: Link,
    settings: Settings,
    known_by: str,
) -> None:
    """That the store heard of an epoch long ago does not hide what the log knows to be lost."""
    await server.singles(2)
    await server.record_in_store(db)
    day = timedelta(days=1)
    await db["servers"].update_one({}, {"$set": {"seen_at": now() - 2 * day}})
    recently = Scope(since=now() - day)
    await server.singles(2, first=2)
    if "record" in known_by:
        await server.record_in_log()
    await drain(settings)
    await clean(settings, recently)
    for name in STORED:
        await db[name].delete_many({})
    if "entry" not in known_by:
        await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    finding = await the_finding(settings, recently)
    kind = Kind.ACKED_NOT_STORED if "entry" in known_by else Kind.HOLE
    assert (finding.kind, finding.last_seq) == (kind, 4)


async def test_gap_of_several_kinds(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """A gap is told in parts: what was damaged, what is acked and not stored, what is nowhere."""
    entries = await server.singles(9)
    await server.record_in_store(db)
    rows = await link.call("XRANGE", settings.stream, "-", "+")
    fields = rows[4][1]
    fields[fields.index(b"crc") + 1] = b"1"
    # Numbers 2 and 3 are nowhere, 5 is damaged, 4, 6 and 7 are acked and not stored.
    await link.call("XDEL", settings.stream, *entries[1:])
    for number in (3, 4, 5, 6, 7, 8):
        await link.call("XADD", settings.stream, "*", *rows[number][1])
    await drain(settings)
    for seq in (4, 6, 7):
        frame = await db["frames"].find_one({"seq": seq})
        assert frame is not None
        await db["outcomes"].delete_one({"_id": frame["_id"]})
        await db["events"].delete_many({"frame_id": frame["_id"]})
        await db["frames"].delete_one({"_id": frame["_id"]})
    report = await look(settings)
    assert spans(report.findings) == [
        (Kind.HOLE, 2, 3, None),
        (Kind.ACKED_NOT_STORED, 4, 4, 1),
        (Kind.DAMAGED, 5, 5, None),
        (Kind.ACKED_NOT_STORED, 6, 7, 2),
    ]
    hole, first, damaged, _ = report.findings
    assert (hole.after, hole.before) == (from_ms(entry_ms(entries[0])), first.after)
    assert damaged.dead_letter
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    report = await look(settings)
    assert spans(report.findings) == [
        (Kind.HOLE, 2, 4, None),
        (Kind.DAMAGED, 5, 5, None),
        (Kind.HOLE, 6, 7, None),
    ]


async def test_epoch_that_ended_since_the_copy(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """How far an epoch got that is over is known by the log, when the store was put back."""
    await server.singles(1)
    await server.record_in_store(db)
    await drain(settings)
    copy, servers = await kept(db), await db["servers"].find().to_list()
    await server.singles(2, first=1)
    await server.end_well(db)
    await drain(settings)
    await clean(settings)
    await put_back(db, copy | {"servers": servers})
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    finding = await the_finding(settings)
    assert spans([finding]) == [(Kind.HOLE, 2, 3, 2)]
