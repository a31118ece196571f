"""What the store can tell about frames and events: read only, in pages of bounded size.

Frames are walked in windows of their bucket, which is indexed: a cursor over all of
them would be built up in the memory of an embedded store, and would not survive
a failover of a large one. The rest is asked for by `_id`, in portions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from bson import Binary, ObjectId
from msgspec import Struct

from evp.clock import now
from evp.limits import (
    CLOCK_SKEW_MS_MAX,
    VERIFY_LOOKUPS_AT_ONCE,
    VERIFY_PAGE_EVENTS,
    VERIFY_PAGE_FRAMES,
)
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.lookup import ids_of, portions, stored_events
from evp.storage.schema import DEAD_LETTERS, EVENTS, FRAMES, OUTCOMES, SERVERS

_WINDOW_MIN = timedelta(seconds=10)
_WINDOW_MAX = timedelta(hours=1)
_SKEW = timedelta(milliseconds=CLOCK_SKEW_MS_MAX)
_UNREADABLE = "corrupt_frame"

K = TypeVar("K")
V = TypeVar("V")


class EpochRow(Struct, gc=False):
    """A row of `servers`: how far an epoch got, and when that was last said.

    `unknown` are events of appends of unknown outcome: of the one that ended it; where `seq`
    is 0, of all those by which a process ended epochs that had nothing acknowledged.
    `partition` is the number of the stream that it is of.
    """

    srv: bytes
    seq: int
    events: int
    unknown: int
    seen_at: datetime | None
    partition: int = 0


class FrameHeader(Struct, gc=False):
    """A row of `frames`. `ids` are 16 bytes each, one after the other; empty if not asked for.

    Of an expired frame they are gone but for those of events that were `lost` before.
    `partition` is the number of the stream that has, or had, its entry.
    """

    frame_id: ObjectId
    srv: bytes
    seq: int
    count: int
    entry_id: str
    external: bool
    expired: bool
    ids: bytes
    lost: bytes = b""
    partition: int = 0

    @property
    def event_ids(self) -> list[bytes]:
        """The ids of its events, in order."""
        return ids_of(self.ids)

    @property
    def lost_ids(self) -> list[bytes]:
        """The ids of events that were nowhere when it expired, in order."""
        return ids_of(self.lost)


class Settled(Struct, gc=False):
    """A row of `outcomes`. It is `final` unless it is being judged again or lacked the payload."""

    stored: int
    duplicate: int
    dead: list[int]
    final: bool
    expired: bool


class StoredEvent(Struct, gc=False):
    """An event as far as a scan looks at it; `frame_id` is None where evp did not write it."""

    id: Any
    frame_id: Any


class UnreadableEntry(Struct, gc=False):
    """A dead letter of a log entry that was no frame, and which frame the entry said it was."""

    letter_id: str
    entry_id: str
    srv: bytes
    seq: int


async def epoch_rows(db: Database) -> AsyncIterator[EpochRow]:
    """Give all rows of `servers`, which are never deleted. Raises StoreUnavailable."""
    with told():
        async for row in db[SERVERS].find(batch_size=VERIFY_PAGE_FRAMES):
            unknown, seen_at = row.get("unknown", 0), row.get("seen_at")
            partition = row.get("partition", 0)
            yield EpochRow(row["_id"], row["seq"], row["events"], unknown, seen_at, partition)


async def first_record_at(db: Database) -> datetime | None:
    """Return when the first epoch was recorded, as far as that is known."""
    first: datetime | None = None
    with told():
        fields, size = {"first_at": 1, "seen_at": 1}, VERIFY_PAGE_FRAMES
        async for row in db[SERVERS].find({}, fields, batch_size=size):
            moment = row.get("first_at") or row.get("seen_at")
            if moment is not None and (first is None or moment < first):
                first = moment
    return first


async def frame_pages(
    db: Database, *, since: datetime | None = None, with_ids: bool = True
) -> AsyncIterator[list[FrameHeader]]:
    """Give the headers of all frames accepted since then, about in order, a page at a time.

    Raises StoreUnavailable.
    """
    start = since or await first_record_at(db) or now()
    start -= _SKEW if since is None else timedelta()
    if since is None:
        async for page in _pages(db, {"$lt": start}, with_ids=with_ids):
            yield page
    width, last = _WINDOW_MIN, now() + _SKEW
    while start < last:
        found = 0
        window = {"$gte": start, "$lt": start + width}
        async for page in _pages(db, window, with_ids=with_ids):
            found += len(page)
            yield page
        start += width
        width = _next_width(width, found)
    # Anyone may add an entry with an id of a far future.
    async for page in _pages(db, {"$gte": start}, with_ids=with_ids):
        yield page


async def earlier_frame_pages(db: Database, before: datetime) -> AsyncIterator[list[FrameHeader]]:
    """Give headers, without ids, of what was accepted before: the latest window first.

    Each page is one whole window. Raises StoreUnavailable.
    """
    first = (await first_record_at(db) or before) - _SKEW
    width = _WINDOW_MIN
    while before > first:
        window = {"$gte": before - width, "$lt": before}
        whole = [one async for page in _pages(db, window, with_ids=False) for one in page]
        yield whole
        before -= width
        width = _next_width(width, len(whole))
    yield [one async for page in _pages(db, {"$lt": before}, with_ids=False) for one in page]


def _next_width(width: timedelta, found: int) -> timedelta:
    """Return how wide the next window should be after one of this width and so many frames."""
    if found > VERIFY_PAGE_EVENTS:
        return max(_WINDOW_MIN, width / 2)
    if found < VERIFY_PAGE_EVENTS / 4:
        return min(_WINDOW_MAX, width * 2)
    return width


async def _pages(
    db: Database, bucket: dict[str, datetime], *, with_ids: bool
) -> AsyncIterator[list[FrameHeader]]:
    page: list[FrameHeader] = []
    events = 0
    projection = None if with_ids else {"ids": 0}
    with told():
        cursor = db[FRAMES].find({"bucket": bucket}, projection, batch_size=VERIFY_PAGE_FRAMES)
        async for row in cursor:
            page.append(_header(row))
            events += row["n"] if with_ids else 0
            if len(page) >= VERIFY_PAGE_FRAMES or events >= VERIFY_PAGE_EVENTS:
                yield page
                page, events = [], 0
    if page:
        yield page


def _header(row: Document) -> FrameHeader:
    return FrameHeader(
        row["_id"],
        row["srv"],
        row["seq"],
        row["n"],
        row["entry"],
        row.get("external", False),
        bool(row.get("expired")),
        row.get("ids", b""),
        row.get("lost", b""),
        row.get("partition", 0),
    )


async def frames_by_id(db: Database, frame_ids: Sequence[ObjectId]) -> dict[Any, FrameHeader]:
    """Return the headers of those frames that are known. Raises StoreUnavailable."""

    async def look(portion: list[ObjectId]) -> dict[Any, FrameHeader]:
        rows = await db[FRAMES].find({"_id": {"$in": portion}}).to_list()
        return {row["_id"]: _header(row) for row in rows}

    return await _looked_up(frame_ids, look)


async def outcomes_by_id(db: Database, frame_ids: Sequence[ObjectId]) -> dict[Any, Settled]:
    """Return the outcomes of those frames that have one. Raises StoreUnavailable."""
    projection = dict.fromkeys(("stored", "duplicate", "dead", "open", "provisional", "expired"), 1)

    async def look(portion: list[ObjectId]) -> dict[Any, Settled]:
        rows = await db[OUTCOMES].find({"_id": {"$in": portion}}, projection).to_list()
        return {row["_id"]: _settled(row) for row in rows}

    return await _looked_up(frame_ids, look)


async def settled_frames(db: Database, frame_ids: Sequence[bytes]) -> set[bytes]:
    """Return which of these frames have an outcome that is final. Raises StoreUnavailable."""
    outcomes = await outcomes_by_id(db, [ObjectId(one) for one in frame_ids])
    return {frame_id.binary for frame_id, outcome in outcomes.items() if outcome.final}


def _settled(row: Document) -> Settled:
    is_final = not row.get("open") and not row.get("provisional")
    expired = bool(row.get("expired"))
    return Settled(row["stored"], row["duplicate"], row["dead"], is_final, expired)


async def stored_ids(db: Database, ids: Sequence[bytes]) -> set[bytes]:
    """Return which of these ids have a document in `events`. Raises StoreUnavailable."""

    async def look(portion: list[bytes]) -> dict[bytes, None]:
        wanted = [Binary(id_, 4) for id_ in portion]
        rows = await db[EVENTS].find({"_id": {"$in": wanted}}, {"_id": 1}).to_list()
        return {bytes(row["_id"]): None for row in rows}

    return set(await _looked_up(ids, look))


async def owners(db: Database, ids: Sequence[bytes]) -> dict[bytes, Any]:
    """Return, of those ids that have a document, whose it is: by id the frame id it carries.

    Raises StoreUnavailable.
    """
    with told():
        found = await stored_events(db, set(ids), ("frame_id",))
    return {id_: document.get("frame_id") for id_, document in found.items()}


async def lettered(db: Database, places: Sequence[tuple[ObjectId, int]]) -> set[str]:
    """Return the ids of the dead letters there are among those of (frame, index).

    Raises StoreUnavailable.
    """

    async def look(portion: list[str]) -> dict[str, None]:
        rows = await db[DEAD_LETTERS].find({"_id": {"$in": portion}}, {"_id": 1}).to_list()
        return {row["_id"]: None for row in rows}

    return set(await _looked_up([letter_id(*place) for place in places], look))


def letter_id(frame_id: ObjectId, index: int) -> str:
    """Return the `_id` of an event's dead letter."""
    return f"{frame_id}:{index}"


