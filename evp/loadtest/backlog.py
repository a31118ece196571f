"""What waits in the log behind the server that is loaded."""

from __future__ import annotations

import asyncio
import contextlib

from msgspec import Struct

from evp.batch.retry import is_set_within
from evp.clock import monotonic_s
from evp.errors import LogUnavailable
from evp.loadtest.limits import LOADTEST_LOG_END_S, LOADTEST_LOG_LOOK_S
from evp.settings import Settings
from evp.stream.everywhere import Everywhere
from evp.stream.info import LogFacts, log_facts


class Backlog(Struct, frozen=True):
    """The log at one moment, all clients together: events accepted ever, and those that wait.

    The moment lies between `asked_at_s` and `told_at_s`, by the monotonic clock.
    """

    accepted: int
    waiting: int
    asked_at_s: float
    told_at_s: float

    @property
    def settled(self) -> int:
        """How many of those that were ever accepted the group has done with."""
        return self.accepted - self.waiting


class LogWatch:
    """Looks at all partitions of the log now and then, from `open` on."""

    def __init__(self, settings: Settings) -> None:
        self.now: Backlog | None = None
        self.waiting_max = 0
        self.ending = asyncio.Event()
        """Set it to have the log looked at more often."""
        self._group = settings.consumer_group
        self._log = Everywhere(settings)
        self._settled_before = 0

    @property
    def settled(self) -> int:
        """How many events the group has done with since `open`."""
        return 0 if self.now is None else self.now.settled - self._settled_before

    async def open(self) -> None:
        """Look for the first time. Raises LogUnavailable."""
        self.now = await self._look()
        self._settled_before = self.now.settled

    async def run(self) -> None:
        """Look until cancelled. A log that is away, or a part of it, is looked at again."""
        while True:
            await is_set_within(self.ending, LOADTEST_LOG_LOOK_S)
            if self.ending.is_set():
                await asyncio.sleep(LOADTEST_LOG_END_S)
            with contextlib.suppress(LogUnavailable):
                self.now = await self._look()
                self.waiting_max = max(self.waiting_max, self.now.waiting)

    async def close(self) -> None:
        """Close the connections."""
        await self._log.close()

    async def _look(self) -> Backlog:
        asked_at_s = monotonic_s()
        seen = await self._log.ask_each(log_facts)
        accepted = sum(facts.events_accepted for facts in seen)
        waiting = sum(self._waiting(facts) for facts in seen)
        return Backlog(accepted, waiting, asked_at_s, monotonic_s())

    def _waiting(self, facts: LogFacts) -> int:
        for one in facts.groups:
            if one.name == self._group:
                return one.waiting_events
        # Where nobody ever read, all of it waits.
        return facts.events_accepted
