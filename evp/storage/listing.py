"""Stored events, the last accepted first, a page at a time.

There is no index on events but `_id`, so events are found by the frames that stored
them: buckets backwards in time, a bucket's frames by id, a frame's events from its
last one. Sums say where nothing of a type, a source or a time can be, so that a
rare event is found without looking at all the others; what can't be told by sums
is looked at. One page looks at so much and no more: it may end early, even empty,
and then says where to go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from datetime import datetime

from bson import Binary, ObjectId
from bson.raw_bson import RawBSONDocument
from msgspec import Struct, field

from evp.batch.raw import member
from evp.batch.tally import Tally
from evp.clock import from_ms, monotonic_s, to_ms
from evp.limits import LOOKUP_IDS_MAX, PAGE_BYTES_MAX, PAGE_FRAMES_MAX, PAGE_LOOKED_MAX, PAGE_S_MAX
from evp.storage.candidates import Wanted, buckets
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.lookup import ids_of, portions, raw_events
from evp.storage.schema import FRAMES, OUTCOMES
from evp.storage.settle import is_final
from evp.storage.tail import Tail

_NO_FRAME = bytes(12)


class Place(Struct, frozen=True):
    """An event by bucket (its start, ms), frame and index in it; a page goes on behind it."""

    bucket_ms: int
    frame_id: bytes
    index: int


class Page(Struct):
    """Events, and behind which place there may be more; None where there are none."""

    events: list[RawBSONDocument] = field(default_factory=list)
    more_behind: Place | None = None


async def page(
    db: Database, tail: Tail, wanted: Wanted, after: Place | None, events_max: int
) -> Page:
    """Return up to `events_max` events that are wanted, behind a place or from the newest on.

    Raises StoreUnavailable.
    """
    walk = _Walk(db, wanted, events_max)
    newest = None if after is None else from_ms(after.bucket_ms)
    with told():
        async with contextlib.aclosing(buckets(db, tail, wanted, newest)) as starts:
            async for start in starts:
                if not await walk.through(start, after if start == newest else None):
                    return walk.page
    walk.page.more_behind = None
    return walk.page


class _Walk:
    """One page under way: what was found, and what may still be looked at."""

    def __init__(self, db: Database, wanted: Wanted, events_max: int) -> None:
        self._db = db
        self._events = raw_events(db)
        self._wanted = wanted
        self._events_max = events_max
        self._size_bytes = 0
        self._looked = 0
        self._ends_at_s = monotonic_s() + PAGE_S_MAX
        self.page = Page()

    async def through(self, bucket: datetime, after: Place | None) -> bool:
        """Go through a bucket; False once the page is full, or ends early."""
        which: Document = {"bucket": bucket}
        if after is not None:
            which["_id"] = {"$lte": ObjectId(after.frame_id)}
        frames_max = PAGE_FRAMES_MAX if self._wanted.by_sums else self._events_max
        while True:
            cursor = self._db[FRAMES].find(which, {"n": 1}, batch_size=frames_max)
            rows = await cursor.sort("_id", -1).limit(frames_max).to_list()
            if not rows:
                self.page.more_behind = Place(to_ms(bucket), _NO_FRAME, 0)
                return self._may_go_on()
            if not await self._through_frames(to_ms(bucket), rows, after):
                return False
            which["_id"] = {"$lt": rows[-1]["_id"]}

    async def _through_frames(
        self, bucket_ms: int, rows: Sequence[Document], after: Place | None
    ) -> bool:
        self._looked += len(rows)
        for some_rows in portions(rows):
            for some in self._few(await self._may_hold(some_rows)):
                headers = await self._headers(some)
                for portion in portions(_places(bucket_ms, headers, after)):
                    if not await self._look_at(portion):
                        return False
        self.page.more_behind = Place(bucket_ms, rows[-1]["_id"].binary, 0)
        return self._may_go_on()

    async def _may_hold(self, rows: Sequence[Document]) -> Sequence[Document]:
        """Leave out frames whose outcome says that nothing in them is wanted."""
        if not self._wanted.by_sums:
            return rows
        query = {"_id": {"$in": [row["_id"] for row in rows]}}
        without = {
            outcome["_id"]
            for outcome in await self._db[OUTCOMES].find(query).to_list()
            if is_final(outcome) and not self._is_in(outcome)
        }
        return [row for row in rows if row["_id"] not in without]

    def _is_in(self, outcome: Document) -> bool:
        tally = Tally()
        tally.add_outcome(outcome)
        return self._wanted.may_be_in(tally)

    def _few(self, rows: Sequence[Document]) -> list[list[ObjectId]]:
        """Return frames' ids in portions of about as many events as the page needs."""
        few: list[list[ObjectId]] = []
        room = 0
        for row in rows:
            if room <= 0:
                few.append([])
                room = max(LOOKUP_IDS_MAX, self._events_max)
            few[-1].append(row["_id"])
            room -= row["n"]
        return few

    async def _headers(self, frame_ids: Collection[ObjectId]) -> list[Document]:
        query = {"_id": {"$in": list(frame_ids)}}
        rows = await self._db[FRAMES].find(query, {"ids": 1}).to_list()
        return sorted(rows, key=lambda row: row["_id"], reverse=True)

    async def _look_at(self, places: Sequence[tuple[bytes, Place]]) -> bool:
        """Add what is wanted of some events to the page; False once it is full, or ends early."""
        ids = [Binary(id_, 4) for id_, _ in places]
        query = {"_id": {"$in": ids}} | self._wanted.query()
        rows = await self._events.find(query).to_list()
        found = {bytes(member(row, "_id")): row for row in rows}
        self._looked += len(places)
        for id_, place in places:
            event = found.get(id_)
            # A duplicate is told where it was stored.
            if event is not None and member(event, "frame_id") == ObjectId(place.frame_id):
                self.page.events.append(event)
                self._size_bytes += len(event.raw)
            self.page.more_behind = place
            if len(self.page.events) >= self._events_max or self._size_bytes >= PAGE_BYTES_MAX:
                return False
        return self._may_go_on()

    def _may_go_on(self) -> bool:
        return self._looked < PAGE_LOOKED_MAX and monotonic_s() < self._ends_at_s


def _places(
    bucket_ms: int, headers: Sequence[Document], after: Place | None
) -> list[tuple[bytes, Place]]:
    """Return the events of frames and their places, the last one first; each id once a frame."""
    places: list[tuple[bytes, Place]] = []
    for header in headers:
        frame_id = header["_id"].binary
        last = {id_: index for index, id_ in enumerate(ids_of(header.get("ids", b"")))}
        places += [
            (id_, Place(bucket_ms, frame_id, index))
            for id_, index in sorted(last.items(), key=lambda one: -one[1])
            if after is None or frame_id != after.frame_id or index < after.index
        ]
    return places
