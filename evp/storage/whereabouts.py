"""Where one event is, as far as the store knows: its document, its dead letters, its frame."""

from __future__ import annotations

from bson import Binary, ObjectId
from bson.binary import UUID_SUBTYPE
from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from evp.frame import entry_ms
from evp.limits import EVENT_LETTERS_MAX
from evp.storage.buckets import bucket_of
from evp.storage.client import Database
from evp.storage.dlq import DELIVERED, Letter, letters_of
from evp.storage.failures import told
from evp.storage.lookup import ids_of, raw_events
from evp.storage.schema import FRAMES, OUTCOMES
from evp.storage.settle import is_final


class Whereabouts(Struct):
    """What the store has under an event's id; `letters` without those that say nothing."""

    event: RawBSONDocument | None
    letters: list[Letter]


class Begun(Struct):
    """A frame that a worker has begun to write, and its event ids; `settled` once it is done."""

    frame_id: ObjectId
    ids: list[bytes]
    settled: bool
    expired: bool


async def whereabouts(db: Database, event_id: bytes) -> Whereabouts:
    """Return what the store has of an event. Raises StoreUnavailable."""
    events = raw_events(db)
    letters = await letters_of(db, event_id, EVENT_LETTERS_MAX)
    with told():
        # After the letters: a replay stores the event first, and removes its letter then.
        event = await events.find_one({"_id": {"$eq": Binary(event_id, UUID_SUBTYPE)}})
    return Whereabouts(event, [one for one in letters if one.state != DELIVERED])


async def begun(db: Database, entry_id: str) -> Begun | None:
    """Return the frame that was read from an entry; None if no worker has begun with it.

    Raises StoreUnavailable.
    """
    with told():
        which = {"bucket": bucket_of(entry_ms(entry_id)), "entry": {"$eq": entry_id}}
        header = await db[FRAMES].find_one(which)
        if header is None:
            return None
        outcome = await db[OUTCOMES].find_one({"_id": header["_id"]})
    return Begun(
        header["_id"],
        ids_of(header.get("ids", b"")),
        settled=outcome is not None and is_final(outcome),
        expired=bool(header.get("expired")),
    )
