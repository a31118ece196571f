"""What a worker is made of, and how it takes leave: for `evp work` and `evp claim-stale` alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from evp.batch.policy import ReadSize
from evp.documents import Admission
from evp.errors import LogUnavailable
from evp.limits import GIVE_BACK_S_MAX
from evp.logs import get
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.dead_letters import Origin
from evp.storage.isolation import Witness
from evp.stream.consumer import Consumer
from evp.stream.keys import Keys
from evp.stream.slots import Slot
from evp.worker.carrier import Carrier
from evp.worker.journal import Journal
from evp.worker.quiet import Quiet, QuietWriter

_log = get("evp.worker")


class Parts(NamedTuple):
    """One consumer and what carries its batches."""

    consumer: Consumer
    carrier: Carrier
    read_size: ReadSize


def base_of(name: str, keys: Keys) -> str:
    """Return the base of consumer names in a partition: `name`, `name-p1`, `name-p2` and so on.

    So each consumer of a process has a name that no other one of its group has.
    """
    return f"{name}-p{keys.partition}" if keys.partition else name


def build(
    settings: Settings,
    db: Database,
    keys: Keys,
    slot: Slot,
    journal: Journal,
    *,
    claim_idle_ms: int,
    quiet: Quiet | None = None,
) -> Parts:
    """Return the parts of a worker on one partition, under the name of `slot`.

    It claims what nobody has worked on for `claim_idle_ms`. Loops of one process share `quiet`.
    """
    consumer = Consumer(
        settings.redis_url,
        keys,
        settings.consumer_group,
        slot.name,
        block_ms=settings.read_block_ms,
        claim_idle_ms=claim_idle_ms,
        admission=Admission(settings.default_source, settings.time_in_id),
    )
    origin = Origin(keys.stream, settings.consumer_group, slot.name, keys.partition)
    read_size = ReadSize(settings.worker_batch_size, settings.read_count)
    carrier = Carrier(
        consumer,
        QuietWriter(db, settings.write_timeout_ms, origin, quiet or Quiet()),
        Witness(slot.incarnation, slot.killed),
        journal,
        read_size,
        stream=keys.stream,
        claim_idle_ms=settings.claim_idle_ms,
        deliveries_max=settings.max_deliveries,
    )
    return Parts(consumer, carrier, read_size)


async def leave(consumer: Consumer, slot: Slot) -> None:
    """Give back what is still pending, then the name, and remove a consumer that owns nothing.

    One may fail without the others; together they take GIVE_BACK_S_MAX at most.
    """
    steps: list[Callable[[], Awaitable[object]]] = [slot.release]
    if not slot.lost.is_set():
        steps = [consumer.give_back, slot.release, consumer.remove]
    failure: Exception | None = None
    for step in steps:
        try:
            async with asyncio.timeout(GIVE_BACK_S_MAX / len(steps)):
                done = await step()
        except (LogUnavailable, TimeoutError) as error:
            failure = error
        else:
            if done and step == consumer.give_back:
                _log.info("given back", frames=done, consumer=slot.name)
    await consumer.close()
    if failure is not None:
        why = str(failure) or "no answer in time"
        _log.warning("could not give back; it comes again by itself", reason=why)
