"""When each request of a load test is due.

The load is *open*: request k is due at `start + k / requests_per_s`, whether or not
those before it were answered, and its latency counts from then. So a server that
stalls for a second makes a second's requests late, and all of them show it. A
*saturating* load has no rate: each connection sends again once it is answered. Where
there are several processes they take turns: of n, process p has requests p, p + n, ….
"""

from __future__ import annotations

from math import ceil

from evp.loadtest.limits import LOADTEST_LATE_S
from evp.loadtest.plan import Share

#: A rate times a span may come out a little too large; that is no further request.
_ROUNDING = 1e-6


class Schedule:
    """When requests of a share are due, by their number from 0. Times are monotonic."""

    def __init__(self, share: Share, start_s: float) -> None:
        self.end_s = start_s + share.warmup_s + share.duration_s
        self._process = share.process
        self._processes = share.processes
        self._start_s = start_s
        self._measure_s = start_s + share.warmup_s
        self._rate = share.requests_per_s
        if self._rate is not None:
            self._total = ceil((share.warmup_s + share.duration_s) * self._rate - _ROUNDING)
            self._warm_up = self._mine(ceil(share.warmup_s * self._rate - _ROUNDING))

    def due_by(self, now_s: float) -> int | None:
        """Return how many requests are due until now; None if as many as can be sent."""
        if self._rate is None:
            return None if self._start_s <= now_s < self.end_s else 0
        elapsed_s = now_s - self._start_s
        return (
            self._mine(min(self._total, int(elapsed_s * self._rate) + 1)) if elapsed_s >= 0 else 0
        )

    def due_at_s(self, number: int, now_s: float) -> float:
        """Return when a request is due: now, if the load saturates."""
        if self._rate is None:
            return now_s
        return self._start_s + (number * self._processes + self._process) / self._rate

    def is_measured(self, number: int, due_at_s: float) -> bool:
        """Return whether a request counts: not if it was due during the warm-up."""
        return due_at_s >= self._measure_s if self._rate is None else number >= self._warm_up

    def measured_by(self, now_s: float) -> int | None:
        """Return how many requests that count are due until now; None if the load saturates."""
        due = self.due_by(now_s)
        return None if due is None or self._rate is None else max(0, due - self._warm_up)

    def is_late(self, due_at_s: float, now_s: float) -> bool:
        """Return whether a request that starts now starts late."""
        return self._rate is not None and now_s - due_at_s > LOADTEST_LATE_S

    def _mine(self, count: int) -> int:
        """Return how many of the first requests of all processes are this one's."""
        return max(0, count - self._process + self._processes - 1) // self._processes
