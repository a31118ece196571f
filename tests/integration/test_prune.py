"""Pruning: minutes of long ago go, hours and days stay right, whoever comes late."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from evp.clock import from_ms, now_ms, to_ms
from evp.errors import StoreUnavailable
from evp.frame import MINUTE_MS, Frame
from evp.limits import PRUNE_BUCKETS_MAX, PRUNE_LATER_MS, ROLLUP_MINUTES_MS_KEPT
from evp.metrics.counts import WorkCounts
from evp.settings import Settings
from evp.storage import prune as prune_module
from evp.storage import rollups, schema
from evp.storage.buckets import BUCKET_MS, bucket_of
from evp.storage.client import Database
from evp.storage.metrics import accepted, metrics
from evp.storage.prune import prune
from evp.storage.rollups import fold
from evp.storage.writer import Writer
from evp.worker.upkeep import StoreUpkeep
from tests.integration.test_rollups import HOUR_MS, frame_at
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS
from tests.support.sums import check_sums, fold_all, prune_all, prune_later

pytestmark = MAY_LEAVE_SOCKETS

#: The start of an hour, long ago.
OLD_MS = 1_767_322_800_000
_FAR_MS = 4_000_000_000_000


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS)


def at(ms: int, *numbers: int) -> Frame:
    """Return a frame that the log took at `ms`, of events of the minute before."""
    return frame_at(ms, *numbers, time=from_ms(ms - MINUTE_MS).isoformat())


async def starts_of(db: Database, level: str) -> set[int]:
    """Return the starts of buckets of a level that have cells, milliseconds."""
    return {
        to_ms(one["bucket"]) for one in await db[schema.ROLLUPS].find({"level": level}).to_list()
    }


async def check_hours(db: Database) -> int:
    """Check that metrics say of every hour and day what stands in the store; return its events."""
    found = await check_sums(db, minutes=False)
    assert found.stored == (await accepted(db)).stored
    return found.stored


async def test_minutes_of_long_ago_are_removed(db: Database, writer: Writer) -> None:
    """Old minutes are gone, hours and days are what they were; new minutes are kept."""
    new_ms = now_ms() - HOUR_MS
    old = [at(OLD_MS + shift * MINUTE_MS, shift) for shift in (5, 10, 70)]
    await writer.write([*old, at(new_ms, 100)])
    await fold_all(db)
    await prune_all(db)
    assert await starts_of(db, "10s") == {to_ms(bucket_of(new_ms))}
    assert await starts_of(db, "hour") >= {OLD_MS, OLD_MS + HOUR_MS}
    assert await check_hours(db) == 4
    rows = await db[schema.BUCKETS].find({"level": "10s"}).to_list()
    assert Counter("pruned" in row for row in rows) == {True: 3, False: 1}
    assert all("account" in row for row in rows)


async def test_minutes_that_are_gone_stand_at_their_hour(db: Database, writer: Writer) -> None:
    """Asked by the minute, an hour that was pruned is one point, and a new one is many."""
    new_ms = now_ms() // HOUR_MS * HOUR_MS - 3 * HOUR_MS
    old = [at(OLD_MS + shift * MINUTE_MS, shift) for shift in (5, 10)]
    await writer.write([*old, at(new_ms + 5 * MINUTE_MS, 100), at(new_ms + 9 * MINUTE_MS, 101)])
    await fold_all(db)
    await prune_all(db)
    found = await metrics(db, 0, _FAR_MS, MINUTE_MS)
    assert [(point.start_ms, point.stored) for point in found.series] == [
        (OLD_MS, 2),
        (new_ms + 4 * MINUTE_MS, 1),
        (new_ms + 8 * MINUTE_MS, 1),
    ]
    assert found.stored == 4


async def test_late_frame_of_a_pruned_hour(db: Database, writer: Writer) -> None:
    """Its hour is summed from frames again, never from what is left; each count is right."""
    old = [at(OLD_MS + shift * MINUTE_MS, shift) for shift in (5, 10, 20)]
    await writer.write(old)
    await fold_all(db)
    await prune_all(db)
    assert await starts_of(db, "10s") == set()
    await writer.write([at(OLD_MS + 10 * MINUTE_MS, 50), at(OLD_MS + 30 * MINUTE_MS, 51)])
    assert await check_hours(db) == 5
    at_ms = now_ms()
    for _ in range(6):
        at_ms += HOUR_MS
        await fold(db, at_ms)
        # While it is on its way: a pruned bucket is read by its frames.
        assert await check_hours(db) == 5
    assert await db[schema.BUCKETS].find_one({"fold_at": {"$gte": from_ms(0)}}) is None
    assert len(await starts_of(db, "10s")) == 4
    await prune_all(db)
    assert await starts_of(db, "10s") == set()
    assert await check_hours(db) == 5


async def test_what_an_hour_still_needs_is_kept(db: Database, writer: Writer) -> None:
    """Nothing goes before its hour is summed; it is tried again later."""
    await writer.write([at(OLD_MS, 0)])
    await fold(db, now_ms())
    await fold(db, now_ms())
    late = at(OLD_MS + MINUTE_MS, 1)
    await writer._write_headers([late])
    await writer.write([at(OLD_MS + 2 * MINUTE_MS, 2)])
    hour = {"level": "hour"}
    assert "fold_at" in (await db[schema.BUCKETS].find_one(hour) or {})
    await prune_all(db)
    assert to_ms(bucket_of(OLD_MS)) in await starts_of(db, "10s")
    put_off = await db[schema.BUCKETS].find({"prune_at": {"$exists": True}}).to_list()
    assert all(one["prune_at"] > from_ms(now_ms() + PRUNE_LATER_MS // 2) for one in put_off)
    await writer.write([late])
    await fold_all(db)
    await check_sums_by_hour_after_prune(db)


async def check_sums_by_hour_after_prune(db: Database) -> None:
    """Prune all there is, and check that nothing else has changed."""
    before = await check_hours(db)
    await prune_all(db)
    assert await starts_of(db, "10s") == set()
    assert await check_hours(db) == before


async def test_pruning_while_an_hour_is_summed(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold that was overtaken does not take what is left for the whole."""
    await writer.write([at(OLD_MS + shift * MINUTE_MS, shift) for shift in (5, 10)])
    await fold_all(db)
    await prune_later(db)
    await prune(db, now_ms())
    [hour] = await db[schema.BUCKETS].find({"level": "hour"}).to_list()
    add_cells = rollups._add_cells

    async def overtaken(*arguments: Any) -> None:
        await prune(db, now_ms())
        await prune(db, now_ms())
        await add_cells(*arguments)

    await prune_later(db)
    with monkeypatch.context() as patch:
        patch.setattr(rollups, "_add_cells", overtaken)
        assert await rollups.read(db, hour) is None
    assert await starts_of(db, "10s") == set()
    await fold_all(db)
    assert await check_hours(db) == 2


