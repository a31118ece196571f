"""Retention: old events go, whoever dies when; accounts and the proof stay as they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import hypothesis
import pytest
from bson import Binary, ObjectId
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from evp.balance import look_once
from evp.clock import from_ms, now_ms, to_ms
from evp.frame import Frame
from evp.limits import EXPIRE_LATER_MS
from evp.metrics.counts import WorkCounts
from evp.settings import Settings
from evp.storage import listing, retention, schema
from evp.storage.account import totals
from evp.storage.buckets import BUCKET_MS
from evp.storage.candidates import Wanted
from evp.storage.client import Database
from evp.storage.listing import Place, page
from evp.storage.retention import Expired, expire
from evp.storage.rollups import fold
from evp.storage.sweep import judge_again
from evp.storage.tail import TailReader
from evp.storage.writer import Writer
from evp.stream.client import Link
from evp.verify.report import Kind, Scope
from evp.worker.upkeep import StoreUpkeep
from tests.integration.test_listing import walked
from tests.integration.test_settle import cut_off
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, Listener, documents, store, the_one
from tests.support.sums import fold_all, sweep_all
from tests.support.verifying import (
    EVERYTHING,
    Accepting,
    accepting,
    clean,
    look,
    the_finding,
)
from tests.support.wait import until
from tests.support.workers import changed, drain, working

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
KEEP_MS = 30 * DAY_MS
TURNS_MAX = 200

#: Starts of buckets that are older, and ones that are younger than what is kept.
OLD_MS = now_ms() // DAY_MS * DAY_MS - 40 * DAY_MS
YOUNG_MS = OLD_MS + 38 * DAY_MS


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS)


def taken_at(ms: int, *numbers: int, seq: int = 1, **members: Any) -> Frame:
    """Return a frame that the log took at `ms`."""
    events = (event(number, **members) for number in numbers)
    return frame_of(*events, entry_id=f"{ms}-{seq}", seq=seq)


async def expire_all(db: Database) -> Expired:
    """Expire what is due once everything was settled long ago; return what was done."""
    done = Expired()
    for _ in range(TURNS_MAX):
        turn = await expire(db, KEEP_MS, now_ms() + 2 * HOUR_MS)
        done.frames += turn.frames
        done.events += turn.events
        if not turn.more:
            return done
    raise AssertionError("retention does not come to an end")


async def ids_left(db: Database) -> list[str]:
    """Return the senders' ids of the events that are there."""
    return sorted(one["id"] for one in await documents(db, schema.EVENTS))


async def empty(db: Database) -> None:
    """Begin anew."""
    await db.client.drop_database(db.name)
    await schema.ensure(db)


