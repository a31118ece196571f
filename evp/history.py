"""The last minute of what was seen, look by look: rates, and what waits. Bounded."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from evp.limits import HISTORY_LOOKS_MAX, HISTORY_S
from evp.stats import Stats


class Sample(Struct, frozen=True):
    """What was between two looks, at `since_s` and `until_s` of the monotonic clock.

    Null is what nobody knows: all but `accepted_per_s` while the store is away,
    `waiting_events` while the group does not exist.
    """

    since_s: float
    until_s: float
    accepted_per_s: float
    stored_per_s: float | None
    duplicate_per_s: float | None
    dead_per_s: float | None
    waiting_events: int | None


class History:
    """Remembers looks, one after the other, and forgets those that are too old."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=HISTORY_LOOKS_MAX)
        self._last_at_s: float | None = None

    def add(self, stats: Stats, at_s: float) -> list[Sample]:
        """Remember a look that was had at `at_s`, and return all of the last minute.

        The first one tells no rate, so it makes no sample.
        """
        if self._last_at_s is not None:
            self._samples.append(_sample(stats, self._last_at_s, at_s))
        self._last_at_s = at_s
        while self._samples and self._samples[0].until_s < at_s - HISTORY_S:
            self._samples.popleft()
        return list(self._samples)

    def interrupt(self) -> None:
        """Leave a gap up to the next look: it tells no rate of the time that nobody saw."""
        self._last_at_s = None


def _sample(stats: Stats, since_s: float, until_s: float) -> Sample:
    rates, is_told, group = stats.rates, stats.store_error is None, stats.own_group
    return Sample(
        since_s=since_s,
        until_s=until_s,
        accepted_per_s=rates.accepted_per_s,
        stored_per_s=rates.stored_per_s if is_told else None,
        duplicate_per_s=rates.duplicate_per_s if is_told else None,
        dead_per_s=rates.dead_per_s if is_told else None,
        waiting_events=group.waiting_events if group is not None else None,
    )
