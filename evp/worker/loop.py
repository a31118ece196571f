"""The worker, on one page: read → write and settle → ack.

Nothing is read while a write is under way (`in_flight` 1): that is all the
backpressure there is, and it is enough. An entry is acked only when the store
has settled its frame, and only over the connection it was read from. An outage
of either engine ends nothing and loses nothing: the batch in hand is written
again until it is settled, or dropped unacked, and then it comes again.
"""

from __future__ import annotations

import asyncio

from evp.batch.policy import ReadSize
from evp.batch.retry import Backoff
from evp.errors import (
    CorruptFrame,
    GroupLost,
    LogUnavailable,
    StoreUnavailable,
    UnknownFrameVersion,
)
from evp.storage.writer import Writer
from evp.stream.consumer import Consumer, Delivery
from evp.worker.journal import Journal

_CANCEL_AGAIN_S = 0.1


class Worker:
    """Carries frames from the log into the store until `stop` is set."""

    def __init__(
        self,
        consumer: Consumer,
        writer: Writer,
        journal: Journal,
        read_size: ReadSize,
        stop: asyncio.Event,
        *,
        stream: str,
        in_flight: int = 1,
    ) -> None:
        self._consumer = consumer
        self._writer = writer
        self._journal = journal
        self._read_size = read_size
        self._stop = stop
        self._stream = stream
        self._in_flight = in_flight
        self._under_way: set[asyncio.Task[None]] = set()
        self._log_backoff = Backoff()
        self._group_known = False

    async def run(self, *, burst: bool = False) -> None:
        """Work until told to stop; with `burst`, until the group has nothing left."""
        try:
            while not self._stop.is_set():
                batch = await self._read()
                if batch:
                    self._under_way.add(asyncio.create_task(self._carry(batch)))
                elif burst and batch is not None and not self._under_way and await self._drained():
                    break
                full = len(self._under_way) >= self._in_flight
                if self._under_way and (full or not batch):
                    # The task alone holds the batch now: its memory is free once it is written.
                    del batch
                    await self._one_done()
            while self._under_way:
                await self._one_done()
        finally:
            await self._abandon()

    async def _read(self) -> list[Delivery] | None:
        """Return the next entries, which may be none; None if the log can't be read now."""
        try:
            if not self._group_known:
                await self._ensure_group()
            batch = await self._consumer.read(self._read_size.frames(), block=not self._under_way)
        except GroupLost as error:
            self._group_known = False
            self._journal.trouble("the group is gone; it is made anew", reason=str(error))
            await self._log_backoff.wait(self._stop)
        except LogUnavailable as error:
            self._journal.trouble("the log can't be read", reason=str(error))
            await self._log_backoff.wait(self._stop)
        else:
            self._log_backoff.reset()
            return batch
        return None

    async def _carry(self, batch: list[Delivery]) -> None:
        """Write one batch until the store has settled it, then ack it.

        Gives up without acking when told to stop while the store is away, and
        when the log no longer knows this reader: then others have the entries.
        """
        backoff = Backoff()
        while (settled := await self._try_to_write(batch)) is None:
            await backoff.wait(self._stop)
            if self._stop.is_set():
                return
            try:
                await self._consumer.refresh(batch)
            except LogUnavailable as error:
                self._journal.trouble("the log can't be reached", reason=str(error))
                return
        try:
            await self._consumer.ack(settled)
        except LogUnavailable as error:
            self._journal.trouble("could not ack; it comes again", reason=str(error))

    async def _try_to_write(self, batch: list[Delivery]) -> list[Delivery] | None:
        """Return the entries that may be acked; None if the store can't be written now."""
        frames = [delivery.frame for delivery in batch if delivery.frame is not None]
        try:
            await self._bury_unreadable(batch)
            if frames:
                await self._journal.wrote(await self._writer.write(frames))
        except StoreUnavailable as error:
            self._journal.trouble("the store can't be written", reason=str(error))
            return None
        for frame in frames:
            self._read_size.saw(frame.count, frame.size_bytes)
        return [one for one in batch if not isinstance(one.error, UnknownFrameVersion)]

    async def _bury_unreadable(self, batch: list[Delivery]) -> None:
        """Keep corrupt entries as dead letters; leave alone what a newer evp wrote."""
        newer = [one.error for one in batch if isinstance(one.error, UnknownFrameVersion)]
        corrupt = [
            (one.entry_id, one.payload, one.error)
            for one in batch
            if isinstance(one.error, CorruptFrame)
        ]
        if newer:
            self._journal.alarm("upgrade the workers", reason=str(newer[0]), entries=len(newer))
        if corrupt:
            await self._writer.bury(self._stream, corrupt)
            what, why = "entries can't be read: dead letters", str(corrupt[0][2])
            self._journal.alarm(what, reason=why, entries=len(corrupt))

    async def _ensure_group(self) -> None:
        if await self._consumer.ensure_group():
            self._journal.note("group created at 0", group=self._consumer.group)
        self._group_known = True

    async def _one_done(self) -> None:
        done, self._under_way = await asyncio.wait(
            self._under_way, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()

    async def _abandon(self) -> None:
        """End what is still under way, unacked, when the worker is cancelled."""
        while self._under_way:
            # Before Python 3.12 a task that has just sent something may miss being cancelled.
            for task in self._under_way:
                task.cancel()
            _, self._under_way = await asyncio.wait(self._under_way, timeout=_CANCEL_AGAIN_S)

    async def _drained(self) -> bool:
        try:
            return await self._consumer.drained()
        except LogUnavailable:
            return False
