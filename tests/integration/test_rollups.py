"""Rollups: what they say is what stands in the store, whoever wrote what when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from bson import ObjectId

from evp.clock import from_ms, now_ms
from evp.errors import StoreUnavailable
from evp.frame import MINUTE_MS, Frame
from evp.limits import BUCKET_CLOSE_MS, FOLD_BUCKETS_MAX, FOLD_LISTED_MAX, FOLD_WAIT_MS
from evp.storage import lease, rollups, schema
from evp.storage.buckets import BUCKET_MS, bucket_of, frontier
from evp.storage.client import Database
from evp.storage.metrics import accepted, metrics
from evp.storage.rollups import fold
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, documents, the_one
from tests.support.sums import check_sums, fold_all

pytestmark = MAY_LEAVE_SOCKETS

HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

#: A bucket's start, long ago.
START_MS = 1_767_323_040_000


def frame_at(ms: int, *numbers: int, **members: str) -> Frame:
    """Return a frame that the log took at `ms`."""
    return frame_of(*(event(number, **members) for number in numbers), entry_id=f"{ms}-0")


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS)


async def test_bucket_is_summed_once_it_is_old(db: Database, writer: Writer) -> None:
    """A bucket is closed 20 s after its end; its sums are those of its frames."""
    await writer.write([frame_at(START_MS, 0, 1), frame_at(START_MS + 9_999, 2, type="click")])
    await writer.write([frame_at(START_MS + 5_000, 0, 3)])
    ended_ms = START_MS + BUCKET_MS + BUCKET_CLOSE_MS
    assert await fold(db, ended_ms - 1) == rollups.Folded(0, 0, more=False)
    assert await documents(db, schema.BUCKETS) == []
    assert await fold(db, ended_ms) == rollups.Folded(1, 0, more=False)
    minute_ms = 1_767_323_045_678 // MINUTE_MS * MINUTE_MS
    cell = await the_one(db, schema.ROLLUPS)
    assert (cell["bucket"], cell["at"]) == (from_ms(START_MS), from_ms(minute_ms))
    assert (cell["stored"], dict(cell["types"])) == (4, {"page_view": 3, "click": 1})
    [bucket] = await db[schema.BUCKETS].find({"level": "10s"}).to_list()
    account = bucket["account"]
    assert [account[name] for name in ("frames", "stored", "duplicate", "dead")] == [3, 4, 1, 0]
    assert dict(cell["sources"]) == {"test": 4}
    assert "fold_at" not in bucket


async def test_fold_without_work_writes_nothing(db: Database, writer: Writer) -> None:
    """Once everything is summed up, folding again changes no document."""
    await writer.write([frame_at(START_MS, 0)])
    await fold_all(db)
    before = [await documents(db, name) for name in (schema.ROLLUPS, schema.BUCKETS)]
    assert await fold(db, now_ms()) == rollups.Folded(0, 0, more=False)
    assert [await documents(db, name) for name in (schema.ROLLUPS, schema.BUCKETS)] == before


async def test_frame_that_is_not_settled_holds_its_bucket(db: Database, writer: Writer) -> None:
    """Nothing is summed while a header has no outcome; it is looked at again later."""
    await writer.write([frame_at(START_MS, 0)])
    late = frame_at(START_MS, 1)
    await writer._write_headers([late])
    at_ms = now_ms()
    assert await fold(db, at_ms) == rollups.Folded(0, 1, more=False)
    assert await documents(db, schema.ROLLUPS) == []
    bucket = await the_one(db, schema.BUCKETS)
    assert bucket["unsettled_at"] == from_ms(at_ms)
    assert await fold(db, at_ms + FOLD_WAIT_MS - 1) == rollups.Folded(0, 0, more=False)
    await writer.write([late])
    assert (await fold(db, at_ms + FOLD_WAIT_MS)).folded == 1
    assert "unsettled_at" not in (await db[schema.BUCKETS].find_one({"level": "10s"}) or {})
    assert (await check_sums(db)).stored == 2


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_header_in_a_bucket_that_is_just_closed(db: Database, moment: str) -> None:
    """Whether a bucket is closed is asked after the header is there: no frame is overlooked."""

    class Overtaken(Writer):
        """A fold closes the bucket just before the headers are written, or just after."""

        async def _write_headers(self, frames: Sequence[Frame]) -> set[ObjectId]:
            if moment == "before":
                await fold(db, now_ms())
            done = await super()._write_headers(frames)
            if moment == "after":
                await fold(db, now_ms())
            return done

    await Overtaken(db, WRITE_MS).write([frame_at(START_MS, 0, 1)])
    await fold_all(db)
    assert (await check_sums(db)).stored == 2


async def test_frame_that_comes_while_frames_are_looked_for(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold says what is closed before it looks: what it overlooks is marked by its writer."""
    look = rollups._next_with_frames

    async def overtaken(*arguments: object) -> object:
        found = await look(*arguments)  # type: ignore[arg-type]
        await writer.write([frame_at(START_MS, 0, 1)])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(rollups, "_next_with_frames", overtaken)
        await fold(db, now_ms())
    await fold_all(db)
    assert len(await db[schema.ROLLUPS].find({"level": "10s"}).to_list()) == 1
    assert (await check_sums(db)).stored == 2


