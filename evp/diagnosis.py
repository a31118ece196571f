"""Why a body was not understood: the slow, exact reading behind `codec.decode`.

Also reads what the fast pass can't: events with extension attributes, and the
plain entries that other programs write into the log.
"""

from __future__ import annotations

import base64
import re
from math import isfinite
from typing import Any

import msgspec

from evp.errors import Refusal
from evp.events import ATTRIBUTES, Event
from evp.limits import (
    ATTRIBUTE_CHARS_MAX,
    ATTRIBUTE_NAME_CHARS_MAX,
    BATCH_EVENTS_MAX,
    ID_BYTES_MAX,
    NESTING_MAX,
    PATH_CHARS_MAX,
)

_parse_any = msgspec.json.Decoder().decode
_parse_any_float = msgspec.json.Decoder(float_hook=float).decode
_EXTENSION_NAME = re.compile(rf"[a-z0-9]{{1,{ATTRIBUTE_NAME_CHARS_MAX}}}")
_PATH_IN_MESSAGE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
_INT32_MAX = 2**31 - 1
_BINARY_DATA = "data_base64"

#: What a wrong member is called; every other one is an `invalid_attribute`.
_CODE_BY_MEMBER = {
    "type": "invalid_event",
    "id": "invalid_id",
    "time": "invalid_timestamp",
    "timestamp": "invalid_timestamp",
}


def parse(text: bytes, index: int | None) -> Any:
    """Return the JSON value in `text`; `index` is its line in NDJSON. Raises Refusal."""
    try:
        return _parse_any(text)
    except UnicodeDecodeError:
        raise _not_utf8(index) from None
    except RecursionError:
        raise too_deep(index) from None
    except msgspec.ValidationError:
        raise _too_large_a_number(text, index) from None
    except msgspec.DecodeError as error:
        raise Refusal("invalid_json", str(error), index=index) from None


def read(values: list[Any]) -> tuple[list[Event], dict[int, dict[str, Any]]]:
    """Return the events of a batch and their extension attributes from untyped JSON values.

    Raises Refusal with the index of the first value that is no event.
    """
    if len(values) > BATCH_EVENTS_MAX:
        raise too_many(len(values))
    events: list[Event] = []
    extensions: dict[int, dict[str, Any]] = {}
    for index, value in enumerate(values):
        event, extra = read_event(value, index)
        events.append(event)
        if extra:
            extensions[index] = extra
    return events, extensions


def read_event(value: Any, index: int | None) -> tuple[Event, dict[str, Any]]:
    """Return one event and its extension attributes from an untyped JSON value."""
    if not isinstance(value, dict):
        raise Refusal("invalid_event", "an event is a JSON object", path=_at(index), index=index)
    extra = {
        name: _extension(name, member, index)
        for name, member in value.items()
        if name not in ATTRIBUTES and name != _BINARY_DATA and member is not None
    }
    known = {name: member for name, member in value.items() if name in ATTRIBUTES}
    try:
        event = msgspec.convert(known, Event)
        if value.get(_BINARY_DATA) is not None:
            event.data = _binary_data(value, index)
        return event, extra
    except RecursionError:
        raise too_deep(index) from None
    except msgspec.ValidationError as error:
        what, path = _split(error)
        member = path[2:].partition(".")[0]
        code = _CODE_BY_MEMBER.get(member, "invalid_attribute" if member else "invalid_event")
        raise Refusal(code, what, path=_at(index, path), index=index) from None


def check_required(event: Event, index: int | None) -> None:
    """Raise Refusal if an event lacks an attribute that CloudEvents requires, beside `type`."""
    for name in ("specversion", "id", "source"):
        if getattr(event, name) is None:
            code = _CODE_BY_MEMBER.get(name, "invalid_attribute")
            detail = f"a CloudEvent has the attribute {name}"
            raise Refusal(code, detail, path=_at(index), index=index)


def too_many(count: int) -> Refusal:
    """Return the refusal of a batch with too many events."""
    return Refusal("too_many_events", f"{count} events; a batch may have {BATCH_EVENTS_MAX}")


def too_deep(index: int | None) -> Refusal:
    """Return the refusal of an event that is nested too deeply."""
    return Refusal("too_deep", f"nested deeper than {NESTING_MAX} levels", index=index)


