"""Until when events of a load are stored: some of them are asked for until they are there."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.limits import LOOKUP_IDS_MAX
from evp.loadtest.counts import Sample
from evp.loadtest.events import stored_id
from evp.loadtest.histogram import Histogram
from evp.loadtest.limits import (
    LOADTEST_LOOK_S,
    LOADTEST_LOOK_S_MAX,
    LOADTEST_LOOK_SHARE,
    LOADTEST_WATCHED_MAX,
)
from evp.storage.account import present
from evp.storage.client import Database

#: One look in so many is for others than the oldest one.
_WIDE_EVERY = 4


class _Watched(NamedTuple):
    id_: bytes
    due_at_s: float


class StoredWatch:
    """Asks the store for samples until it has them.

    For the oldest one every ten milliseconds, or less often if that waits for long; for
    those behind it as long as they are there; now and then for some far behind it,
    since the order may be another one. Those that were overtaken are asked for with
    these. So the time until a document is there is told too long by a few milliseconds,
    or a few parts in a hundred, never too short: it ends when the store's answer came.
    """

    def __init__(self, db: Database, run: str, *, time_in_id: bool) -> None:
        self.latency = Histogram()
        self._db = db
        self._run = run
        self._time_in_id = time_in_id
        self._waiting: deque[_Watched] = deque()
        self._overtaken: deque[_Watched] = deque()
        self._looks = 0

    @property
    def waiting(self) -> int:
        """How many samples are not known to be stored yet."""
        return len(self._waiting) + len(self._overtaken)

    def add(self, sample: Sample) -> None:
        """Watch one more; if too many are watched already, the test is not told of it."""
        if self.waiting >= LOADTEST_WATCHED_MAX:
            return
        time_ms = sample.time_ms if self._time_in_id else 0
        id_ = stored_id(self._run, sample.process, sample.number, sample.place, time_ms)
        self._waiting.append(_Watched(id_, sample.due_at_s))

    async def run(self) -> None:
        """Look until cancelled. An outage of the store is waited out: it is part of the time."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                await self._look()
            await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        """Return how long to wait before the next look: what took long need not be told finely."""
        if not self._waiting:
            return LOADTEST_LOOK_S
        waits_s = monotonic_s() - self._waiting[0].due_at_s
        return min(max(LOADTEST_LOOK_S, LOADTEST_LOOK_SHARE * waits_s), LOADTEST_LOOK_S_MAX)

    async def _look(self) -> None:
        self._looks += 1
        ahead = 1
        if self._looks % _WIDE_EVERY == 0:
            await self._ask_overtaken()
            ahead = await self._reach()
        while self._waiting and (ahead := await self._advance(ahead)):
            ahead = max(ahead, LOOKUP_IDS_MAX)

    async def _reach(self) -> int:
        """Return how many to ask for: up to the last one, of some far apart, that is stored."""
        places, step = [], 0
        while step < len(self._waiting):
            places.append(step)
            step = max(1, 2 * step)
        asked = [self._waiting[place].id_ for place in places]
        found = await present(self._db, asked)
        return max(
            (1 + place for place, id_ in zip(places, asked, strict=True) if id_ in found), default=0
        )

    async def _advance(self, count: int) -> int:
        """Ask for the first ones; take out all up to the last that is stored, return how many."""
        asked = list(islice(self._waiting, count))
        found = await self._ask(asked)
        passed = max((1 + place for place, one in enumerate(asked) if one.id_ in found), default=0)
        for one in asked[:passed]:
            self._waiting.popleft()
            if one.id_ not in found:
                self._overtaken.append(one)
        return passed

    async def _ask_overtaken(self) -> None:
        asked = list(islice(self._overtaken, LOOKUP_IDS_MAX))
        found = await self._ask(asked)
        for one in asked:
            self._overtaken.popleft()
            if one.id_ not in found:
                self._overtaken.append(one)

    async def _ask(self, asked: Sequence[_Watched]) -> set[bytes]:
        """Return which of these are stored; their times are counted."""
        found = await present(self._db, [one.id_ for one in asked])
        now_s = monotonic_s()
        for one in asked:
            if one.id_ in found:
                self.latency.record_s(now_s - one.due_at_s)
        return found
