"""Turns: so many at a time, so many that wait, and everybody else comes back later."""

from __future__ import annotations

import contextlib
from asyncio import Semaphore
from collections.abc import AsyncIterator

from evp.errors import Refusal


class Turns:
    """What a server process does of one kind at a time."""

    def __init__(self, at_once: int, waiting_max: int) -> None:
        self._free = Semaphore(at_once)
        self._room = at_once + waiting_max

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises Refusal `server_busy` if too many wait already."""
        if not self._room:
            raise Refusal("server_busy", "too many ask for this at once", retry_after_s=1)
        self._room -= 1
        try:
            async with self._free:
                yield
        finally:
            self._room += 1