def _not_utf8(index: int | None) -> Refusal:
    return Refusal("invalid_utf8", "the body is not UTF-8", index=index)


def _too_large_a_number(text: bytes, index: int | None) -> Refusal:
    """Return the refusal of a number that no float can hold, with its path if it has one."""
    try:
        found = _find_unstorable(_parse_any_float(text), "$")
    except RecursionError:
        return too_deep(index)
    except UnicodeDecodeError:
        return _not_utf8(index)  # Behind the number.
    except msgspec.MsgspecError:
        found = None  # An integer of thousands of digits: no parser gives it back.
    path = _at(index, found[2]) if found else None
    return Refusal("number_out_of_range", "a number is too large", path=path, index=index)


def check_id(id_: str, index: int | None) -> None:
    """Raise Refusal if an `id` that isn't printable ASCII breaks the rules for ids."""
    if len(id_.encode()) > ID_BYTES_MAX:
        detail = f"an id may have {ID_BYTES_MAX} bytes"
    elif any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in id_):
        detail = "an id may not have control characters"
    else:
        return
    raise Refusal("invalid_id", detail, path=_at(index, "$.id"), index=index)


def unstorable(value: Any, index: int | None) -> Refusal:
    """Return why BSON can't hold `value`, an event's data, with the path of the culprit."""
    found = _find_unstorable(value, "$.data")
    if found is None:
        return Refusal("invalid_event", "the event can't be stored", path=_at(index), index=index)
    code, detail, path = found
    return Refusal(code, detail, path=_at(index, path), index=index)


def _find_unstorable(value: Any, path: str) -> tuple[str, str, str] | None:
    if isinstance(value, dict):
        for key, child in value.items():
            if "\0" in key:
                return "invalid_key", "a key may not have a NUL character", path
            if found := _find_unstorable(child, f"{path}.{key}"):
                return found
    elif isinstance(value, list):
        for place, child in enumerate(value):
            if found := _find_unstorable(child, f"{path}[{place}]"):
                return found
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "number_out_of_range", "an integer has at most 64 bits, signed", path
    elif isinstance(value, float) and not isfinite(value):
        return "number_out_of_range", "a number is too large", path
    return None


def _extension(name: str, value: Any, index: int | None) -> Any:
    """Return an extension attribute that follows CloudEvents' rules for name and type."""
    if not _EXTENSION_NAME.fullmatch(name):
        detail = (
            f"{name[:ATTRIBUTE_NAME_CHARS_MAX]!r} can't be an attribute: names are lower-case "
            "letters and digits; put other members into data"
        )
    elif isinstance(value, str) and len(value) > ATTRIBUTE_CHARS_MAX:
        detail = f"attribute {name} is longer than {ATTRIBUTE_CHARS_MAX} characters"
    elif isinstance(value, int) and not -_INT32_MAX - 1 <= value <= _INT32_MAX:
        detail = f"attribute {name} is an integer of more than 32 bits"
    elif not isinstance(value, str | int):
        detail = f"attribute {name} must be a string, a boolean or an integer"
    else:
        return value
    raise Refusal("invalid_attribute", detail, path=_at(index), index=index)


def _binary_data(value: dict[str, Any], index: int | None) -> bytes:
    """Return the bytes in the member `data_base64`, which stands instead of `data`."""
    path = _at(index, f"$.{_BINARY_DATA}")
    if value.get("data") is not None:
        detail = f"send data or {_BINARY_DATA}, not both"
        raise Refusal("invalid_attribute", detail, path=path, index=index)
    try:
        return base64.b64decode(value[_BINARY_DATA], validate=True)
    except (ValueError, TypeError):
        raise Refusal("invalid_attribute", "not base64", path=path, index=index) from None


def _split(error: msgspec.ValidationError) -> tuple[str, str]:
    match = _PATH_IN_MESSAGE.match(str(error))
    if match is None:
        return str(error), "$"
    return match["what"], match["path"] or "$"


def _at(index: int | None, path: str = "$") -> str:
    whole = path if index is None else f"$[{index}]{path[1:]}"
    return whole if len(whole) <= PATH_CHARS_MAX else whole[: PATH_CHARS_MAX - 1] + "…"
