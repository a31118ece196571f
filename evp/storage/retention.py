"""Retention: events that the log accepted long ago are deleted, frame by frame.

    mark the frame expired → empty its dead letters → delete its documents → empty its header

In this order, so that `evp verify`, which does not look at an expired frame, never
takes for lost what is on its way out; and each step can be done again, by whoever
goes on after a crash. A document goes only if it is this frame's: one that was
stored again since, by a younger frame, carries that one's id and stays. Header and
outcome are kept, without the ids, so numbers have no gap and sums stay what they were.
Of what the log had lost of a frame the ids stay (`lost`), so that the proof still tells.

Which buckets have frames that hold events is a date in each (`expire_from`), given
to it by whoever sums it up: a late frame makes its bucket due, and so comes back here.
Buckets that an older evp summed up without it are found by one walk over time. One of
which all frames have expired is marked, and so are hours and days: pages leave them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from bson import Binary, ObjectId
from msgspec import Struct
from pymongo import DeleteMany, UpdateMany, UpdateOne

from evp.clock import from_ms, monotonic_s, to_ms
from evp.limits import (
    EXPIRE_BUCKETS_MAX,
    EXPIRE_DATED_MAX,
    EXPIRE_EVENTS_MAX,
    EXPIRE_FRAMES_MAX,
    EXPIRE_HEADERS_MAX,
    EXPIRE_LATER_MS,
    EXPIRE_SETTLED_MS,
    EXPIRE_TURN_S,
)
from evp.storage.buckets import BUCKET_MS, FINEST, LEVELS, bucket_id, is_expired
from evp.storage.client import Database, Document
from evp.storage.dlq import STATES, Filters, purge, walk
from evp.storage.failures import told
from evp.storage.lookup import ids_of, portions
from evp.storage.schema import BUCKETS, DEAD_LETTERS, EVENTS, FRAMES, META, OUTCOMES
from evp.storage.sweep import judge_again

_STATE = "retention"
_LONG_AGO = from_ms(0)
_NO_IDS = b""


class Expired(Struct):
    """What one turn did; `more` is true if it left something that is due."""

    frames: int = 0
    events: int = 0
    more: bool = False


async def expire(
    db: Database, keep_ms: int, now_ms: int, *, turn_s: float = EXPIRE_TURN_S
) -> Expired:
    """Delete events that were accepted longer than `keep_ms` ago, for about `turn_s`.

    Raises StoreUnavailable; calling again is safe.
    """
    turn = _Turn(db, now_ms, monotonic_s() + turn_s)
    # A bucket is old when its last frame is.
    old = from_ms(max(0, now_ms - keep_ms - BUCKET_MS))
    with told():
        all_dated = await _date(db, old)
        query = db[BUCKETS].find({"expire_from": {"$lte": old}}).sort("expire_from")
        due = await query.limit(EXPIRE_BUCKETS_MAX + 1).to_list()
        for bucket in due[:EXPIRE_BUCKETS_MAX]:
            if "fold_at" in bucket or not await turn.expire_bucket(bucket):
                # As if it had been accepted so much later.
                await _put_off(db, bucket, from_ms(to_ms(old) + EXPIRE_LATER_MS))
            if turn.done.more:
                return turn.done
    turn.done.more = not all_dated or len(due) > EXPIRE_BUCKETS_MAX
    return turn.done


async def has_expired(db: Database) -> bool:
    """Return whether retention has ever deleted anything. Raises StoreUnavailable."""
    with told():
        state = await db[META].find_one({"_id": _STATE})
    return state is not None and "expired_to" in state


async def _date(db: Database, old: datetime) -> bool:
    """Have old buckets looked at that nobody has dated; False if there may be more of them."""
    state = await db[META].find_one({"_id": _STATE}) or {}
    start: datetime = state.get("dated_to", _LONG_AGO)
    if start >= old:
        return True
    end = old
    span = {"level": FINEST.name, "start": {"$gte": start, "$lt": end}}
    next_ = db[BUCKETS].find(span, {"start": 1}).sort("start").skip(EXPIRE_DATED_MAX).limit(1)
    for row in await next_.to_list():
        end = row["start"]
    some = span | {"start": {"$gte": start, "$lt": end}, "expire_from": {"$exists": False}}
    await db[BUCKETS].update_many(some, {"$set": {"expire_from": start}})
    await db[META].update_one({"_id": _STATE}, {"$max": {"dated_to": end}}, upsert=True)
    return end == old


class _Turn:
    """One turn: what it did, and when it is over."""

    def __init__(self, db: Database, now_ms: int, ends_at_s: float) -> None:
        self.done = Expired()
        self._db = db
        self._settled_before = from_ms(now_ms - EXPIRE_SETTLED_MS)
        self._ends_at_s = ends_at_s

    async def expire_bucket(self, bucket: Mapping[str, Any]) -> bool:
        """Expire frames of a bucket, all unless time is up; False if some can't be yet."""
        db, start = self._db, bucket["start"]
        full = {"bucket": start, "ids": {"$ne": _NO_IDS}}
        headers = await db[FRAMES].find(full, {"n": 1}).limit(EXPIRE_HEADERS_MAX).to_list()
        settled = await self._settled([one["_id"] for one in headers])
        ready = [one for one in headers if one["_id"] in settled]
        if ready:
            began = {"$max": {"expired_to": start}}
            await db[META].update_one({"_id": _STATE}, began, upsert=True)
        expired = 0
        for portion in _portions(ready):
            if self.done.frames and monotonic_s() >= self._ends_at_s:
                self.done.more = True
                return True
            missing = {one["_id"]: settled[one["_id"]] for one in portion}
            found = await judge_again(db, [id_ for id_, indexes in missing.items() if indexes])
            # What was lost and is there again is accounted for first, and the frame goes later.
            missing = {id_: indexes for id_, indexes in missing.items() if id_ not in found}
            self.done.events += await _expire_frames(db, missing)
            expired += len(missing)
            self.done.frames += len(missing)
        if len(headers) == EXPIRE_HEADERS_MAX and expired:
            self.done.more = True
            return True
        if expired < len(headers):
            return False
        # Whoever changes something in it meanwhile has it summed up, and then looked at, again.
        as_it_was = {"_id": bucket["_id"], "dirty": bucket["dirty"], "fold_at": {"$exists": False}}
        of_now = {"$set": {"expired": bucket["dirty"]}}
        if (await db[BUCKETS].update_one(as_it_was, of_now)).matched_count:
            await _expire_above(db, start)
            await db[BUCKETS].update_one(as_it_was, {"$unset": {"expire_from": ""}})
        return True

    async def _settled(self, frame_ids: Sequence[ObjectId]) -> dict[ObjectId, list[int]]:
        """Return the frames that nobody writes any more, settled and not just now.

        Each with the indexes of its events that are missing.
        """
        fields = {"open": 1, "settled_at": 1, "missing": 1}
        return {
            row["_id"]: row.get("missing", [])
            for portion in portions(frame_ids)
            for row in await self._db[OUTCOMES].find({"_id": {"$in": portion}}, fields).to_list()
            if not row.get("open") and row["settled_at"] <= self._settled_before
        }


