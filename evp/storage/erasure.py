"""Erasing events for good: what is left of each is enough for every count, and nothing else.

A document is replaced by a tombstone: the same `_id` and `frame_id`, its `type`,
`source` and `time`, and `erased_at`. It equals any event (`evp.batch.outcome`), so
the event does not come back when it is sent or delivered again. A dead letter loses
what it holds, and stays. Both can be done again, and ended at any moment.

Nothing here has an index: all events are gone through, in the store.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any
from uuid import UUID

import bson
import pymongo
from bson import Binary
from bson.binary import UUID_SUBTYPE
from bson.raw_bson import RawBSONDocument
from msgspec import Struct
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from evp.batch.outcome import ERASED
from evp.batch.raw import member
from evp.limits import ERASE_DOCUMENTS_MAX, ERASE_PASS_MS_MAX, LOOKUP_IDS_MAX
from evp.storage.client import Database, Document
from evp.storage.dlq import STATES, Filters, Letter, bodies, portions_of, walk
from evp.storage.failures import Failure, failures_of, told
from evp.storage.lookup import raw_events
from evp.storage.schema import DEAD_LETTERS, EVENTS

_KEPT = ("frame_id", "type", "source", "time")
_ABSENT = {"$exists": False}
_UNREAD = {"purged_at": _ABSENT}


class Wanted(Struct, frozen=True, kw_only=True):
    """Which events: by `subject`, by `id` (the sender's, or evp's event_id), or both.

    With `source`, only those of this source.
    """

    subject: str | None = None
    id: str | None = None
    source: str | None = None


def unhurried() -> AbstractContextManager[None]:
    """Let questions to the store take as long as a pass over everything does."""
    return pymongo.timeout(ERASE_PASS_MS_MAX / 1000)


async def matching(db: Database, wanted: Wanted) -> AsyncIterator[list[Any]]:
    """Give what would be kept of the events that match, a page at a time.

    Raises StoreUnavailable.
    """
    events = raw_events(db)
    with told():
        cursor = events.find(_query(wanted) | {ERASED: _ABSENT}, _KEPT)
        while rows := await cursor.to_list(ERASE_DOCUMENTS_MAX):
            yield rows


async def erase(
    db: Database, rows: Sequence[RawBSONDocument], at: datetime
) -> tuple[int, list[Failure]]:
    """Put tombstones in the place of events; return how many, and why others were refused.

    `rows` are those of `matching`. Raises StoreUnavailable; calling again is safe.
    """
    writes: list[ReplaceOne[Document]] = [
        ReplaceOne(
            # Of nobody else's: it may have been deleted and stored again meanwhile.
            {"_id": row["_id"], "frame_id": row.get("frame_id"), ERASED: _ABSENT},
            _tombstone(row, at),
        )
        for row in rows
    ]
    with told():
        try:
            # A rule for events is none for what is left of one.
            done = await db[EVENTS].bulk_write(
                writes, ordered=False, bypass_document_validation=True
            )
        except BulkWriteError as error:
            refused = failures_of(error)
            return int(error.details["nMatched"]), list(refused.values())
    return done.matched_count, []


async def matching_letters(db: Database, wanted: Wanted) -> AsyncIterator[list[Letter]]:
    """Give the dead letters that hold an event that matches. Raises StoreUnavailable."""
    async for letters in _letters(db, _query(wanted, "event.")):
        yield letters
    # Those that the store could not hold as documents: their bytes are looked into here.
    async for letters in _letters(db, {"event": _ABSENT, "frame_id": {"$exists": True}}):
        for portion in portions_of(letters):
            held = await bodies(db, portion)
            yield [
                one
                for one in portion
                if one.id in held and _matches(RawBSONDocument(held[one.id].raw), wanted)
            ]


async def unreadable_letters(db: Database) -> int:
    """Return how many dead letters hold an entry that is no frame: nobody can tell whose.

    Raises StoreUnavailable.
    """
    with told():
        return int(await db[DEAD_LETTERS].count_documents({"frame_id": _ABSENT} | _UNREAD))


async def _letters(db: Database, query: Document) -> AsyncIterator[list[Letter]]:
    with told():
        cursor = db[DEAD_LETTERS].find(query | _UNREAD, {"_id": 1})
        while rows := await cursor.to_list(LOOKUP_IDS_MAX):
            async for letters in walk(db, Filters(ids=tuple(row["_id"] for row in rows)), STATES):
                yield letters


def _query(wanted: Wanted, path: str = "") -> Document:
    query: Document = {
        f"{path}{name}": value
        for name, value in (("subject", wanted.subject), ("source", wanted.source))
        if value is not None
    }
    if wanted.id is not None:
        either: list[Document] = [{f"{path}id": wanted.id}]
        event_id = _event_id(wanted.id)
        if event_id is not None:
            either.append({f"{path}_id": event_id})
        query["$or"] = either
    return query


def _matches(document: Mapping[str, Any], wanted: Wanted) -> bool:
    """Return whether an event matches, as `_query` asks the store."""
    has_id = wanted.id is None or (
        member(document, "id") == wanted.id
        or ((event_id := _event_id(wanted.id)) is not None and member(document, "_id") == event_id)
    )
    return has_id and all(
        value is None or member(document, name) == value
        for name, value in (("subject", wanted.subject), ("source", wanted.source))
    )


def _event_id(text: str) -> Binary | None:
    """Return evp's own id if a text is one."""
    try:
        return Binary(UUID(text).bytes, UUID_SUBTYPE)
    except ValueError:
        return None


def _tombstone(row: RawBSONDocument, at: datetime) -> RawBSONDocument:
    """Return what is kept, byte for byte, and when it was erased."""
    members = bytes(row.raw)[4:-1] + bson.encode({ERASED: at})[4:-1]
    return RawBSONDocument(struct.pack("<i", len(members) + 5) + members + b"\0")
