"""One pass over what workers have left behind, for cron: claim, write, ack, clean up, tell.

Safe beside live workers and beside itself: it takes only what nobody worked on
for a while, under a name of its own, and gives that name up at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, field

from evp.errors import StoreUnavailable, UsageError
from evp.limits import STALE_STORE_S_MAX
from evp.settings import Settings
from evp.signals import Signals, end
from evp.storage import schema
from evp.storage.client import Database, close, connect, database
from evp.storage.groups import require_writer
from evp.stream.client import Link
from evp.stream.groups import existing_groups, remove_gone
from evp.stream.keys import Keys
from evp.stream.slots import Slot
from evp.worker.journal import Journal
from evp.worker.parts import build, leave

_BASE = "claim-stale"


class Claimed(Struct):
    """What a pass did: frames and events taken over, and what became of the events.

    `settled_before` frames had been written by whoever left them. `corrupt`
    entries became dead letters, `deleted` ones were gone from the log and may be
    lost, `left` ones stay pending, for a newer evp or because the log
    was lost meanwhile. `removed` are the consumers
    that were gone and owned nothing.
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
    """Take over, write and ack what nobody has worked on for `min_idle_ms`.

    A signal ends it early; what is unwritten by then is given back. Raises
    UsageError if there is no such group, WritingGroupTaken, LogUnavailable, and
    StoreUnavailable if the store stays away.
    """
    client = connect(settings)
    try:
        db = database(client, settings.mongo_db)
        await _check(settings, db)
        return await _claim(settings, db, min_idle_ms, signals, progress)
    finally:
        await close(client)


async def _check(settings: Settings, db: Database) -> None:
    """Look whether the group exists and may write to this database."""
    stream, group = settings.stream, settings.consumer_group
    keys = Keys(stream)
    async with Link.opened(settings.redis_url, keys) as link:
        there = await existing_groups(link, keys)
    if group not in there:
        names = ", ".join(sorted(there)) or "none"
        raise UsageError(f"stream {stream} has no group {group} (it has: {names})")
    await require_writer(db, stream, group)
    await schema.ensure(db)


async def _claim(
    settings: Settings,
    db: Database,
    min_idle_ms: int,
    signals: Signals,
    progress: Callable[[Claimed], None],
) -> Claimed:
    journal, undone = Journal(settings.rss_log_events), 0
    keys, group = Keys(settings.stream), settings.consumer_group
    slot = await Slot.take(settings.redis_url, keys, group, _BASE)
    consumer, carrier, read_size = build(settings, db, slot, journal, claim_idle_ms=min_idle_ms)
    stops: list[asyncio.Event] = []
    told = asyncio.create_task(_told(signals, stops))
    try:
        async for batch in consumer.stale(read_size.frames):
            stop = asyncio.Event()
            stops.append(stop)
            patience = asyncio.get_running_loop().call_later(STALE_STORE_S_MAX, stop.set)
            done = await carrier.carry(batch, stop)
            patience.cancel()
            stops.clear()
            undone += 0 if done else len(batch)
            progress(_account(settings, min_idle_ms, journal))
            if told.done():
                break
            if not done and stop.is_set():
                raise StoreUnavailable("the store stays away; what was claimed is given back")
        interrupted = told.done()
    finally:
        await end(told)
        await leave(consumer, slot)
    account = _account(settings, min_idle_ms, journal)
    account.interrupted = interrupted
    account.left += undone
    async with Link.opened(settings.redis_url, keys) as link:
        account.removed = await remove_gone(link, keys, group, idle_ms=min_idle_ms)
    return account


async def _told(signals: Signals, stops: list[asyncio.Event]) -> None:
    await signals.get()
    for stop in stops:
        stop.set()


def _account(settings: Settings, min_idle_ms: int, journal: Journal) -> Claimed:
    totals = journal.totals
    return Claimed(
        group=settings.consumer_group,
        min_idle_ms=min_idle_ms,
        frames=totals.frames,
        events=totals.events,
        stored=totals.stored,
        duplicate=totals.duplicate,
        dead=totals.dead,
        settled_before=totals.seen_before,
        corrupt=totals.corrupt,
        deleted=totals.deleted,
        left=totals.newer,
    )
