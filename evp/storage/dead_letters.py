"""Dead letters: what the store will never take, kept with the reason.

An event's dead letter has an `_id` made of its frame and index, so that writing
it again is the same letter. It counts only while the frame's outcome lists its
index.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import bson
from bson import Binary
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne

from evp.clock import now
from evp.frame import Frame
from evp.limits import DEAD_LETTER_EVENT_BYTES_MAX, DEAD_LETTER_PAYLOAD_BYTES_MAX
from evp.storage.failures import Failure


def letter_of(frame: Frame, index: int, failure: Failure) -> UpdateOne:
    """Return the write that keeps one event of a frame as a dead letter."""
    document = frame.documents[index]
    held: dict[str, Any] = {
        "frame_id": frame.frame_id,
        "index": index,
        "event_id": Binary(frame.ids[index], 4),
        "entry": frame.entry_id,
    }
    if len(document.raw) <= DEAD_LETTER_EVENT_BYTES_MAX and _is_readable(document):
        held["event"] = document
    else:
        held |= _cut(bytes(document.raw))
    return _upsert(f"{frame.frame_id}:{index}", held, failure)


def letter_of_entry(stream: str, entry_id: str, payload: bytes, failure: Failure) -> UpdateOne:
    """Return the write that keeps an entry that is no readable frame."""
    digest = sha256(f"{stream}\0{entry_id}\0".encode() + payload).hexdigest()
    return _upsert(digest, {"entry": entry_id} | _cut(payload), failure)


def _is_readable(document: RawBSONDocument) -> bool:
    """Return True if the store can take a document as part of another one."""
    try:
        bson.decode(document.raw)
    except BSONError:
        return False
    return True


def _cut(payload: bytes) -> dict[str, Any]:
    return {
        "payload": payload[:DEAD_LETTER_PAYLOAD_BYTES_MAX],
        "payload_bytes": len(payload),
        "payload_sha256": sha256(payload).hexdigest(),
    }


def _upsert(id_: str, held: dict[str, Any], failure: Failure) -> UpdateOne:
    at = now()
    return UpdateOne(
        {"_id": id_},
        {
            "$setOnInsert": held | {"first_at": at},
            "$set": {"reason": failure.reason, "detail": failure.detail, "last_at": at},
            "$inc": {"attempts": 1},
        },
        upsert=True,
    )
