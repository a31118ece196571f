"""A hole, part by part: what was damaged, what is acked and can be had again, what is nowhere."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from evp.frame import entry_ms
from evp.storage.evidence import UnreadableEntry
from evp.stream.headers import Header
from evp.verify.epochs import Hole
from evp.verify.report import Kind


class Run(Struct):
    """Frames in a row that the log has and the group has acked; what is known of their entries.

    `counts` has how many events each of them holds, in order.
    """

    first: int
    last: int
    counts: list[int]
    first_entry: str
    last_entry: str


class Part(Struct, frozen=True):
    """Missing frames of one kind. `events` is None if not known, the times where nothing is.

    Then `events_together` is what all such parts of the epoch have, unless that is not known
    either. `partition` is the number of the stream that they are missing in.
    """

    kind: Kind
    srv: bytes
    first: int
    last: int
    events: int | None
    after_ms: int | None
    before_ms: int | None
    entry_id: str | None = None
    letter_id: str | None = None
    partition: int = 0
    events_together: int | None = None


class Spans:
    """Numbers by epoch, to ask whether one is among them."""

    def __init__(self, spans: Iterable[tuple[bytes, int, int]]) -> None:
        self._spans: dict[bytes, list[tuple[int, int]]] = {}
        for srv, first, last in spans:
            self._spans.setdefault(srv, []).append((first, last))
        for some in self._spans.values():
            some.sort()

    @classmethod
    def of(cls, holes: Iterable[Hole]) -> Self:
        """Return the numbers that are missing."""
        return cls((hole.srv, hole.gap.first, hole.gap.last) for hole in holes)

    def has(self, srv: bytes, seq: int) -> bool:
        """Return True if a number is in one of them."""
        some = self._spans.get(srv, [])
        place = bisect_right(some, (seq, seq)) - 1
        # The one that begins at `seq` and ends later stands behind (seq, seq).
        near = some[max(0, place) : place + 2]
        return any(first <= seq <= last for first, last in near)


class Known:
    """What is known of missing frames: which were damaged, and which the log has as acked.

    A damaged one is none of those: workers would find it damaged once more.
    """

    def __init__(self, missing: Spans, damaged: Iterable[UnreadableEntry]) -> None:
        self._missing = missing
        self._damaged: dict[bytes, dict[int, UnreadableEntry]] = {}
        for one in damaged:
            some = self._damaged.setdefault(one.srv, {})
            # Of several letters of a frame always the same, whatever the order they are read in.
            if one.seq not in some or one.letter_id < some[one.seq].letter_id:
                some[one.seq] = one
        self._damaged_seqs = {srv: sorted(some) for srv, some in self._damaged.items()}
        self._runs: dict[bytes, list[Run]] = {}

    def offer(self, one: Header) -> None:
        """Take an entry that is acked, if its frame is missing; in the order of the log."""
        if not self._missing.has(one.srv, one.seq) or one.seq in self._damaged.get(one.srv, {}):
            return
        runs = self._runs.setdefault(one.srv, [])
        last = runs[-1] if runs else None
        if last is not None and one.seq <= last.last:
            return  # Somebody put an entry into the log a second time.
        if last is not None and last.last + 1 == one.seq:
            last.last, last.last_entry = one.seq, one.entry_id
            last.counts.append(one.count)
        else:
            runs.append(Run(one.seq, one.seq, [one.count], one.entry_id, one.entry_id))

    def damaged(self, hole: Hole) -> list[UnreadableEntry]:
        """Return the frames of a hole that were damaged, in order."""
        seqs = self._damaged_seqs.get(hole.srv, [])
        start, end = bisect_left(seqs, hole.gap.first), bisect_right(seqs, hole.gap.last)
        return [self._damaged[hole.srv][seq] for seq in seqs[start:end]]

    def acked(self, hole: Hole) -> list[Run]:
        """Return the runs of a hole, cut to it."""
        runs, found = self._runs.get(hole.srv, []), []
        start = bisect_right(runs, hole.gap.first, key=lambda run: run.first) - 1
        for place in range(max(0, start), len(runs)):
            if runs[place].first > hole.gap.last:
                break
            cut = _cut(runs[place], hole.gap.first, hole.gap.last)
            if cut is not None:
                found.append(cut)
        return found

    def acked_events(self, hole: Hole, upto: int) -> int:
        """Return how many events the acked frames of a hole have up to a number."""
        return sum(sum(run.counts[: max(0, upto + 1 - run.first)]) for run in self.acked(hole))


def _cut(run: Run, first: int, last: int) -> Run | None:
    """Return what of a run lies between two numbers; the entries are still those of all of it."""
    if first <= run.first and run.last <= last:
        return run
    low, high = max(run.first, first), min(run.last, last)
    if low > high:
        return None
    counts = run.counts[low - run.first : high + 1 - run.first]
    return Run(low, high, counts, run.first_entry, run.last_entry)


def parts_of(hole: Hole, known: Known) -> list[Part]:
    """Return a hole in parts, in order; of what is nowhere it is not known how many events."""
    marks = _marks(hole, known)
    found: list[Part] = []
    next_, after_ms = hole.gap.first, hole.gap.after_ms
    for mark in marks:
        if mark.first > next_:
            lost = (hole.srv, next_, mark.first - 1, None, after_ms, mark.after_ms)
            found.append(Part(Kind.HOLE, *lost))
        found.append(mark)
        next_, after_ms = mark.last + 1, mark.before_ms
    if next_ <= hole.gap.last:
        lost = (hole.srv, next_, hole.gap.last, None, after_ms, hole.gap.before_ms)
        found.append(Part(Kind.HOLE, *lost))
    return [replace(part, partition=hole.partition) for part in found]


def _marks(hole: Hole, known: Known) -> list[Part]:
    """Return the parts of which something is known, in order."""
    marks = []
    for letter in known.damaged(hole):
        at_ms = entry_ms(letter.entry_id)
        part = Part(Kind.DAMAGED, hole.srv, letter.seq, letter.seq, None, at_ms, at_ms)
        marks.append(replace(part, entry_id=letter.entry_id, letter_id=letter.letter_id))
    for run in known.acked(hole):
        after_ms, before_ms = entry_ms(run.first_entry), entry_ms(run.last_entry)
        kind, facts = Kind.ACKED_NOT_STORED, (sum(run.counts), after_ms, before_ms, run.first_entry)
        marks.append(Part(kind, hole.srv, run.first, run.last, *facts))
    return sorted(marks, key=lambda mark: mark.first)


def counted(parts: Sequence[Part], events: int | None) -> list[Part]:
    """Return all parts of an epoch; `events` are those of what has no count of its own.

    Of several such parts only their sum is known.
    """
    unknown = [part for part in parts if part.events is None]
    if events is None or not unknown:
        return list(parts)
    told = {"events" if len(unknown) == 1 else "events_together": events}
    return [replace(one, **told) if one.events is None else one for one in parts]


def lost_events(parts: Iterable[Part]) -> tuple[int, bool]:
    """Return how many events all parts of an epoch, `counted`, have that can't be mended.

    And whether these are all of them: False if of some part nothing is known.
    """
    lost = [one for one in parts if one.kind is not Kind.ACKED_NOT_STORED]
    together = max((one.events_together or 0 for one in lost), default=0)
    is_known = all(one.events is not None or one.events_together is not None for one in lost)
    return sum(one.events or 0 for one in lost) + together, is_known
