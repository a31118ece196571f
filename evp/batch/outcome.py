"""What became of each event of a frame. Pure: the same facts give the same answer.

*stored*: distinct ids whose stored document carries this frame's id. *dead*:
refused by the store, or another event has its id. *duplicate*: the rest. So a
frame that is delivered twice, written by two workers at once, or that holds an
event twice, is counted alike by whoever judges it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import bson
from bson import ObjectId
from bson.errors import BSONError
from msgspec import Struct

from evp.clock import to_ms
from evp.frame import Frame, Summary, summarize

ID_CONFLICT = "id_conflict"

#: A naive time would be taken for a local one.
_AWARE: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(tz_aware=True)
_COMPARED = ("type", "subject", "data", "dataschema")
_ABSENT = object()


class Outcome(Struct, kw_only=True):
    """The account of one frame: stored + duplicate + len(dead) is its count."""

    frame_id: ObjectId
    stored: int
    duplicate: int
    dead: list[int]
    summary: Summary
    accepted_ms: int
    external: bool = False

    @property
    def count(self) -> int:
        """How many events."""
        return self.stored + self.duplicate + len(self.dead)


def judge(frame: Frame, inserted: Container[int], found: Mapping[bytes, Any]) -> Outcome:
    """Return the outcome of a frame.

    `inserted` are the indexes that this very write is known to have inserted;
    `found` maps the other ids to their documents as they stand in the store now.
    """
    mine: dict[bytes, int] = {}
    dead: list[int] = []
    for index, id_ in enumerate(frame.ids):
        if index in inserted:
            mine[id_] = index
            continue
        stored = found.get(id_)
        if stored is None or not same_event(stored, frame.documents[index]):
            dead.append(index)
        elif stored.get("frame_id") == frame.frame_id:
            mine.setdefault(id_, index)
    complete = len(mine) == frame.count
    return Outcome(
        frame_id=frame.frame_id,
        stored=len(mine),
        duplicate=frame.count - len(mine) - len(dead),
        dead=dead,
        summary=frame.summary if complete else _summary_of(frame, mine.values()),
        accepted_ms=frame.accepted_ms,
        external=frame.external,
    )


def same_event(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if two documents hold the same event.

    Type, subject, data and dataschema decide, as decoded values, whatever the
    order of keys. Other attributes, such as traceparent, change on a retry. What
    can't be read is the same as nothing.
    """
    try:
        return all(_same(one.get(name, _ABSENT), other.get(name, _ABSENT)) for name in _COMPARED)
    except BSONError:
        return False


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(_same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(_same, one, other))
    # To Python true is 1; to JSON it isn't.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _summary_of(frame: Frame, indexes: Any) -> Summary:
    kept = [bson.decode(frame.documents[index].raw, _AWARE) for index in indexes]
    return summarize(
        [document["type"] for document in kept],
        [document["source"] for document in kept],
        [to_ms(document["time"]) for document in kept],
    )
