"""From what log and store have of an event to its story. Pure: nothing is looked up here."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from evp.batch.outcome import ERASED
from evp.batch.raw import event_as_json, member
from evp.clock import from_ms, to_ms
from evp.frame import entry_ms, entry_order
from evp.identity import canonical
from evp.receipt import Receipt
from evp.storage.dead_letters import REASONS
from evp.storage.dlq import Letter
from evp.storage.whereabouts import Begun, Whereabouts
from evp.stream.places import Progress
from evp.stream.scan import Edges
from evp.trace.log import EntryPlace, Sight
from evp.trace.story import Arrival, DeadLetter, Fate, Story

_DATA = ("data", "data_base64")
_FIRST = (Fate.PENDING, Fate.WRITING, Fate.EXPIRED, Fate.UNREADABLE, Fate.MISSING)
"""Of several frames the one is told first whose event may yet be stored."""


class Asked(Struct, frozen=True):
    """Which event: by evp's id of it, or as the `nth` of the request that a receipt is of.

    `search` looks through the whole log for it, though the store knows it.
    """

    event_id: bytes | None = None
    receipt: Receipt | None = None
    nth: int = 0
    search: bool = False


class Held(Struct):
    """One frame that holds the event: `sight` is the log's side, `begun` the store's.

    `in_log` is None until the log was asked. `letters` are those of its entry, if that is no
    frame. `has_gone` if the event went with retention.
    """

    place: EntryPlace
    in_log: bool | None = None
    sight: Sight | None = None
    begun: Begun | None = None
    letters: list[Letter] = []
    has_gone: bool = False

    @property
    def ids(self) -> list[bytes]:
        """The ids of its events, from whoever has them; none if nobody has."""
        if self.sight is not None and self.sight.frame is not None:
            return self.sight.frame.ids
        return [] if self.begun is None else self.begun.ids


class Evidence(Struct):
    """All that was found of an event.

    `group` is the one that writes. `found` is None if the store was not asked, or is away.
    `edges` are those of the streams that were looked into.
    """

    asked: Asked
    group: str
    event_id: bytes | None
    found: Whereabouts | None = None
    frames: dict[EntryPlace, Held] = {}
    edges: dict[int, Edges] = {}

    def index_in(self, frame: Held) -> int | None:
        """Return the place of the event in a frame; None where that is not known."""
        receipt = self.asked.receipt
        if receipt is not None and (receipt.partition, receipt.entry_id) == frame.place:
            return receipt.first + self.asked.nth
        ids = frame.ids
        return ids.index(self.event_id) if self.event_id in ids else None


def complete(story: Story, evidence: Evidence) -> None:
    """Put into a story, which has errors and edges already, what the evidence says."""
    found = evidence.found
    frames = sorted(evidence.frames.values(), key=_age)
    letters = list(found.letters) if found else []
    letters += [letter for one in frames for letter in one.letters]
    is_store_there = story.store_error is None
    story.group = evidence.group
    story.log_first, story.log_last = _edges(evidence)
    story.event_id = None if evidence.event_id is None else canonical(evidence.event_id)
    story.event = _attributes(evidence)
    story.arrivals = [_arrival(evidence, one, is_store_there=is_store_there) for one in frames]
    story.dead_letters = [_letter(one) for one in letters]
    story.fate = _fate(evidence, [one.fate for one in story.arrivals])
    if story.fate is None and story.is_whole:
        story.fate = Fate.UNKNOWN


def _age(frame: Held) -> tuple[tuple[int, int], int]:
    return entry_order(frame.place.entry_id), frame.place.partition


def _edges(evidence: Evidence) -> tuple[str | None, str | None]:
    """Return the first entry there is, and the last that was given, where it was looked into."""
    firsts = [one.first for one in evidence.edges.values() if one.first is not None]
    lasts = [one.last for one in evidence.edges.values()]
    return min(firsts, key=entry_order, default=None), max(lasts, key=entry_order, default=None)


def _fate(evidence: Evidence, fates: list[Fate | None]) -> Fate | None:
    """Return what became of the event altogether; None if nobody who was asked knows."""
    found = evidence.found
    if found is not None and found.event is not None:
        return Fate.STORED if member(found.event, ERASED) is None else Fate.ERASED
    of_entries = any(one.letters for one in evidence.frames.values())
    if (found is not None and found.letters) or of_entries:
        return Fate.DEAD_LETTER
    return next((fate for fate in _FIRST if fate in fates), None)


def _fate_in(
    evidence: Evidence, frame: Held, index: int | None, *, is_store_there: bool
) -> tuple[Fate | None, str | None]:
    """Return what became of the event in one frame, and the frame it is a duplicate of."""
    known = frame.begun
    if known is None:
        return _fate_in_log(evidence, frame, is_store_there=is_store_there), None
    if index in known.dead:
        return Fate.DEAD_LETTER, None
    if known.settled_at is None:
        return Fate.WRITING, None
    event = None if evidence.found is None else evidence.found.event
    if event is not None:
        holder, id_ = member(event, "frame_id"), evidence.event_id
        first = known.ids.index(id_) if id_ in known.ids else index
        if holder == known.frame_id and first == index:
            return Fate.STORED, None
        return Fate.DUPLICATE, None if holder is None else str(holder)
    if known.expired or frame.has_gone:
        return Fate.EXPIRED, None
    is_lost = known.settled or index in known.missing
    return (Fate.MISSING if is_lost else Fate.WRITING), None


def _fate_in_log(evidence: Evidence, frame: Held, *, is_store_there: bool) -> Fate | None:
    """Return what became of the event in a frame of which the store knows nothing."""
    if frame.sight is None:
        return None
    if frame.sight.error is not None:
        return Fate.DEAD_LETTER if frame.letters else Fate.UNREADABLE
    if frame.sight.progress_of(evidence.group) != Progress.ACKED:
        return Fate.PENDING
    # Only what is settled is acked, so the store had it, and has lost it since.
    return Fate.MISSING if is_store_there else None


def _attributes(evidence: Evidence) -> dict[str, Any] | None:
    """Return the event as JSON has it, without its data: as stored, or as it waits."""
    document = None if evidence.found is None else evidence.found.event
    for frame in evidence.frames.values():
        waiting = None if frame.sight is None else frame.sight.frame
        index = evidence.index_in(frame)
        if document is None and waiting is not None and index is not None:
            document = waiting.documents[index]
    if document is None:
        return None
    event = event_as_json(bytes(document.raw))
    return {name: value for name, value in event.items() if name not in _DATA}


def _arrival(evidence: Evidence, frame: Held, *, is_store_there: bool) -> Arrival:
    partition, entry_id = frame.place
    index, accepted_ms = evidence.index_in(frame), entry_ms(entry_id)
    fate, same_as = _fate_in(evidence, frame, index, is_store_there=is_store_there)
    arrival = Arrival(
        entry_id, from_ms(accepted_ms), fate, same_as, index=index, in_log=frame.in_log
    )
    arrival.partition = partition
    if (edges := evidence.edges.get(partition)) is not None:
        arrival.log_first, arrival.log_last = edges.first, edges.last
    if frame.sight is not None:
        _add_sight(arrival, frame.sight)
    if frame.begun is not None:
        _add_begun(arrival, frame.begun, accepted_ms)
    return arrival


def _add_sight(arrival: Arrival, sight: Sight) -> None:
    arrival.error = None if sight.error is None else str(sight.error)
    arrival.places = sight.places
    arrival.events_ahead = sight.events_ahead
    frame = sight.frame
    if frame is not None:
        arrival.frame_id, arrival.external = str(frame.frame_id), frame.external
        arrival.events, arrival.size_bytes = frame.count, frame.size_bytes
        if not frame.external:
            arrival.srv, arrival.seq = frame.srv.hex(), frame.seq


def _add_begun(arrival: Arrival, known: Begun, accepted_ms: int) -> None:
    arrival.frame_id, arrival.external = str(known.frame_id), known.external
    arrival.events = known.count
    if not known.external:
        arrival.srv, arrival.seq = known.srv.hex(), known.seq
    arrival.begun_at, arrival.judged_at = known.begun_at, known.judged_at
    arrival.settled_at, arrival.worker = known.settled_at, known.worker
    if known.settled_at is not None:
        arrival.settled_after_ms = to_ms(known.settled_at) - accepted_ms


def _letter(letter: Letter) -> DeadLetter:
    return DeadLetter(
        letter.id,
        letter.state,
        letter.reason,
        REASONS.get(letter.reason, ""),
        letter.detail,
        letter.attempts,
        letter.first_at,
        letter.last_at,
    )
