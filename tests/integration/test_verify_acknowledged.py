"""`verify --acknowledge`: a loss that is known is no reason for an alarm, and any other one is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import Binary

from evp.balance import look_once
from evp.clock import now
from evp.identity import event_id
from evp.settings import Settings
from evp.storage.acknowledged import acknowledged
from evp.storage.client import Database
from evp.stream.client import Link
from evp.verify import notes
from evp.verify.report import Kind, Report, Scope
from tests.support.make import event
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.verifying import Accepting, accepting, clean, look, the_finding
from tests.support.workers import changed, drain

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

AT_MS = 1767323045678


@pytest.fixture
async def server(db: Database, link: Link, settings: Settings) -> AsyncIterator[Accepting]:
    """A server process."""
    async with accepting(settings) as server:
        yield server


def id_of(number: int) -> Binary:
    """Return the `_id` of a test's event."""
    return Binary(event_id("test", f"e{number}", AT_MS), 4)


async def acknowledge(settings: Settings, reason: str, *, every_document: bool = True) -> Report:
    """Take note of what is found; then nothing is left to be told."""
    scope = Scope(every_document=every_document, acknowledge=reason)
    report = await look(settings, scope)
    assert (report.clean, report.exit_code, report.findings) == (True, 0, [])
    return report


async def kept(db: Database) -> dict[str, list[Any]]:
    """Return a copy of what the store has of frames and events."""
    return {name: await db[name].find().to_list() for name in ("frames", "outcomes", "events")}


def told(report: Report) -> list[tuple[Kind, str]]:
    """Return kinds and reasons of what is acknowledged."""
    return [
        (one.kind, one.acknowledged.reason)
        for one in report.acknowledged
        if one.acknowledged is not None
    ]


