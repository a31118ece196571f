"""Dead letters: what the store will never take, kept whole, with the reason.

| field | holds |
|---|---|
| `_id` | `<frame id>:<index>` of an event; of an entry that is no frame, a hash of stream, entry id and payload |
| `reason` | one of `REASONS` |
| `detail`, `error` | what was said about it, and the code or class that said so |
| `stream`, `group`, `entry` | where it was read: stream, consumer group, entry id |
| `srv`, `seq` | which frame an entry says it was, where it can be read; its gap in the numbers is no loss |
| `frame_id`, `index`, `event_id` | which event of which frame; an entry's letter lacks them |
| `type`, `source` | of the event, where they can be read |
| `event` | the event as a document, where the store can hold it within another one |
| `payload` | else its bytes; of an entry its fields, each length-prefixed (`plain.payload_of`) |
| `parts` | how many documents of `dead_letter_parts`, `<_id>/<n>`, hold the payload if it is large |
| `payload_bytes`, `payload_sha256` | of the whole, also where not all of it was kept |
| `attempts`, `first_at`, `last_at` | how often it was refused, and when first and last |
| `purged_at` | when its payload was removed for good; the letter stays, so that the account does |

An event's letter counts only while the outcome of its frame lists its index.
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b, sha256

from bson import Binary
from msgspec import Struct
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from evp.batch.raw import as_it_is, depth_of, text_of
from evp.clock import now
from evp.errors import CorruptFrame, FrameError, InvalidEntry, StoreUnavailable
from evp.frame import SRV_BYTES, Frame
from evp.limits import (
    ATTRIBUTE_CHARS_MAX,
    DEAD_LETTER_PART_BYTES,
    DEAD_LETTER_PAYLOAD_BYTES_MAX,
    DETAIL_CHARS_MAX,
    EVENT_BYTES_MAX,
    NESTING_MAX,
)
from evp.plain import fields_of
from evp.storage.client import Database, Document
from evp.storage.failures import Failure, failures_of
from evp.storage.schema import DEAD_LETTER_PARTS, DEAD_LETTERS

CORRUPT_FRAME = "corrupt_frame"
INVALID_ENTRY = "invalid_entry"

REASONS = {
    "id_conflict": "its sender gives one id to two events: mend the sender, send it anew",
    "unique_conflict": "a unique index on events has its value: drop the index, then replay",
    "document_validation": "a validator of events refuses it: change the validator, then replay",
    "index_keys": "an index on events can't take its value: drop the index, then replay",
    "document_too_large": "a document has 16 MiB at most: send it in pieces",
    "too_deep": "it is nested more deeply than the store allows: send it flatter",
    "invalid_field": "the store refuses the name of a field: rename it, send it anew",
    "invalid_bson": "its bytes are no document: mend the program that wrote the frame",
    "bad_value": "the store refuses a value in it: see the detail",
    "poison": "workers died while they wrote it: update evp or the driver, then replay it alone",
    CORRUPT_FRAME: "the entry was damaged after it was accepted: look at the log's machine",
    INVALID_ENTRY: "another program's entry is no event: mend that program, send it anew",
}
"""Every reason, and what to do about it."""

#: A store allows some 180 levels; one that is nested more deeply is kept as bytes.
_EVENT_DEPTH_MAX = 2 * NESTING_MAX
_ID_BYTES = 16
_SEQ_DIGITS_MAX = 16


class Origin(Struct, frozen=True):
    """Where a frame was read: stream and consumer group; and by which consumer, if any.

    `partition` is the number of the stream.
    """

    stream: str
    group: str
    consumer: str = ""
    partition: int = 0


NOWHERE = Origin("", "")


class NewLetter(Struct):
    """A letter to be kept: its document, and the parts of a payload too large for it."""

    document: Document
    parts: Sequence[bytes] = ()


def letter_of(origin: Origin, frame: Frame, index: int, failure: Failure) -> NewLetter:
    """Return the letter that keeps one event of a frame."""
    document = frame.documents[index]
    raw = bytes(document.raw)
    held: Document = {
        "_id": f"{frame.frame_id}:{index}",
        "frame_id": frame.frame_id,
        "index": index,
        "event_id": Binary(frame.ids[index], 4),
    }
    readable = as_it_is(document)
    for name in ("type", "source"):
        text = text_of(readable, name)
        if text is not None:
            held[name] = text[:ATTRIBUTE_CHARS_MAX]
    depth = depth_of(document)
    if depth and depth <= _EVENT_DEPTH_MAX and len(raw) <= DEAD_LETTER_PART_BYTES:
        held["event"] = document
    return _letter(held, raw, origin, frame.entry_id, failure)


def letter_of_entry(origin: Origin, entry_id: str, payload: bytes, error: FrameError) -> NewLetter:
    """Return the letter that keeps an entry that is no readable frame.

    What another program put there was never accepted: where it is too large for
    an event, no more of it is kept than an event may have.
    """
    where = f"{origin.stream}\0{entry_id}\0".encode()
    held: Document = {"_id": blake2b(where + payload, digest_size=_ID_BYTES).hexdigest()}
    held |= _numbers_in(payload)
    if isinstance(error, InvalidEntry) and len(payload) > EVENT_BYTES_MAX:
        held["payload"] = payload[:EVENT_BYTES_MAX]
    return _letter(held, payload, origin, entry_id, failure_of_entry(error))


def _numbers_in(payload: bytes) -> Document:
    """Return which frame of which epoch an entry says it is, if it says so; nothing is checked."""
    try:
        fields = fields_of(payload)
    except CorruptFrame:
        return {}
    srv, seq = fields.get(b"srv", b""), fields.get(b"seq", b"")
    if len(srv) != SRV_BYTES or not seq.isdigit() or len(seq) > _SEQ_DIGITS_MAX:
        return {}
    return {"srv": srv, "seq": int(seq)}


def failure_of_entry(error: FrameError) -> Failure:
    """Return why an entry is no frame, as its letter says it."""
    reason = INVALID_ENTRY if isinstance(error, InvalidEntry) else CORRUPT_FRAME
    return Failure(reason, str(error)[:DETAIL_CHARS_MAX], type(error).__name__)


async def keep(db: Database, letters: Sequence[NewLetter]) -> None:
    """Write letters. One that is there already gets the reason of now, and one attempt more.

    Raises StoreUnavailable and PyMongoError; calling again is safe.
    """
    if not letters:
        return
    await _keep_parts(db, [one for one in letters if one.parts])
    try:
        # An insert takes any event that `events` itself may hold; an update is choosier.
        await db[DEAD_LETTERS].insert_many([one.document for one in letters], ordered=False)
    except BulkWriteError as error:
        await _count_attempts(db, [letters[place] for place in _taken(error)])


async def _keep_parts(db: Database, letters: Sequence[NewLetter]) -> None:
    """Write payloads that are large, before the letters that count their parts."""
    for letter in letters:
        id_ = letter.document["_id"]
        if await db[DEAD_LETTERS].find_one({"_id": id_}, {"_id": 1}) is not None:
            continue  # Complete, or purged, and then its payload must not come back.
        for number, data in enumerate(letter.parts):
            try:
                part = {"_id": f"{id_}/{number}", "data": data}
                await db[DEAD_LETTER_PARTS].insert_many([part], ordered=False)
            except BulkWriteError as error:
                _taken(error)


def _taken(error: BulkWriteError) -> Iterable[int]:
    """Return the places of what was there already. Raises StoreUnavailable on other failures."""
    failures = failures_of(error)
    refused = next((one for one in failures.values() if one.reason), None)
    if refused is not None:
        raise StoreUnavailable(f"a dead letter is refused: {refused.detail}") from error
    return failures


async def _count_attempts(db: Database, letters: Sequence[NewLetter]) -> None:
    said = ("reason", "detail", "error", "last_at")
    writes = [
        UpdateOne(
            {"_id": one.document["_id"]},
            {"$set": {name: one.document[name] for name in said}, "$inc": {"attempts": 1}},
        )
        for one in letters
    ]
    await db[DEAD_LETTERS].bulk_write(writes, ordered=False)


def _letter(
    held: Document, payload: bytes, origin: Origin, entry_id: str, failure: Failure
) -> NewLetter:
    """Return a letter of `held`; the payload goes in it, or beside it, unless it has one."""
    at = now()
    document = held | {
        "payload_bytes": len(payload),
        "payload_sha256": sha256(payload).hexdigest(),
        "reason": failure.reason,
        "detail": failure.detail,
        "error": failure.error,
        "stream": origin.stream,
        "group": origin.group,
        "entry": entry_id,
        "attempts": 1,
        "first_at": at,
        "last_at": at,
    }
    if "event" in held or "payload" in held:
        return NewLetter(document)
    if len(payload) <= DEAD_LETTER_PART_BYTES:
        return NewLetter(document | {"payload": payload})
    kept = payload[:DEAD_LETTER_PAYLOAD_BYTES_MAX]
    starts = range(0, len(kept), DEAD_LETTER_PART_BYTES)
    parts = [kept[start : start + DEAD_LETTER_PART_BYTES] for start in starts]
    return NewLetter(document | {"parts": len(parts)}, parts)