def _portions(headers: Sequence[Document]) -> list[list[Document]]:
    """Return headers in portions of as many events and frames as are expired at once."""
    found: list[list[Document]] = []
    events = 0
    for header in headers:
        events += header["n"]
        if not found or events > EXPIRE_EVENTS_MAX or len(found[-1]) == EXPIRE_FRAMES_MAX:
            found.append([])
            events = header["n"]
        found[-1].append(header)
    return found


async def _expire_frames(db: Database, missing: Mapping[ObjectId, Sequence[int]]) -> int:
    """Expire frames, each with the indexes that are missing; return how many documents went."""
    frame_ids = list(missing)
    if not frame_ids:
        return 0
    await _mark(db, missing)
    await _empty_letters(db, frame_ids)
    events: list[tuple[bytes, ObjectId]] = []
    for some in portions(frame_ids):
        rows = await db[FRAMES].find({"_id": {"$in": some}}, {"ids": 1}).to_list()
        events += [(id_, row["_id"]) for row in rows for id_ in ids_of(bytes(row["ids"]))]
    deleted = 0
    if events:
        deletes = [DeleteMany(_own(portion)) for portion in portions(events)]
        deleted = (await db[EVENTS].bulk_write(deletes, ordered=False)).deleted_count
    await db[FRAMES].bulk_write(_updates(frame_ids, {"ids": _NO_IDS}), ordered=False)
    return deleted


