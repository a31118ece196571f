"""What must be done now and then by some worker, and does no harm if many do it.

Each worker runs these chores beside its loop. One that fails is tried again at
its next turn: nothing that is accepted or stored depends on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct

from evp.clock import monotonic_s
from evp.errors import LogUnavailable, StoreUnavailable
from evp.limits import CONSUMER_GONE_IDLE_MS
from evp.logs import get
from evp.settings import Settings
from evp.stream.client import Link
from evp.stream.groups import remove_gone
from evp.stream.keys import Keys

_LOOK_S = 0.5
_log = get("evp.worker")


class Chore(Struct):
    """Something to do every so often."""

    name: str
    every_s: float
    do: Callable[[Link], Awaitable[None]]
    due_at_s: float = 0.0


class Upkeep:
    """The chores of one worker, over a connection of their own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = Keys(settings.stream)
        self._link: Link | None = None
        self._chores = [Chore("remove consumers", 10.0, self._remove_gone)]

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        try:
            while True:
                for chore in self._chores:
                    if monotonic_s() >= chore.due_at_s:
                        await self._do(chore)
                await asyncio.sleep(_LOOK_S)
        finally:
            if self._link is not None:
                await self._link.close()

    async def _do(self, chore: Chore) -> None:
        chore.due_at_s = monotonic_s() + chore.every_s
        try:
            if self._link is None or not self._link.is_open:
                self._link = await Link.open(self._settings.redis_url)
            await chore.do(self._link)
        except (LogUnavailable, StoreUnavailable) as error:
            _log.debug("a chore was put off", chore=chore.name, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a fault in a chore is no reason to stop the others
            _log.error("unexpected error in a chore", chore=chore.name, exc_info=error)

    async def _remove_gone(self, link: Link) -> None:
        group = self._settings.consumer_group
        for name in await remove_gone(link, self._keys, group, idle_ms=CONSUMER_GONE_IDLE_MS):
            _log.info("consumer removed: it is gone and owns nothing", consumer=name, group=group)
