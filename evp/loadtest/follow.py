"""A load behind the server: watched while it comes, waited for, and looked up at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evp.clock import monotonic_s
from evp.errors import LogUnavailable, StoreUnavailable
from evp.loadtest.backlog import LogWatch
from evp.loadtest.check import Check, Checker, Sent
from evp.loadtest.limits import (
    LOADTEST_PING_S_MAX,
    LOADTEST_STORED_S_MAX,
    LOADTEST_UNSEEN_S_MAX,
)
from evp.loadtest.process import Done
from evp.loadtest.report import Storing
from evp.loadtest.watch import StoredWatch
from evp.settings import Settings
from evp.signals import end
from evp.storage.client import Database, ping

_LOOK_S = 0.005
_HINT = "; --accept-only measures the server alone"


class Engines(NamedTuple):
    """Where the events end up."""

    settings: Settings
    db: Database


class Follower:
    """Follows the events of one run into the store."""

    def __init__(self, engines: Engines, run: str) -> None:
        self.log = LogWatch(engines.settings)
        self.stored = StoredWatch(engines.db, run, time_in_id=engines.settings.time_in_id)
        self._engines = engines
        self._run = run
        self._tasks: list[asyncio.Task[None]] = []
        self._gave_up = False

    async def open(self) -> None:
        """See that the engines are there, and begin to watch.

        Raises LogUnavailable and StoreUnavailable.
        """
        try:
            await self.log.open()
            async with asyncio.timeout(LOADTEST_PING_S_MAX):
                await ping(self._engines.db)
        except LogUnavailable as error:
            raise LogUnavailable(f"{error}{_HINT}") from error
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error}{_HINT}") from error
        except TimeoutError as error:
            raise StoreUnavailable(f"the store does not answer{_HINT}") from error
        self._tasks = [asyncio.create_task(self.log.run()), asyncio.create_task(self.stored.run())]

    def give_up(self) -> None:
        """Wait no longer."""
        self._gave_up = True

    async def wait(self, accepted: int, start_s: float) -> Storing:
        """Wait until the group has done with what was accepted by now, as long as it goes on.

        `accepted` events count for the rate, from `start_s` on.
        """
        settled_at_s = await self._wait_settled()
        if settled_at_s is not None:
            await self._wait_seen()
        watched, unseen = self.stored.latency.count, self.stored.waiting
        drained = settled_at_s is not None and not (unseen and not watched)
        seconds = (settled_at_s or monotonic_s()) - start_s
        return Storing(
            per_s=accepted / seconds if drained and seconds > 0 else 0.0,
            seconds=seconds,
            drained=drained,
            backlog_max=self.log.waiting_max,
            stored_ms=self.stored.latency.quantiles(),
            watched=watched,
            unseen=unseen,
        )

    async def _wait_settled(self) -> float | None:
        """Return when the group had done with all; None if it stays behind."""
        self.log.ending.set()
        begun_at_s = monotonic_s()
        gives_up_at_s = begun_at_s + LOADTEST_STORED_S_MAX
        target: int | None = None
        best = -1
        while monotonic_s() < gives_up_at_s and not self._gave_up:
            now = self.log.now
            if now is not None:
                if target is None and now.asked_at_s > begun_at_s:
                    target = now.accepted
                if target is not None and now.settled >= target:
                    return now.told_at_s
            done = self.log.settled + self.stored.latency.count
            if done > best:
                best, gives_up_at_s = done, monotonic_s() + LOADTEST_STORED_S_MAX
            await asyncio.sleep(_LOOK_S)
        return None

    async def _wait_seen(self) -> None:
        """Wait a little for watched events: all are stored, or never will be."""
        gives_up_at_s = monotonic_s() + LOADTEST_UNSEEN_S_MAX
        while monotonic_s() < gives_up_at_s and not self._gave_up:
            if not self.stored.waiting:
                return
            await asyncio.sleep(_LOOK_S)

    async def check(
        self, done: Sequence[Done], batch: int, progress: Callable[[int], None]
    ) -> Check:
        """Look every accepted event up; `progress` is told how many were found so far.

        Raises StoreUnavailable.
        """
        sent = [Sent(memoryview(one.times_ms).cast("q"), one.accepted) for one in done]
        engines = self._engines
        checker = Checker(
            engines.db, self._run, batch, sent, time_in_id=engines.settings.time_in_id
        )
        return await checker.run(progress)

    async def close(self) -> None:
        """Watch no longer."""
        await end(*self._tasks)
        await self.log.close()
