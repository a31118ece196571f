"""Values of an event by their path into its JSON, as texts to compare with.

    data.order.id          a member of a member
    data.items.0.sku       the first element of an array

A key may hold dots itself, so a path may lead to several values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import bson
import msgspec
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from evp.batch.raw import as_it_is, as_json, event_as_json, member

_IN_DATA = "data."
_INDEX_DIGITS_MAX = 6


def has_text(document: RawBSONDocument, path: str, text: str) -> bool:
    """Return whether an event has a text at a path: as it is there, or as JSON writes a value.

    What is no BSON has none.
    """
    try:
        if path.startswith(_IN_DATA):
            # Most ask for this, and nothing but what the path meets is decoded.
            found = _texts(member(as_it_is(document), "data"), path[len(_IN_DATA) :])
        else:
            found = _texts(event_as_json(bytes(document.raw)), path)
        return text in found
    except (BSONError, UnicodeError):
        return False


def _texts(value: Any, path: str | None) -> Iterator[str]:
    if path is None:
        yield _text(value)
    elif isinstance(value, Mapping):
        for key, below in value.items():
            if path == key:
                yield _text(below)
            elif path.startswith(f"{key}."):
                yield from _texts(below, path[len(key) + 1 :])
    elif isinstance(value, list):
        head, dot, rest = path.partition(".")
        if head.isdecimal() and len(head) <= _INDEX_DIGITS_MAX and int(head) < len(value):
            yield from _texts(value[int(head)], rest if dot else None)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))  # Of 64 bits it is a class of its own.
    return msgspec.json.encode((as_json(bson.encode({"v": value})) or {}).get("v")).decode()
