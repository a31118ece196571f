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
from evp.storage.evidence import owners
from evp.storage.failures import told
from evp.storage.lookup import ids_of, raw_events
from evp.storage.retention import has_expired
from evp.storage.schema import FRAMES, OUTCOMES
from evp.storage.settle import is_final


class Whereabouts(Struct):
    """What the store has under an event's id; `letters` without those that say nothing."""

    event: RawBSONDocument | None
    letters: list[Letter]

    @property
    def nothing(self) -> bool:
        """True if the store has neither."""
        return self.event is None and not self.letters


class Begun(Struct):
    """A frame that a worker has begun to write; `settled` once it is done.

    It has the ids of its events until it is expired and emptied; `stored` and `duplicate`
    are those of its outcome, 0 before there is one.
    """

    frame_id: ObjectId
    ids: list[bytes]
    settled: bool
    expired: bool
    stored: int = 0
    duplicate: int = 0


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
        stored=(outcome or {}).get("stored", 0),
        duplicate=(outcome or {}).get("duplicate", 0),
    )


async def has_gone(db: Database, frame: Begun) -> bool:
    """Return whether an event of a settled frame that is not there has gone with retention.

    Either with the frame, which has expired since it was read; or it was a duplicate, and
    went with the frame that stored it: then all that this one stored is there. Raises
    StoreUnavailable.
    """
    with told():
        header = await db[FRAMES].find_one({"_id": frame.frame_id}, {"expired": 1})
    if header is not None and header.get("expired"):
        return True
    if not frame.duplicate or not await has_expired(db):
        return False
    holders = await owners(db, frame.ids)
    return list(holders.values()).count(frame.frame_id) >= frame.stored
