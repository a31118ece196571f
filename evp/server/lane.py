"""One partition of the log, as a server process adds to it.

Each has a connection, a queue and a watch of its own: while one can't be written to, or
is full, the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from evp.batch.retry import Backoff
from evp.documents import Admission
from evp.errors import LogUnavailable, Refusal, StoreUnavailable
from evp.logs import get
from evp.metrics.counts import IngestCounts
from evp.server.backpressure import Backpressure
from evp.server.limits import ANNOUNCED_S_MAX, DURABILITY_CHECK_S, RECONNECT_LONGEST_S
from evp.server.logwatch import LogWatch
from evp.server.neighbours import Neighbours
from evp.settings import Settings
from evp.signals import end
from evp.stream.client import KeptLink
from evp.stream.flusher import Flusher
from evp.stream.keys import Keys
from evp.stream.partitions import known, note
from evp.stream.producer import Epoch, Producer

_log = get("evp.accept")


class Announcer:
    """Notes in the log how many partitions this process writes to, so that workers read them all.

    Again and again, as a log can lose it, by a task of its own: a partition 0 that is
    away keeps no other one waiting, once the number is known. `store_knows` tells the
    number that the store has, from times when the log could be asked. `partitions` is
    how many there ever were, as far as the log has told.
    """

    def __init__(
        self, settings: Settings, store_knows: Callable[[], Awaitable[int]] | None = None
    ) -> None:
        self.partitions = settings.partitions
        self._mine = settings.partitions
        self._replicas = settings.durability_replicas
        self._store_knows = store_knows
        self._keys = Keys(settings.stream)
        self._link = KeptLink(settings.redis_url, self._keys)
        self._noted = asyncio.Event()
        self._why = "no answer yet"
        self._task: asyncio.Task[None] | None = None
        if self._mine == 1:
            # Everybody knows of the first one.
            self._noted.set()

    def start(self) -> None:
        """Begin to note it; needs a running loop."""
        self._task = asyncio.create_task(self._run(), name="announcer")

    async def announced(self) -> None:
        """Return once workers know, or will know, of all partitions; raises LogUnavailable."""
        try:
            async with asyncio.timeout(ANNOUNCED_S_MAX):
                await self._noted.wait()
        except TimeoutError as error:
            raise LogUnavailable(f"the partitions can't be noted: {self._why}") from error

    async def close(self) -> None:
        """Note it no more."""
        if self._task is not None:
            await end(self._task)
        await self._link.close()

    async def _run(self) -> None:
        backoff = Backoff(longest_s=RECONNECT_LONGEST_S)
        while True:
            try:
                await self._note()
            except LogUnavailable as error:
                self._why = str(error)
                _log.debug("partitions not noted", reason=self._why)
                await self._ask_store()
                await asyncio.sleep(backoff.next_s())
            else:
                self._noted.set()
                backoff.reset()
                await asyncio.sleep(DURABILITY_CHECK_S)

    async def _note(self) -> None:
        link = await self._link.get()
        if self._mine == 1:
            self.partitions = await known(link, self._keys)
        else:
            self.partitions = await note(link, self._keys, self._mine, self._replicas)

    async def _ask_store(self) -> None:
        """Take the store's word that workers know, while the log can't be asked."""
        if self._noted.is_set() or self._store_knows is None:
            return
        try:
            if await self._store_knows() >= self._mine:
                self._noted.set()
        except StoreUnavailable as error:
            _log.debug("the store can't tell of partitions", reason=str(error))


class Lane:
    """Frames of one process on their way into one stream."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        admission: Admission,
        counts: IngestCounts,
        announcer: Announcer,
        neighbours: Neighbours,
    ) -> None:
        self.keys = keys
        self.place = f"{keys.partition}."
        """How the places of its entries begin."""
        self.producer = Producer(
            settings.redis_url, keys, settings.durability, settings.durability_replicas
        )
        self.flusher = Flusher(self.producer, admission, counts)
        self.backpressure = Backpressure(settings, keys, self.flusher, neighbours)
        self.log = LogWatch(self.producer, self.backpressure, announcer.announced)

    def refusal_of(self, size_bytes: int) -> Refusal | None:
        """Return why a body of this size can't be added now; None if it can."""
        if self.log.refusal is None and size_bytes <= self.flusher.room_bytes:
            return None
        return self.log.refusal or self.backpressure.refusal(size_bytes)

    async def start(self) -> None:
        """Connect and keep connected. Does not fail: `refusal_of` says what is wrong."""
        self.flusher.start()
        await self.log.start()
        self.backpressure.start()

    async def drain(self) -> None:
        """Answer what was added."""
        await self.flusher.drain()
        await self._stop_looking()

    async def close(self) -> None:
        """Disconnect. Whoever still waits for the log is told that nobody knows."""
        await self._stop_looking()
        await self.producer.close()
        await self.flusher.drain()
        await self.flusher.stop()

    async def _stop_looking(self) -> None:
        await self.log.close()
        await self.backpressure.close()

    def epochs(self) -> tuple[list[Epoch], list[Epoch]]:
        """Return the epochs to record: (those that are closed, those that may grow)."""
        return self.producer.epochs()

    def forget(self, closed: list[Epoch]) -> None:
        """Forget closed epochs that the store has recorded."""
        self.producer.forget(closed)
