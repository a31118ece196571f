"""Documents that may hold anything, read as far as they can be.

evp's own are checked at the door; a frame of another program may hold texts that
are no UTF-8, dates behind the year 9999, or bytes that are no BSON at all.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import bson
from bson import Binary, DatetimeMS
from bson.binary import UUID_SUBTYPE
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from evp.clock import to_ms
from evp.identity import canonical

#: Every text and date can be read, and what differs stays different.
AS_IT_IS: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    tz_aware=True,
    unicode_decode_error_handler="surrogateescape",
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)

_TO_SHOW: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    unicode_decode_error_handler="backslashreplace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)


def as_it_is(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a document so that reading it fails only where its bytes are no BSON."""
    if isinstance(document, RawBSONDocument):
        return RawBSONDocument(document.raw, AS_IT_IS)
    return document


def member(document: Mapping[str, Any], name: str) -> Any:
    """Return a member of a document; None if it lacks it, or is no BSON."""
    try:
        return document.get(name)
    except BSONError:
        return None


def text_of(document: Mapping[str, Any], name: str) -> str | None:
    """Return a text in a document, what is no UTF-8 replaced; None if there is no text."""
    value = member(document, name)
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def time_ms_of(document: Mapping[str, Any], name: str) -> int | None:
    """Return a date in a document in milliseconds since 1970; None if there is no date."""
    value = member(document, name)
    if isinstance(value, datetime):
        return to_ms(value)
    return int(value) if isinstance(value, DatetimeMS) else None


def as_json(document: bytes) -> Any:
    """Return a document as values that JSON has; None if its bytes are no document.

    Bytes become base64, dates RFC 3339 in UTC, what is no number null.
    """
    try:
        return _plain(bson.decode(document, _TO_SHOW))
    except (BSONError, RecursionError):
        return None


def event_as_json(document: bytes) -> dict[str, Any]:
    """Return a stored event as values that JSON has, as CloudEvents names them.

    What evp adds has an underscore, which no attribute can have: `event_id`,
    `received_at`, `erased_at`. Data that is bytes is `data_base64`. A document that can't be
    read whole has its `event_id` alone.
    """
    found = as_json(document)
    if found is None:
        return {"event_id": _plain(member(RawBSONDocument(document), "_id"))}
    event: dict[str, Any] = {"event_id": found.pop("_id"), "specversion": "1.0"} | found
    event.pop("frame_id", None)
    if isinstance(member(RawBSONDocument(document, AS_IT_IS), "data"), bytes):
        event["data_base64"] = event.pop("data")
    return event


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        moment = value.astimezone(UTC).isoformat(timespec="milliseconds")
        return moment.replace("+00:00", "Z")
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE:
        return canonical(value)
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)  # Of 64 bits it is a class of its own.
    return value if isinstance(value, str | float | bool | None) else str(value)


def depth_of(document: RawBSONDocument) -> int | None:
    """Return how deeply a document is nested, 1 being flat; None if it can't be read whole."""
    try:
        level: list[Any] = [bson.decode(document.raw)]
    except (BSONError, RecursionError):
        return None
    depth = 0
    while level:
        depth += 1
        children = [
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        ]
        level = [child for child in children if isinstance(child, dict | list)]
    return depth
