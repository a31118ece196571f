"""Bytes of a request to events: one typed pass, and on failure a slow one that says why.

`decode` is optimistic. Nearly every body is good, and msgspec checks types,
lengths and zones while it parses. Only when it refuses, or when an event has
extension attributes, the body is read again by `evp.diagnosis`, which finds the
first culprit in the order a reader would: is it JSON, is it the right shape, is
each event right.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import msgspec

from evp import diagnosis
from evp.errors import Refusal
from evp.events import Event
from evp.limits import BATCH_EVENTS_MAX, EVENT_BYTES_MAX

_decode_event = msgspec.json.Decoder(Event).decode
_decode_array = msgspec.json.Decoder(list[Event]).decode
_raw_array = msgspec.json.Decoder(list[msgspec.Raw]).decode

_NOT_AS_EXPECTED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Media(Enum):
    """The shapes a body can have."""

    EVENT = "one event, a JSON object"
    ARRAY = "a JSON array of events"
    NDJSON = "one event a line"


#: Before Python 3.12 a member that is looked up by its class costs a call.
_EVENT, _ARRAY = Media.EVENT, Media.ARRAY


class Decoded(NamedTuple):
    """Events in the order of the body; `extensions[i]` are the further attributes of event i."""

    events: list[Event]
    extensions: dict[int, dict[str, Any]]


_NO_EXTENSIONS: dict[int, dict[str, Any]] = {}


def decode(body: bytes, media: Media) -> Decoded:
    """Return the events of `body`.

    Raises Refusal with the code of the bad-input table, and with path and index
    of the culprit where there is one.
    """
    try:
        if media is _EVENT:
            events = [_decode_event(body)]
        elif media is _ARRAY:
            events = _decode_array(body)
        else:
            # Not msgspec's decode_lines: it takes two events on a line, and one across lines.
            events = [_decode_event(line) for line in _lines(body)]
    except _NOT_AS_EXPECTED:
        events, extensions = diagnosis.read(_values(body, media), batch=media is not Media.EVENT)
    else:
        extensions = _NO_EXTENSIONS
    _check_size(body, media, len(events))
    return Decoded(events, extensions)


def _check_size(body: bytes, media: Media, count: int) -> None:
    if count == 0:
        raise Refusal("empty_batch", "the batch has no event")
    if count > BATCH_EVENTS_MAX:
        raise diagnosis.too_many(count)
    if len(body) <= EVENT_BYTES_MAX:
        return
    for index, text in enumerate(_texts(body, media)):
        if len(text) > EVENT_BYTES_MAX:
            raise Refusal(
                "event_too_large",
                f"the event has {len(text)} bytes; {EVENT_BYTES_MAX} are allowed",
                index=index,
            )


def _texts(body: bytes, media: Media) -> list[bytes]:
    """Return each event's own JSON text; `body` is known to be well-formed."""
    if media is Media.EVENT:
        return [body]
    if media is Media.ARRAY:
        return [bytes(raw) for raw in _raw_array(body)]
    return _lines(body)


def _lines(body: bytes) -> list[bytes]:
    """Return the lines that hold something. Raises Refusal before too many are parsed."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > BATCH_EVENTS_MAX:
        raise diagnosis.too_many(len(lines))
    return lines


def _values(body: bytes, media: Media) -> list[Any]:
    """Return the untyped values of `body`, one an event. Raises Refusal if it is no JSON."""
    if media is Media.NDJSON:
        return [diagnosis.parse(line, index) for index, line in enumerate(_lines(body))]
    value = diagnosis.parse(body, None)
    if media is Media.EVENT:
        if value == []:
            raise Refusal("empty_batch", "the batch has no event")
        if isinstance(value, list):
            raise Refusal("invalid_event", "an array of events goes to /events/batch", path="$")
        return [value]
    if not isinstance(value, list):
        raise Refusal("invalid_event", "a batch is a JSON array of events", path="$")
    return value
