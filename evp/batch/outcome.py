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

from bson import ObjectId
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from evp.batch.raw import as_it_is, member, text_of, time_ms_of
from evp.frame import Frame, Summary, summarize

ID_CONFLICT = "id_conflict"

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
    external: bool = False

    @property
    def count(self) -> int:
        """How many events."""
        return self.stored + self.duplicate + len(self.dead) + len(self.missing)


class Held(Struct, frozen=True):
    """A frame as its header tells of it: the ids of its events, not the events."""

    frame_id: ObjectId
    ids: list[bytes]
    accepted_ms: int
    external: bool = False


def stored_whole(frame: Frame) -> Outcome:
    """Return the outcome of a frame whose every event is stored as its own."""
    return Outcome(
        frame_id=frame.frame_id,
        stored=frame.count,
        duplicate=0,
        dead=[],
        summary=frame.summary,
        accepted_ms=frame.accepted_ms,
        external=frame.external,
    )


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
        elif member(stored, "frame_id") == frame.frame_id:
            mine.setdefault(id_, index)
    if len(mine) == frame.count:
        return stored_whole(frame)
    return Outcome(
        frame_id=frame.frame_id,
        stored=len(mine),
        duplicate=frame.count - len(mine) - len(dead),
        dead=dead,
        summary=summary_of([frame.documents[index] for index in mine.values()], frame.accepted_ms),
        accepted_ms=frame.accepted_ms,
        external=frame.external,
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
            if not is_mine and not same_event(stored, _event_of(letter)):
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
        summary=summary_of(mine.values(), held.accepted_ms),
        accepted_ms=held.accepted_ms,
        missing=missing,
        external=held.external,
    )


def _event_of(letter: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the event that a dead letter holds in one of its ways; nothing if in none."""
    if letter is None:
        return {}
    if "payload" in letter:
        return RawBSONDocument(bytes(letter["payload"]))
    event: Mapping[str, Any] = letter.get("event", {})
    return event


def same_event(stored: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if a document of the store holds the same event as another document.

    Type, subject, data and dataschema decide, as decoded values, whatever the
    order of keys. Other attributes, such as traceparent, change on a retry. What
    can't be read is the same as itself alone, byte for byte; what was erased may
    have been anything, and must not come back.
    """
    if isinstance(stored, RawBSONDocument) and isinstance(other, RawBSONDocument):
        if stored.raw == other.raw:
            return True
        stored, other = as_it_is(stored), as_it_is(other)
    try:
        if ERASED in stored:
            return True
        return all(_same(stored.get(name, _ABSENT), other.get(name, _ABSENT)) for name in _COMPARED)
    except BSONError:
        return False


def summary_of(documents: Iterable[Mapping[str, Any]], accepted_ms: int) -> Summary:
    """Return the summary of events by their documents, all of them counted.

    Those of another program may lack what is counted by: type and source are
    then empty, and the time is when the log accepted them.
    """
    types, sources, times_ms = [], [], []
    for document in map(as_it_is, documents):
        types.append(text_of(document, "type") or "")
        sources.append(text_of(document, "source") or "")
        time_ms = time_ms_of(document, "time")
        times_ms.append(accepted_ms if time_ms is None else time_ms)
    return summarize(types, sources, times_ms)


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
