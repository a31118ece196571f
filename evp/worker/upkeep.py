"""What must be done now and then by some worker, and does no harm if many do it.

Each loop cares for the stream of its partition, each process for the store, which all
partitions share. One that fails is tried again at its next turn: nothing that is
accepted or stored depends on it.
"""

from __future__ import annotations

import asyncio

from evp.clock import now_ms
from evp.errors import StoreUnavailable, WritingGroupTaken
from evp.limits import CONSUMER_GONE_IDLE_MS, GIVE_BACK_S_MAX, JOB_LEASE_MS
from evp.logs import get
from evp.metrics.counts import WorkCounts
from evp.settings import Settings
from evp.signals import end
from evp.storage import lease
from evp.storage.client import Database
from evp.storage.groups import require_writer
from evp.storage.prune import prune
from evp.storage.retention import expire
from evp.storage.rollups import fold
from evp.storage.sweep import sweep
from evp.stream.client import KeptLink, Link
from evp.stream.groups import delete_group, ensure_group, remove_gone
from evp.stream.keys import Keys
from evp.stream.trim import Retention, trim
from evp.worker.chores import Chore, do_chores
from evp.worker.registered import RegisteredGroups
from evp.worker.streams import Streams

#: How often a worker looks whether its group is still the one that writes.
_WRITER_LOOK_S = 3.0
_DAY_MS = 24 * 3600 * 1000
_log = get("evp.worker")


class StreamUpkeep:
    """The chores of one partition, over a connection of their own."""

    def __init__(self, settings: Settings, keys: Keys, groups: RegisteredGroups) -> None:
        self._group = settings.consumer_group
        self._kept = Retention(settings.log_retention_s, settings.log_retention_bytes)
        self._keys = keys
        self._groups = groups
        self._lacking: str | None = None
        self._link = KeptLink(settings.redis_url, keys)

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        try:
            await do_chores(
                (
                    Chore("trim", 1.0, self._trim),
                    Chore("remove consumers", 10.0, self._remove_gone),
                )
            )
        finally:
            await self._link.close()

    async def _trim(self) -> bool:
        """Remove from the log what every group has done; not without the store's list of groups."""
        names = await self._groups.names(self._keys.partition)
        link = await self._link.get()
        done = await trim(link, self._keys, names, self._kept)
        pin = done.pin
        lacking = pin.group if pin is not None and not pin.exists else None
        # One that lacked a second ago as well is not just being deleted, or made.
        if lacking is not None and lacking == self._lacking and lacking in names:
            await self._make(link, lacking)
        self._lacking = lacking
        return done.more

    async def _make(self, link: Link, group: str) -> None:
        """Make a registered group that this stream lacks.

        A group that was made when there were fewer partitions is in those only, and would
        hold this one for ever. Of a new stream it is given all. Partition 0 is older than any
        group: there it was lost, and is made by who reads by it, as a worker's own one is.
        """
        partition = self._keys.partition
        if not partition or group == self._group or not await self._groups.still_has(group):
            return
        await ensure_group(link, self._keys, group)
        if await self._groups.still_has(group):
            _log.info("group made in a partition that is new", group=group, partition=partition)
        else:
            # It was deleted meanwhile, perhaps here before it was made again.
            await delete_group(link, self._keys, group)

    async def _remove_gone(self) -> bool:
        link, group = await self._link.get(), self._group
        for name in await remove_gone(link, self._keys, group, idle_ms=CONSUMER_GONE_IDLE_MS):
            _log.info("consumer removed: it is gone and owns nothing", consumer=name, group=group)
        return False


class StoreUpkeep:
    """The chores of one process. Some are jobs that one process, a `holder`, does at a time.

    Once another group writes to the database `taken` tells it, and `stop` is set: the
    worker must stop. What retention deletes is added to `counts`.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        holder: str,
        counts: WorkCounts,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._db = db
        self._holder = holder
        self._counts = counts
        self._stop = stop
        self._streams = Streams(settings)
        self.taken: WritingGroupTaken | None = None
        self._jobs: set[str] = set()
        self._chores = [
            Chore("look who writes", _WRITER_LOOK_S, self._require_writer),
            Chore("fold", 2.0, self._fold),
            Chore("sweep", 5.0, self._sweep),
        ]
        if settings.retention_days is not None:
            self._chores.append(Chore("expire", 5.0, self._expire))

    async def run(self) -> None:
        """Do what is due until `stop` is set; then give up the jobs, for others to do.

        Not for long: their leases end by themselves.
        """
        chores = asyncio.create_task(do_chores(self._chores))
        try:
            await self._stop.wait()
        finally:
            await end(chores)
            await asyncio.gather(self._streams.close(), *map(self._release, self._jobs))

    async def _release(self, job: str) -> None:
        try:
            await lease.release(self._db, job, self._holder, within_s=GIVE_BACK_S_MAX / 2)
        except StoreUnavailable as error:
            _log.debug("a job was not given up", job=job, reason=str(error))

    async def _require_writer(self) -> bool:
        """Look whether another group was made the one that writes."""
        try:
            await require_writer(self._db, self._settings.stream, self._settings.consumer_group)
        except WritingGroupTaken as error:
            self.taken = error
            self._stop.set()
        return False

    async def _fold(self) -> bool:
        """Sum up what was accepted a while ago, and let go of minutes that are old."""
        if not await self._may_do("fold"):
            return False
        more = (await fold(self._db, now_ms())).more
        return await prune(self._db, now_ms()) or more

    async def _sweep(self) -> bool:
        """Judge frames again that no worker will, or that may have changed."""
        if not await self._may_do("sweep"):
            return False
        return (await sweep(self._db, self._streams.still_have)).more

    async def _expire(self) -> bool:
        """Delete events whose time of retention is over."""
        if self._settings.retention_days is None or not await self._may_do("expire"):
            return False
        done = await expire(self._db, self._settings.retention_days * _DAY_MS, now_ms())
        self._counts.expired += done.events
        return done.more

    async def _may_do(self, job: str) -> bool:
        """Return True if this process is the one that does a job now."""
        # Also where the answer gets lost, it may be this one's.
        self._jobs.add(job)
        return await lease.take(self._db, job, self._holder, JOB_LEASE_MS)
