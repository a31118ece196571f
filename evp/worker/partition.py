"""One partition's loop in a worker process: its consumer name, its helpers, its end.

All that it holds is its own, the journal as well, so a partition that is away or busy
holds up no other one. Only what may kill the process is written while no other loop writes.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

from msgspec import Struct

from evp.batch.retry import Backoff
from evp.errors import LogUnavailable
from evp.logs import get
from evp.settings import Settings
from evp.signals import end
from evp.storage.client import Database
from evp.storage.groups import become_writer
from evp.stream.keys import Keys
from evp.stream.slots import Slot
from evp.worker.heartbeat import Heartbeat
from evp.worker.journal import Journal, Journals
from evp.worker.loop import Worker
from evp.worker.parts import base_of, build, leave
from evp.worker.quiet import Quiet
from evp.worker.registered import RegisteredGroups
from evp.worker.upkeep import StreamUpkeep

_log = get("evp.worker")


class Job(Struct, frozen=True):
    """What the loops of one process have in common. They end once `stop` is set."""

    settings: Settings
    db: Database
    journals: Journals
    groups: RegisteredGroups
    quiet: Quiet
    stop: asyncio.Event
    in_flight: int
    burst: bool


async def work_on(job: Job, partition: int) -> None:
    """Carry what is in one partition until told to stop; with `burst`, until it is drained.

    Outages of its log and of the store are waited out. Raises WritingGroupTaken if the
    group is gone and another one writes by now.
    """
    settings, stop = job.settings, job.stop
    keys, journal = Keys(settings.stream, partition), job.journals.of(partition)
    while not stop.is_set():
        slot = await _take_slot(settings, keys, stop, journal)
        if slot is None:
            return
        await _work_as(job, keys, slot, journal)
        if job.burst and not slot.lost.is_set():
            return


async def _work_as(job: Job, keys: Keys, slot: Slot, journal: Journal) -> None:
    """Work under a name until told to stop, until it is drained, or until the name is lost."""
    settings, db, group = job.settings, job.db, job.settings.consumer_group
    consumer, carrier, read_size = build(
        settings,
        db,
        keys,
        slot,
        journal,
        claim_idle_ms=settings.claim_idle_ms,
        quiet=job.quiet,
    )
    heartbeat = Heartbeat(db, group, slot.name, keys.partition, journal)
    ended = asyncio.Event()
    register = partial(become_writer, db, settings.stream, group)
    worker = Worker(consumer, carrier, journal, read_size, register, ended, in_flight=job.in_flight)
    journal.note("working", consumer=slot.name, group=group, pid=os.getpid())
    helpers = [
        asyncio.create_task(_set_when(ended, job.stop, slot.lost)),
        asyncio.create_task(heartbeat.run()),
        asyncio.create_task(StreamUpkeep(settings, keys, job.groups).run()),
    ]
    try:
        await worker.run(burst=job.burst)
    finally:
        await end(*helpers)
        # Once its name is lost, the record belongs to whoever has it now.
        last_words = [] if slot.lost.is_set() else [heartbeat.end()]
        await asyncio.gather(leave(consumer, slot), *last_words)


async def _take_slot(
    settings: Settings, keys: Keys, stop: asyncio.Event, journal: Journal
) -> Slot | None:
    group, base = settings.consumer_group, base_of(settings.consumer_name, keys)
    backoff = Backoff()
    while not stop.is_set():
        try:
            return await Slot.take(settings.redis_url, keys, group, base)
        except LogUnavailable as error:
            journal.trouble("no consumer name yet", reason=str(error))
            await backoff.wait(stop)
    return None


async def _set_when(ended: asyncio.Event, *events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        ended.set()
    finally:
        for wait in waits:
            wait.cancel()
