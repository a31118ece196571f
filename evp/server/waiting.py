"""Where an event waits in the log, for those who ask with a receipt.

Over one connection of its own, which is kept; one look at a time, few that wait for
theirs, and all within LOG_LOOK_S_MAX: ingest has other connections.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from evp.errors import LogUnavailable
from evp.frame import NOT_CARRIERS, split
from evp.limits import LOG_LOOK_S_MAX, LOG_LOOKS_WAITING_MAX
from evp.receipt import Receipt
from evp.server.turns import Turns
from evp.stream.client import KeptLink
from evp.stream.headers import carriers_of, header_of
from evp.stream.info import events_ahead
from evp.stream.keys import Keys


class LogPlace(Struct):
    """Where an event waits in the log, behind about so many others."""

    entry: str
    events_ahead: int


class Waiting:
    """Looks into one stream."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._keys = keys
        self._link = KeptLink(url, keys)
        self._turns = Turns(1, LOG_LOOKS_WAITING_MAX)

    async def place(self, event_id: bytes, receipt: Receipt, group: str) -> LogPlace | None:
        """Return where an event waits for a group; None if it does not, or not at its receipt.

        Raises LogUnavailable, and Refusal `server_busy`.
        """
        try:
            async with asyncio.timeout(LOG_LOOK_S_MAX), self._turns.one():
                was_open = self._link.is_open
                try:
                    return await self._look(event_id, receipt, group)
                except LogUnavailable:
                    if not was_open or self._link.is_open:
                        raise
                # The connection was lost while nobody asked.
                return await self._look(event_id, receipt, group)
        except TimeoutError as error:
            raise LogUnavailable("the log does not answer in time") from error

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _look(self, event_id: bytes, receipt: Receipt, group: str) -> LogPlace | None:
        link = await self._link.get()
        keys, entry_id = self._keys, receipt.entry_id
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
