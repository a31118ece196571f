"""What a worker says: its counts and memory now and then, its troubles once a second.

Each partition's loop has a journal of its own. What the process as a whole has done,
for its metrics and its progress, is what they come to together (`Journals`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec
import psutil
from msgspec import Struct

from evp.batch.tally import slot_end_ms
from evp.clock import monotonic_s, now_ms
from evp.errors import FrameError
from evp.logs import get
from evp.metrics.counts import WorkCounts
from evp.metrics.families import Values
from evp.metrics.sums import added
from evp.storage.dead_letters import REASONS, failure_of_entry
from evp.storage.writer import Written

_LINE_S_MIN = 1.0
_log = get("evp.worker")


async def rss_bytes() -> int:
    """Return the resident memory of this process; the system is asked beside the loop."""
    return await asyncio.to_thread(lambda: int(psutil.Process().memory_info().rss))


class Totals(Struct):
    """What a worker has done since it started, in one partition or in all of them.

    `seen_before` frames were settled already. Of entries that are no frames,
    `corrupt` ones became dead letters, `newer` ones were left to a newer evp, and
    `deleted` ones were gone from the log before they were acked. The group was
    lost `groups_lost` times.
    """

    frames: int = 0
    events: int = 0
    stored: int = 0
    duplicate: int = 0
    dead: int = 0
    seen_before: int = 0
    corrupt: int = 0
    newer: int = 0
    deleted: int = 0
    groups_lost: int = 0


class _Lines(Struct):
    """When a line of some kind was last written, and how many were left out since."""

    said_at_s: float = -_LINE_S_MIN
    unsaid: int = 0


class Journals:
    """The journals of one process, by partition; that of partition 0 is always there."""

    def __init__(self, events_per_line: int) -> None:
        self._all = {0: Journal(self, 0)}
        self._events_per_line = events_per_line
        self._events_said = 0
        self._said_at_s = monotonic_s()

    def __iter__(self) -> Iterator[Journal]:
        # A thread that collects metrics must not meet one that is just being added.
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def of(self, partition: int) -> Journal:
        """Return the journal of a partition; it is begun when it is first asked for."""
        if partition not in self._all:
            self._all[partition] = Journal(self, partition)
        return self._all[partition]

    def totals(self) -> Totals:
        """Return what was done in all partitions."""
        each = [msgspec.structs.astuple(one.totals) for one in self]
        return Totals(*map(sum, zip(*each, strict=True)))

    def values(self) -> Values:
        """Return what metrics tell of this process."""
        return added([one.values() for one in self])

    async def say_progress(self) -> None:
        """Write a line every `events_per_line` events, and at most one a second."""
        totals, now_s = self.totals(), monotonic_s()
        fresh, elapsed_s = totals.events - self._events_said, now_s - self._said_at_s
        if fresh < self._events_per_line or elapsed_s < _LINE_S_MIN:
            return
        self._events_said, self._said_at_s = totals.events, now_s
        _log.info(
            "progress",
            rss_bytes=await rss_bytes(),
            events=totals.events,
            stored=totals.stored,
            duplicate=totals.duplicate,
            dead=totals.dead,
            events_per_s=round(fresh / elapsed_s),
        )


class Journal:
    """Keeps one loop's totals and writes its log lines, at most one a second of each kind.

    Where there are several partitions a line has the number of its own.
    """

    def __init__(self, journals: Journals, partition: int) -> None:
        self.totals = Totals()
        self.counts = WorkCounts(REASONS)
        self._journals = journals
        self._partition = partition
        self._took: Counter[int] = Counter()
        self._lines: dict[str, _Lines] = {}

    @property
    def where(self) -> dict[str, int]:
        """What a log line says of the partition: nothing if it is the only one."""
        return {"partition": self._partition} if len(self._journals) > 1 else {}

    async def wrote(self, written: list[Written]) -> None:
        """Count a batch that was settled."""
        totals, counts, at_ms = self.totals, self.counts, now_ms()
        for one in written:
            totals.frames += 1
            totals.events += one.frame.count
            if one.outcome is None:
                totals.seen_before += 1
                continue
            totals.stored += one.outcome.stored
            totals.duplicate += one.outcome.duplicate
            totals.dead += len(one.outcome.dead)
            counts.dead_letters.update(one.reasons)
            took_ms = max(0, at_ms - one.frame.accepted_ms)
            counts.end_to_end_seconds.add(took_ms / 1000, one.outcome.stored)
            self._took[slot_end_ms(took_ms)] += one.outcome.stored
        await self._journals.say_progress()

    def take_took(self) -> Counter[int]:
        """Return how long events took from log to store since this was asked, by slot."""
        took, self._took = self._took, Counter()
        return took

    def timed(self, events: int, took_s: float) -> None:
        """Count a batch that was written at once."""
        self.counts.batch_events.add(events)
        self.counts.batch_seconds.add(took_s)

    def buried(self, errors: Sequence[FrameError]) -> None:
        """Count entries that became dead letters."""
        self.totals.corrupt += len(errors)
        self.counts.dead_letters.update(failure_of_entry(error).reason for error in errors)

    def values(self) -> Values:
        """Return what metrics tell of this loop."""
        totals = self.totals
        return {
            **self.counts.values(),
            "evp_events_stored_total": totals.stored,
            "evp_duplicates_total": totals.duplicate,
            "evp_frames_seen_before_total": totals.seen_before,
            "evp_entries_deleted_total": totals.deleted,
            "evp_entries_newer_total": totals.newer,
            "evp_groups_lost_total": totals.groups_lost,
        }

    def trouble(self, what: str, **facts: object) -> None:
        """Say that something is wrong; within the same second only the first is heard."""
        unsaid = self._unsaid("trouble")
        if unsaid is not None:
            _log.warning(what, **self.where, **facts, unsaid=unsaid)

    def alarm(self, what: str, **facts: object) -> None:
        """Say that something needs a person; the same within one second only once."""
        unsaid = self._unsaid(what)
        if unsaid is not None:
            _log.error(what, **self.where, **facts, unsaid=unsaid)

    def note(self, what: str, **facts: object) -> None:
        """Say what happened as expected."""
        _log.info(what, **self.where, **facts)

    def _unsaid(self, kind: str) -> int | None:
        """Return how many lines of a kind were left out before this one; None to leave it out."""
        lines, now_s = self._lines.setdefault(kind, _Lines()), monotonic_s()
        if now_s - lines.said_at_s < _LINE_S_MIN:
            lines.unsaid += 1
            return None
        unsaid, lines.said_at_s, lines.unsaid = lines.unsaid, now_s, 0
        return unsaid