async def test_old_events_are_deleted(
    db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """Old ones are gone, new ones stay; every sum is what it was, and the proof is clean."""
    assert link.is_open
    await writer.write([taken_at(OLD_MS, 0, 1), taken_at(YOUNG_MS, 2, seq=2)])
    await fold_all(db)
    before = await totals(db), await documents(db, schema.OUTCOMES)
    assert await expire_all(db) == Expired(frames=1, events=2)
    assert await ids_left(db) == ["e2"]
    assert (await totals(db), await documents(db, schema.OUTCOMES)) == before
    headers = {to_ms(one["bucket"]): one for one in await documents(db, schema.FRAMES)}
    old = headers[OLD_MS // BUCKET_MS * BUCKET_MS]
    assert (old["expired"], old["ids"], old["n"], old["seq"]) == (True, b"", 2, 1)
    counts = (await clean(settings)).counts
    assert (counts.expired_frames, counts.frames) == (1, 1)
    await fold_all(db)
    assert (await totals(db), await documents(db, schema.OUTCOMES)) == before
    assert await expire_all(db) == Expired()


async def test_what_a_younger_frame_stored_stays(
    db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """An event goes with the frame that stored it, whichever other frames held it as well."""
    assert link.is_open
    # The younger one was written first: it has the event, the older one a duplicate.
    await writer.write([taken_at(YOUNG_MS, 0)])
    await writer.write([taken_at(OLD_MS, 0, 1, seq=2)])
    await fold_all(db)
    assert (await expire_all(db)).events == 1
    assert await ids_left(db) == ["e0"]
    await clean(settings)


async def test_duplicate_of_what_is_gone(
    db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """A young frame whose event is a duplicate of an old one loses it, and that is no loss."""
    assert link.is_open
    await writer.write([taken_at(OLD_MS, 0)])
    await writer.write([taken_at(YOUNG_MS, 2, seq=2)])
    young = taken_at(YOUNG_MS, 0, 1, 2, seq=3)
    await writer.write([young])
    await fold_all(db)
    await expire_all(db)
    assert await ids_left(db) == ["e1", "e2"]
    await clean(settings)
    # What it stored itself is still missed, if it is lost.
    await db[schema.EVENTS].delete_one({"_id": Binary(young.ids[1], 4)})
    assert (await the_finding(settings)).kind is Kind.EVENT_MISSING


async def test_event_that_is_sent_again_later(
    db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """After its time an event is a new one, and stays for a time of its own."""
    assert link.is_open
    await writer.write([taken_at(OLD_MS, 0)])
    await fold_all(db)
    await expire_all(db)
    [written] = await writer.write([taken_at(YOUNG_MS, 0, seq=2)])
    assert written.outcome is not None
    assert written.outcome.stored == 1
    await fold_all(db)
    await expire_all(db)
    assert await ids_left(db) == ["e0"]
    await clean(settings)


async def test_redelivery_brings_nothing_back(db: Database, writer: Writer) -> None:
    """A frame that is delivered once more after its time is acked, and nothing of it is stored."""
    frame = taken_at(OLD_MS, 0, 1)
    await writer.write([frame])
    await fold_all(db)
    await expire_all(db)
    [written] = await writer.write([frame])
    assert written.outcome is None
    assert await ids_left(db) == []


async def test_what_is_not_settled_stays(db: Database, writer: Writer) -> None:
    """A frame that a worker may still write is left, and looked at again later."""
    await writer.write([taken_at(OLD_MS, 0)])
    await writer._write_headers([taken_at(OLD_MS, 1, seq=2)])
    at_ms = now_ms()
    for _ in range(5):
        await fold(db, at_ms)
        at_ms += 60 * 1000
    assert await expire_all(db) == Expired()
    assert await ids_left(db) == ["e0"]


async def test_what_was_just_settled_stays(db: Database, writer: Writer) -> None:
    """An old frame that was written a moment ago may be under way elsewhere: it goes later."""
    await writer.write([taken_at(OLD_MS, 0)])
    await fold_all(db)
    assert await expire(db, KEEP_MS, now_ms()) == Expired()
    assert await ids_left(db) == ["e0"]
    # It was put off, and one day its time comes.
    assert (await expire(db, KEEP_MS, now_ms() + 2 * HOUR_MS + EXPIRE_LATER_MS)).events == 1


async def test_late_frame_of_an_expired_bucket(
    db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """A frame that comes so late that its time is over already goes as the others did."""
    assert link.is_open
    await writer.write([taken_at(OLD_MS, 0)])
    await fold_all(db)
    await expire_all(db)
    await writer.write([taken_at(OLD_MS + 1, 1, seq=2)])
    assert await ids_left(db) == ["e1"]
    await fold_all(db)
    assert (await expire_all(db)).events == 1
    assert await ids_left(db) == []
    assert (await totals(db)).stored == 2
    await clean(settings)


async def test_late_frame_while_its_bucket_expires(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is written and summed while its bucket is being looked at is not forgotten."""
    await writer.write([taken_at(OLD_MS, 0)])
    await fold_all(db)
    look = retention._Turn._settled

    async def look_while_one_comes(*given: Any) -> Any:
        found = await look(*given)
        monkeypatch.setattr(retention._Turn, "_settled", look)
        await writer.write([taken_at(OLD_MS + 1, 1, seq=2)])
        await fold_all(db)
        return found

    monkeypatch.setattr(retention._Turn, "_settled", look_while_one_comes)
    await expire_all(db)
    await expire_all(db)
    assert await ids_left(db) == []


async def test_buckets_that_nobody_dated(db: Database, writer: Writer) -> None:
    """What an older evp summed up is found, all of it, a bounded number at a time."""
    for number in range(7):
        await writer.write([taken_at(OLD_MS + number * 20_000, number, seq=number + 1)])
    await writer.write([taken_at(YOUNG_MS, 7, seq=8)])
    await fold_all(db)
    await db[schema.BUCKETS].update_many({}, {"$unset": {"expire_from": ""}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "EXPIRE_DATED_MAX", 2)
        assert (await expire_all(db)).events == 7
    assert await ids_left(db) == ["e7"]


async def test_one_turn_is_bounded(db: Database, writer: Writer) -> None:
    """A turn deletes about so many events, says that there is more, and gets to the end."""
    frames = [taken_at(OLD_MS, *range(n * 4, n * 4 + 4), seq=n + 1) for n in range(9)]
    await writer.write([*frames, taken_at(OLD_MS + 30_000, 99, seq=10)])
    await fold_all(db)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "EXPIRE_EVENTS_MAX", 10)
        patch.setattr(retention, "EXPIRE_HEADERS_MAX", 3)
        for _ in range(3):
            turn = await expire(db, KEEP_MS, now_ms() + 2 * HOUR_MS, turn_s=0.0)
            assert turn == Expired(frames=2, events=8, more=True)
        assert await expire_all(db) == Expired(frames=4, events=13)
    assert await ids_left(db) == []


async def one_page(db: Database) -> tuple[list[str], Place | None]:
    """Return the senders' ids of the first page, and behind which place it goes on."""
    found = await page(db, await TailReader(db).read(), Wanted(), None, 10)
    return [str(one["id"]) for one in found.events], found.more_behind


@pytest.mark.slow
async def test_pages_end_where_events_do(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever pages through all events meets none of the headers that are left of old ones."""
    monkeypatch.setattr(listing, "PAGE_LOOKED_MAX", 5)
    for number in range(9):
        at_ms = OLD_MS + number * 11 * HOUR_MS // 3
        await writer.write([taken_at(at_ms, number, seq=number + 1)])
    await writer.write([taken_at(YOUNG_MS, 20, seq=20)])
    await fold_all(db)
    assert (await expire_all(db)).events == 9
    assert await one_page(db) == (["e20"], None)
    # A late one is found at once, summed up, and not any more once it has expired as well.
    await writer.write([taken_at(OLD_MS + 1, 30, seq=30)])
    for _ in range(2):
        assert (await one_page(db))[0] == ["e20", "e30"]
        await fold_all(db)
    assert (await expire_all(db)).events == 1
    assert await one_page(db) == (["e20"], None)


async def test_dead_letters_are_emptied(
    db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """What dead letters of old frames hold goes as well; that the events were dead stays known."""
    assert link.is_open
    await writer.write([taken_at(YOUNG_MS, 0)])
    old = taken_at(OLD_MS, 0, 1, seq=2, data="another")
    await writer.write([old])
    await fold_all(db)
    before = await totals(db)
    assert before.dead == 1
    await expire_all(db)
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert "event" not in letter
    assert "purged_at" in letter
    await sweep_all(db)
    await judge_again(db, [old.frame_id])
    outcome = await db[schema.OUTCOMES].find_one({"_id": old.frame_id})
    assert outcome is not None
    assert (outcome["stored"], outcome["dead"]) == (1, [0])
    assert "judge_at" not in outcome
    assert await totals(db) == before
    await clean(settings)


@pytest.fixture
async def server(db: Database, link: Link, settings: Settings) -> AsyncIterator[Accepting]:
    """A server process."""
    async with accepting(settings) as server:
        yield server


async def lose(server: Accepting, db: Database, link: Link, settings: Settings) -> ObjectId:
    """Lose the second of three events, with its entry, before an old frame was settled.

    Returns the frame, judged by what the store has of it.
    """
    await server.frames([event(0), event(1), event(2)])
    await server.record_in_store(db)
    await drain(settings)
    await link.call("XTRIM", settings.stream, "MAXLEN", 0)
    header = await the_one(db, schema.FRAMES)
    await db[schema.OUTCOMES].delete_many({})
    await db[schema.EVENTS].delete_one({"id": "e1"})
    aged = {"bucket": from_ms(OLD_MS), "entry": f"{OLD_MS}-1"}
    await db[schema.FRAMES].update_one({"_id": header["_id"]}, {"$set": aged})
    await db[schema.BUCKETS].delete_many({})
    assert await judge_again(db, [header["_id"]]) == {header["_id"]}
    await fold_all(db)
    return cast("ObjectId", header["_id"])


async def test_loss_outlives_its_frame(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """What the log lost of a frame is told after its documents are gone, as it was before."""
    frame_id = await lose(server, db, link, settings)
    before = await the_finding(settings)
    assert (before.kind, before.events, before.frame_id) == (Kind.ENTRY_LOST, 1, str(frame_id))
    assert await expire_all(db) == Expired(frames=1, events=2)
    for scope in (EVERYTHING, Scope(), Scope(sample=5), Scope(repair=True)):
        assert await the_finding(settings, scope) == before
    assert (await look_once(settings, db)).unaccounted == 1
    report = await look(settings, Scope(acknowledge="the failover"))
    assert (report.exit_code, report.acknowledged_total) == (0, 1)
    assert (await look_once(settings, db)).unaccounted == 0
    known = await clean(settings)
    assert [one.key for one in known.acknowledged] == [before.key]


async def test_known_loss_stays_known(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """A loss that was acknowledged alarms nobody once its frame is expired."""
    await lose(server, db, link, settings)
    await look(settings, Scope(acknowledge="the failover"))
    await clean(settings)
    await expire_all(db)
    assert (await clean(settings)).acknowledged_total == 1
    assert (await look_once(settings, db)).unaccounted == 0


async def test_loss_that_was_sent_again(
    server: Accepting, db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """What was lost and is there again by the time its frame expires is no loss any more."""
    await lose(server, db, link, settings)
    await writer.write([taken_at(YOUNG_MS, 1)])
    await fold_all(db)
    await clean(settings)
    # It is seen that it is there, so the account changes first, and is left for a while.
    assert await expire_all(db) == Expired()
    await fold_all(db)
    later_ms = now_ms() + 2 * HOUR_MS + EXPIRE_LATER_MS
    assert (await expire(db, KEEP_MS, later_ms)).events == 2
    assert await ids_left(db) == ["e1"]
    await clean(settings)
    assert (await look_once(settings, db)).unaccounted == 0


@pytest.mark.slow
async def test_loss_when_cut_off_anywhere(
    server: Accepting,
    db: Database,
    link: Link,
    settings: Settings,
    heard: tuple[Database, Listener],
) -> None:
    """Whenever retention ends, the same loss is told at once, and to the end."""
    await lose(server, db, link, settings)
    before = await the_finding(settings)
    kept = {name: await documents(db, name) for name in await db.list_collection_names()}
    after, is_cut = 0, True
    while is_cut:
        after += 1
        for name, rows in kept.items():
            await db[name].delete_many({})
            if rows:
                await db[name].insert_many(rows)
        is_cut = await expire_cut_off(heard, after)
        assert await the_finding(settings) == before
        await expire_all(db)
        assert await the_finding(settings) == before
        assert await ids_left(db) == []
    assert after > 6


async def test_worker_expires(db: Database, writer: Writer, settings: Settings) -> None:
    """A worker with EVP_RETENTION_DAYS does it, one at a time, and counts it; others don't."""
    await writer.write([taken_at(OLD_MS, 0, 1)])
    await fold_all(db)
    long_ago = {"$set": {"settled_at": from_ms(OLD_MS)}}
    await db[schema.OUTCOMES].update_many({}, long_ago)
    stop, counts = asyncio.Event(), WorkCounts(())
    keeping = changed(settings, retention_days=50)
    assert not await StoreUpkeep(keeping, db, "a", counts, stop)._expire()
    assert await ids_left(db) == ["e0", "e1"]
    expiring = changed(settings, retention_days=30)
    assert not await StoreUpkeep(expiring, db, "b", counts, stop)._expire()
    assert await ids_left(db) == ["e0", "e1"], "another worker has the job"
    assert not await StoreUpkeep(expiring, db, "a", counts, stop)._expire()
    assert (await ids_left(db), counts.expired) == ([], 2)
    names = [chore.name for chore in StoreUpkeep(settings, db, "a", counts, stop)._chores]
    assert "expire" not in names


async def test_worker_by_itself(
    db: Database, link: Link, writer: Writer, settings: Settings
) -> None:
    """A worker that is merely started with the setting sums up, and lets old events go."""
    assert link.is_open
    await writer.write([taken_at(OLD_MS, 0, 1), taken_at(YOUNG_MS, 2, seq=2)])
    long_ago = {"$set": {"settled_at": from_ms(OLD_MS)}}
    await db[schema.OUTCOMES].update_many({}, long_ago)

    async def are_gone() -> bool:
        return await ids_left(db) == ["e2"]

    async with working(changed(settings, retention_days=30)):
        await until(are_gone, what="old events are gone")
    await clean(settings)


@pytest.fixture
async def heard(settings: Settings) -> AsyncIterator[tuple[Database, Listener]]:
    """The test's database, by a client whose commands can be cut off."""
    listener = Listener()
    async with store(settings.mongo_url, settings.mongo_db, listener) as heard:
        yield heard, listener


async def expire_cut_off(heard: tuple[Database, Listener], after: int) -> bool:
    """Begin to expire, and end at some command; True if it was."""
    db, listener = heard

    async def cut() -> None:
        with cut_off(listener, after):
            await expire(db, KEEP_MS, now_ms() + 2 * HOUR_MS)

    expiring = asyncio.create_task(cut())
    await asyncio.wait([expiring])
    if not expiring.cancelled():
        expiring.result()
    return expiring.cancelled()


@pytest.mark.slow
async def test_cut_off_anywhere(
    db: Database,
    link: Link,
    writer: Writer,
    settings: Settings,
    heard: tuple[Database, Listener],
) -> None:
    """Whenever it ends, the proof is clean at once, and whoever goes on gets to the same end."""
    assert link.is_open
    cuts, after = 0, 0
    while True:
        after += 1
        await empty(db)
        await writer.write([taken_at(YOUNG_MS, 0)])
        await writer.write(
            [taken_at(OLD_MS, 0, 1, seq=2, data="another"), taken_at(OLD_MS, 2, 3, seq=3)]
        )
        await fold_all(db)
        is_cut = await expire_cut_off(heard, after)
        cuts += is_cut
        await clean(settings)
        await expire_all(db)
        assert await ids_left(db) == ["e0"]
        await clean(settings)
        if not is_cut:
            break
    assert cuts > 8


number = st.integers(0, 40)
steps = st.one_of(
    st.tuples(
        st.just("write"),
        st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True),
        st.sampled_from([OLD_MS, OLD_MS + 3 * BUCKET_MS, YOUNG_MS, YOUNG_MS + 3 * BUCKET_MS]),
    ),
    st.tuples(st.sampled_from(["again", "expire"]), number),
    st.tuples(st.sampled_from(["fold", "expire_all"])),
)


class Story:
    """A store, and what happens to it."""

    def __init__(self, db: Database, heard: tuple[Database, Listener]) -> None:
        self._db = db
        self._heard = heard
        self._frames: list[Frame] = []

    async def begin(self) -> None:
        """Empty the store."""
        await empty(self._db)

    async def happen(self, what: str, *how: Any) -> None:
        """Let one thing happen."""
        if what == "write":
            numbers, at_ms = how
            seq = len(self._frames) + 1
            self._frames.append(taken_at(at_ms, *numbers, seq=seq))
            await Writer(self._db, WRITE_MS).write([self._frames[-1]])
        elif what == "again" and self._frames:
            frame = self._frames[how[0] % len(self._frames)]
            await Writer(self._db, WRITE_MS).write([frame])
        elif what == "expire":
            await expire_cut_off(self._heard, how[0] + 1)
        elif what == "fold":
            await fold(self._db, now_ms() + HOUR_MS)
        elif what == "expire_all":
            await expire_all(self._db)

    async def check_pages(self) -> None:
        """Check that each event is told once by pages, whatever has expired beside it."""
        events = await documents(self._db, schema.EVENTS)
        told = await walked(self._db, Wanted(), 3)
        assert sorted(told) == sorted(one["_id"] for one in events)

    async def check(self) -> None:
        """Check that the young have what they stored, and that of the old nothing is left."""
        events = await documents(self._db, schema.EVENTS)
        headers = {one["_id"]: one for one in await documents(self._db, schema.FRAMES)}
        outcomes = {one["_id"]: one for one in await documents(self._db, schema.OUTCOMES)}
        owned = [one["frame_id"] for one in events]
        stored = 0
        for frame in self._frames:
            outcome, header = outcomes[frame.frame_id], headers[frame.frame_id]
            stored += outcome["stored"]
            assert outcome["stored"] + outcome["duplicate"] == frame.count
            if frame.accepted_ms < YOUNG_MS:
                assert (header["expired"], header["ids"]) == (True, b"")
                assert frame.frame_id not in owned
            else:
                assert "expired" not in header
                assert owned.count(frame.frame_id) == outcome["stored"]
        assert (await totals(self._db)).stored == stored


@pytest.mark.slow
@hypothesis.settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings=st.lists(steps, min_size=2, max_size=14))
async def test_nothing_young_goes_and_nothing_old_stays(
    db: Database,
    link: Link,
    settings: Settings,
    heard: tuple[Database, Listener],
    happenings: list[tuple[Any, ...]],
) -> None:
    """Whatever is sent again, delivered again and cut off: the proof is clean all the time."""
    assert link.is_open
    story = Story(db, heard)
    await story.begin()
    for what, *how in happenings:
        await story.happen(what, *how)
        if what == "expire":
            assert (await look(settings)).findings == []
            await story.check_pages()
    await fold_all(db)
    await expire_all(db)
    await story.check()
    await story.check_pages()
    await clean(settings)