async def _mark(db: Database, missing: Mapping[ObjectId, Sequence[int]]) -> None:
    """Mark frames expired, and in the same write keep the ids of what is missing of them."""
    updates: list[UpdateMany | UpdateOne] = []
    updates += _updates([id_ for id_, indexes in missing.items() if not indexes], {"expired": True})
    for some in portions([id_ for id_, indexes in missing.items() if indexes]):
        for row in await db[FRAMES].find({"_id": {"$in": some}}, {"ids": 1}).to_list():
            ids = ids_of(bytes(row["ids"]))
            lost = b"".join(ids[index] for index in missing[row["_id"]])
            marked = {"$set": {"expired": True, "lost": lost}}
            updates.append(UpdateOne({"_id": row["_id"]}, marked))
    await db[FRAMES].bulk_write(updates, ordered=False)


def _updates(frame_ids: Sequence[ObjectId], to: Document) -> list[UpdateMany]:
    return [UpdateMany({"_id": {"$in": some}}, {"$set": to}) for some in portions(frame_ids)]


def _own(events: Sequence[tuple[bytes, ObjectId]]) -> Document:
    """Return which documents are those of events and of their frames; all of these expire."""
    return {
        "_id": {"$in": [Binary(id_, 4) for id_, _ in events]},
        "frame_id": {"$in": list({frame_id for _, frame_id in events})},
    }


async def _empty_letters(db: Database, frame_ids: Sequence[ObjectId]) -> None:
    """Remove what dead letters of frames hold; that the events were dead stays in the account."""
    held = {"frame_id": {"$in": list(frame_ids)}, "purged_at": {"$exists": False}}
    rows = await db[DEAD_LETTERS].find(held, {"frame_id": 1}).to_list()
    for frame_id in {str(row["frame_id"]) for row in rows}:
        async for letters in walk(db, Filters(frame_id=frame_id), STATES):
            await purge(db, letters)


async def _expire_above(db: Database, start: datetime) -> None:
    """Mark the hour and the day of a bucket expired if all buckets in them are.

    The mark is the version of which that is true, so any later change takes it away.
    """
    for finer, level in pairwise(LEVELS):
        # Whatever changes below from now on changes this version later.
        above = await db[BUCKETS].find_one({"_id": bucket_id(level, level.start(start))})
        if above is None:
            return
        low = level.start(start)
        within = {"level": finer.name, "start": {"$gte": low, "$lt": low + level.width}}
        # Old ones go first, so the last one tells most of the time.
        latest = db[BUCKETS].find(within, {"dirty": 1, "expired": 1}).sort("start", -1)
        for some in (latest.clone().limit(1), latest):
            if not all(is_expired(one) for one in await some.to_list()):
                return
        is_so = {"_id": above["_id"], "dirty": above["dirty"]}
        await db[BUCKETS].update_one(is_so, {"$set": {"expired": above["dirty"]}})


async def _put_off(db: Database, bucket: Document, later: datetime) -> None:
    seen = {"_id": bucket["_id"], "expire_from": bucket["expire_from"]}
    await db[BUCKETS].update_one(seen, {"$set": {"expire_from": later}})
