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
    CLOUD_EVENT = "one event, by all rules of CloudEvents"
    CLOUD_BATCH = "a JSON array of such events"
    BINARY = "the data of one event, its attributes are headers"


#: Before Python 3.12 a member that is looked up by its class costs a call.
_EVENT, _ARRAY, _NDJSON = Media.EVENT, Media.ARRAY, Media.NDJSON
_CLOUD_EVENT, _CLOUD_BATCH = Media.CLOUD_EVENT, Media.CLOUD_BATCH


class Decoded(NamedTuple):
    """Events in the order of the body; `extensions[i]` are the further attributes of event i."""

    events: list[Event]
    extensions: dict[int, dict[str, Any]]


_NO_EXTENSIONS: dict[int, dict[str, Any]] = {}


def decode(body: bytes, media: Media) -> Decoded:
    """Return the events of `body`, of any media but BINARY (`evp.cloudevents`).

    Raises Refusal with the code of the bad-input table, and with path and index
    of the culprit where there is one.
    """
    if media is _EVENT or media is _CLOUD_EVENT:
        return decode_one(body, media)
    try:
        # Not msgspec's decode_lines: it takes two events on a line, and one across lines.
        events = (
            [_decode_event(line) for line in _lines(body)]
            if media is _NDJSON
            else _decode_array(body)
        )
    except _NOT_AS_EXPECTED:
        events, extensions = diagnosis.read(_values(body, media))
    else:
        extensions = _NO_EXTENSIONS
    _check_sizes(body, media, len(events))
    if media is _CLOUD_BATCH:
        for index, event in enumerate(events):
            diagnosis.check_required(event, index)
    return Decoded(events, extensions)


def decode_one(text: bytes, media: Media, *, alone: bool = True) -> Decoded:
    """Return the one event of `text`; `media` is EVENT or CLOUD_EVENT. Raises Refusal."""
    try:
        decoded = Decoded([_decode_event(text)], _NO_EXTENSIONS)
    except _NOT_AS_EXPECTED:
        value = diagnosis.parse(text, None)
        if alone:
            _refuse_array(value)
        event, extra = diagnosis.read_event(value, None)
        decoded = Decoded([event], {0: extra} if extra else _NO_EXTENSIONS)
    if len(text) > EVENT_BYTES_MAX:
        raise _too_large(text, None)
    if media is _CLOUD_EVENT:
        diagnosis.check_required(decoded.events[0], None)
    return decoded


def texts_of(body: bytes, media: Media) -> list[bytes]:
    """Return each event's own text in a batch that may have bad ones; they are not parsed yet.

    Raises Refusal if it is no batch at all, is empty, or has too many events.
    """
    if media is _NDJSON:
        texts = _lines(body)
    else:
        try:
            texts = [bytes(raw) for raw in _raw_array(body)]
        except RecursionError:
            raise diagnosis.too_deep(None) from None
        except msgspec.ValidationError:
            raise _no_array() from None
        except msgspec.DecodeError as error:
            raise Refusal("invalid_json", str(error)) from None
    _check_count(len(texts))
    return texts


def _check_sizes(body: bytes, media: Media, count: int) -> None:
    _check_count(count)
    if len(body) <= EVENT_BYTES_MAX:
        return
    for index, text in enumerate(texts_of(body, media)):
        if len(text) > EVENT_BYTES_MAX:
            raise _too_large(text, index)


def _check_count(count: int) -> None:
    if count == 0:
        raise Refusal("empty_batch", "the batch has no event")
    if count > BATCH_EVENTS_MAX:
        raise diagnosis.too_many(count)


def _too_large(text: bytes, index: int | None) -> Refusal:
    detail = f"the event has {len(text)} bytes; {EVENT_BYTES_MAX} are allowed"
    return Refusal("event_too_large", detail, index=index)


def _refuse_array(value: Any) -> None:
    if value == []:
        raise Refusal("empty_batch", "the batch has no event")
    if isinstance(value, list):
        raise Refusal("invalid_event", "an array of events goes to /events/batch", path="$")


def _lines(body: bytes) -> list[bytes]:
    """Return the lines that hold something. Raises Refusal before too many are parsed."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > BATCH_EVENTS_MAX:
        raise diagnosis.too_many(len(lines))
    return lines


def _values(body: bytes, media: Media) -> list[Any]:
    """Return the untyped values of a batch, one an event. Raises Refusal if it is no JSON."""
    if media is _NDJSON:
        return [diagnosis.parse(line, index) for index, line in enumerate(_lines(body))]
    value = diagnosis.parse(body, None)
    if not isinstance(value, list):
        raise _no_array()
    return value


def _no_array() -> Refusal:
    return Refusal("invalid_event", "a batch is a JSON array of events", path="$")
