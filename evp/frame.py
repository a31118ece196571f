"""The frame: what one log entry holds. Written by servers, read by workers.

| field | holds |
|---|---|
| `v` | `1`, the version of this table |
| `id` | the frame id, an ObjectId's 12 bytes |
| `srv`, `seq` | the server process's epoch, 8 random bytes, and the frame's number in it |
| `n` | how many events |
| `crc` | CRC-32 of `id`, `srv`, `seq`, `n`, `sum` and `docs`, one after the other |
| `sum` | the summary, MessagePack |
| `docs` | carriers, one a request, one after the other: BSON `{"d": [document, …]}` |

A document is made at the door and stored as it is; the worker only slices. Its
first element is `_id`, so the sixteen bytes stand at a fixed place.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from operator import itemgetter
from typing import Annotated

import msgspec
from bson import ObjectId
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from msgspec import Meta, Struct

from evp.clock import MS_MAX, now
from evp.codec import Decoded
from evp.documents import Admission, Documents, build, encode_carrier
from evp.errors import CorruptFrame
from evp.limits import FRAME_BYTES_CLOSE, FRAME_EVENTS_CLOSE, FRAME_EVENTS_MAX, SUMMARY_SOURCES_MAX

VERSION = b"1"
SRV_BYTES = 8
SOURCE_OTHER = "other"
MINUTE_MS = 60_000

_ID_PREFIX = b"\x05_id\x00\x10\x00\x00\x00\x04"
_CARRIER_PREFIX = b"\x04d\x00"
_CHECKED = (b"id", b"srv", b"seq", b"n", b"sum", b"docs")
_DOCUMENT = 0x03

NOT_CARRIERS = (ValueError, IndexError, struct.error, BSONError)
"""What reading bytes that are no carriers can raise."""

_int32_at = struct.Struct("<i").unpack_from
#: A document's size, the head of its `_id`, the `_id`.
_document_at = struct.Struct("<i10s16s").unpack_from


#: What both a double and the store can hold.
_Number = Annotated[int, Meta(ge=0, le=2**53)]
_SEQ_MAX = 2**53


class Summary(Struct, array_like=True, gc=False):
    """Counts of a frame, made at the door so that no worker has to parse events.

    `cells` are (minute of `time` since 1970, type, events); `sources` the most
    frequent ones and "other"; then come the earliest and latest `time`. `source_cells`
    are as `cells`, by source; none where all events are of one minute.
    """

    cells: list[tuple[_Number, str, _Number]]
    sources: dict[str, _Number]
    first_ms: _Number
    last_ms: _Number
    source_cells: list[tuple[_Number, str, _Number]] = []


_encode_summary = msgspec.msgpack.Encoder().encode
_decode_summary = msgspec.msgpack.Decoder(Summary).decode


def summarize(types: list[str], sources: list[str], times_ms: list[int]) -> Summary:
    """Return the summary of events given by their columns."""
    minutes = [time_ms // MINUTE_MS for time_ms in times_ms]
    cells = Counter(zip(minutes, types, strict=True))
    by_source: dict[str, int] = Counter(sources)
    if len(by_source) > SUMMARY_SOURCES_MAX:
        ranked = sorted(by_source.items(), key=itemgetter(1), reverse=True)
        by_source = dict(ranked[:SUMMARY_SOURCES_MAX])
        rest = sum(count for _, count in ranked[SUMMARY_SOURCES_MAX:])
        by_source[SOURCE_OTHER] = by_source.get(SOURCE_OTHER, 0) + rest
    first_ms, last_ms = min(times_ms, default=0), max(times_ms, default=0)
    source_cells: Counter[tuple[int, str]] = Counter()
    if first_ms // MINUTE_MS != last_ms // MINUTE_MS:
        named = [source if source in by_source else SOURCE_OTHER for source in sources]
        source_cells.update(zip(minutes, named, strict=True))
    return Summary(_rows(cells), by_source, first_ms, last_ms, _rows(source_cells))


def _rows(cells: Counter[tuple[int, str]]) -> list[tuple[int, str, int]]:
    return [(minute, name, count) for (minute, name), count in cells.items()]


class OpenFrame:
    """A frame that still takes requests. Each goes in whole or not at all."""

    __slots__ = ("_carriers", "_sources", "_times_ms", "_types", "count", "frame_id", "size_bytes")

    def __init__(self) -> None:
        self.frame_id = ObjectId()
        self.count = 0
        self.size_bytes = 0
        self._carriers: list[bytes] = []
        # Columns of all events so far; they are counted once, when the frame is closed.
        self._types: list[str] = []
        self._sources: list[str] = []
        self._times_ms: list[int] = []

    @property
    def full(self) -> bool:
        """True once it has passed its size: close it and open the next."""
        return self.size_bytes >= FRAME_BYTES_CLOSE or self.count >= FRAME_EVENTS_CLOSE

    def encode(
        self, decoded: Decoded, admission: Admission, *, batch: bool, at: datetime | None = None
    ) -> tuple[Documents, bytes]:
        """Return what `join` would add for a request received `at` (default: now).

        So its size is known before. Raises Refusal if one of its events can't be stored.
        """
        made = build(decoded, self.frame_id, at or now(), admission, batch=batch)
        return made, encode_carrier(made.documents, batch=batch)

    def join(self, made: Documents, carrier: bytes) -> None:
        """Add the events of a request that was encoded for this frame."""
        self._carriers.append(carrier)
        self.size_bytes += len(carrier)
        self.count += len(made.ids)
        self._types += made.types
        self._sources += made.sources
        self._times_ms += made.times_ms

    def fields(self, srv: bytes, seq: int) -> dict[bytes, bytes]:
        """Return the entry's fields."""
        fields = {
            b"v": VERSION,
            b"id": self.frame_id.binary,
            b"srv": srv,
            b"seq": b"%d" % seq,
            b"n": b"%d" % self.count,
            b"sum": _encode_summary(summarize(self._types, self._sources, self._times_ms)),
            b"docs": b"".join(self._carriers),
        }
        fields[b"crc"] = b"%d" % checksum(fields)
        return fields


