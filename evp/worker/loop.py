"""The worker, on one page: read → carry (write, settle, ack) → read.

Nothing is read while a batch is carried, unless the log had all that was asked for
and more: then one batch is read ahead (`in_flight` 2), so that the store need not
wait for the next one. That is all the backpressure there is, and it is enough. What
was delivered before, and may kill whoever writes it, is carried alone.
After a small batch, the next one is left a moment to grow. An outage of either
engine ends nothing and loses nothing: the batch in hand is written again until it
is settled, or dropped unacked, and then it comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from evp.batch.policy import ReadSize
from evp.batch.retry import Backoff, is_set_within
from evp.clock import monotonic_s
from evp.errors import GroupLost, LogUnavailable, StoreUnavailable
from evp.limits import READ_AGAIN_S
from evp.signals import end
from evp.stream.consumer import Consumer, Delivery
from evp.worker.carrier import Carrier
from evp.worker.journal import Journal

Register = Callable[[], Awaitable[None]]
"""Writes the group to the store as the one that writes there, where it is not known."""

_CANCEL_AGAIN_S = 0.1


class Worker:
    """Carries frames from the log into the store until `stop` is set.

    `register` is called before a group is made.
    """

    def __init__(
        self,
        consumer: Consumer,
        carrier: Carrier,
        journal: Journal,
        read_size: ReadSize,
        register: Register,
        stop: asyncio.Event,
        *,
        in_flight: int = 2,
    ) -> None:
        self._consumer = consumer
        self._carrier = carrier
        self._journal = journal
        self._read_size = read_size
        self._register = register
        self._stop = stop
        self._in_flight = in_flight
        self._under_way: set[asyncio.Task[bool]] = set()
        self._log_backoff = Backoff()
        self._group_known = False
        self._read_at_s = 0.0
        self._behind = False

    async def run(self, *, burst: bool = False) -> None:
        """Work until told to stop; with `burst`, until the group has nothing left.

        Raises WritingGroupTaken if the group is gone and another one writes by now.
        """
        try:
            while not self._stop.is_set():
                await self._let_more_come()
                batch = await self._read()
                if batch:
                    carrying = self._carrier.carry(batch, self._stop)
                    self._under_way.add(asyncio.create_task(carrying))
                elif burst and batch is not None and not self._under_way and await self._drained():
                    break
                ahead = self._in_flight - 1 if batch and self._behind and _is_fresh(batch) else 0
                # The task alone holds the batch now: its memory is free once it is written.
                del batch
                while len(self._under_way) > ahead:
                    await self._one_done()
            while self._under_way:
                await self._one_done()
        finally:
            await self._abandon()

    async def _let_more_come(self) -> None:
        """Wait a moment after a small batch: what comes meanwhile costs less in one batch."""
        wait_s = self._read_at_s - monotonic_s()
        if wait_s > 0:
            await is_set_within(self._stop, wait_s)

    async def _read(self) -> list[Delivery] | None:
        """Return the next entries, which may be none; None if the log can't be read now."""
        try:
            if not self._group_known:
                await self._ensure_group()
            frames_max = self._read_size.frames()
            batch = await self._consumer.read(frames_max, ahead=bool(self._under_way))
        except GroupLost as error:
            self._group_known = False
            self._journal.totals.groups_lost += 1
            self._journal.trouble("the group is gone; it is made anew", reason=str(error))
            await self._log_backoff.wait(self._stop)
        except LogUnavailable as error:
            self._journal.trouble("the log can't be read", reason=str(error))
            await self._log_backoff.wait(self._stop)
        except StoreUnavailable as error:
            self._journal.trouble("the group can't be registered", reason=str(error))
            await self._log_backoff.wait(self._stop)
        else:
            self._log_backoff.reset()
            self._behind = len(batch) >= frames_max
            if batch and not self._behind:
                self._read_at_s = monotonic_s() + READ_AGAIN_S
            return batch
        return None

    async def _ensure_group(self) -> None:
        # It may have been deleted for good, with its name; without that the log would be trimmed.
        await self._register()
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
        await end(*self._under_way, again_s=_CANCEL_AGAIN_S)

    async def _drained(self) -> bool:
        try:
            return await self._consumer.drained()
        except LogUnavailable:
            return False


def _is_fresh(batch: list[Delivery]) -> bool:
    """Return whether nothing of a batch was delivered before."""
    return all(one.times == 1 for one in batch)
