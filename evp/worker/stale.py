"""One pass over what workers have left behind, for cron: claim, write, ack, clean up, tell.

It goes through one partition after the other, and leaves one whose server is away alone.

Safe beside live workers and beside itself: it takes only what nobody worked on
for a while, under a name of its own, and gives that name up at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, field

from evp.errors import LogUnavailable, StoreUnavailable, UsageError
from evp.limits import STALE_STORE_S_MAX
from evp.logs import get
from evp.partitions import find
from evp.settings import Settings
from evp.signals import Signals, end
from evp.storage import schema
from evp.storage.client import Database, close, connect, database
from evp.storage.groups import require_writer
from evp.stream.asking import asked
from evp.stream.groups import existing_groups, remove_gone
from evp.stream.partitions import Partition, Partitions
from evp.stream.slots import Slot
from evp.worker.journal import Journals
from evp.worker.parts import Parts, base_of, build, leave

_BASE = "claim-stale"
_log = get("evp.worker")


class Claimed(Struct):
    """What a pass did: frames and events taken over, and what became of the events.

    `settled_before` frames had been written by whoever left them. `corrupt`
    entries became dead letters, `deleted` ones were gone from the log and may be
    lost, `left` ones stay pending, for a newer evp or because the log
    was lost meanwhile. `removed` are the consumers
    that were gone and owned nothing. `away` are the partitions whose server is away, while
    others are not: what they hold was left alone.
    """

    group: str
    min_idle_ms: int
    frames: int = 0
    events: int = 0
    stored: int = 0
    duplicate: int = 0
    dead: int = 0
    settled_before: int = 0
    corrupt: int = 0
    deleted: int = 0
    left: int = 0
    removed: list[str] = field(default_factory=list)
    away: list[int] = field(default_factory=list)
    interrupted: bool = False

    @property
    def clean(self) -> bool:
        """False if somebody should have a look."""
        return not (self.dead or self.corrupt or self.deleted or self.left)


async def claim_stale(
    settings: Settings,
    min_idle_ms: int,
    signals: Signals,
    progress: Callable[[Claimed], None],
) -> Claimed:
    """Take over, write and ack what nobody has worked on for `min_idle_ms`, in all partitions.

    A signal ends it early; what is unwritten by then is given back. Raises
    UsageError if there is no such group, WritingGroupTaken, LogUnavailable if no
    partition can be asked, and StoreUnavailable if the store stays away.
    """
    client = connect(settings)
    partitions = Partitions(settings)
    try:
        db = database(client, settings.mongo_db)
        run = _Pass(settings, db, min_idle_ms, progress)
        told = asyncio.create_task(run.end_when_told(signals))
        try:
            return await run.through(partitions)
        finally:
            await end(told)
    finally:
        await partitions.close()
        await close(client)


class _Pass:
    """One pass, and the account of it so far."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        min_idle_ms: int,
        progress: Callable[[Claimed], None],
    ) -> None:
        self._settings = settings
        self._group = settings.consumer_group
        self._db = db
        self._min_idle_ms = min_idle_ms
        self._progress = progress
        self._journals = Journals(settings.rss_log_events)
        self._undone = 0
        self._removed: list[str] = []
        self._away: dict[int, LogUnavailable] = {}
        self._told = False
        self._stop = asyncio.Event()

    async def end_when_told(self, signals: Signals) -> None:
        """Wait for a signal; the batch in hand is then the last one."""
        await signals.get()
        self._told = True
        self._stop.set()

    async def through(self, partitions: Partitions) -> Claimed:
        """Go through all partitions; return the account. Raises as `claim_stale`."""
        noted = await find(partitions, self._db)
        if isinstance(noted.log, LogUnavailable):
            self._away[0] = noted.log
        having = await self._having_group(partitions)
        await require_writer(self._db, self._settings.stream, self._group)
        await schema.ensure(self._db)
        for partition in having:
            if not self._told:
                await self._claim_unless_away(partition)
        if len(self._away) == len(partitions):
            raise self._away[0]
        for number, why in sorted(self._away.items()):
            _log.warning("a partition was left alone", partition=number, reason=str(why))
        return self._account()

    async def _having_group(self, partitions: Partitions) -> list[Partition]:
        """Return the partitions that have the group, of those that can be asked.

        Raises UsageError if none has it, and LogUnavailable if one that is away may have it.
        """
        to_ask = [one for one in partitions if one.number not in self._away]
        there: set[str] = set()
        having: list[Partition] = []
        found = await asyncio.gather(*map(_groups_of, to_ask))
        for partition, names in zip(to_ask, found, strict=True):
            if isinstance(names, LogUnavailable):
                self._away[partition.number] = names
                continue
            there |= names
            if self._group in names:
                having.append(partition)
        if having:
            return having
        if self._away:
            raise self._away[min(self._away)]
        others = ", ".join(sorted(there)) or "none"
        raise UsageError(
            f"stream {self._settings.stream} has no group {self._group} (it has: {others})"
        )

    async def _claim_unless_away(self, partition: Partition) -> None:
        try:
            await self._claim(partition)
        except LogUnavailable as error:
            self._away[partition.number] = error

    async def _claim(self, partition: Partition) -> None:
        """Go through one partition. Raises LogUnavailable and StoreUnavailable."""
        settings, keys = self._settings, partition.keys
        slot = await Slot.take(settings.redis_url, keys, self._group, base_of(_BASE, keys))
        journal = self._journals.of(partition.number)
        parts = build(settings, self._db, keys, slot, journal, claim_idle_ms=self._min_idle_ms)
        try:
            await self._carry_all(parts)
        finally:
            await leave(parts.consumer, slot)
        link = await partition.link.get()
        self._removed += await remove_gone(link, keys, self._group, idle_ms=self._min_idle_ms)

    async def _carry_all(self, parts: Parts) -> None:
        async for batch in parts.consumer.stale(parts.read_size.frames):
            self._stop = asyncio.Event()
            patience = asyncio.get_running_loop().call_later(STALE_STORE_S_MAX, self._stop.set)
            done = await parts.carrier.carry(batch, self._stop)
            patience.cancel()
            self._undone += 0 if done else len(batch)
            self._progress(self._account())
            if self._told:
                return
            if not done and self._stop.is_set():
                raise StoreUnavailable("the store stays away; what was claimed is given back")

    def _account(self) -> Claimed:
        totals = self._journals.totals()
        return Claimed(
            group=self._group,
            min_idle_ms=self._min_idle_ms,
            frames=totals.frames,
            events=totals.events,
            stored=totals.stored,
            duplicate=totals.duplicate,
            dead=totals.dead,
            settled_before=totals.seen_before,
            corrupt=totals.corrupt,
            deleted=totals.deleted,
            left=totals.newer + self._undone,
            removed=self._removed,
            away=sorted(self._away),
            interrupted=self._told,
        )


async def _groups_of(partition: Partition) -> set[str] | LogUnavailable:
    """Return the names of a partition's groups, or why they can't be had."""
    try:
        return await asked(partition.link, lambda link: existing_groups(link, partition.keys))
    except LogUnavailable as error:
        return error
