"""`verify`: healthy states are clean, and whatever is lost is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from bson import Binary, ObjectId

from evp.clock import from_ms, now
from evp.dlq import actions
from evp.errors import LogUnavailable, StoreUnavailable
from evp.frame import entry_ms
from evp.identity import canonical, event_id
from evp.settings import Settings
from evp.storage import evidence
from evp.storage.client import Database
from evp.storage.dlq import Filters
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.verify.report import Kind, Scope
from tests.support.make import event
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS, documents, the_one
from tests.support.streams import consumer
from tests.support.verifying import Accepting, accepting, clean, look, the_finding
from tests.support.workers import changed, drain

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

AT_MS = 1767323045678


@pytest.fixture
async def server(db: Database, link: Link, settings: Settings) -> AsyncIterator[Accepting]:
    """A server process."""
    async with accepting(settings) as server:
        yield server


def id_of(number: int) -> bytes:
    """Return the `_id` of a test's event."""
    return event_id("test", f"e{number}", AT_MS)


async def test_nothing_yet(db: Database, link: Link, settings: Settings) -> None:
    """An empty system is clean."""
    report = await clean(settings)
    assert report.counts.epochs == report.counts.frames == 0


async def test_database_without_collections(link: Link, settings: Settings) -> None:
    """So is a database that no worker has seen."""
    await clean(changed(settings, mongo_db=f"{settings.mongo_db}x"))


async def test_only_in_the_log(server: Accepting, db: Database, settings: Settings) -> None:
    """Frames that no worker has seen are in the log, and nothing is missing."""
    await server.singles(3)
    await server.record_in_store(db)
    counts = (await clean(settings)).counts
    assert (counts.recorded_frames, counts.frames) == (3, 0)
    assert (counts.in_log_frames, counts.in_log_events) == (3, 3)


async def test_partly_delivered(server: Accepting, db: Database, settings: Settings) -> None:
    """Frames that are delivered and not settled are in the log, too."""
    await server.singles(3)
    await server.record_in_log()
    reader = consumer(settings)
    await reader.ensure_group()
    await reader.read(2)
    await reader.close()
    assert (await clean(settings)).counts.in_log_events == 3


async def test_settled(server: Accepting, db: Database, link: Link, settings: Settings) -> None:
    """What is settled is clean, whether the log still has it or not."""
    await server.frames([event(0), event(1)], [event(2)])
    await server.record_in_store(db)
    await drain(settings)
    for length in (2, 0):
        await link.call("XTRIM", settings.stream, "MAXLEN", length)
        counts = (await clean(settings)).counts
        assert (counts.frames, counts.events, counts.stored, counts.duplicate) == (2, 3, 3, 0)
        assert (counts.in_log_frames, counts.in_log_events, counts.ids_checked) == (0, 0, 3)
        assert counts.documents_scanned == 3


async def test_duplicates_and_dead_letters(
    server: Accepting, db: Database, settings: Settings
) -> None:
    """An event that came twice, in one frame or in two, and one that is dead, are accounted for."""
    await server.requests([event(0)], [event(0)])
    await server.frames([event(0), event(1)], [event(1, data="another"), event(2)])
    await server.record_in_log()
    await drain(settings)
    counts = (await clean(settings)).counts
    assert (counts.events, counts.stored, counts.duplicate, counts.dead) == (6, 3, 2, 1)
    await actions.purge(db, Filters(), actions.Account(), lambda _: None)
    assert "event" not in await the_one(db, "dead_letters")
    assert (await clean(settings)).counts == counts


