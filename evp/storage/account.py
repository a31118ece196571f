"""What the store has of events whose ids are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bson import Binary
from msgspec import Struct

from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.lookup import stored_events
from evp.storage.metrics import accepted
from evp.storage.schema import EVENTS

_ID_TIME_BYTES = 6
_ID_REST_BYTES = 10
_PAGE_EVENTS = 10_000


class Totals(Struct):
    """Sums over all outcomes. `missing` are events that the log lost before they were stored."""

    stored: int = 0
    duplicate: int = 0
    dead: int = 0
    frames: int = 0
    missing: int = 0
    external: int = 0
    """Events of plain entries, which are in the other sums as well."""


async def totals(db: Database) -> Totals:
    """Return the sums over all outcomes: of days, hours and less, and of the newest frames.

    Raises StoreUnavailable.
    """
    tally = await accepted(db)
    return Totals(
        stored=tally.stored,
        duplicate=tally.duplicate,
        dead=tally.dead,
        frames=tally.frames,
        missing=tally.missing,
        external=tally.external,
    )


async def present(db: Database, ids: Sequence[bytes]) -> set[bytes]:
    """Return which of these ids are stored. Raises StoreUnavailable."""
    with told():
        return set(await stored_events(db, ids, ("_id",)))


async def ids_of_source(
    db: Database, source: str, bounds_ms: tuple[int, int] | None = None
) -> AsyncIterator[list[str]]:
    """Give the `id` of every document of a source, a page at a time; as often as it is stored.

    Looks at what is there, not at how `_id`s are made. `bounds_ms` are the first and the last
    time in them that are looked at; without them it goes through the whole collection. Events
    without an id are left out. Raises StoreUnavailable.
    """
    query: dict[str, Any] = {"source": source, "id": {"$exists": True}}
    if bounds_ms is not None:
        low, high = (
            Binary(ms.to_bytes(_ID_TIME_BYTES, "big") + rest * _ID_REST_BYTES, 4)
            for ms, rest in zip(bounds_ms, (b"\0", b"\xff"), strict=True)
        )
        query["_id"] = {"$gte": low, "$lte": high}
    with told():
        cursor = db[EVENTS].find(query, {"_id": 0, "id": 1}, batch_size=_PAGE_EVENTS)
        while page := await cursor.to_list(_PAGE_EVENTS):
            yield [document["id"] for document in page]


async def doubled(db: Database, source: str, first_ms: int, last_ms: int) -> list[str]:
    """Return the ids of a source that stand in more than one document.

    Bounds and errors are those of `ids_of_source`.
    """
    seen: Counter[str] = Counter()
    async for ids in ids_of_source(db, source, (first_ms, last_ms)):
        seen.update(ids)
    return [id_ for id_, count in seen.items() if count > 1]