async def unreadable_entries(db: Database) -> AsyncIterator[UnreadableEntry]:
    """Give the dead letters of entries that were no frames. Raises StoreUnavailable."""
    with told():
        query = {"reason": _UNREADABLE, "seq": {"$exists": True}}
        fields = ("entry", "srv", "seq")
        async for row in db[DEAD_LETTERS].find(query, fields, batch_size=VERIFY_PAGE_FRAMES):
            yield UnreadableEntry(row["_id"], row["entry"], row["srv"], row["seq"])


async def event_pages(db: Database) -> AsyncIterator[list[StoredEvent]]:
    """Give every document of `events`, id and frame only, a page at a time.

    Raises StoreUnavailable.
    """
    page: list[StoredEvent] = []
    with told():
        cursor = db[EVENTS].find({}, {"frame_id": 1}, batch_size=VERIFY_PAGE_EVENTS)
        async for row in cursor:
            page.append(StoredEvent(row["_id"], row.get("frame_id")))
            if len(page) >= VERIFY_PAGE_EVENTS:
                yield page
                page = []
    if page:
        yield page


async def _looked_up(keys: Sequence[K], look: Callable[[list[K]], Any]) -> dict[Any, Any]:
    """Ask for keys in portions, several at a time; return all answers as one."""
    found: dict[Any, Any] = {}
    turns = asyncio.Semaphore(VERIFY_LOOKUPS_AT_ONCE)

    async def one(portion: list[K]) -> None:
        async with turns:
            found.update(await look(portion))

    with told():
        await asyncio.gather(*map(one, portions(keys)))
    return found
