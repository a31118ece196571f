"""Sums by the minute of long ago are removed; those of hours and days stay for good.

A bucket of 10 s loses its cells once it is old and the hour that was summed from
it is not due. Its row stays, `pruned`, with its versions and its account. That is
a new version of the bucket, one without cells, so nobody who read an older one
can say that it is done. Whoever has to sum its hour anew makes the bucket due
first, so that its cells are there again, from the frames.

From when on minutes are to be had is one date in the store. It moves before
anything is removed, and what is removed is an hour older than it was before: so
nobody is still reading it.

A bucket is dated (`prune_at`) when it is summed up. Those that an older evp summed
up without a date are found once they are old, by one walk over time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from evp.clock import from_ms
from evp.limits import PRUNE_BUCKETS_MAX, PRUNE_DATED_MAX, PRUNE_LATER_MS, ROLLUP_MINUTES_MS_KEPT
from evp.storage.buckets import FINEST, HOURLY, Frontier, advance, bucket_id, frontier
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.schema import BUCKETS, ROLLUPS

_READ_MAX = timedelta(hours=1)


async def prune(db: Database, now_ms: int) -> bool:
    """Remove the cells of up to PRUNE_BUCKETS_MAX buckets that are old; True if more are due.

    Raises StoreUnavailable; calling again is safe.
    """
    with told():
        edge = await frontier(db)
        if edge is None:
            return False
        fine_from = HOURLY.start(from_ms(max(0, now_ms - ROLLUP_MINUTES_MS_KEPT)))
        dated_to = await _date(db, edge, now_ms)
        await advance(db, msgspec.structs.replace(edge, fine_from=fine_from, dated_to=dated_to))
        query = db[BUCKETS].find({"prune_at": {"$lte": from_ms(now_ms)}}).sort("prune_at")
        due = await query.limit(PRUNE_BUCKETS_MAX + 1).to_list()
        for bucket in due[:PRUNE_BUCKETS_MAX]:
            if bucket["start"] >= edge.fine_from - _READ_MAX or not await _prune(db, bucket):
                await _put_off(db, bucket, from_ms(now_ms + PRUNE_LATER_MS))
    return len(due) > PRUNE_BUCKETS_MAX or dated_to < edge.fine_from - _READ_MAX


async def _date(db: Database, edge: Frontier, now_ms: int) -> datetime:
    """Have buckets pruned that are old enough and have no date; return how far they were sought."""
    end = edge.fine_from - _READ_MAX
    if edge.dated_to >= end:
        return edge.dated_to
    span = {"level": FINEST.name, "start": {"$gte": edge.dated_to, "$lt": end}}
    next_ = db[BUCKETS].find(span, {"start": 1}).sort("start").skip(PRUNE_DATED_MAX).limit(1)
    for row in await next_.to_list():
        end = row["start"]
    undated = {"prune_at": {"$exists": False}, "pruned": {"$exists": False}}
    some = span | undated | {"start": {"$gte": edge.dated_to, "$lt": end}}
    await db[BUCKETS].update_many(some, {"$set": {"prune_at": from_ms(now_ms)}})
    return end


async def _prune(db: Database, bucket: Mapping[str, Any]) -> bool:
    """Remove the cells of a bucket; False if they are needed still."""
    hour = await db[BUCKETS].find_one({"_id": bucket_id(HOURLY, HOURLY.start(bucket["start"]))})
    if hour is None or "fold_at" in hour:
        return False
    version = bucket["dirty"]
    if "pruned" not in bucket:
        as_it_was = {"_id": bucket["_id"], "dirty": version, "fold_at": {"$exists": False}}
        version += 1
        pruned = {"dirty": version, "done": version, "pruned": True}
        if not (await db[BUCKETS].update_one(as_it_was, {"$set": pruned})).matched_count:
            return False
    await _remove_cells(db, bucket["start"], version)
    is_so = {"_id": bucket["_id"], "dirty": version, "pruned": True}
    await db[BUCKETS].update_one(is_so, {"$unset": {"prune_at": ""}})
    return True


async def _remove_cells(db: Database, start: datetime, version: int) -> None:
    of_it = {"level": FINEST.name, "bucket": start, "version": {"$lte": version}}
    await db[ROLLUPS].delete_many(of_it)


async def _put_off(db: Database, bucket: Document, later: datetime) -> None:
    seen = {"_id": bucket["_id"], "prune_at": bucket["prune_at"]}
    await db[BUCKETS].update_one(seen, {"$set": {"prune_at": later}})
