"""What a worker says: its counts and memory now and then, its troubles once a second."""

from __future__ import annotations

import os

import psutil
from msgspec import Struct

from evp.clock import monotonic_s
from evp.logs import get
from evp.storage.writer import Written

_LINE_S_MIN = 1.0
_log = get("evp.worker")


class Totals(Struct):
    """What a worker has done since it started. `seen_before` frames were settled already."""

    frames: int = 0
    events: int = 0
    stored: int = 0
    duplicate: int = 0
    dead: int = 0
    seen_before: int = 0


class Journal:
    """Keeps a worker's totals and writes its log lines, at most one a second of each kind."""

    def __init__(self, events_per_line: int) -> None:
        self.totals = Totals()
        self._events_per_line = events_per_line
        self._process = psutil.Process(os.getpid())
        self._events_said = 0
        self._said_at_s = monotonic_s()
        self._trouble_at_s = -_LINE_S_MIN
        self._unsaid = 0

    @property
    def rss_bytes(self) -> int:
        """Resident memory of this process."""
        return int(self._process.memory_info().rss)

    def wrote(self, written: list[Written]) -> None:
        """Count a batch that was settled."""
        totals = self.totals
        for one in written:
            totals.frames += 1
            totals.events += one.frame.count
            if one.outcome is None:
                totals.seen_before += 1
                continue
            totals.stored += one.outcome.stored
            totals.duplicate += one.outcome.duplicate
            totals.dead += len(one.outcome.dead)
        self._say_progress()

    def trouble(self, what: str, **facts: object) -> None:
        """Say that something is wrong; within the same second only the first is heard."""
        now_s = monotonic_s()
        if now_s - self._trouble_at_s < _LINE_S_MIN:
            self._unsaid += 1
            return
        _log.warning(what, **facts, unsaid=self._unsaid)
        self._trouble_at_s, self._unsaid = now_s, 0

    def note(self, what: str, **facts: object) -> None:
        """Say what happened as expected."""
        _log.info(what, **facts)

    def alarm(self, what: str, **facts: object) -> None:
        """Say that something needs a person."""
        _log.error(what, **facts)

    def _say_progress(self) -> None:
        totals, now_s = self.totals, monotonic_s()
        fresh, elapsed_s = totals.events - self._events_said, now_s - self._said_at_s
        if fresh < self._events_per_line or elapsed_s < _LINE_S_MIN:
            return
        self._events_said, self._said_at_s = totals.events, now_s
        _log.info(
            "progress",
            rss_bytes=self.rss_bytes,
            events=totals.events,
            stored=totals.stored,
            duplicate=totals.duplicate,
            dead=totals.dead,
            events_per_s=round(fresh / elapsed_s),
        )
