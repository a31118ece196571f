"""Buckets: spans of acceptance whose sums are kept, and which of them are due.

A frame belongs to the bucket of 10 s in which the log took it. Buckets that
start before `closed_to` are closed: their frames have been summed, or will be.
Whoever changes something in a closed bucket marks it: `dirty` counts such
changes, `done` is the count that was summed last, and a bucket is due while the
two differ. So no change can be overlooked, whoever dies when:

- a header is written first, and only then it is asked what is closed;
- a fold says what is closed first, and only then looks for frames in it.

Hours and days are buckets of the same kind, of which the finer ones are the
frames.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from evp.clock import from_ms, now_ms, to_ms
from evp.errors import StoreUnavailable
from evp.frame import MINUTE_MS
from evp.limits import FOLD_MARKED_MS
from evp.storage.client import Database
from evp.storage.failures import failures_of
from evp.storage.schema import BUCKETS, META

BUCKET_MS = 10_000

_FRONTIER = "buckets"
_HOUR_MS = 60 * MINUTE_MS
_DAY_MS = 24 * _HOUR_MS
_ATTEMPTS_MAX = 5


class Level(Struct, frozen=True):
    """A width of buckets by time of acceptance, and of cells by the events' own time."""

    name: str
    bucket_ms: int
    cell_ms: int

    @property
    def width(self) -> timedelta:
        """How long a bucket lasts."""
        return timedelta(milliseconds=self.bucket_ms)

    def start(self, moment: datetime) -> datetime:
        """Return when the bucket of a moment starts."""
        return from_ms(to_ms(moment) // self.bucket_ms * self.bucket_ms)


LEVELS = (
    Level("10s", BUCKET_MS, MINUTE_MS),
    Level("hour", _HOUR_MS, _HOUR_MS),
    Level("day", _DAY_MS, _DAY_MS),
)
"""From fine to coarse; each is summed up from the one before."""

FINEST = LEVELS[0]
HOURLY = LEVELS[1]


def bucket_of(accepted_ms: int) -> datetime:
    """Return when the bucket starts in which the log took a frame."""
    return from_ms(accepted_ms // BUCKET_MS * BUCKET_MS)


def bucket_id(level: Level, start: datetime) -> str:
    """Return the `_id` of a bucket."""
    return f"{level.name}:{to_ms(start)}"


class Frontier(Struct, frozen=True):
    """How far buckets are closed, and how far those that have frames have been found.

    Of buckets that start before `fine_from` sums by the minute may be gone; those before
    `dated_to` have been given a `prune_at`, if they still needed one.
    """

    closed_to: datetime
    listed_to: datetime
    fine_from: datetime = from_ms(0)
    dated_to: datetime = from_ms(0)


async def frontier(db: Database) -> Frontier | None:
    """Return how far buckets are closed; None before the first fold. Raises PyMongoError."""
    there = await db[META].find_one({"_id": _FRONTIER})
    if there is None:
        return None
    since = {name: there[name] for name in ("fine_from", "dated_to") if name in there}
    return Frontier(there["closed_to"], there["listed_to"], **since)


async def advance(db: Database, to: Frontier) -> Frontier:
    """Move the frontier, never back, and return where it stands at least.

    Raises PyMongoError; calling again is safe.
    """
    there = await frontier(db) or Frontier(from_ms(0), from_ms(0))
    moved = Frontier(
        max(there.closed_to, to.closed_to),
        max(there.listed_to, to.listed_to),
        max(there.fine_from, to.fine_from),
        max(there.dated_to, to.dated_to),
    )
    if moved != there:
        furthest = {"$max": msgspec.structs.asdict(moved)}
        await db[META].update_one({"_id": _FRONTIER}, furthest, upsert=True)
    return moved


def is_expired(bucket: Mapping[str, Any]) -> bool:
    """Return True if no frame of a bucket holds events any more, as of its last change."""
    return bool(bucket.get("expired") == bucket["dirty"])


async def mark(db: Database, starts: Collection[datetime]) -> None:
    """Make those of these buckets due that are closed.

    To be called after a header was written or an outcome opened, and before the
    outcome is written. Raises PyMongoError and StoreUnavailable; calling again
    is safe.
    """
    there = await frontier(db)
    if there is None:
        return
    closed = [start for start in starts if start < there.closed_to]
    await change(db, FINEST, closed, from_ms(now_ms() + FOLD_MARKED_MS))


async def change(db: Database, level: Level, starts: Iterable[datetime], fold_at: datetime) -> None:
    """Count one more change in buckets, to be summed at `fold_at`, or sooner if they wait already.

    Raises PyMongoError and StoreUnavailable.
    """
    await _upsert(
        db,
        [
            _update(level, start, {"$inc": {"dirty": 1}, "$min": {"fold_at": fold_at}})
            for start in starts
        ],
    )


async def add(db: Database, starts: Iterable[datetime], fold_at: datetime) -> None:
    """Add buckets of the finest level that have just been closed; known ones stay as they are.

    Raises PyMongoError and StoreUnavailable.
    """
    fresh = {"$setOnInsert": {"dirty": 1, "fold_at": fold_at}}
    await _upsert(db, [_update(FINEST, start, fresh) for start in starts])


def _update(level: Level, start: datetime, how: dict[str, dict[str, Any]]) -> UpdateOne:
    born = {"level": level.name, "start": start, "done": 0} | how.get("$setOnInsert", {})
    return UpdateOne({"_id": bucket_id(level, start)}, how | {"$setOnInsert": born}, upsert=True)


async def _upsert(db: Database, updates: list[UpdateOne]) -> None:
    """Apply updates; one that met another worker's insert of the same bucket is applied again."""
    for _ in range(_ATTEMPTS_MAX):
        if not updates:
            return
        try:
            await db[BUCKETS].bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            updates = [updates[place] for place in failures_of(error)]
        else:
            return
    raise StoreUnavailable("others keep inserting the same buckets")
