"""What a server process reads from the store for those who ask, apart from everything else.

It has connections of its own, few of them, a time limit for each question, and
works on few at once: whoever asks for much waits, or is refused, and neither
ingest nor the workers notice. `evp.server.waiting` does the same for the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from evp.clock import monotonic_s
from evp.errors import Refusal, StoreTooSlow, StoreUnavailable
from evp.logs import get
from evp.receipt import Receipt
from evp.server.limits import (
    ANSWER_KEEP_S,
    READ_AT_ONCE,
    READ_CONNECTIONS_MAX,
    READ_REACH_S_MAX,
    READ_S_MAX,
    READ_WAITING_MAX,
    TAIL_FRAMES_MAX,
    TAIL_FRESH_S,
    TAIL_KEPT_S,
    TAIL_STALE_S_MAX,
)
from evp.server.shared import Shared
from evp.server.turns import Turns
from evp.server.waiting import LogPlace, Waiting
from evp.settings import Settings
from evp.signals import end
from evp.storage.bounded import limited
from evp.storage.candidates import Wanted
from evp.storage.client import Database, close, connect, database, reach
from evp.storage.groups import writer
from evp.storage.listing import Page, Place, page
from evp.storage.metrics import Kept, Metrics, metrics_with
from evp.storage.minutes import Minutes
from evp.storage.tail import Tail, TailReader

_log = get("evp.server")


class Reading:
    """Answers questions about what is stored."""

    def __init__(self, settings: Settings, *, within_s: float = READ_S_MAX) -> None:
        self._client = connect(settings, connections_max=READ_CONNECTIONS_MAX, retry_reads=False)
        self._db = database(self._client, settings.mongo_db)
        self._within_s = within_s
        self._turns = Turns(READ_AT_ONCE, READ_WAITING_MAX)
        self._waiting = Waiting(settings)
        self._group = settings.consumer_group
        self._metrics: Shared[Metrics] = Shared(ANSWER_KEEP_S)
        self._tails: Shared[Tail] = Shared(0.0)
        self._tail_reader = TailReader(self._db, TAIL_FRAMES_MAX)
        self._minutes = Minutes()
        self._tail: Tail | None = None
        self._tail_at_s = 0.0
        self._asked_at_s = 0.0
        self._keeping: asyncio.Task[None] | None = None

    async def metrics(
        self, first_ms: int, end_ms: int, step_ms: int, group_by: str | None = None
    ) -> Metrics:
        """Return sums (`evp.storage.metrics`), a few seconds old at most.

        Steps are divided by `group_by`, one of `evp.storage.steps.GROUP_BY`, or not at all.
        Equal questions share one answer. Raises Refusal `store_unavailable`, `too_slow`
        or `server_busy`.
        """

        async def make() -> Metrics:
            tail = await self._fresh_tail()
            async with self.asking() as db:
                kept = Kept(tail, self._minutes)
                groups = () if group_by is None else (group_by,)
                return await metrics_with(db, kept, first_ms, end_ms, step_ms, groups)

        return await self._metrics.get((first_ms, end_ms, step_ms, group_by), make)

    async def events(self, wanted: Wanted, after: Place | None, events_max: int) -> Page:
        """Return a page of events (`evp.storage.listing`); raises as `metrics`."""
        tail = await self._fresh_tail()
        async with self.asking() as db:
            return await page(db, tail, wanted, after, events_max)

    async def waits(self, event_id: bytes, receipt: Receipt) -> LogPlace | None:
        """Return where an event waits in the log (`evp.server.waiting`), for whoever stores it.

        Raises as `metrics`, and LogUnavailable.
        """
        async with self.asking() as db:
            writing = await writer(db)
        group = writing[1] if writing is not None else self._group
        return await self._waiting.place(event_id, receipt, group)

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[Database]:
        """Give the store for one question, once it is its turn; raises as `metrics`."""
        async with self._turns.one(), self._within_limits():
            yield self._db

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        if self._keeping is not None:
            await end(self._keeping)
        await self._metrics.close()
        await self._tails.close()
        await self._waiting.close()
        await close(self._client)

    @contextlib.asynccontextmanager
    async def _within_limits(self) -> AsyncIterator[None]:
        try:
            await reach(self._db, READ_REACH_S_MAX)
            with limited(self._within_s):
                yield
        except StoreTooSlow as error:
            detail = f"{error}: ask for less, or later"
            raise Refusal("too_slow", detail, retry_after_s=1) from error
        except StoreUnavailable as error:
            detail = "the store can't be read now; what is sent is accepted all the same"
            raise Refusal("store_unavailable", detail, retry_after_s=1) from error

    async def _fresh_tail(self) -> Tail:
        """Return the tail, and have it read again and again for as long as somebody asks."""
        self._asked_at_s = monotonic_s()
        tail = self._tail
        if tail is None or self._asked_at_s - self._tail_at_s >= TAIL_STALE_S_MAX:
            tail = await self._tails.get("tail", self._read_tail)
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep_tail(), name="tail")
        return tail

    async def _keep_tail(self) -> None:
        while True:
            await asyncio.sleep(TAIL_FRESH_S)
            if monotonic_s() - self._asked_at_s >= TAIL_KEPT_S:
                return
            try:
                await self._tails.get("tail", self._read_tail)
            except Refusal as refusal:
                _log.debug("the newest frames can't be read now", reason=refusal.detail)

    async def _read_tail(self) -> Tail:
        started_at_s = monotonic_s()
        # Without a turn: whoever asks for much must not make the answers of all others old.
        async with self._within_limits():
            self._tail = await self._tail_reader.read()
        self._tail_at_s = started_at_s
        return self._tail
