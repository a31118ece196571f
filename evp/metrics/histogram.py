"""A histogram of plain integers: one search in a short tuple and two additions."""

from __future__ import annotations

from bisect import bisect_left

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Ends of buckets for what somebody waits for."""

LONG_SECONDS = (*SECONDS[3:], 30.0, 60.0, 300.0, 1_800.0, 3_600.0)
"""Ends of buckets for what an outage may delay by hours."""

EVENTS = (1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 25_000.0)
"""Ends of buckets for how many events are handled at once."""


class Histogram:
    """Counts values by bucket; each end belongs to its bucket, the last bucket has none."""

    __slots__ = ("counts", "ends", "total")

    def __init__(self, ends: tuple[float, ...]) -> None:
        self.ends = ends
        self.counts = [0] * (len(ends) + 1)
        self.total = 0.0
        """The sum of all values."""

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, as often as it came."""
        self.counts[bisect_left(self.ends, value)] += times
        self.total += value * times

    def __add__(self, other: Histogram) -> Histogram:
        """Return what two with the same ends have counted together."""
        both = Histogram(self.ends)
        both.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both
