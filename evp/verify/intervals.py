"""Numbers that were seen, as intervals: what is without a gap costs the same however long it is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from msgspec import Struct


class Interval(Struct, gc=False):
    """Numbers from `first` to `last`, and when these two were, milliseconds since 1970."""

    first: int
    last: int
    first_ms: int
    last_ms: int


class Gap(Struct, frozen=True):
    """Numbers not seen, both ends included, and when the ones beside them were; None: nobody."""

    first: int
    last: int
    after_ms: int | None
    before_ms: int | None


class IntervalSet:
    """A set of positive numbers, each with a moment, of which only those at edges are kept."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._intervals: list[Interval] = []

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """What it holds, in order; no two touch."""
        return tuple(self._intervals)

    def add(self, number: int, at_ms: int) -> bool:
        """Add a number; return False if it was there."""
        place = bisect_right(self._firsts, number)
        below = self._intervals[place - 1] if place else None
        above = self._intervals[place] if place < len(self._intervals) else None
        if below is not None and number <= below.last:
            return False
        joined_below = below if below is not None and below.last + 1 == number else None
        joined_above = above if above is not None and above.first - 1 == number else None
        if joined_below is not None and joined_above is not None:
            joined_below.last, joined_below.last_ms = joined_above.last, joined_above.last_ms
            del self._firsts[place], self._intervals[place]
        elif joined_below is not None:
            joined_below.last, joined_below.last_ms = number, at_ms
        elif joined_above is not None:
            joined_above.first, joined_above.first_ms = number, at_ms
            self._firsts[place] = number
        else:
            self._firsts.insert(place, number)
            self._intervals.insert(place, Interval(number, number, at_ms, at_ms))
        return True

    def has(self, number: int) -> bool:
        """Return whether a number is in it."""
        place = bisect_right(self._firsts, number)
        return place > 0 and number <= self._intervals[place - 1].last

    def gaps(self, above: int, upto: int) -> Iterator[Gap]:
        """Give the numbers that are not there, greater than `above` and not above `upto`."""
        next_, after_ms = above + 1, None
        for one in self._intervals:
            if one.last < next_:
                after_ms = one.last_ms
                continue
            if one.first > upto:
                if next_ <= upto:
                    yield Gap(next_, upto, after_ms, one.first_ms)
                return
            if one.first > next_:
                yield Gap(next_, one.first - 1, after_ms, one.first_ms)
            next_, after_ms = one.last + 1, one.last_ms
        if next_ <= upto:
            yield Gap(next_, upto, after_ms, None)
