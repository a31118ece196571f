"""Frames that no well-behaved request makes."""

from __future__ import annotations

import struct
from typing import Any

import bson
import msgspec
from bson import Binary, ObjectId

from evp.clock import from_ms
from evp.frame import Frame, OpenFrame, checksum, read_frame, summarize
from evp.identity import event_id
from tests.support.make import SRV, join

ENTRY = "1767323045678-0"
_AT_MS = 1767323045678


def frame_of_requests(*requests: list[dict[str, Any]]) -> Frame:
    """Return a frame that holds several requests."""
    frame = OpenFrame()
    for events in requests:
        join(frame, events)
    return read_frame(ENTRY, frame.fields(SRV, 1))


def document(number: int, frame_id: ObjectId, **members: Any) -> bytes:
    """Return an event's document as it stands in a carrier, `_id` in front."""
    return bson.encode(
        {
            "_id": Binary(event_id("test", f"e{number}", _AT_MS), 4),
            "frame_id": frame_id,
            "type": "page_view",
            "source": "test",
            "id": f"e{number}",
            "time": from_ms(_AT_MS),
            "received_at": from_ms(_AT_MS),
            **members,
        }
    )


def frame_of_documents(frame_id: ObjectId, *documents: bytes) -> Frame:
    """Return a frame of documents as they are, whatever they hold; its CRC is right."""
    elements = b"".join(b"\x03%d\0%b" % (index, one) for index, one in enumerate(documents))
    array = struct.pack("<i", len(elements) + 5) + elements + b"\0"
    docs = struct.pack("<i", len(array) + 8) + b"\x04d\0" + array + b"\0"
    count = len(documents)
    summary = summarize(["page_view"] * count, ["test"] * count, [_AT_MS] * count)
    fields = {
        b"v": b"1",
        b"id": frame_id.binary,
        b"srv": SRV,
        b"seq": b"1",
        b"n": b"%d" % count,
        b"sum": msgspec.msgpack.encode(summary),
        b"docs": docs,
    }
    return read_frame(ENTRY, with_crc(fields))


def with_crc(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return an entry's fields with the CRC that fits them."""
    return fields | {b"crc": b"%d" % checksum(fields)}