async def test_known_losses_alarm_nobody_and_new_ones_do(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """Holes and lost entries that are acknowledged are listed apart; the balance knows of them."""
    entries = await server.frames([event(0)], [event(1), event(2)], [event(3)], [event(4)])
    await server.record_in_store(db)
    await link.call("XDEL", settings.stream, entries[1])
    await drain(settings)
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    written = await db["frames"].find_one({"seq": 3})
    assert written is not None
    await db["outcomes"].delete_one({"_id": written["_id"]})
    await db["events"].delete_one({"_id": id_of(3)})
    assert (await look(settings)).findings_by_kind == {Kind.HOLE: 1, Kind.ENTRY_LOST: 1}
    assert (await look_once(settings, db)).unaccounted == 3
    first = await acknowledge(settings, "the failover")
    balance = await look_once(settings, db)
    assert (balance.acknowledged, balance.unaccounted) == (3, 0)
    again = await clean(settings)
    known = [(Kind.HOLE, "the failover"), (Kind.ENTRY_LOST, "the failover")]
    assert told(first) == told(again) == known
    assert (again.acknowledged_total, again.acknowledged[0].first_seq) == (2, 2)
    [entry] = await server.frames([event(5), event(6)])
    await server.record_in_store(db)
    await link.call("XDEL", settings.stream, entry)
    finding = await the_finding(settings)
    assert (finding.kind, finding.first_seq, finding.acknowledged) == (Kind.HOLE, 5, None)
    await server.singles(1, first=7)
    await server.record_in_store(db)
    await drain(settings)
    assert (await look_once(settings, db)).unaccounted == 2


async def test_a_loss_that_has_grown_is_another_one(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """What is acknowledged is exactly what was found: one event more, or one number, is told."""
    await server.frames([event(number) for number in range(30)])
    await server.record_in_store(db)
    await drain(settings)
    await db["events"].delete_many({"_id": {"$in": [id_of(number) for number in range(25)]}})
    await acknowledge(settings, "by hand")
    await clean(settings)
    # The number of events is the same, and so are the first ones that are named.
    there = {"_id": id_of(24), "frame_id": (await db["frames"].find().to_list())[0]["_id"]}
    await db["events"].insert_one(there)
    await db["events"].delete_one({"_id": id_of(29)})
    assert (await the_finding(settings)).kind is Kind.EVENT_MISSING
    lost = await server.singles(1, first=40)
    await server.record_in_store(db)
    await link.call("XDEL", settings.stream, *lost)
    await acknowledge(settings, "again")
    lost = await server.singles(1, first=41)
    await server.record_in_store(db)
    await link.call("XDEL", settings.stream, *lost)
    finding = await the_finding(settings)
    assert (finding.kind, finding.first_seq, finding.last_seq) == (Kind.HOLE, 2, 3)


async def test_what_is_no_longer_found_is_forgotten(
    server: Accepting, db: Database, settings: Settings
) -> None:
    """What was known keeps its reason; what is mended leaves; what was not looked for stays."""
    await server.singles(3)
    await server.record_in_store(db)
    await drain(settings)
    for number in (0, 1):
        await db["events"].delete_one({"_id": id_of(number)})
    await db["events"].insert_one({"_id": "hand"})
    await acknowledge(settings, "first")
    frame = await db["frames"].find_one({"seq": 1})
    assert frame is not None
    await db["events"].insert_one({"_id": id_of(0), "frame_id": frame["_id"]})
    await db["events"].delete_one({"_id": id_of(2)})
    report = await acknowledge(settings, "second", every_document=False)
    assert sorted(told(report)) == [(Kind.EVENT_MISSING, "first"), (Kind.EVENT_MISSING, "second")]
    assert sorted(told(await clean(settings))) == [
        (Kind.EVENT_MISSING, "first"),
        (Kind.EVENT_MISSING, "second"),
        (Kind.FRAME_UNKNOWN, "first"),
    ]
    assert await db["acknowledged"].count_documents({}) == 3


async def test_what_can_be_mended_stays_a_finding(
    server: Accepting, db: Database, settings: Settings
) -> None:
    """What the log still has is to be written again, not to be known as lost."""
    await server.singles(2)
    await server.record_in_store(db)
    await drain(settings)
    for name in ("frames", "outcomes", "events"):
        await db[name].delete_many({})
    finding = await the_finding(settings, Scope(acknowledge="never mind"))
    assert finding.kind is Kind.ACKED_NOT_STORED
    assert (await look_once(settings, db)).unaccounted == 2


async def test_what_was_never_recorded_is_in_no_sum(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """The balance is told of losses among what was recorded as accepted, and of no others."""
    await server.frames([event(0), event(1)], [event(2)])
    await server.record_in_store(db)
    # Nobody records these, whether they can be mended or not.
    await server.frames([event(number) for number in range(3, 8)], [event(8), event(9)])
    await drain(settings)
    there = await kept(db)
    for name in ("frames", "outcomes", "events"):
        await db[name].delete_many({})
    report = await look(settings, Scope(acknowledge="never mind"))
    assert [(one.kind, one.events) for one in report.findings] == [(Kind.ACKED_NOT_STORED, 10)]
    balance = await look_once(settings, db)
    assert (balance.acknowledged, balance.unaccounted) == (0, 3)
    for name, rows in there.items():
        await db[name].insert_many(rows)
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    for seq in (2, 4):
        frame = await db["frames"].find_one({"seq": seq})
        assert frame is not None
        await db["outcomes"].delete_one({"_id": frame["_id"]})
        await db["events"].delete_many({"frame_id": frame["_id"]})
    report = await acknowledge(settings, "the failover")
    assert [(one.kind, one.events) for one in report.acknowledged] == [
        (Kind.ENTRY_LOST, 1),
        (Kind.ENTRY_LOST, 2),
    ]
    assert (await look_once(settings, db)).acknowledged == 1


async def test_an_outcome_that_counts_too_much_is_no_loss(
    server: Accepting, db: Database, settings: Settings
) -> None:
    """How many events are acknowledged as lost is never less than none."""
    await server.singles(2)
    await server.record_in_store(db)
    await drain(settings)
    await db["outcomes"].update_many({}, {"$inc": {"stored": 2}})
    report = await acknowledge(settings, "by hand")
    assert told(report) == [(Kind.COUNTS_WRONG, "by hand")] * 2
    balance = await look_once(settings, db)
    assert (balance.acknowledged, balance.unaccounted) == (0, 0)


@pytest.mark.slow
async def test_all_that_is_acknowledged_is_read(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """However many there are: an acknowledgement that broke off may have left more than usual."""
    rows = [{"_id": f"{n}", "kind": "hole", "reason": "", "at": now()} for n in range(10_500)]
    await db["acknowledged"].insert_many(rows)
    assert len(await acknowledged(db)) == len(rows)


async def test_nothing_is_acknowledged_by_half(
    server: Accepting, db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the log, or with more findings than may be kept, all is told and nothing kept."""
    entries = await server.singles(5)
    await server.record_in_store(db)
    await link.call("XDEL", settings.stream, entries[0], entries[2])
    scope = Scope(acknowledge="known")
    report = await look(changed(settings, redis_url="redis://127.0.0.1:1/0"), scope)
    assert (report.clean, report.exit_code, report.undecided_frames) == (False, 3, 5)
    assert report.acknowledge_error == f"nothing is acknowledged: {report.log_error}"
    monkeypatch.setattr(notes, "ACKNOWLEDGED_MAX", 1)
    # One is named, and the other one counted.
    monkeypatch.setattr(notes, "VERIFY_FINDINGS_MAX", 1)
    report = await look(settings, scope)
    assert (report.clean, report.exit_code, report.acknowledged_total) == (False, 1, 0)
    assert report.findings_by_kind == {Kind.HOLE: report.findings_total} == {Kind.HOLE: 2}
    assert [(one.first_seq, one.acknowledged) for one in report.findings] == [(1, None)]
    assert report.acknowledge_error == "nothing is acknowledged: there are more than 1 findings"
    assert await db["acknowledged"].count_documents({}) == 0
    assert (await look(settings)).findings_total == 2
    monkeypatch.setattr(notes, "ACKNOWLEDGED_MAX", 2)
    report = await acknowledge(settings, "known")
    assert (report.acknowledged_total, len(report.acknowledged)) == (2, 1)
    assert (await clean(settings)).acknowledged_total == 2


async def test_what_can_not_be_written_down_is_told(
    server: Accepting, db: Database, settings: Settings
) -> None:
    """If the store fails when findings are acknowledged, new ones are told, known ones stay."""
    await server.singles(2)
    await server.record_in_store(db)
    await drain(settings)
    await db["events"].delete_one({"_id": id_of(0)})
    await acknowledge(settings, "first")
    await db["events"].delete_one({"_id": id_of(1)})
    await db.command({"collMod": "acknowledged", "validator": {"never": {"$exists": True}}})
    scope = Scope(acknowledge="second")
    report = await look(settings, scope)
    assert (report.exit_code, report.findings_by_kind) == (1, {Kind.EVENT_MISSING: 1})
    assert [one.acknowledged for one in report.findings] == [None]
    assert told(report) == [(Kind.EVENT_MISSING, "first")]
    assert report.acknowledge_error is not None
    assert report.acknowledge_error.startswith("not all is acknowledged: the store")
    await db.command({"collMod": "acknowledged", "validator": {}})
    report = await acknowledge(settings, "second")
    assert report.acknowledge_error is None
    assert told(report) == [(Kind.EVENT_MISSING, "first"), (Kind.EVENT_MISSING, "second")]
