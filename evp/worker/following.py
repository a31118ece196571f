"""Following all partitions: one loop for each, and more of them as more are found.

How many there are only grows. Servers note it in the log before they append to a new
one. They and workers note it in the store, which keeps it when a log loses its memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from evp.batch.retry import is_set_within
from evp.clock import monotonic_s
from evp.errors import LogUnavailable, StoreUnavailable
from evp.limits import GIVE_BACK_S_MAX, PARTITIONS_LOOK_S, PARTITIONS_UNKNOWN_SAID_S
from evp.logs import get
from evp.partitions import find
from evp.settings import Settings
from evp.signals import end
from evp.storage.client import Database
from evp.storage.partitions import note_partitions
from evp.stream.client import LogRefused
from evp.stream.partitions import Partitions

WorkOn = Callable[[int], Coroutine[Any, Any, None]]
"""Works on one partition until `stop` is set, or until it is drained."""

_log = get("evp.worker")


class Following:
    """The loops of one process."""

    def __init__(
        self, settings: Settings, db: Database, work_on: WorkOn, stop: asyncio.Event
    ) -> None:
        self._db = db
        self._work_on = work_on
        self._stop = stop
        self._partitions = Partitions(settings)
        self._unknown = _Unknown()
        self._begun = 0
        self._running: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    async def run(self) -> None:
        """Work until every loop has ended: by `stop`, or drained, all that there are.

        One that fails ends the others as well, by `stop`; what it raised is raised then.
        """
        looked = False
        self._begin()
        looking = asyncio.create_task(self._look(0.0))
        try:
            while self._running or not (looked or self._stop.is_set()):
                waiting = self._running if self._stop.is_set() else {*self._running, looking}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if looking.done() and not self._stop.is_set():
                    looked = looking.result() or looked
                    self._begin()
                    looking = asyncio.create_task(self._look(PARTITIONS_LOOK_S))
                self._collect()
        finally:
            await end(looking)
            await end(*self._running, again_s=2 * GIVE_BACK_S_MAX)
            await self._partitions.close()
        if self._failures:
            raise self._failures[0]

    def _begin(self) -> None:
        """Begin the loops of partitions that have none."""
        fresh = range(self._begun, len(self._partitions))
        if fresh and self._begun:
            _log.info("there are more partitions", partitions=len(self._partitions))
        for number in fresh:
            self._running.add(asyncio.create_task(self._work_on(number), name=f"p{number}"))
        self._begun = len(self._partitions)

    def _collect(self) -> None:
        """Let go of loops that have ended; have the others end if one failed."""
        for one in [one for one in self._running if one.done()]:
            self._running.discard(one)
            failure = one.exception()
            if failure is not None:
                self._failures.append(failure)
                self._stop.set()

    async def _look(self, after_s: float) -> bool:
        """Find partitions that are new; True if both the log and the store told of theirs."""
        if await is_set_within(self._stop, after_s):
            return False
        noted = await find(self._partitions, self._db)
        if isinstance(noted.log, LogUnavailable):
            refused = isinstance(noted.log, LogRefused) and self._partitions[0].link.is_open
            self._unknown.say("log", noted.log, passes=not refused)
            return False
        if isinstance(noted.store, StoreUnavailable):
            self._unknown.say("store", noted.store, passes=True)
            return False
        self._unknown.over()
        if noted.log > noted.store:
            try:
                await note_partitions(self._db, noted.log)
            except StoreUnavailable as error:
                _log.debug("the store was not told of partitions", reason=str(error))
                return False
        return True


class _Unknown:
    """Says that nobody tells how many partitions there are: what more there is is not read.

    An engine that is away is told by every loop, so that is said once it has lasted for
    PARTITIONS_UNKNOWN_SAID_S, and as often again. What does not pass by itself, as a user
    without the right to look, is said at once.
    """

    def __init__(self) -> None:
        self._say_at_s: float | None = None

    def say(self, engine: str, why: LogUnavailable | StoreUnavailable, *, passes: bool) -> None:
        """Say it, where it is time to."""
        now_s = monotonic_s()
        if self._say_at_s is None:
            self._say_at_s = now_s + (PARTITIONS_UNKNOWN_SAID_S if passes else 0.0)
        if now_s < self._say_at_s:
            return
        self._say_at_s = now_s + PARTITIONS_UNKNOWN_SAID_S
        say = _log.warning if passes else _log.error
        say(
            "how many partitions there are is not known; those not known yet are not read",
            engine=engine,
            reason=str(why),
        )

    def over(self) -> None:
        """Take note that it is known again."""
        self._say_at_s = None
