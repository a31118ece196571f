"""Where one event is, as far as the store knows: its document, its dead letters, its frame."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from bson import Binary, ObjectId
from bson.binary import UUID_SUBTYPE
from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from evp.batch.outcome import ERASED
from evp.batch.raw import member
from evp.frame import entry_ms
from evp.limits import EVENT_LETTERS_MAX
from evp.storage.buckets import bucket_of
from evp.storage.client import Database, Document
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

    It has the ids of its events until it is expired and emptied. `stored`, `duplicate`,
    `dead` and `missing` are those of its outcome, the last two as indexes; nothing before
    there is one. `begun_at` is when its header was written, `settled_at` when it was
    settled first, by `worker`, and `judged_at` when its outcome last changed after that.
    `partition` is the number of the stream that has, or had, its entry.
    """

    frame_id: ObjectId
    entry_id: str
    srv: bytes
    seq: int
    count: int
    ids: list[bytes]
    settled: bool
    expired: bool
    external: bool = False
    partition: int = 0
    stored: int = 0
    duplicate: int = 0
    dead: list[int] = []
    missing: list[int] = []
    begun_at: datetime | None = None
    settled_at: datetime | None = None
    judged_at: datetime | None = None
    worker: str | None = None


class Status(StrEnum):
    """Where an event is; `server.events` has the meaning of each."""

    STORED = "stored"
    ERASED = "erased"
    DEAD_LETTER = "dead_letter"
    EXPIRED = "expired"
    MISSING = "missing"
    WRITING = "writing"
    PENDING = "pending"


def status_of(found: Whereabouts, frame: Begun | None, *, waits: bool) -> Status | None:
    """Return where an event is, that was sent with `frame` and may wait in the log.

    None if neither knows it.
    """
    if found.event is not None:
        return Status.STORED if member(found.event, ERASED) is None else Status.ERASED
    if found.letters:
        return Status.DEAD_LETTER
    if frame is not None:
        gone = Status.EXPIRED if frame.expired else Status.MISSING
        return gone if frame.settled else Status.WRITING
    return Status.PENDING if waits else None


async def whereabouts(db: Database, event_id: bytes) -> Whereabouts:
    """Return what the store has of an event. Raises StoreUnavailable."""
    events = raw_events(db)
    letters = await letters_of(db, event_id, EVENT_LETTERS_MAX)
    with told():
        # After the letters: a replay stores the event first, and removes its letter then.
        event = await events.find_one({"_id": {"$eq": Binary(event_id, UUID_SUBTYPE)}})
    return Whereabouts(event, [one for one in letters if one.state != DELIVERED])


async def begun(db: Database, entry_id: str, partition: int = 0) -> Begun | None:
    """Return the frame that was read from an entry; None if no worker has begun with it.

    Raises StoreUnavailable.
    """
    which = {"bucket": bucket_of(entry_ms(entry_id)), "entry": {"$eq": entry_id}}
    # Frames of partition 0 don't name it.
    return await _begun(db, {**which, "partition": partition or None})


async def begun_frame(db: Database, frame_id: ObjectId) -> Begun | None:
    """Return a frame by its id; as `begun`."""
    return await _begun(db, {"_id": {"$eq": frame_id}})


async def _begun(db: Database, which: Document) -> Begun | None:
    with told():
        header = await db[FRAMES].find_one(which)
        if header is None:
            return None
        outcome = await db[OUTCOMES].find_one({"_id": header["_id"]})
    settled = outcome is not None and is_final(outcome)
    outcome = outcome or {}
    return Begun(
        frame_id=header["_id"],
        entry_id=header["entry"],
        srv=bytes(header["srv"]),
        seq=header["seq"],
        count=header["n"],
        ids=ids_of(header.get("ids", b"")),
        settled=settled,
        expired=bool(header.get("expired")),
        external=bool(header.get("external")),
        partition=header.get("partition", 0),
        stored=outcome.get("stored", 0),
        duplicate=outcome.get("duplicate", 0),
        dead=outcome.get("dead", []),
        missing=outcome.get("missing", []),
        begun_at=header.get("written_at"),
        settled_at=outcome.get("settled_at"),
        judged_at=outcome.get("judged_at"),
        worker=outcome.get("worker"),
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
