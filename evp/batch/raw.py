"""Documents that may hold anything, read as far as they can be.

evp's own are checked at the door; a frame of another program may hold texts that
are no UTF-8, dates behind the year 9999, or bytes that are no BSON at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import bson
from bson import Binary, DatetimeMS
from bson.binary import UUID_SUBTYPE
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from evp.clock import to_ms

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
    """Return a document as values that JSON has; None if its bytes are no document."""
    try:
        return _plain(bson.decode(document, _TO_SHOW))
    except (BSONError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Binary):
        return str(UUID(bytes=value)) if value.subtype == UUID_SUBTYPE else value.hex()
    if isinstance(value, bytes):
        return value.hex()
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
