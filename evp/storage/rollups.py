"""Rollups: sums over the frames of closed buckets, computed anew and replaced, never added to.

A fold says which buckets are closed, finds those that have frames, and sums up
the ones that are due. It reads a bucket's `dirty` first, then its frames, and
writes nothing while one of them is not settled; what it writes carries the
version it read and replaces older ones only. Hours are summed from buckets of
10 s, days from hours. Any number of folds may run at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from evp.batch.tally import Tally, bounded
from evp.clock import from_ms, now, to_ms
from evp.errors import StoreUnavailable
from evp.limits import (
    BUCKET_CLOSE_MS,
    FOLD_BUCKETS_MAX,
    FOLD_LISTED_MAX,
    FOLD_MARKED_MS,
    FOLD_WAIT_MS,
    PRUNE_LATER_MS,
    ROLLUP_MINUTES_MS_KEPT,
    ROLLUP_WRITES_MAX,
)
from evp.storage.buckets import (
    FINEST,
    HOURLY,
    LEVELS,
    Frontier,
    Level,
    add,
    advance,
    bucket_of,
    change,
)
from evp.storage.client import Database
from evp.storage.failures import failures_of, told
from evp.storage.lookup import portions
from evp.storage.schema import BUCKETS, FRAMES, OUTCOMES, ROLLUPS

_BY_NAME = {level.name: level for level in LEVELS}
_PARENT = dict(itertools.pairwise(LEVELS))
_CHILD = {parent: level for level, parent in _PARENT.items()}


class Folded(Struct):
    """What one fold did: buckets summed up, and ones that can't be yet.

    `more` is true if it left something that is due.
    """

    folded: int
    waiting: int
    more: bool


async def fold(db: Database, now_ms: int) -> Folded:
    """Close what is old enough by `now_ms`, and sum up to FOLD_BUCKETS_MAX buckets that are due.

    Raises StoreUnavailable; calling again is safe.
    """
    with told():
        all_listed = await _close(db, now_ms)
        query = db[BUCKETS].find({"fold_at": {"$lte": from_ms(now_ms)}}).sort("fold_at")
        due = await query.limit(FOLD_BUCKETS_MAX + 1).to_list()
        folded = waiting = 0
        for bucket in due[:FOLD_BUCKETS_MAX]:
            tally = await read(db, bucket)
            if tally is None:
                await _wait(db, bucket, now_ms)
                waiting += 1
            else:
                await write(db, bucket, tally, now_ms)
                folded += 1
    return Folded(folded, waiting, more=not all_listed or len(due) > FOLD_BUCKETS_MAX)


async def _close(db: Database, now_ms: int) -> bool:
    """Close buckets that ended long enough ago; True if all that have frames are found.

    What is closed is said before frames are looked for: a header that is
    overlooked here was written later, and whoever wrote it marks the bucket.
    """
    closed_to = bucket_of(max(0, now_ms - BUCKET_CLOSE_MS))
    edge = await advance(db, Frontier(closed_to, listed_to=from_ms(0)))
    at, end = edge.listed_to, edge.closed_to
    starts: list[datetime] = []
    while at < end and len(starts) < FOLD_LISTED_MAX:
        start = await _next_with_frames(db, at, end)
        if start is None:
            at = end
        else:
            starts.append(start)
            at = start + FINEST.width
    if at > edge.listed_to:
        await add(db, starts, from_ms(now_ms))
        await advance(db, Frontier(end, listed_to=at))
    return at >= end


async def _next_with_frames(db: Database, first: datetime, end: datetime) -> datetime | None:
    """Return the first bucket from `first` and before `end` that has frames."""
    here = await db[FRAMES].find_one({"bucket": first}, {"bucket": 1})
    # One store reads all of a range before it sorts; where frames are many, the next is here.
    there = here or await db[FRAMES].find_one(
        {"bucket": {"$gt": first, "$lt": end}}, {"bucket": 1}, sort=[("bucket", 1)]
    )
    return None if there is None else there["bucket"]


async def read(db: Database, bucket: Mapping[str, Any]) -> Tally | None:
    """Return the sums of a bucket, which was read before; None if something in it is not done.

    Raises PyMongoError.
    """
    level = _BY_NAME[bucket["level"]]
    child = _CHILD.get(level)
    if child is None:
        return await _sum_frames(db, bucket["start"])
    return await _sum_buckets(db, child, level, bucket["start"])


async def write(db: Database, bucket: Mapping[str, Any], tally: Tally, now_ms: int) -> bool:
    """Put the sums of a bucket in the place of older ones; False if it has changed meanwhile.

    Then it is still due. Raises PyMongoError and StoreUnavailable.
    """
    level, start, version = _BY_NAME[bucket["level"]], bucket["start"], bucket["dirty"]
    await _replace_cells(db, level, bucket, tally)
    parent = _PARENT.get(level)
    if parent is not None:
        # After the sums, so that whoever sums the parent from older ones does it again.
        above = parent.start(start)
        ended = above + parent.width + timedelta(milliseconds=BUCKET_CLOSE_MS)
        await change(db, parent, [above], max(ended, from_ms(now_ms + FOLD_MARKED_MS)))
    said: dict[str, Any] = {"account": tally.account()}
    if level is FINEST:
        said["prune_at"] = _prune_at(start, now_ms)
        said["expire_from"] = start
    done = await db[BUCKETS].update_one(
        {"_id": bucket["_id"], "dirty": version},
        {
            "$max": {"done": version},
            "$set": said,
            "$unset": {"fold_at": "", "unsettled_at": "", "pruned": ""},
        },
    )
    return bool(done.matched_count)


def _prune_at(start: datetime, now_ms: int) -> datetime:
    """Return when the cells of a bucket may go: not at once, if it is old and was just needed."""
    # Two hours later than promised, so that it is not tried in vain (`evp.storage.prune`).
    old_ms = to_ms(start) + ROLLUP_MINUTES_MS_KEPT + 2 * HOURLY.bucket_ms
    return from_ms(max(old_ms, now_ms + PRUNE_LATER_MS))


async def _sum_frames(db: Database, start: datetime) -> Tally | None:
    tally = Tally()
    rows = await db[FRAMES].find({"bucket": start}, {"_id": 1}).to_list()
    for portion in portions([row["_id"] for row in rows]):
        outcomes = await db[OUTCOMES].find({"_id": {"$in": portion}}).to_list()
        if len(outcomes) < len(portion) or any(one.get("open") for one in outcomes):
            return None
        for outcome in outcomes:
            tally.add_outcome(outcome)
    return tally


async def _sum_buckets(db: Database, child: Level, level: Level, start: datetime) -> Tally | None:
    tally, span = Tally(), {"$gte": start, "$lt": start + level.width}
    async for below in db[BUCKETS].find({"level": child.name, "start": span}):
        if "fold_at" in below:
            return None
        tally.add_account(below["account"])
    await _add_cells(db, child, level, start, tally)
    # After the cells: what is pruned from now on was there when they were read.
    query = {"level": child.name, "start": span, "pruned": True}
    pruned = await db[BUCKETS].find(query, {"start": 1}).to_list()
    if pruned:
        # Made from frames anew, so that the sums of this one are whole.
        await change(db, child, [below["start"] for below in pruned], now())
        return None
    return tally


async def _add_cells(
    db: Database, child: Level, level: Level, start: datetime, tally: Tally
) -> None:
    """Add what was stored by the cells of the finer buckets within one of `level`."""
    span = {"$gte": start, "$lt": start + level.width}
    async for cell in db[ROLLUPS].find({"level": child.name, "bucket": span}):
        at_ms = to_ms(cell["at"]) // level.cell_ms * level.cell_ms
        tally.add_cell(at_ms, cell["types"], cell.get("sources", ()))


async def _replace_cells(
    db: Database, level: Level, bucket: Mapping[str, Any], tally: Tally
) -> None:
    version, start = bucket["dirty"], bucket["start"]
    writes = []
    for at_ms, sums in tally.cells.items():
        cell = {
            "_id": f"{bucket['_id']}:{at_ms}",
            "level": level.name,
            "bucket": start,
            "at": from_ms(at_ms),
            "version": version,
            "stored": sums.types.total(),
            # Pairs, not members: names may hold dots and dollars.
            "types": [list(pair) for pair in bounded(sums.types).items()],
            "sources": [list(pair) for pair in bounded(sums.sources).items()],
        }
        older = {"_id": cell["_id"], "version": {"$lte": version}}
        writes.append(ReplaceOne(older, cell, upsert=True))
    for first in range(0, len(writes), ROLLUP_WRITES_MAX):
        try:
            await db[ROLLUPS].bulk_write(writes[first : first + ROLLUP_WRITES_MAX], ordered=False)
        except BulkWriteError as error:
            refused = next((one for one in failures_of(error).values() if one.reason), None)
            if refused is not None:
                raise StoreUnavailable(f"sums are refused: {refused.detail}") from error
            # The others are there in a newer version.
    of_older = {"level": level.name, "bucket": start, "version": {"$lt": version}}
    await db[ROLLUPS].delete_many(of_older)


async def _wait(db: Database, bucket: Mapping[str, Any], now_ms: int) -> None:
    """Look at a bucket again later, and let a sweep look for what keeps it from being done."""
    later = {"fold_at": from_ms(now_ms + FOLD_WAIT_MS)}
    if bucket["level"] == FINEST.name:
        later["unsettled_at"] = from_ms(now_ms)
    await db[BUCKETS].update_one({"_id": bucket["_id"], "dirty": bucket["dirty"]}, {"$set": later})
