"""Events to the documents that will stand in the store, checked on the way.

What is checked here is what a typed parse can't say: time within its range,
ids without control characters and not twice in one request, data no deeper and
with no more keys than allowed, and that BSON can hold it all.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bson import Binary, ObjectId, encode
from bson.errors import InvalidDocument
from msgspec import UNSET, Struct

from evp import diagnosis
from evp.clock import to_ms
from evp.codec import Decoded
from evp.errors import Refusal
from evp.events import Event
from evp.identity import event_id, random_event_id
from evp.limits import EVENT_KEYS_MAX, KEY_BYTES_MAX, NESTING_MAX, TIME_AHEAD_MS_MAX

UUID_SUBTYPE = 4

_CONTAINERS: frozenset[type] = frozenset((dict, list))
_KEY_CHARS_SAFE = KEY_BYTES_MAX // 4
_SPEC_VERSION = "1.0"
_NO_FRAME = ObjectId(bytes(12))


class Admission(Struct, frozen=True):
    """What a deployment decides about every event."""

    default_source: str
    time_in_id: bool
    """False where ID_FROM is source+id: the same id is the same event whatever its time."""


class Documents(Struct, gc=False):
    """The documents of one request and, in columns, what their frame's summary counts."""

    ids: list[bytes]
    documents: list[dict[str, Any]]
    types: list[str]
    sources: list[str]
    times_ms: list[int]


def build(  # noqa: C901, PLR0912 - one pass over the events; each branch is a rule
    decoded: Decoded,
    frame_id: ObjectId,
    received_at: datetime,
    admission: Admission,
    *,
    batch: bool,
) -> Documents:
    """Return one document for each event, in order. Raises Refusal; then nothing was built."""
    received_ms = to_ms(received_at)
    latest_ms = received_ms + TIME_AHEAD_MS_MAX
    extensions = decoded.extensions
    ids: list[bytes] = []
    documents: list[dict[str, Any]] = []
    sources: list[str] = []
    times_ms: list[int] = []
    for index, event in enumerate(decoded.events):
        time = event.time
        if time is None or event.timestamp is not None or event.specversion is not None:
            time = _settle_attributes(event, index if batch else None)
        time_ms = received_ms if time is None else to_ms(time)
        if not 0 <= time_ms <= latest_ms:
            raise _out_of_range(index if batch else None)
        source = event.source or admission.default_source
        id_ = event.id
        if id_ is None:
            _id = random_event_id(time_ms)
        else:
            if not (id_.isascii() and id_.isprintable()):
                diagnosis.check_id(id_, index if batch else None)
            _id = event_id(source, id_, 0 if time is None or not admission.time_in_id else time_ms)
        data = event.data
        if data.__class__ in _CONTAINERS and not _is_flat(data):
            _check_shape(data, index if batch else None)
        document: dict[str, Any] = {
            "_id": Binary(_id, UUID_SUBTYPE),
            "frame_id": frame_id,
            "type": event.type,
            "source": source,
        }
        if id_ is not None:
            document["id"] = id_
        if event.subject is not None:
            document["subject"] = event.subject
        document["time"] = time or received_at
        if data is not UNSET:
            document["data"] = data
        if event.dataschema or event.datacontenttype or event.traceparent or event.tracestate:
            _add_rare(document, event)
        if extensions and index in extensions:
            document.update(extensions[index])
        document["received_at"] = received_at
        ids.append(_id)
        documents.append(document)
        sources.append(source)
        times_ms.append(time_ms)
    if batch and len(set(ids)) != len(ids):
        raise _first_twice(ids)
    types = [event.type for event in decoded.events]
    return Documents(ids, documents, types, sources, times_ms)


def encode_carrier(documents: list[dict[str, Any]], *, batch: bool) -> bytes:
    """Return the documents as one BSON carrier, `{"d": [document, …]}`.

    One call for all of them costs less than half of one call each. Raises
    Refusal with the path of the value that BSON can't hold.
    """
    try:
        return encode({"d": documents})
    except (OverflowError, InvalidDocument):
        for index, document in enumerate(documents):
            try:
                encode(document)
            except (OverflowError, InvalidDocument):
                raise diagnosis.unstorable(document.get("data"), index if batch else None) from None
        raise


def try_out(decoded: Decoded, received_at: datetime, admission: Admission) -> bytes:
    """Return the `_id` that one event would have. Raises Refusal if it can't be stored."""
    made = build(decoded, _NO_FRAME, received_at, admission, batch=False)
    encode_carrier(made.documents, batch=False)
    return made.ids[0]


def twice(first: int, index: int) -> Refusal:
    """Return the refusal of an event that is in its batch before."""
    detail = f"the same source, id and time as the event at index {first}"
    return Refusal("duplicate_id", detail, index=index)


def _settle_attributes(event: Event, index: int | None) -> datetime | None:
    """Return the event's time by whichever name it came; check what is rarely sent."""
    if event.specversion is not None and event.specversion != _SPEC_VERSION:
        raise Refusal("invalid_attribute", f"specversion must be {_SPEC_VERSION!r}", index=index)
    if event.time is not None and event.timestamp is not None:
        raise Refusal("invalid_timestamp", "send time or timestamp, not both", index=index)
    return event.time or event.timestamp


def _add_rare(document: dict[str, Any], event: Event) -> None:
    for name in ("dataschema", "datacontenttype", "traceparent", "tracestate"):
        value = getattr(event, name)
        if value is not None:
            document[name] = value


def _is_flat(data: Any) -> bool:
    """Return True if `data` is an object without others in it and with few, short keys."""
    if data.__class__ is not dict:
        return False
    keys = "".join(data)
    return (
        len(keys) <= KEY_BYTES_MAX
        and keys.isascii()
        and _CONTAINERS.isdisjoint(map(type, data.values()))
    )


def _check_shape(data: Any, index: int | None) -> None:
    """Raise Refusal if `data` is nested too deeply or has too many or too long keys."""
    keys = 0
    depth = 1
    level: list[Any] = [data]
    while level:
        depth += 1
        if depth > NESTING_MAX:
            raise diagnosis.too_deep(index)
        below: list[Any] = []
        for node in level:
            if node.__class__ is dict:
                keys += len(node)
                for key, child in node.items():
                    if len(key) > _KEY_CHARS_SAFE and len(key.encode()) > KEY_BYTES_MAX:
                        raise Refusal(
                            "too_many_fields", f"a key may have {KEY_BYTES_MAX} bytes", index=index
                        )
                    if child.__class__ in _CONTAINERS:
                        below.append(child)
            else:
                below += [child for child in node if child.__class__ in _CONTAINERS]
        level = below
    if keys > EVENT_KEYS_MAX:
        raise Refusal("too_many_fields", f"an event may have {EVENT_KEYS_MAX} keys", index=index)


def _out_of_range(index: int | None) -> Refusal:
    detail = "time lies before 1970 or more than 24 hours ahead of this server"
    return Refusal("timestamp_out_of_range", detail, index=index)


def _first_twice(ids: list[bytes]) -> Refusal:
    seen: dict[bytes, int] = {}
    for index, id_ in enumerate(ids):
        if id_ in seen:
            return twice(seen[id_], index)
        seen[id_] = index
    raise AssertionError("no id is there twice")
