"""One partition of the log, as a server process adds to it.

Each has a connection, a queue and a watch of its own: while one can't be written to, or
is full, the others go on.
"""

from __future__ import annotations

import asyncio

from evp.documents import Admission
from evp.errors import LogUnavailable, Refusal
from evp.limits import LOG_COMMAND_S_MAX
from evp.metrics.counts import IngestCounts
from evp.server.backpressure import Backpressure
from evp.server.logwatch import LogWatch
from evp.settings import Settings
from evp.stream.client import KeptLink
from evp.stream.flusher import Flusher
from evp.stream.keys import Keys
from evp.stream.partitions import note
from evp.stream.producer import Epoch, Producer


class Announcer:
    """Notes in the log how many partitions this process writes to, so that workers read them all.

    `partitions` is how many there ever were, as far as the log has told.
    """

    def __init__(self, settings: Settings) -> None:
        self.partitions = settings.partitions
        self._mine = settings.partitions
        self._keys = Keys(settings.stream)
        self._link = KeptLink(settings.redis_url, self._keys)
        self._turn = asyncio.Lock()
        self._noted = False

    async def announce(self) -> None:
        """Note it, again and again, as the log can lose it.

        Raises LogUnavailable unless it was noted before: then there are workers that know.
        """
        try:
            async with self._turn, asyncio.timeout(LOG_COMMAND_S_MAX):
                self.partitions = await note(await self._link.get(), self._keys, self._mine)
                self._noted = True
        except (LogUnavailable, TimeoutError) as error:
            if not self._noted:
                why = str(error) or "no answer in time"
                raise LogUnavailable(f"the partitions can't be noted: {why}") from error

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()


class Lane:
    """Frames of one process on their way into one stream."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        admission: Admission,
        counts: IngestCounts,
        announcer: Announcer,
    ) -> None:
        self.keys = keys
        self.place = f"{keys.partition}."
        """How the places of its entries begin."""
        self.producer = Producer(
            settings.redis_url, keys, settings.durability, settings.durability_replicas
        )
        self.flusher = Flusher(self.producer, admission, counts)
        self.backpressure = Backpressure(settings, keys, self.flusher)
        self.log = LogWatch(self.producer, self.backpressure, announcer.announce)

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