async def test_slow_fold_of_a_pruned_bucket(db: Database, writer: Writer) -> None:
    """Whoever summed a bucket before it was pruned can't say that it has its cells."""
    await writer.write([at(OLD_MS, 0), at(OLD_MS + MINUTE_MS, 1)])
    await fold_all(db)
    [bucket, _] = await db[schema.BUCKETS].find({"level": "10s"}).sort("start").to_list()
    tally = await rollups.read(db, bucket)
    assert tally is not None
    await prune_all(db)
    assert await rollups.write(db, bucket, tally, now_ms()) is False
    assert (await db[schema.BUCKETS].find_one({"_id": bucket["_id"]}) or {})["pruned"] is True
    assert await check_hours(db) == 2
    await fold_all(db)
    assert await check_hours(db) == 2


async def test_pruning_that_was_cut_off(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between its steps, the next turn completes it."""
    await writer.write([at(OLD_MS, 0)])
    await fold_all(db)
    await prune_later(db)
    await prune(db, now_ms())

    async def ends(*_arguments: Any, **_options: Any) -> None:
        raise StoreUnavailable("it ends here")

    await prune_later(db)
    with monkeypatch.context() as patch:
        patch.setattr(prune_module, "_remove_cells", ends)
        with pytest.raises(StoreUnavailable):
            await prune(db, now_ms())
    assert len(await starts_of(db, "10s")) == 1
    assert await check_hours(db) == 1
    await prune(db, now_ms())
    assert await starts_of(db, "10s") == set()
    assert await check_hours(db) == 1


async def test_worker_prunes_when_it_folds(
    db: Database, settings: Settings, writer: Writer
) -> None:
    """It is done by whoever sums up, after that."""
    await writer.write([at(OLD_MS, 0)])
    await fold_all(db)
    upkeep = StoreUpkeep(settings, db, "a-worker", WorkCounts(()), asyncio.Event())
    await upkeep._fold()
    await prune_later(db)
    assert await upkeep._fold() is False
    assert await starts_of(db, "10s") == set()


async def test_one_turn_is_bounded(db: Database, writer: Writer) -> None:
    """However much is old, a turn removes a part of it and says that there is more."""
    buckets = PRUNE_BUCKETS_MAX + 3
    await writer.write([at(OLD_MS + n * BUCKET_MS, n) for n in range(buckets)])
    await fold_all(db)
    await prune_later(db)
    # The first turn only says from when on minutes are kept; nobody may be reading older ones.
    assert await prune(db, now_ms())
    assert len(await starts_of(db, "10s")) == buckets
    await prune_later(db)
    assert await prune(db, now_ms())
    assert len(await starts_of(db, "10s")) == 3
    assert not await prune(db, now_ms())
    assert await starts_of(db, "10s") == set()
    assert await check_hours(db) == buckets


async def test_what_is_young_is_kept(db: Database, writer: Writer) -> None:
    """Minutes stay as long as they are promised to, and nothing is touched before a fold."""
    assert not await prune(db, now_ms())
    accepted_ms = now_ms() - HOUR_MS
    await writer.write([at(accepted_ms, 0)])
    await fold_all(db)
    kept_to_ms = accepted_ms + ROLLUP_MINUTES_MS_KEPT
    for _ in range(2):
        assert not await prune(db, kept_to_ms - MINUTE_MS)
    assert (await check_sums(db)).stored == 1
    gone = []
    for hours in range(1, 5):
        assert not await prune(db, kept_to_ms + hours * HOUR_MS)
        gone.append(await starts_of(db, "10s") == set())
    assert gone == [False, False, True, True]
    assert await check_hours(db) == 1


async def test_rows_that_an_older_evp_left_without_a_date(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found from the oldest on, some in a turn, and pruned; young and pruned ones stay."""
    monkeypatch.setattr(prune_module, "PRUNE_DATED_MAX", 2)
    await writer.write([at(OLD_MS, 0), at(now_ms() - HOUR_MS, 1)])
    await fold_all(db)
    await prune_all(db)
    await writer.write([at(OLD_MS + n * HOUR_MS, 10 + n) for n in range(1, 6)])
    await fold_all(db)
    undated = {"$unset": {"prune_at": ""}}
    await db[schema.BUCKETS].update_many({"level": "10s"}, undated)
    await db[schema.META].update_one({"_id": "buckets"}, {"$unset": {"dated_to": ""}})
    left = []
    for _ in range(4):
        more = await prune(db, now_ms())
        left.append((len(await starts_of(db, "10s")), more))
    # With the one that is pruned already: two, two and two of the old ones, and the young one.
    assert left == [(5, True), (3, True), (1, False), (1, False)]
    assert await db[schema.BUCKETS].count_documents({"prune_at": {"$exists": True}}) == 0
    assert await check_hours(db) == 7
