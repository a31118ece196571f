"""The tail: frames that no sums have, since their buckets are open, or due.

Whoever reads it again and again, as a server does for a dashboard, reads only what
is new: an outcome that is final and has no dead letters never changes, so it is
read once for as long as its bucket stays in the tail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from bson import ObjectId
from msgspec import Struct, field

from evp.batch.tally import Tally
from evp.clock import from_ms, now
from evp.errors import StoreTooSlow
from evp.limits import STORE_ROWS_AT_ONCE
from evp.storage.buckets import FINEST, HOURLY, LEVELS, Level, frontier
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.lookup import portions
from evp.storage.schema import BUCKETS, FRAMES, OUTCOMES
from evp.storage.settle import is_final

LONG_AGO = from_ms(0)
_STEPS_MAX = 60


class State(Struct, frozen=True):
    """Buckets from `listed_to` on have no sums yet; `due` has, by level, the others without.

    Those before `fine_from` may have no cells by the minute; `pruned` are some
    that have none and are not due, but their hours are.
    """

    listed_to: datetime
    due: list[set[datetime]]
    fine_from: datetime = LONG_AGO
    pruned: set[datetime] = set()


class Tail(Struct, frozen=True):
    """What no sums have, as it was `at`, each by when its bucket starts.

    `fresh` are buckets that are open or due. Of `pruned` ones the store has all sums
    but the cells.
    """

    at: datetime
    state: State
    fresh: dict[datetime, Tally]
    pruned: dict[datetime, Tally]


class _Known(Struct):
    """Frames of one bucket whose outcomes can't change, and their sums."""

    frame_ids: set[ObjectId] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)


class TailReader:
    """Reads the tail of one database; one call at a time. `frames_max` bounds what it holds."""

    def __init__(self, db: Database, frames_max: int | None = None) -> None:
        self._db = db
        self._frames_max = frames_max
        self._known: dict[datetime, _Known] = {}

    async def read(self) -> Tail:
        """Return the tail as it is now; what was read before an error is kept.

        Raises StoreUnavailable, and StoreTooSlow if the tail has too many frames.
        """
        at = now()
        with told():
            state = await look(self._db)
            by_bucket = await self._frames(state, at)
            self._known = {start: self._known_of(start, ids) for start, ids in by_bucket.items()}
            sums = {start: await self._sum(start, ids) for start, ids in by_bucket.items()}
        pruned = {start: sums.pop(start) for start in state.pruned if start in sums}
        return Tail(at, state, sums, pruned)

    async def _frames(self, state: State, at: datetime) -> dict[datetime, set[ObjectId]]:
        """Return the ids of all frames in the tail, by bucket."""
        by_bucket: dict[datetime, set[ObjectId]] = {}
        steps = (FINEST.start(at) - state.listed_to) // FINEST.width
        # Bucket by bucket where they are few, since a date in each row costs more than the rest.
        near = range(steps + 1 if steps < _STEPS_MAX else 0)
        starts = {state.listed_to + step * FINEST.width for step in near}
        for start in starts | state.due[0] | state.pruned:
            async for page in pages_of(self._db, FRAMES, {"bucket": start}, {"_id": 1}):
                by_bucket.setdefault(start, set()).update([row["_id"] for row in page])
                self._check_size(by_bucket)
        rest = {"bucket": {"$gte": state.listed_to + len(near) * FINEST.width}}
        async for page in pages_of(self._db, FRAMES, rest, {"bucket": 1}):
            for row in page:
                by_bucket.setdefault(row["bucket"], set()).add(row["_id"])
            self._check_size(by_bucket)
        return by_bucket

    def _check_size(self, by_bucket: dict[datetime, set[ObjectId]]) -> None:
        frames = sum(map(len, by_bucket.values()))
        if self._frames_max is not None and frames > self._frames_max:
            raise StoreTooSlow(f"more than {self._frames_max} frames have no sums yet")

    def _known_of(self, start: datetime, frame_ids: set[ObjectId]) -> _Known:
        """Return what is known of a bucket, unless frames of it are gone: then it is read anew."""
        known = self._known.get(start)
        return known if known is not None and known.frame_ids <= frame_ids else _Known()

    async def _sum(self, start: datetime, frame_ids: set[ObjectId]) -> Tally:
        known, changing = self._known[start], Tally()
        for portion in portions(list(frame_ids - known.frame_ids)):
            for outcome in await self._db[OUTCOMES].find({"_id": {"$in": portion}}).to_list():
                if is_final(outcome) and not outcome["dead"]:
                    known.tally.add_outcome(outcome)
                    known.frame_ids.add(outcome["_id"])
                else:
                    changing.add_outcome(outcome)
        changing.add(known.tally)
        return changing


async def look(db: Database) -> State:
    """Return which buckets have sums. Raises PyMongoError."""
    edge = await frontier(db)
    listed_to = edge.listed_to if edge else LONG_AGO
    fine_from = edge.fine_from if edge else LONG_AGO
    due: list[set[datetime]] = []
    for level in LEVELS:
        # From fine to coarse: a fold makes a bucket's parent due before it is done with it.
        unfolded = {"fold_at": {"$gte": LONG_AGO}, "level": level.name}
        starts = [row["start"] async for row in rows_of(db, BUCKETS, unfolded, {"start": 1})]
        own = {start for start in starts if start < listed_to}
        due.append(own | {level.start(below) for below in (due[-1] if due else ())})
    pruned: set[datetime] = set()
    for hour in due[1]:
        if hour < fine_from:
            query: Document = {"level": FINEST.name, "start": span(HOURLY, hour), "pruned": True}
            pruned |= {row["start"] async for row in rows_of(db, BUCKETS, query, {"start": 1})}
    return State(listed_to, due, fine_from, pruned - due[0])


def span(level: Level, start: datetime) -> Document:
    """Return the condition for what lies within a bucket."""
    return {"$gte": start, "$lt": start + level.width}


async def rows_of(
    db: Database, collection: str, which: Document, fields: Document | None = None
) -> AsyncIterator[Document]:
    """Give documents, decoded a few at a time, so that nothing else in this process waits long.

    Raises PyMongoError.
    """
    async for page in pages_of(db, collection, which, fields):
        for row in page:
            yield row


async def pages_of(
    db: Database, collection: str, which: Document, fields: Document | None = None
) -> AsyncIterator[list[Document]]:
    """Give documents as `rows_of`, as many at a time as are decoded in one go."""
    cursor = db[collection].find(which, fields, batch_size=STORE_ROWS_AT_ONCE)
    while page := await cursor.to_list(STORE_ROWS_AT_ONCE):
        yield page
