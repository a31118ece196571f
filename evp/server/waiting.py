"""Where an event waits in the log, for those who ask with a receipt.

Over one connection of its own to each partition, which is kept; one look at a time there,
few that wait for theirs, and all within LOG_LOOK_S_MAX: ingest has other connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from msgspec import Struct

from evp.errors import LogUnavailable
from evp.frame import NOT_CARRIERS, split
from evp.limits import LOG_LOOK_S_MAX, LOG_LOOKS_WAITING_MAX
from evp.receipt import Receipt
from evp.server.turns import Turns
from evp.settings import Settings
from evp.stream.headers import carriers_of, header_of
from evp.stream.info import events_ahead
from evp.stream.partitions import Partitions

T = TypeVar("T")


class LogPlace(Struct):
    """Where an event waits in the log, behind about so many others."""

    entry: str
    events_ahead: int


class Waiting:
    """Looks into the streams that there are."""

    def __init__(self, settings: Settings) -> None:
        self._partitions = Partitions(settings)
        self._turns: dict[int, Turns] = {}

    async def place(self, event_id: bytes, receipt: Receipt, group: str) -> LogPlace | None:
        """Return where an event waits for a group; None if it does not, or not at its receipt.

        Raises LogUnavailable, and Refusal `server_busy`.
        """
        try:
            async with asyncio.timeout(LOG_LOOK_S_MAX):
                if receipt.partition >= len(self._partitions):
                    # Other servers may write to more of them; anybody may make up a receipt.
                    await self._ask(0, self._partitions.look)
                if receipt.partition >= len(self._partitions):
                    return None
                look = partial(self._look, event_id, receipt, group)
                return await self._ask(receipt.partition, look)
        except TimeoutError as error:
            raise LogUnavailable("the log does not answer in time") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._partitions.close()

    async def _ask(self, partition: int, ask: Callable[[], Awaitable[T]]) -> T:
        """Return an answer of a partition, when it is its turn."""
        link = self._partitions[partition].link
        async with self._turns.setdefault(partition, Turns(1, LOG_LOOKS_WAITING_MAX)).one():
            was_open = link.is_open
            try:
                return await ask()
            except LogUnavailable:
                if not was_open or link.is_open:
                    raise
            # The connection was lost while nobody asked, or the stream has moved.
            return await ask()

    async def _look(self, event_id: bytes, receipt: Receipt, group: str) -> LogPlace | None:
        partition, entry_id = self._partitions[receipt.partition], receipt.entry_id
        link, keys = await partition.link.get(), partition.keys
        header = await header_of(link, keys, entry_id, group)
        if header is None or header.acked or not header.count:
            return None
        carriers = await carriers_of(link, keys, entry_id)
        # It can hold megabytes; the loop has requests to answer meanwhile.
        if event_id not in (await asyncio.to_thread(_ids, carriers))[receipt.first :]:
            return None
        return LogPlace(entry_id, await events_ahead(link, keys, group, entry_id))


def _ids(carriers: bytes) -> list[bytes]:
    """Return the ids of a frame's events; none if it is damaged, and will be a dead letter."""
    try:
        return split(carriers)[0]
    except NOT_CARRIERS:
        return []