class Frame(Struct, gc=False):
    """A frame as a worker holds it; `documents[i]` has the `_id` `ids[i]`.

    `srv` is empty and `external` true for a plain entry of another program.
    `accepted_ms` is the log's own time of the append.
    """

    entry_id: str
    frame_id: ObjectId
    srv: bytes
    seq: int
    ids: list[bytes]
    documents: list[RawBSONDocument]
    summary: Summary
    accepted_ms: int
    size_bytes: int
    external: bool = False

    @property
    def count(self) -> int:
        """How many events."""
        return len(self.ids)


def checksum(fields: Mapping[bytes, bytes]) -> int:
    """Return the CRC-32 over everything of an entry that its server wrote, but for the version."""
    crc = 0
    for name in _CHECKED:
        crc = zlib.crc32(fields[name], crc)
    return crc


def read_frame(entry_id: str, fields: dict[bytes, bytes]) -> Frame:
    """Return the frame in an entry of version 1.

    Raises CorruptFrame if a field is missing, the CRC differs, a document isn't
    one, or numbers don't fit.
    """
    try:
        docs = fields[b"docs"]
        crc, count, sum_crc = int(fields[b"crc"]), int(fields[b"n"]), checksum(fields)
        if crc != sum_crc:
            raise CorruptFrame(f"entry {entry_id}: its CRC is {sum_crc}, not {crc}")
        frame_id, srv, seq = ObjectId(fields[b"id"]), fields[b"srv"], int(fields[b"seq"])
        summary = _decode_summary(fields[b"sum"])
    except (KeyError, ValueError, TypeError, BSONError, msgspec.MsgspecError) as error:
        raise CorruptFrame(f"entry {entry_id}: bad field: {error!r}") from error
    try:
        ids, documents = split(docs)
    except NOT_CARRIERS as error:
        raise CorruptFrame(f"entry {entry_id}: bad carrier: {error}") from error
    if not 0 < seq <= _SEQ_MAX:
        raise CorruptFrame(f"entry {entry_id}: no such number: {seq}")
    if len(ids) != count:
        raise CorruptFrame(f"entry {entry_id}: {len(ids)} documents, not {count}")
    if len(srv) != SRV_BYTES or count > FRAME_EVENTS_MAX or not _adds_up(summary, count):
        raise CorruptFrame(f"entry {entry_id}: its numbers don't fit each other")
    return Frame(
        entry_id, frame_id, srv, seq, ids, documents, summary, entry_ms(entry_id), len(docs)
    )


def _adds_up(summary: Summary, count: int) -> bool:
    """Return True if a summary counts every event once, by type and by source."""
    by_type, by_source = [cell[2] for cell in summary.cells], summary.sources.values()
    cells = summary.source_cells
    if cells and sum(cell[2] for cell in cells) != count:
        return False
    return sum(by_type) == sum(by_source) == count and len(by_source) <= SUMMARY_SOURCES_MAX + 1


def split(docs: bytes) -> tuple[list[bytes], list[RawBSONDocument]]:
    """Return the ids and documents of carriers, by slicing alone.

    Raises one of NOT_CARRIERS if the bytes are none.
    """
    ids: list[bytes] = []
    documents: list[RawBSONDocument] = []
    end_of = docs.index
    start, total = 0, len(docs)
    while start < total:
        carrier_end = start + _int32_at(docs, start)[0] - 1
        if docs[start + 4 : start + 7] != _CARRIER_PREFIX or not start < carrier_end < total:
            raise ValueError("a carrier does not start with its array")
        place = start + 7
        array_end = place + _int32_at(docs, place)[0] - 1
        place += 4
        while place < array_end:
            if docs[place] != _DOCUMENT:
                raise ValueError("an element is no document")
            place = end_of(b"\0", place + 1) + 1
            size, prefix, id_ = _document_at(docs, place)
            if prefix != _ID_PREFIX:
                raise ValueError("a document does not start with its _id")
            ids.append(id_)
            documents.append(RawBSONDocument(docs[place : place + size]))
            place += size
        if place != array_end or array_end + 1 != carrier_end:
            raise ValueError("lengths of a carrier don't fit")
        start = carrier_end + 1
    return ids, documents


def entry_order(entry_id: str) -> tuple[int, int]:
    """Return what entry ids are ordered by; one without its second part is the first of then."""
    moment, _, number = entry_id.partition("-")
    return int(moment), int(number or 0)


def entry_ms(entry_id: str) -> int:
    """Return the time part of an entry id, milliseconds since 1970 by the log's clock.

    Anyone may add an entry with an id of a far future, and all ids after it are
    as far; a date ends with the year 9999.
    """
    return min(int(entry_id.partition("-")[0]), MS_MAX)