async def test_fold_that_ends_before_it_found_all_frames(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that is closed, but not yet found, counts once, by its frames."""

    async def ends(*_arguments: object) -> None:
        raise StoreUnavailable("a fold that ends")

    await writer.write([frame_at(START_MS, 0)])
    with monkeypatch.context() as patch:
        patch.setattr(rollups, "add", ends)
        with pytest.raises(StoreUnavailable):
            await fold(db, now_ms())
    await writer.write([frame_at(START_MS, 1)])
    assert (await check_sums(db)).stored == 2
    await fold_all(db)
    assert (await check_sums(db)).stored == 2


async def test_late_frame_of_a_bucket_nobody_knew(db: Database, writer: Writer) -> None:
    """A frame of a bucket that was empty when it was closed opens it again, at every level."""
    await writer.write([frame_at(START_MS, 0)])
    await fold_all(db)
    await writer.write([frame_at(START_MS - 3 * DAY_MS, 1), frame_at(START_MS, 2)])
    assert (await check_sums(db)).stored == 3
    await fold_all(db)
    assert (await check_sums(db)).stored == 3
    days = await db[schema.BUCKETS].find({"level": "day"}).to_list()
    assert {day["start"]: day["account"]["stored"] for day in days} == {
        from_ms(START_MS // DAY_MS * DAY_MS): 2,
        from_ms(START_MS // DAY_MS * DAY_MS - 3 * DAY_MS): 1,
    }


async def test_slow_fold_does_not_overwrite_a_newer_one(db: Database, writer: Writer) -> None:
    """Sums that were read before a change replace nothing that was read after it."""
    await writer.write([frame_at(START_MS, 0)])
    await fold(db, START_MS + BUCKET_MS + BUCKET_CLOSE_MS - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollups, "FOLD_BUCKETS_MAX", 0)
        await fold(db, now_ms())
    old = await the_one(db, schema.BUCKETS)
    tally = await rollups.read(db, old)
    assert tally is not None
    await writer.write([frame_at(START_MS, 1), frame_at(START_MS, 2)])
    await fold_all(db)
    assert await rollups.write(db, old, tally, now_ms()) is False
    await fold_all(db)
    assert (await check_sums(db)).stored == 3
    assert (await accepted(db)).stored == 3


async def test_change_while_a_bucket_is_summed_keeps_it_due(db: Database, writer: Writer) -> None:
    """A frame that comes between reading and writing is in the sums of the next fold."""
    await fold(db, now_ms())
    await writer.write([frame_at(START_MS, 0)])
    bucket = await the_one(db, schema.BUCKETS)
    tally = await rollups.read(db, bucket)
    assert tally is not None
    await writer.write([frame_at(START_MS, 1)])
    assert await rollups.write(db, bucket, tally, now_ms()) is False
    await fold_all(db)
    assert (await check_sums(db)).stored == 2


@pytest.mark.slow
async def test_coarse_sums_stand_for_fine_ones(db: Database, writer: Writer) -> None:
    """Whole days and hours are read from their own sums, the rest of a span from finer ones."""
    numbers = iter(range(1000))
    times = [START_MS + shift * 17 * MINUTE_MS for shift in range(200)]
    for ms in times:
        moment = from_ms(ms - 5 * MINUTE_MS).isoformat()
        await writer.write([frame_at(ms, next(numbers), time=moment)])
    assert (await fold(db, now_ms())).more
    await check_sums(db)
    await fold_all(db)
    await check_sums(db)
    first_ms, end_ms = START_MS + 3 * MINUTE_MS, times[-1] - 4 * HOUR_MS - MINUTE_MS
    for step_ms in (MINUTE_MS, HOUR_MS, DAY_MS, 7 * DAY_MS):
        found = await metrics(db, first_ms, end_ms, step_ms)
        wanted = [ms for ms in times if first_ms <= ms - 5 * MINUTE_MS < end_ms]
        assert found.stored == len(wanted)
        assert Counter({point.start_ms: point.stored for point in found.series}) == Counter(
            (ms - 5 * MINUTE_MS) // MINUTE_MS * MINUTE_MS // step_ms * step_ms for ms in wanted
        )
        assert found.accepted.frames == len([ms for ms in times if first_ms <= ms < end_ms])
    # Fine sums of long ago are not needed for days.
    await db[schema.ROLLUPS].delete_many({"level": {"$in": ["10s", "hour"]}})
    found = await metrics(db, 0, now_ms() // DAY_MS * DAY_MS, DAY_MS)
    assert found.stored == found.accepted.stored == len(times)


@pytest.mark.slow
async def test_work_of_one_fold_is_bounded(db: Database, writer: Writer) -> None:
    """However much has been left lying, a fold does a part of it and says that there is more."""
    buckets = FOLD_LISTED_MAX + 5
    frames = [frame_at(START_MS + n * BUCKET_MS, n) for n in range(buckets)]
    await writer.write(frames)
    first = await fold(db, now_ms())
    assert first == rollups.Folded(FOLD_BUCKETS_MAX, 0, more=True)
    edge = await frontier(db)
    assert edge is not None
    assert edge.listed_to == bucket_of(START_MS + FOLD_LISTED_MAX * BUCKET_MS)
    assert (await check_sums(db)).stored == buckets
    folds = 1
    while (await fold(db, now_ms())).more:
        folds += 1
    assert folds <= buckets // FOLD_BUCKETS_MAX + 2


async def test_frames_without_a_fold_are_counted(db: Database, writer: Writer) -> None:
    """Before anything was ever summed up, and while a bucket is open, frames are read."""
    assert (await metrics(db, 0, now_ms(), MINUTE_MS)).stored == 0
    await writer.write([frame_at(START_MS, 0, 1), frame_at(now_ms(), 2)])
    assert (await check_sums(db)).stored == 3
    await fold_all(db)
    await writer.write([frame_at(now_ms(), 3, 0)])
    found = await check_sums(db)
    assert (found.stored, found.accepted.duplicate) == (4, 1)


async def test_folds_at_once(db: Database, writer: Writer) -> None:
    """Many folds at the same time, while frames are written, come to the right sums."""
    for round_ in range(4):
        frames = [frame_at(START_MS + n * BUCKET_MS, 10 * round_ + n) for n in range(3)]
        await asyncio.gather(writer.write(frames), *(fold(db, now_ms()) for _ in range(4)))
    await fold_all(db)
    assert (await check_sums(db)).stored == 12


async def test_sums_count_what_was_not_stored(db: Database, writer: Writer) -> None:
    """Duplicates, dead letters and how long it took are known by time of acceptance."""
    accepted_ms = now_ms() - 1_000
    await writer.write([frame_at(START_MS, 0, 1)])
    other = frame_of(event(0), event(1, data="another"), event(2), entry_id=f"{accepted_ms}-0")
    await writer.write([other])
    await fold_all(db)
    first_ms = accepted_ms // MINUTE_MS * MINUTE_MS
    found = (await metrics(db, first_ms, first_ms + MINUTE_MS, MINUTE_MS)).accepted
    assert (found.frames, found.stored, found.duplicate, found.dead) == (1, 1, 1, 1)
    [(took_ms, events)] = found.took.items()
    assert events == 1
    assert took_ms >= 1_000
    assert (await accepted(db)).stored == 3


async def test_lease_is_held_by_one(db: Database) -> None:
    """A lease is renewed by its holder, refused to others, and free once given back or run out."""
    assert await lease.take(db, "fold", "a", 60_000)
    assert await lease.take(db, "fold", "a", 60_000)
    assert not await lease.take(db, "fold", "b", 60_000)
    assert await lease.take(db, "sweep", "b", 60_000)
    await lease.release(db, "fold", "b")
    assert not await lease.take(db, "fold", "b", 60_000)
    await lease.release(db, "fold", "a")
    assert await lease.take(db, "fold", "b", 0)
    assert await lease.take(db, "fold", "a", 60_000)
    tries = await asyncio.gather(*(lease.take(db, "new", str(n), 60_000) for n in range(8)))
    assert sum(tries) == 1


async def test_lease_of_a_clock_that_was_set_back(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that ends in an hour by the right time holds nobody up for an hour."""
    monkeypatch.setattr(lease, "now_ms", lambda: now_ms() + HOUR_MS)
    assert await lease.take(db, "fold", "ahead", 60_000)
    monkeypatch.undo()
    assert await lease.take(db, "fold", "b", 60_000)
    assert not await lease.take(db, "fold", "c", 60_000)
