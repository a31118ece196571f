"""Carrying one batch from the log into the store: write and settle → ack.

An entry is acked only when the store has settled its frame, and only over the
connection it was read from. Meanwhile its claim is renewed, so that nobody takes
it for forgotten; what was taken over all the same is left to whoever has it.
"""

from __future__ import annotations

import asyncio

from evp.batch.policy import ReadSize
from evp.batch.retry import Backoff
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
from evp.storage.writer import Writer, Written
from evp.stream.consumer import Consumer, Delivery
from evp.worker.journal import Journal


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
        while (settled := await self._try_to_write(batch)) is None:
            await backoff.wait(stop)
            if stop.is_set():
                return False
            batch = await self._consumer.keep(batch)
            if not batch:
                return False
        await self._consumer.ack(settled)
        return True

    async def _try_to_write(self, batch: list[Delivery]) -> list[Delivery] | None:
        """Return the entries that may be acked; None if the store can't be written now."""
        try:
            await self._set_aside_unreadable(batch)
            await self._journal.wrote(await self._write(batch))
        except StoreUnavailable as error:
            self._journal.trouble("the store can't be written", reason=str(error))
            return None
        return [one for one in batch if not isinstance(one.error, UnknownFrameVersion)]

    async def _write(self, batch: list[Delivery]) -> list[Written]:
        frames: list[Frame] = []
        suspects: list[Frame] = []
        for one in batch:
            if one.frame is not None:
                few = one.times <= self._deliveries_max
                (frames if few else suspects).append(one.frame)
        written = await self._writer.write(frames) if frames else []
        for frame in suspects:
            written.append(await self._writer.write_alone(frame, self._witness))
        return written

    async def _set_aside_unreadable(self, batch: list[Delivery]) -> None:
        """Keep corrupt entries as dead letters; count lost ones; leave those of a newer evp."""
        newer = [one for one in batch if isinstance(one.error, UnknownFrameVersion)]
        deleted = [one for one in batch if isinstance(one.error, EntryDeleted)]
        corrupt = [one for one in batch if isinstance(one.error, CorruptFrame)]
        if newer:
            self._alarm("upgrade the workers", newer)
        if deleted:
            await self._writer.count_deleted(self._stream, [one.entry_id for one in deleted])
            self._alarm("data loss: entries were deleted before they were acked", deleted)
            self._journal.totals.deleted += len(deleted)
        if corrupt:
            letters = [(one.entry_id, one.payload, str(one.error)) for one in corrupt]
            await self._writer.bury(self._stream, letters)
            self._alarm("entries can't be read: dead letters", corrupt)

    def _alarm(self, what: str, deliveries: list[Delivery]) -> None:
        why = str(deliveries[0].error)
        self._journal.alarm(what, reason=why, entries=len(deliveries))

    async def _keep_claim(self, batch: list[Delivery], finished: asyncio.Event) -> None:
        """Renew the claim on a batch while it is being written, however long that takes."""
        while batch:
            try:
                async with asyncio.timeout(self._keep_every_s):
                    await finished.wait()
                return
            except TimeoutError:
                pass
            try:
                batch = await self._consumer.keep(batch)
            except LogUnavailable:
                return  # It comes again; the ack will tell.
