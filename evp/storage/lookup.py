"""Many events by id: as a header holds them, in portions that every store answers quickly."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

from bson import Binary
from pymongo.asynchronous.collection import AsyncCollection

from evp.batch.raw import AS_IT_IS
from evp.identity import ID_BYTES
from evp.limits import LOOKUP_IDS_MAX
from evp.storage.client import Database
from evp.storage.schema import EVENTS

T = TypeVar("T")


def portions(ids: Sequence[T]) -> Iterator[list[T]]:
    """Give all ids, at most LOOKUP_IDS_MAX at a time."""
    for start in range(0, len(ids), LOOKUP_IDS_MAX):
        yield list(ids[start : start + LOOKUP_IDS_MAX])


def ids_of(header: bytes) -> list[bytes]:
    """Return the event ids of a frame's header, where they stand one after the other."""
    return [header[start : start + ID_BYTES] for start in range(0, len(header), ID_BYTES)]


def raw_events(db: Database) -> AsyncCollection[Any]:
    """Return the events, each a RawBSONDocument: nothing is decoded until it is asked for."""
    return db.get_collection(EVENTS, codec_options=AS_IT_IS)


async def stored_events(
    db: Database, ids: Collection[bytes], fields: Sequence[str] | None = None
) -> dict[bytes, Any]:
    """Return by id what the store has of events, all fields if none are named.

    Raises PyMongoError.
    """
    events = raw_events(db)
    found: dict[bytes, Any] = {}
    for portion in portions(sorted(ids)):
        wanted = {"_id": {"$in": [Binary(id_, 4) for id_ in portion]}}
        for document in await events.find(wanted, fields).to_list():
            found[bytes(document["_id"])] = document
    return found
