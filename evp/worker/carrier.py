"""Carrying one batch from the log into the store: write and settle → ack.

An entry is acked only when the store has settled its frame, and only over the
connection it was read from. Meanwhile its claim is renewed, so that nobody takes
it for forgotten; what was taken over all the same is left to whoever has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from evp.batch.policy import ReadSize
from evp.batch.retry import Backoff, is_set_within
from evp.clock import monotonic_s
from evp.errors import (
    CorruptFrame,
    EntryDeleted,
    LogUnavailable,
    StoreUnavailable,
    UnknownFrameVersion,
)
from evp.frame import Frame
from evp.signals import end
from evp.storage.isolation import Witness
from evp.storage.writer import Writer
from evp.stream.consumer import Consumer, Delivery
from evp.worker.journal import Journal

Step = Callable[[list[Delivery]], Awaitable[None]]


class Carrier:
    """Writes batches for one consumer.

    An entry that was delivered more often than `deliveries_max` is written
    alone, as it may kill whoever writes it.
    """

    def __init__(
        self,
        consumer: Consumer,
        writer: Writer,
        witness: Witness,
        journal: Journal,
        read_size: ReadSize,
        *,
        stream: str,
        claim_idle_ms: int,
        deliveries_max: int,
    ) -> None:
        self._consumer = consumer
        self._writer = writer
        self._witness = witness
        self._journal = journal
        self._read_size = read_size
        self._stream = stream
        self._keep_every_s = claim_idle_ms / 1000 / 3
        self._deliveries_max = deliveries_max

    async def carry(self, batch: list[Delivery], stop: asyncio.Event) -> bool:
        """Write a batch until the store has settled it, then ack it; True if it is acked.

        Gives up without acking when `stop` is set while the store is away, and
        when the log no longer knows this reader: then others have the entries.
        """
        for frame in (one.frame for one in batch if one.frame is not None):
            self._read_size.saw(frame.count, frame.size_bytes)
        finished = asyncio.Event()
        keeping = asyncio.create_task(self._keep_claim(batch, finished))
        try:
            acked = await self._carry(batch, stop)
        except LogUnavailable as error:
            self._journal.trouble("the log was lost; the batch comes again", reason=str(error))
            acked = False
        except BaseException:
            await end(keeping)
            raise
        finished.set()
        await keeping
        return acked

    async def _carry(self, batch: list[Delivery], stop: asyncio.Event) -> bool:
        backoff = Backoff()
        write: Step = partial(self._write, done=set())
        steps: list[Step] = [self._set_aside_unreadable, write]
        while steps:
            try:
                await steps[0](batch)
            except StoreUnavailable as error:
                self._journal.counts.store_failures += 1
                self._journal.trouble("the store can't be written", reason=str(error))
                await backoff.wait(stop)
                if stop.is_set():
                    return False
                batch = await self._consumer.keep(batch)
                if not batch:
                    return False
            else:
                steps.pop(0)
        await self._consumer.ack(
            [one for one in batch if not isinstance(one.error, UnknownFrameVersion)]
        )
        return True

    async def _write(self, batch: list[Delivery], done: set[str]) -> None:
        """Write what is not `done`, in portions: an outage costs the one in hand, not all."""
        frames: list[Frame] = []
        suspects: list[Frame] = []
        for one in batch:
            if one.frame is not None and one.entry_id not in done:
                few = one.times <= self._deliveries_max
                (frames if few else suspects).append(one.frame)
        for portion in self._read_size.portions(frames):
            began_at_s = monotonic_s()
            written = await self._writer.write(portion)
            self._journal.timed(sum(one.count for one in portion), monotonic_s() - began_at_s)
            await self._journal.wrote(written)
            done.update(frame.entry_id for frame in portion)
        for frame in suspects:
            await self._journal.wrote([await self._writer.write_alone(frame, self._witness)])
            done.add(frame.entry_id)

    async def _set_aside_unreadable(self, batch: list[Delivery]) -> None:
        """Keep corrupt entries as dead letters; count lost ones; leave those of a newer evp."""
        newer = [one for one in batch if isinstance(one.error, UnknownFrameVersion)]
        corrupt = [one for one in batch if isinstance(one.error, CorruptFrame)]
        deleted = [one for one in batch if isinstance(one.error, EntryDeleted)]
        if newer:
            self._alarm("upgrade the workers", newer)
            self._journal.totals.newer += len(newer)
        if corrupt:
            await self._writer.bury(
                self._stream,
                [
                    (one.entry_id, one.payload, one.error)
                    for one in corrupt
                    if one.error is not None
                ],
            )
            self._alarm("entries can't be read: dead letters", corrupt)
            self._journal.buried([one.error for one in corrupt if one.error is not None])
        if deleted:
            await self._writer.count_deleted(self._stream, [one.entry_id for one in deleted])
            self._alarm("data loss: entries were deleted before they were acked", deleted)
            self._journal.totals.deleted += len(deleted)

    def _alarm(self, what: str, deliveries: list[Delivery]) -> None:
        why = str(deliveries[0].error)
        self._journal.alarm(what, reason=why, entries=len(deliveries))

    async def _keep_claim(self, batch: list[Delivery], finished: asyncio.Event) -> None:
        """Renew the claim on a batch while it is being written, however long that takes."""
        while batch and not await is_set_within(finished, self._keep_every_s):
            try:
                batch = await self._consumer.keep(batch)
            except LogUnavailable:
                return  # It comes again; the ack will tell.
