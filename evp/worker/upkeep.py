"""What must be done now and then by some worker, and does no harm if many do it.

Each worker runs these chores beside its loop. One that fails is tried again at
its next turn: nothing that is accepted or stored depends on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from evp.clock import monotonic_s, now_ms
from evp.errors import LogUnavailable, StoreUnavailable, WritingGroupTaken
from evp.limits import CONSUMER_GONE_IDLE_MS, GIVE_BACK_S_MAX, JOB_LEASE_MS
from evp.logs import get
from evp.metrics.counts import WorkCounts
from evp.settings import Settings
from evp.storage import lease
from evp.storage.client import Database
from evp.storage.groups import registered, require_writer
from evp.storage.prune import prune
from evp.storage.retention import expire
from evp.storage.rollups import fold
from evp.storage.sweep import sweep
from evp.stream.client import KeptLink, Link
from evp.stream.groups import remove_gone
from evp.stream.headers import in_log
from evp.stream.keys import Keys
from evp.stream.trim import Retention, trim

_LOOK_S = 0.5
#: How often a worker looks whether its group is still the one that writes.
_WRITER_LOOK_S = 3.0
_DAY_MS = 24 * 3600 * 1000
_log = get("evp.worker")


class Chore(Struct):
    """Something to do every so often; `do` returns True if there is more to do now."""

    name: str
    every_s: float
    do: Callable[[Link], Awaitable[bool]]
    due_at_s: float = 0.0


class Upkeep:
    """The chores of one worker, over a connection of their own.

    `over` is set once another group writes to the database, which `taken` tells:
    the worker must stop. What retention deletes is added to `counts`.
    """

    def __init__(
        self, settings: Settings, db: Database, incarnation: str, counts: WorkCounts
    ) -> None:
        self._settings = settings
        self._db = db
        self._incarnation = incarnation
        self._counts = counts
        self._keys = Keys(settings.stream)
        self.over = asyncio.Event()
        self.taken: WritingGroupTaken | None = None
        self._jobs: set[str] = set()
        self._link = KeptLink(settings.redis_url, self._keys)
        self._chores = [
            Chore("look who writes", _WRITER_LOOK_S, self._require_writer),
            Chore("trim", 1.0, self._trim),
            Chore("fold", 2.0, self._fold),
            Chore("sweep", 5.0, self._sweep),
            Chore("remove consumers", 10.0, self._remove_gone),
        ]
        if settings.retention_days is not None:
            self._chores.append(Chore("expire", 5.0, self._expire))

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        try:
            while True:
                for chore in self._chores:
                    if monotonic_s() >= chore.due_at_s:
                        await self._do(chore)
                await asyncio.sleep(_LOOK_S)
        finally:
            await self._link.close()

    async def leave(self) -> None:
        """Give up the jobs that only one worker does; not for long, their leases end by themselves.

        Call it when `run` has ended.
        """
        await asyncio.gather(*(self._release(job) for job in self._jobs))

    async def _release(self, job: str) -> None:
        try:
            await lease.release(self._db, job, self._incarnation, within_s=GIVE_BACK_S_MAX / 2)
        except StoreUnavailable as error:
            _log.debug("a job was not given up", job=job, reason=str(error))

    async def _do(self, chore: Chore) -> None:
        chore.due_at_s = monotonic_s() + chore.every_s
        try:
            if await chore.do(await self._link.get()):
                chore.due_at_s = 0.0
        except (LogUnavailable, StoreUnavailable) as error:
            _log.debug("a chore was put off", chore=chore.name, reason=str(error))
        except WritingGroupTaken as error:
            self.taken = error
            self.over.set()
        except Exception as error:  # noqa: BLE001 - a fault in a chore is no reason to stop the others
            _log.error("unexpected error in a chore", chore=chore.name, exc_info=error)

    async def _require_writer(self, _link: Link) -> bool:
        """Look whether another group was made the one that writes."""
        await require_writer(self._db, self._settings.stream, self._settings.consumer_group)
        return False

    async def _trim(self, link: Link) -> bool:
        """Remove from the log what every group has done; not without the store's list of groups."""
        names = await registered(self._db)
        kept = Retention(self._settings.log_retention_s, self._settings.log_retention_bytes)
        return (await trim(link, self._keys, names, kept)).more

    async def _fold(self, _link: Link) -> bool:
        """Sum up what was accepted a while ago, and let go of minutes that are old."""
        if not await self._may_do("fold"):
            return False
        more = (await fold(self._db, now_ms())).more
        return await prune(self._db, now_ms()) or more

    async def _sweep(self, link: Link) -> bool:
        """Judge frames again that no worker will, or that may have changed."""
        if not await self._may_do("sweep"):
            return False

        async def still_in_log(entries: Sequence[tuple[str, bytes]]) -> set[bytes]:
            return await in_log(link, self._keys, entries)

        return (await sweep(self._db, still_in_log)).more

    async def _expire(self, _link: Link) -> bool:
        """Delete events whose time of retention is over."""
        if self._settings.retention_days is None or not await self._may_do("expire"):
            return False
        done = await expire(self._db, self._settings.retention_days * _DAY_MS, now_ms())
        self._counts.expired += done.events
        return done.more

    async def _may_do(self, job: str) -> bool:
        """Return True if this worker is the one that does a job now."""
        # Also where the answer gets lost, it may be this one's.
        self._jobs.add(job)
        return await lease.take(self._db, job, self._incarnation, JOB_LEASE_MS)

    async def _remove_gone(self, link: Link) -> bool:
        group = self._settings.consumer_group
        for name in await remove_gone(link, self._keys, group, idle_ms=CONSUMER_GONE_IDLE_MS):
            _log.info("consumer removed: it is gone and owns nothing", consumer=name, group=group)
        return False
