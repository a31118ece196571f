"""What a generator process tells of its requests, and what it keeps of each."""

from __future__ import annotations

from array import array

from msgspec import Struct, field


class Counts(Struct):
    """What became of requests that were due after the warm-up, so far.

    `retried` counts refusals and lost connections by code; each was followed by
    another attempt, if there was time. `finished_s` is when the last one was accepted,
    by the monotonic clock. `gave_up` says why the load ended early: nothing was accepted.
    """

    asked: int = 0
    sent: int = 0
    accepted: int = 0
    unanswered: int = 0
    late: int = 0
    late_s_max: float = 0.0
    rejected: dict[str, int] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    finished_s: float = 0.0
    gave_up: str = ""

    def add(self, other: Counts) -> None:
        """Count what another process has counted."""
        self.asked += other.asked
        self.sent += other.sent
        self.accepted += other.accepted
        self.unanswered += other.unanswered
        self.late += other.late
        self.late_s_max = max(self.late_s_max, other.late_s_max)
        self.finished_s = max(self.finished_s, other.finished_s)
        self.gave_up = self.gave_up or other.gave_up
        for mine, its in ((self.rejected, other.rejected), (self.retried, other.retried)):
            for code, count in its.items():
                mine[code] = mine.get(code, 0) + count


class Sample(Struct, tag=True, frozen=True):
    """An accepted event to be watched until it is stored: its number, and when it was due."""

    process: int
    number: int
    place: int
    time_ms: int
    due_at_s: float


class Ledger(Struct):
    """What was sent, by number of the request: its time, and 1 where it was accepted."""

    times_ms: array[int] = field(default_factory=lambda: array("q"))
    accepted: bytearray = field(default_factory=bytearray)
