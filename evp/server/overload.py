"""Whether the log is too full to add to it, and when to come back. No I/O.

Two levels count, as far as they are known: used memory against the mark, and the
backlog in events against BACKLOG_MAX. At either one it is full, and stays so
until both are down to a share of it: what drains a little is not refilled at
once. Memory counts as full a bit below the mark, where what is left gives no
server a whole frame until the next look.

What else is in the log's memory does not drain. Where it leaves less than that
share, the log is drained as soon as what waits takes the same share of what is
left for it.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from evp.limits import FRAME_BYTES_CLOSE
from evp.server.limits import (
    BACKLOG_RETRY_S_MAX,
    DRAIN_KNOWN_S,
    DRAIN_WINDOW_S,
    LAST_SHARE_MAX,
    LOOK_SHARE,
    REOPEN_BAND_SHARE,
    REOPEN_SHARE,
)
from evp.stream.backlog import Backlog
from evp.stream.memory import Memory


class Drained(Struct, frozen=True):
    """What the slowest group has done, a second."""

    events_per_s: float = 0.0
    bytes_per_s: float = 0.0


class DrainRate:
    """How fast the slowest group works, over a sliding window."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque()

    def note(self, at_s: float, events_done: int, bytes_done: int) -> None:
        """Take note of how far the group is; less than before means that it began again."""
        looks = self._looks
        if looks and (events_done < looks[-1][1] or bytes_done < looks[-1][2]):
            looks.clear()
        looks.append((at_s, events_done, bytes_done))
        # The look before the window is kept: it is where the window begins.
        while len(looks) > 1 and looks[1][0] <= at_s - DRAIN_WINDOW_S:
            looks.popleft()

    @property
    def known(self) -> bool:
        """False while it was measured too briefly to say anything."""
        return bool(self._looks) and self._looks[-1][0] - self._looks[0][0] >= DRAIN_KNOWN_S

    def rate(self) -> Drained:
        """Return the rate over the window, 0 where nothing is known."""
        if not self._looks:
            return Drained()
        (from_s, events_before, bytes_before), (to_s, events, size_bytes) = (
            self._looks[0],
            self._looks[-1],
        )
        if to_s <= from_s:
            return Drained()
        took_s = to_s - from_s
        return Drained((events - events_before) / took_s, (size_bytes - bytes_before) / took_s)


class Overload:
    """The state of one log, from look to look."""

    def __init__(
        self,
        backlog_events_max: int | None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.full = False
        self.memory: Memory | None = None
        self.backlog: Backlog | None = None
        self._backlog_events_max = backlog_events_max
        self._partitions = 1
        self._draining = DrainRate()
        self._draw = draw

    @property
    def drained(self) -> Drained:
        """The rate at which the log drains."""
        return self._draining.rate()

    def note(
        self, at_s: float, memory: Memory | None, backlog: Backlog, partitions: int = 1
    ) -> None:
        """Take note of a look; `memory` is None where the log hides it.

        `partitions` is how many are on that server.
        """
        self.memory, self.backlog, self._partitions = memory, backlog, partitions
        self._draining.note(at_s, backlog.events_done, backlog.bytes_done)
        levels = self._levels()
        if any(one.now >= one.full for one in levels):
            self.full = True
        elif all(one.now <= one.drained for one in levels):
            self.full = False

    def why(self) -> str:
        """Return what is full, and who holds it up, for people."""
        told = []
        memory, backlog, events_max = self.memory, self.backlog, self._backlog_events_max
        if memory is not None and memory.mark_bytes:
            used, mark = memory.used_bytes / 2**20, memory.mark_bytes / 2**20
            others = self._others_bytes() / 2**20
            told.append(
                f"the log uses {used:,.1f} MiB of memory, {others:,.1f} MiB of them for other "
                f"things than what waits, its mark is {mark:,.1f} MiB"
            )
        if backlog is not None:
            if events_max is not None:
                told.append(f"{backlog.pin.events:,} events wait, BACKLOG_MAX is {events_max:,}")
            told.append(str(backlog.pin))
        return "; ".join(told)

    def retry_after_s(self, size_bytes: int = 0) -> int:
        """Return when to come back with such a request, by the rate so far, and a bit apart.

        While the log is full: when it has drained. Else: at the next look, if the
        request fits then, or when so much has drained that it does. Up to half as
        much again is drawn, so that not all come back at once.
        """
        waits_s = [1.0]
        if self.full:
            levels = self._levels()
            waits_s += [self._takes_s(one.now - one.drained, one.falls_per_s) for one in levels]
        elif size_bytes:
            lacking = size_bytes - self.share_bytes()
            lacking_bytes = lacking * self._servers / LOOK_SHARE
            waits_s.append(self._takes_s(lacking_bytes, self.drained.bytes_per_s))
        wait_s = max(waits_s) * (1 + self._draw() / 2)
        return math.ceil(min(wait_s, BACKLOG_RETRY_S_MAX))

    def share_bytes(self) -> float:
        """Return what one server may add until the next look; infinite where no mark is known."""
        return self._share_bytes(0 if self.memory is None else self.memory.used_bytes)

    def never_fits(self, size_bytes: int) -> bool:
        """Return whether such a request has no room even once all that waits has drained.

        What is done and kept for a time counts as used: it may go, much later.
        """
        return size_bytes > self._share_bytes(self._others_bytes())

    def _share_bytes(self, used_bytes: int) -> float:
        """Return the share of one server where so much of the memory is used."""
        if self.memory is None or self.memory.mark_bytes is None:
            return math.inf
        return (self.memory.mark_bytes - used_bytes) * LOOK_SHARE / self._servers

    @property
    def _servers(self) -> int:
        """How many add to the same memory: each server does for each of its partitions."""
        servers = 1 if self.backlog is None else max(1, self.backlog.servers)
        return servers * self._partitions

    def _takes_s(self, excess: float, falls_per_s: float) -> float:
        """Return how long it takes until so much has drained."""
        if excess <= 0:
            return 0.0
        if not self._draining.known:
            return DRAIN_WINDOW_S
        return excess / falls_per_s if falls_per_s > 0 else math.inf

    def _others_bytes(self) -> int:
        """Return what of the used memory does not wait for a group, and so will not drain."""
        if self.memory is None or self.backlog is None:
            return 0
        return max(0, self.memory.used_bytes - self.backlog.pin.size_bytes)

    def _levels(self) -> list[_Level]:
        """Return the levels that are known."""
        levels: list[_Level] = []
        memory, backlog, rate = self.memory, self.backlog, self.drained
        if memory is not None and memory.mark_bytes and backlog is not None:
            mark, others = memory.mark_bytes, self._others_bytes()
            frames = FRAME_BYTES_CLOSE * self._servers / LOOK_SHARE
            full = mark - min(frames, LAST_SHARE_MAX * mark)
            share_of_rest = others + REOPEN_SHARE * (full - others)
            drained = max(REOPEN_SHARE * mark, min(share_of_rest, full - REOPEN_BAND_SHARE * mark))
            levels.append(_Level(memory.used_bytes, full, drained, rate.bytes_per_s))
        events_max = self._backlog_events_max
        if backlog is not None and events_max is not None:
            drained = REOPEN_SHARE * events_max
            levels.append(_Level(backlog.pin.events, events_max, drained, rate.events_per_s))
        return levels


class _Level(NamedTuple):
    """How high something stands, where it is full and where drained, and how fast it falls."""

    now: float
    full: float
    drained: float
    falls_per_s: float
