"""What became of each event of a frame. Pure: the same facts give the same answer.

*stored*: distinct ids whose stored document carries this frame's id. *dead*:
refused by the store, or another event has its id. *duplicate*: the rest. So a
frame that is delivered twice, written by two workers at once, or that holds an
event twice, is counted alike by whoever judges it.

`judge` has the frame in its hands. `judge_by_ids` comes later, without the
events: from the header, what the store has by now, and the dead letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any

import bson
from bson import ObjectId
from bson.errors import BSONError
from msgspec import Struct

from evp.clock import to_ms
from evp.frame import Frame, Summary, summarize

ID_CONFLICT = "id_conflict"

#: A naive time would be taken for a local one.
_AWARE: bson.CodecOptions[Mapping[str, Any]] = bson.CodecOptions(tz_aware=True)
#: When an event was erased. No event can bring it along: its attributes have no underscore.
ERASED = "erased_at"

_COMPARED = ("type", "subject", "data", "dataschema")
_ABSENT = object()


class Outcome(Struct, kw_only=True):
    """The account of one frame: stored, duplicate, dead and missing make up its count.

    `dead` and `missing` are indexes. A provisional outcome was made without the
    events: it is never final, and what is missing may yet be stored.
    """

    frame_id: ObjectId
    stored: int
    duplicate: int
    dead: list[int]
    summary: Summary
    accepted_ms: int
    missing: list[int] = []
    provisional: bool = False

    @property
    def count(self) -> int:
        """How many events."""
        return self.stored + self.duplicate + len(self.dead) + len(self.missing)


class Held(Struct, frozen=True):
    """A frame as its header tells of it: the ids of its events, not the events."""

    frame_id: ObjectId
    ids: list[bytes]
    accepted_ms: int


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
    )


def judge_by_ids(
    held: Held,
    found: Mapping[bytes, Mapping[str, Any]],
    letters: Mapping[int, Mapping[str, Any]],
    listed: Container[int] | None,
) -> Outcome:
    """Return the outcome of a frame whose events are not at hand.

    `found` maps ids to their documents as they stand in the store, `letters`
    indexes to dead letters, `listed` has the indexes that the outcome so far has
    as dead; None if there is none. An event stays dead until the store has it;
    a letter that the outcome does not list counts for nothing but an event that
    is not stored.
    """
    times = Counter(held.ids)
    dead: list[int] = []
    missing: list[int] = []
    for index, id_ in enumerate(held.ids):
        stored, letter = found.get(id_), letters.get(index)
        is_listed = listed is not None and index in listed
        if stored is None:
            (dead if letter is not None or is_listed else missing).append(index)
        elif is_listed or (letter is not None and listed is None):
            # The frame's only event with this id is the one that its document holds.
            is_mine = times[id_] == 1 and stored.get("frame_id") == held.frame_id
            if not is_mine and not same_event(stored, (letter or {}).get("event", {})):
                dead.append(index)
    mine = {
        id_: document
        for id_ in times
        if (document := found.get(id_)) and document.get("frame_id") == held.frame_id
    }
    return Outcome(
        frame_id=held.frame_id,
        stored=len(mine),
        duplicate=len(held.ids) - len(mine) - len(dead) - len(missing),
        dead=dead,
        summary=_summary(mine.values()),
        accepted_ms=held.accepted_ms,
        missing=missing,
    )


def same_event(stored: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if a document of the store holds the same event as another document.

    Type, subject, data and dataschema decide, as decoded values, whatever the
    order of keys. Other attributes, such as traceparent, change on a retry. What
    can't be read is the same as nothing; what was erased may have been anything,
    and must not come back.
    """
    try:
        if ERASED in stored:
            return True
        return all(_same(stored.get(name, _ABSENT), other.get(name, _ABSENT)) for name in _COMPARED)
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


def _summary_of(frame: Frame, indexes: Iterable[int]) -> Summary:
    return _summary([bson.decode(frame.documents[index].raw, _AWARE) for index in indexes])


def _summary(documents: Iterable[Mapping[str, Any]]) -> Summary:
    kept = list(documents)
    return summarize(
        [document["type"] for document in kept],
        [document["source"] for document in kept],
        [to_ms(document["time"]) for document in kept],
    )