async def test_plain_entries(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """Entries of other programs have no number, but their events must be there."""
    await server.singles(1)
    await server.record_in_log()
    await link.call("XADD", settings.stream, "*", "type", "t", "data", "1")
    assert (await clean(settings)).counts.in_log_events == 2
    await drain(settings)
    counts = (await clean(settings)).counts
    assert (counts.recorded_events, counts.events, counts.external_events) == (1, 2, 1)
    assert (counts.in_log_frames, counts.in_log_events) == (0, 0)
    [external] = await db["frames"].find({"external": True}).to_list()
    await db["events"].delete_one({"frame_id": external["_id"]})
    finding = await the_finding(settings)
    assert (finding.kind, finding.srv, finding.first_seq) == (Kind.EVENT_MISSING, None, None)
    assert finding.entry_id == external["entry"]


@pytest.mark.parametrize("mark", ["open", "provisional"])
@pytest.mark.parametrize("kept", [100, 0])
async def test_judged_again(
    server: Accepting, db: Database, link: Link, settings: Settings, mark: str, kept: int
) -> None:
    """A frame that is reopened or provisional is judged by its ids, once the log has lost it."""
    await server.frames([event(0), event(1)], [event(0, data="another"), event(2)])
    await server.record_in_log()
    await drain(settings)
    await db["outcomes"].update_many({}, {"$set": {mark: True}})
    # A worker may get them once more, or nobody.
    await link.call("XGROUP", "SETID", settings.stream, settings.consumer_group, "0")
    await link.call("XTRIM", settings.stream, "MAXLEN", kept)
    await clean(settings)
    await db["events"].delete_one({"_id": Binary(id_of(1), 4)})
    if kept:
        await clean(settings)
        return
    finding = await the_finding(settings)
    assert (finding.kind, finding.first_seq, finding.events) == (Kind.ENTRY_LOST, 1, 1)
    assert finding.event_ids == [canonical(id_of(1))]


async def test_tombstones(server: Accepting, db: Database, settings: Settings) -> None:
    """An event that was erased on purpose is still there for whoever counts."""
    await server.singles(2)
    await server.record_in_log()
    await drain(settings)
    there = await db["events"].find_one({"_id": Binary(id_of(0), 4)})
    assert there is not None
    tombstone = {"_id": there["_id"], "frame_id": there["frame_id"], "erased": True}
    await db["events"].replace_one({"_id": there["_id"]}, tombstone)
    await clean(settings)


@pytest.mark.parametrize("collection", ["frames", "outcomes"])
async def test_expired(
    server: Accepting, db: Database, settings: Settings, collection: str
) -> None:
    """Events that were kept as long as they had to be are not looked for."""
    await server.singles(2)
    await server.record_in_log()
    await drain(settings)
    await db[collection].update_many({}, {"$set": {"expired": True}})
    await db["events"].delete_many({})
    counts = (await clean(settings)).counts
    assert (counts.expired_frames, counts.frames) == (2, 0)


async def test_one_document_removed(server: Accepting, db: Database, settings: Settings) -> None:
    """An event that was deleted is named, with its frame, number and time."""
    entries = await server.frames([event(0)], [event(1), event(2), event(3)])
    await server.record_in_store(db)
    await drain(settings)
    await db["events"].delete_one({"_id": Binary(id_of(2), 4)})
    finding = await the_finding(settings)
    assert (finding.kind, finding.srv) == (Kind.EVENT_MISSING, server.srv)
    assert (finding.first_seq, finding.last_seq, finding.events) == (2, 2, 1)
    assert (finding.entry_id, finding.event_ids) == (entries[1], [canonical(id_of(2))])
    assert finding.after == finding.before == from_ms(entry_ms(entries[1]))


async def test_many_documents_removed(
    server: Accepting, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many the first are named, and all are counted."""
    await server.frames([event(number) for number in range(70)], [event(70)])
    await server.record_in_store(db)
    await drain(settings)
    await db["events"].delete_many({})
    report = await look(settings)
    assert report.findings_by_kind == {Kind.EVENT_MISSING: 2}
    assert [one.events for one in report.findings] == [70, 1]
    assert report.findings[0].event_ids == [canonical(id_of(number)) for number in range(20)]
    monkeypatch.setattr("evp.verify.report.VERIFY_FINDINGS_MAX", 1)
    report = await look(settings)
    assert (report.findings_total, len(report.findings)) == (2, 1)


async def test_one_document_added(server: Accepting, db: Database, settings: Settings) -> None:
    """A document that evp did not write is named by a scan of all."""
    await server.singles(2)
    await server.record_in_store(db)
    await drain(settings)
    frame_id = (await documents(db, "frames"))[0]["_id"]
    strange = ObjectId()
    added: list[tuple[dict[str, Any], Kind, str | None]] = [
        ({"_id": "hand", "frame_id": frame_id}, Kind.EVENT_UNLISTED, str(frame_id)),
        ({"_id": Binary(b"\1" * 16, 4), "frame_id": frame_id}, Kind.EVENT_UNLISTED, str(frame_id)),
        ({"_id": Binary(b"\2" * 16, 4), "frame_id": strange}, Kind.FRAME_UNKNOWN, str(strange)),
        ({"_id": Binary(b"\3" * 16, 4)}, Kind.FRAME_UNKNOWN, None),
    ]
    for document, kind, frame in added:
        await db["events"].insert_one(document)
        await clean(settings, Scope())
        finding = await the_finding(settings)
        id_ = document["_id"]
        text = canonical(id_) if isinstance(id_, bytes) else id_
        assert (finding.kind, finding.frame_id, finding.event_ids) == (kind, frame, [text])
        await db["events"].delete_one({"_id": id_})
    await clean(settings)


async def test_letter_removed(server: Accepting, db: Database, settings: Settings) -> None:
    """A dead event whose letter was deleted is named, even where its id is that of another one."""
    await server.frames([event(0)], [event(0, data="another"), event(1)])
    await server.record_in_store(db)
    await drain(settings)
    await db["dead_letters"].delete_many({})
    report = await look(settings)
    [finding] = report.findings
    assert (finding.kind, finding.first_seq) == (Kind.LETTER_MISSING, 2)
    assert finding.event_ids == [canonical(id_of(0))]
    assert (report.counts.lost_events, report.counts.lost_events_at_least) == (1, False)


async def test_letter_of_no_outcome(server: Accepting, db: Database, settings: Settings) -> None:
    """A dead letter counts only while the outcome lists its event."""
    await server.frames([event(0), event(1)])
    await server.record_in_store(db)
    await drain(settings)
    frame = await the_one(db, "frames")
    letter = evidence.letter_id(frame["_id"], 1)
    await db["dead_letters"].insert_one({"_id": letter, "frame_id": frame["_id"], "index": 1})
    await clean(settings)
    await db["events"].delete_one({"_id": Binary(id_of(1), 4)})
    assert (await the_finding(settings)).kind == Kind.EVENT_MISSING


async def test_outcome_changed(server: Accepting, db: Database, settings: Settings) -> None:
    """An outcome that does not add up to its frame is named."""
    await server.singles(1)
    await server.record_in_store(db)
    await drain(settings)
    await db["outcomes"].update_one({}, {"$inc": {"stored": 1}})
    assert (await the_finding(settings)).kind == Kind.COUNTS_WRONG


async def test_deleted_from_the_log_before_any_worker_saw_it(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """A frame that is nowhere is a hole: epoch, number, events, and the time around it."""
    entries = await server.frames([event(0)], [event(1), event(2)], [event(3)])
    await server.record_in_store(db)
    await link.call("XDEL", settings.stream, entries[1])
    for _ in range(2):
        finding = await the_finding(settings)
        assert (finding.kind, finding.srv) == (Kind.HOLE, server.srv)
        assert (finding.first_seq, finding.last_seq) == (2, 2)
        assert (finding.frames, finding.events) == (1, 2)
        assert finding.after == from_ms(entry_ms(entries[0]))
        assert finding.before == from_ms(entry_ms(entries[2]))
        await drain(settings)


async def test_hole_at_the_end(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """The tail that a log lost in a failover is a hole, told by what the store has recorded."""
    entries = await server.singles(5)
    await server.record_in_store(db)
    await link.call("XDEL", settings.stream, *entries[2:])
    finding = await the_finding(settings)
    assert (finding.kind, finding.first_seq, finding.last_seq) == (Kind.HOLE, 3, 5)
    assert (finding.frames, finding.events) == (3, 3)
    assert (finding.after, finding.before) == (from_ms(entry_ms(entries[1])), None)


async def test_flushed(
    server: Accepting, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """A log that lost everything, its own records included, is seen through the store's."""
    await server.singles(3)
    await drain(settings)
    await server.singles(2, first=3)
    await server.record_in_log()
    await server.record_in_store(db)
    await link.call("DEL", *keys.all())
    finding = await the_finding(settings)
    assert (finding.first_seq, finding.last_seq, finding.events) == (4, 5, 2)


async def test_nothing_of_an_epoch_is_left(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """An epoch of which no frame is anywhere is one hole, from before it was last recorded."""
    await server.frames([event(0), event(1)], [event(2)])
    await server.record_in_store(db)
    recorded_at = (await the_one(db, "servers"))["seen_at"]
    await link.call("DEL", settings.stream)
    finding = await the_finding(settings)
    assert (finding.first_seq, finding.last_seq, finding.events) == (1, 2, 3)
    assert (finding.after, finding.before) == (None, recorded_at)


async def test_hole_of_an_epoch_that_was_never_recorded(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """What lies below a number that was seen was acknowledged, recorded or not."""
    entries = await server.singles(3)
    await link.call("XDEL", settings.stream, entries[1])
    for _ in range(2):
        finding = await the_finding(settings)
        assert (finding.first_seq, finding.last_seq, finding.events) == (2, 2, None)
        await drain(settings)


async def test_header_deleted(server: Accepting, db: Database, settings: Settings) -> None:
    """A frame whose header was deleted is a hole, and its documents are of no known frame."""
    await server.singles(3)
    await server.record_in_log()
    await drain(settings)
    await db["frames"].delete_one({"seq": 2})
    report = await look(settings)
    assert report.findings_by_kind == {Kind.ACKED_NOT_STORED: 1, Kind.FRAME_UNKNOWN: 1}
    async with accepting(settings):
        link = await Link.open(settings.redis_url)
        await link.call("XTRIM", settings.stream, "MAXLEN", 0)
        await link.close()
    report = await look(settings)
    assert report.findings_by_kind == {Kind.HOLE: 1, Kind.FRAME_UNKNOWN: 1}


async def test_entry_lost_while_it_was_written(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """A header without an outcome, its entry gone: the events that are nowhere are named."""
    await server.frames([event(number) for number in range(4)])
    await server.record_in_log()
    await drain(settings)
    await db["outcomes"].delete_many({})
    await clean(settings)
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    await clean(settings)
    for number in (1, 3):
        await db["events"].delete_one({"_id": Binary(id_of(number), 4)})
    frame = await the_one(db, "frames")
    finding = await the_finding(settings)
    assert (finding.kind, finding.frame_id) == (Kind.ENTRY_LOST, str(frame["_id"]))
    assert finding.event_ids == [canonical(id_of(1)), canonical(id_of(3))]
    await db["dead_letters"].insert_one({"_id": evidence.letter_id(frame["_id"], 3)})
    assert (await the_finding(settings)).event_ids == [canonical(id_of(1))]


async def test_repair_settles_what_no_worker_will(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """With --repair a frame that the log has lost gets an outcome; its loss stays a finding."""
    await server.frames([event(0), event(1)], [event(2)])
    await server.record_in_log()
    await drain(settings)
    await db["outcomes"].delete_many({})
    await db["events"].delete_one({"_id": Binary(id_of(1), 4)})
    await link.call("XGROUP", "SETID", settings.stream, settings.consumer_group, "0")
    unrepaired = await look(settings, Scope(repair=True))
    assert (unrepaired.counts.repaired_frames, unrepaired.clean) == (0, True)
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    for repaired in (2, 0):
        report = await look(settings, Scope(repair=True))
        assert report.counts.repaired_frames == repaired
        assert [one.kind for one in report.findings] == [Kind.ENTRY_LOST]
    outcomes = await documents(db, "outcomes")
    assert sorted((one["stored"], one["missing"]) for one in outcomes) == [(1, []), (1, [1])]
    assert all(one["provisional"] for one in outcomes)


async def test_entry_id_issued_again(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """Another entry under the same id is not the one that was lost."""
    [entry] = await server.singles(1)
    await server.record_in_log()
    await drain(settings)
    await db["outcomes"].delete_many({})
    await db["events"].delete_many({})
    await link.call("DEL", settings.stream)
    await link.call("XADD", settings.stream, entry, "type", "t")
    assert (await the_finding(settings)).kind == Kind.ENTRY_LOST


async def test_damaged_entry(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """A frame that was damaged in the log is told as such, with its dead letter among many."""
    await server.singles(3)
    await server.record_in_log()
    _, (entry, damaged), (last, good) = await link.call("XRANGE", settings.stream, "-", "+")
    damaged[damaged.index(b"crc") + 1] = b"1"
    await link.call("XDEL", settings.stream, entry, last)
    for fields in (damaged, good):
        await link.call("XADD", settings.stream, "*", *fields)
    await drain(settings)
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    letter = await the_one(db, "dead_letters")
    await db["dead_letters"].delete_one({"_id": letter["_id"]})
    other = {"reason": letter["reason"], "srv": b"another_", "seq": 2, "entry": "1-1"}
    await db["dead_letters"].insert_many([other | {"_id": f"x{n}"} for n in range(10_000)])
    await db["dead_letters"].insert_one(letter)
    finding = await the_finding(settings)
    await db["dead_letters"].delete_many({"srv": b"another_"})
    assert (finding.kind, finding.first_seq, finding.events) == (Kind.DAMAGED, 2, 1)
    assert (finding.dead_letter, finding.entry_id) == (letter["_id"], letter["entry"])
    # That its bytes were given up changes nothing about what is known.
    await actions.purge(db, Filters(), actions.Account(), lambda _: None)
    assert "payload" not in await the_one(db, "dead_letters")
    assert await the_finding(settings) == finding


async def test_where_epochs_are_recorded(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """Log and store may each know of an epoch, or both: the larger number counts."""
    await server.singles(2)
    await server.record_in_log()
    server.end_epoch()
    await server.record_in_store(db)
    await server.singles(2, first=2)
    await server.record_in_store(db)
    entries = await server.singles(1, first=4)
    await server.record_in_log()
    counts = (await clean(settings)).counts
    assert (counts.epochs, counts.recorded_frames, counts.recorded_events) == (2, 5, 5)
    await db["servers"].insert_one({"_id": b"empty___", "seq": 0, "events": 0})
    assert (await clean(settings)).counts.epochs == 3
    await link.call("XDEL", settings.stream, *entries)
    assert (await the_finding(settings)).first_seq == 3


async def test_sample(server: Accepting, db: Database, settings: Settings) -> None:
    """A sample looks up the ids of so many frames only; holes are found all the same."""
    await server.singles(20)
    await server.record_in_log()
    await drain(settings)
    assert (await clean(settings, Scope(sample=7))).counts.ids_checked == 7
    assert (await clean(settings, Scope(sample=100))).counts.ids_checked == 20
    await db["events"].delete_many({})
    report = await look(settings, Scope(sample=7))
    assert report.findings_by_kind == {Kind.EVENT_MISSING: 7}


async def test_since(server: Accepting, db: Database, link: Link, settings: Settings) -> None:
    """Only what was accepted since a moment is looked at, holes included."""
    entries = await server.singles(6)
    await server.record_in_store(db)
    await drain(settings)
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    day = timedelta(days=1)
    # The first three frames are of three days ago.
    for seq in (1, 2, 3):
        ms = entry_ms(entries[seq - 1]) - 3 * 24 * 3600 * 1000
        change = {"bucket": from_ms(ms // 10_000 * 10_000), "entry": f"{ms}-{seq}"}
        await db["frames"].update_one({"seq": seq}, {"$set": change})
    recently = Scope(since=now() - day)
    assert (await clean(settings, recently)).counts.frames == 3
    assert (await clean(settings)).counts.frames == 6
    await db["events"].delete_one({"_id": Binary(id_of(1), 4)})
    await clean(settings, recently)
    assert (await the_finding(settings)).kind == Kind.EVENT_MISSING
    await db["frames"].delete_one({"seq": 2})
    await clean(settings, recently)
    await db["frames"].delete_one({"seq": 4})
    finding = await the_finding(settings, recently)
    assert (finding.kind, finding.first_seq, finding.last_seq) == (Kind.HOLE, 4, 4)
    assert finding.after is not None
    assert finding.after < now() - 2 * day
    await db["frames"].delete_many({"seq": {"$gt": 4}})
    report = await look(settings, recently)
    [finding] = report.findings
    assert (finding.first_seq, finding.last_seq) == (4, 6)
    # The record has the sum of an epoch of which only a part is looked at.
    assert (report.counts.lost_events, report.counts.lost_events_at_least) == (0, True)
    # A server that ended before has nothing in this time.
    await db["servers"].update_one({}, {"$set": {"seen_at": now() - 2 * day}})
    await clean(settings, recently)


async def test_log_away(server: Accepting, db: Database, link: Link, settings: Settings) -> None:
    """Without the log the store is looked at, and what only the log can tell stays undecided."""
    await server.singles(3)
    await server.record_in_store(db)
    await drain(settings)
    await server.singles(2, first=3)
    await server.record_in_store(db)
    away = changed(settings, redis_url="redis://127.0.0.1:1/0")
    report = await look(away)
    assert (report.clean, report.exit_code, report.undecided_frames) == (False, 3, 2)
    assert report.log_error
    assert report.findings == []
    await db["outcomes"].delete_one({})
    assert (await look(away)).undecided_frames == 2
    await db["events"].delete_many({})
    report = await look(away)
    assert (report.exit_code, report.undecided_frames) == (1, 3)
    assert report.findings_by_kind == {Kind.EVENT_MISSING: 2}


async def test_a_frame_that_never_holds_still(
    server: Accepting, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame whose outcome is another one at each look is undecided, which is not clean."""
    await server.singles(2)
    await server.record_in_store(db)
    await drain(settings)
    await db["events"].delete_one({"_id": Binary(id_of(1), 4)})
    original = evidence.outcomes_by_id

    async def changing(db: Database, frame_ids: Any) -> Any:
        await db["outcomes"].update_many({}, {"$inc": {"duplicate": 1}})
        return await original(db, frame_ids)

    monkeypatch.setattr("evp.verify.judge.outcomes_by_id", changing)
    report = await look(settings)
    assert (report.clean, report.exit_code, report.undecided_frames) == (False, 3, 2)
    assert report.findings == []


@pytest.mark.slow
async def test_store_away(link: Link, settings: Settings) -> None:
    """Without the store there is nothing to prove."""
    away = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"
    with pytest.raises(StoreUnavailable):
        await look(changed(settings, mongo_url=away))


async def test_log_goes_away(
    db: Database, own_log_server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that goes away in the middle ends it: half an answer would be none."""
    settings = changed(settings, redis_url=own_log_server.url)
    async with accepting(settings) as server:
        await server.singles(2)
        await server.record_in_store(db)
    await drain(settings)
    await db["outcomes"].delete_many({})
    original = evidence.epoch_rows

    async def then_kill(db: Database) -> AsyncIterator[evidence.EpochRow]:
        await asyncio.to_thread(own_log_server.kill)
        async for row in original(db):
            yield row

    monkeypatch.setattr("evp.verify.run.epoch_rows", then_kill)
    with pytest.raises(LogUnavailable):
        await look(settings)
