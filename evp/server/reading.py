"""What a server process reads from the store for those who ask, apart from everything else.

It has connections of its own, few of them, a time limit for each question, and
works on few at once: whoever asks for much waits, or is refused, and neither
ingest nor the workers notice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from evp.clock import monotonic_s
from evp.errors import Refusal, StoreTooSlow, StoreUnavailable
from evp.limits import (
    ANSWER_KEEP_S,
    READ_CONNECTIONS_MAX,
    READ_REACH_S_MAX,
    READ_S_MAX,
    TAIL_FRAMES_MAX,
    TAIL_FRESH_S,
    TAIL_STALE_S_MAX,
)
from evp.logs import get
from evp.server.shared import Shared, Turns
from evp.settings import Settings
from evp.storage.bounded import limited
from evp.storage.candidates import Wanted
from evp.storage.client import Database, close, connect, database, reach
from evp.storage.listing import Page, Place, page
from evp.storage.metrics import Metrics, metrics_with
from evp.storage.tail import Tail, TailReader

_log = get("evp.server")


class Reading:
    """Answers questions about what is stored."""

    def __init__(self, settings: Settings, *, within_s: float = READ_S_MAX) -> None:
        self._client = connect(settings, connections_max=READ_CONNECTIONS_MAX, retry_reads=False)
        self._db = database(self._client, settings.mongo_db)
        self._within_s = within_s
        self._turns = Turns()
        self._metrics: Shared[Metrics] = Shared(ANSWER_KEEP_S)
        self._tails: Shared[Tail] = Shared(0.0)
        self._tail_reader = TailReader(self._db, TAIL_FRAMES_MAX)
        self._tail: Tail | None = None
        self._tail_at_s = -TAIL_STALE_S_MAX
        self._renewing: set[asyncio.Task[None]] = set()

    async def metrics(self, first_ms: int, end_ms: int, step_ms: int) -> Metrics:
        """Return sums (`evp.storage.metrics`), a few seconds old at most.

        Equal questions share one answer. Raises Refusal `store_unavailable`, `too_slow`
        or `server_busy`.
        """

        async def make() -> Metrics:
            tail = await self._fresh_tail()
            async with self.asking() as db:
                return await metrics_with(db, tail, first_ms, end_ms, step_ms)

        return await self._metrics.get((first_ms, end_ms, step_ms), make)

    async def events(self, wanted: Wanted, after: Place | None, events_max: int) -> Page:
        """Return a page of events (`evp.storage.listing`); raises as `metrics`."""
        tail = await self._fresh_tail()
        async with self.asking() as db:
            return await page(db, tail, wanted, after, events_max)

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[Database]:
        """Give the store for one question, once it is its turn; raises as `metrics`."""
        async with self._turns:
            try:
                await reach(self._db, READ_REACH_S_MAX)
                with limited(self._within_s):
                    yield self._db
            except StoreTooSlow as error:
                detail = f"{error}: ask for less, or later"
                raise Refusal("too_slow", detail, retry_after_s=1) from error
            except StoreUnavailable as error:
                detail = "the store can't be read now; what is sent is accepted all the same"
                raise Refusal("store_unavailable", detail, retry_after_s=1) from error

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        for task in self._renewing:
            task.cancel()
        await asyncio.gather(*self._renewing, return_exceptions=True)
        await self._metrics.close()
        await self._tails.close()
        await close(self._client)

    async def _fresh_tail(self) -> Tail:
        """Return the tail. An old one is renewed meanwhile; one that is too old is waited for."""
        age_s = monotonic_s() - self._tail_at_s
        if self._tail is None or age_s >= TAIL_STALE_S_MAX:
            return await self._tails.get("tail", self._read_tail)
        if age_s >= TAIL_FRESH_S and not self._renewing:
            task = asyncio.create_task(self._renew())
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)
        return self._tail

    async def _renew(self) -> None:
        try:
            await self._tails.get("tail", self._read_tail)
        except Refusal as refusal:
            _log.debug("the newest frames can't be read now", reason=refusal.detail)

    async def _read_tail(self) -> Tail:
        started_at_s = monotonic_s()
        async with self.asking():
            self._tail = await self._tail_reader.read()
        self._tail_at_s = started_at_s
        return self._tail
