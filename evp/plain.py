"""Entries of any other Redis client: `XADD evp:events * type t data '{"a": 1}'`.

Attributes are text, `data` is JSON. Such an entry becomes a frame of one event.
Frame id and, without an `id`, `_id` are hashes of stream, entry id and payload,
so that every delivery finds the same ones.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from bson import ObjectId

from evp import diagnosis
from evp.clock import from_ms
from evp.codec import Decoded
from evp.documents import Admission, build, encode_carrier
from evp.errors import CorruptFrame, InvalidEntry, Refusal, UnknownFrameVersion
from evp.frame import VERSION, Frame, entry_ms, read_frame, split, summarize
from evp.limits import EVENT_BYTES_MAX

_DIGITS_MAX = 12


def read_entry(
    stream: str, entry_id: str, fields: dict[bytes, bytes], admission: Admission
) -> Frame:
    """Return the frame in any entry of the log.

    Raises UnknownFrameVersion (leave it pending: a newer evp wrote it),
    CorruptFrame (it will never be readable) and its kind InvalidEntry (a plain
    entry that is no event).
    """
    version = fields.get(b"v")
    if version is None:
        return _plain_frame(stream, entry_id, fields, admission)
    if version != VERSION:
        raise UnknownFrameVersion(f"entry {entry_id}: frame version {version[:20]!r}")
    return read_frame(entry_id, fields)


def payload_of(fields: dict[bytes, bytes]) -> bytes:
    """Return an entry's fields as one run of bytes, each length-prefixed."""
    return b"".join(
        b"%d:%b%d:%b" % (len(name), name, len(value), value) for name, value in fields.items()
    )


def fields_of(payload: bytes) -> dict[bytes, bytes]:
    """Return the fields that `payload_of` made a payload of. Raises CorruptFrame."""
    items: list[bytes] = []
    start = 0
    while start < len(payload):
        digits = payload[start : start + _DIGITS_MAX].partition(b":")[0]
        start += len(digits) + 1
        end = start + int(digits) if digits.isdigit() else start - 1
        if not start <= end <= len(payload):
            raise CorruptFrame("a payload that was cut, or is no entry's")
        items.append(payload[start:end])
        start = end
    if len(items) % 2:
        raise CorruptFrame("a payload that was cut behind a field's name")
    return dict(zip(items[::2], items[1::2], strict=True))


def _plain_frame(
    stream: str, entry_id: str, fields: dict[bytes, bytes], admission: Admission
) -> Frame:
    payload = payload_of(fields)
    if len(payload) > EVENT_BYTES_MAX:
        raise InvalidEntry(f"entry {entry_id}: event_too_large: {len(payload)} bytes")
    digest = blake2b(f"{stream}\0{entry_id}\0".encode() + payload, digest_size=24).digest()
    accepted_ms = entry_ms(entry_id)
    seconds = (accepted_ms // 1000 & 0xFFFFFFFF).to_bytes(4, "big")
    frame_id = ObjectId(seconds + digest[:8])
    try:
        event, extensions = diagnosis.read_event(_members(fields), None)
        if event.id is None:
            event.id = digest[8:].hex()
        decoded = Decoded([event], {0: extensions} if extensions else {})
        made = build(decoded, frame_id, from_ms(accepted_ms), admission, batch=False)
        docs = encode_carrier(made.documents, batch=False)
    except (Refusal, RecursionError, ValueError, OverflowError) as error:
        raise InvalidEntry(f"entry {entry_id}: {error}") from error
    ids, documents = split(docs)
    return Frame(
        entry_id,
        frame_id,
        b"",
        0,
        ids,
        documents,
        summarize(made.types, made.sources, made.times_ms),
        accepted_ms,
        len(docs),
        external=True,
    )


def _members(fields: dict[bytes, bytes]) -> dict[str, Any]:
    """Return the entry's fields as the members of a JSON event."""
    members: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            key = name.decode()
            members[key] = diagnosis.parse(value, None) if key == "data" else value.decode()
        except UnicodeDecodeError:
            raise Refusal("invalid_utf8", "a field is not UTF-8") from None
    return members
