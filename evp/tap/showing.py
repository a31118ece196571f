"""What is shown: how much at a time, how much altogether, and what became of the rest.

All streams share it, so that the limits hold for what they have together.
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct

from evp.clock import monotonic_s
from evp.limits import TAP_TURN_S
from evp.tap.wanted import Wanted


class Counts(Struct):
    """What became of events: those looked at (`read`), and of them `shown`.

    `dropped` were wanted as well, but too many at a time; `unread` were passed over without
    a look, to keep up. `broken` are entries that can't be read.
    """

    read: int = 0
    shown: int = 0
    dropped: int = 0
    unread: int = 0
    broken: int = 0

    @property
    def passed_over(self) -> int:
        """Events that were wanted, or may have been, and were not shown."""
        return self.dropped + self.unread


class Portion(Struct):
    """What to tell next: events as JSON has them, why entries can't be read, how the log is."""

    events: list[dict[str, Any]] = []
    broken: list[str] = []
    notice: str | None = None


class Allowance:
    """How many events may be shown now: `per_s` a second, given out by turns of TAP_TURN_S."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s * TAP_TURN_S)
        self._left = self._most
        self._at_s = monotonic_s()

    @property
    def events(self) -> int:
        """How many may be shown now."""
        now_s = monotonic_s()
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return int(self._left)

    def take(self, wanted: int) -> int:
        """Return how many of these may be shown now, and count them."""
        taken = min(wanted, self.events)
        self._left -= taken
        return taken

    async def turn(self) -> None:
        """Wait until some may be shown."""
        if not self.events:
            await asyncio.sleep(max(TAP_TURN_S, (1 - self._left) / self._per_s))


class Showing:
    """Which events are wanted, how many may be shown, and what became of them so far.

    `held` counts those that were chosen and wait for their turn, of all streams.
    """

    def __init__(self, wanted: Wanted, *, shown_per_s: float, shown_max: int | None) -> None:
        self.wanted = wanted
        self.allowance = Allowance(shown_per_s)
        self.counts = Counts()
        self.held = 0
        self._shown_max = shown_max
        self._taken = 0
        self._holding = 0

    @property
    def is_done(self) -> bool:
        """Whether as many events were shown as are wanted."""
        return self.counts.shown == self._shown_max

    @property
    def left(self) -> int | None:
        """How many events are to be chosen yet; None if there is no end to it."""
        return None if self._shown_max is None else self._shown_max - self._taken - self.held

    def chooses(self) -> bool:
        """Return whether an event that is as it should be is taken: every so manieth is."""
        self._holding += 1
        return self._holding % self.wanted.every == 1 % self.wanted.every

    def take(self, wanted: int) -> int:
        """Return how many of these, which are held, may be shown now; they are no longer held."""
        taken = self.allowance.take(wanted)
        self._taken += taken
        self.held -= taken
        return taken

    def drop(self, count: int) -> None:
        """Pass over events that are held."""
        self.counts.dropped += count
        self.held -= count
