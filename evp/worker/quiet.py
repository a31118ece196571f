"""Quiet: while one loop of a process writes what may kill it, no other one writes.

A process that dies takes all of its loops along. If several were writing, the blame
would fall on frames that did nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from evp.frame import Frame
from evp.storage.client import Database
from evp.storage.dead_letters import Origin
from evp.storage.writer import Writer, Written


class Quiet:
    """Shared by all loops of a process. Many may write beside each other, or one alone."""

    def __init__(self) -> None:
        self._alone = asyncio.Lock()
        self._writing = 0
        self._nobody_writes = asyncio.Event()

    @contextlib.asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Write when nobody writes alone, or wants to; there is nothing to wait for else."""
        while self._alone.locked():
            async with self._alone:
                pass
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            if not self._writing:
                self._nobody_writes.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Write when nobody else does any longer."""
        async with self._alone:
            while self._writing:
                self._nobody_writes.clear()
                await self._nobody_writes.wait()
            yield


class QuietWriter(Writer):
    """A writer of one loop of several."""

    def __init__(self, db: Database, timeout_ms: int, origin: Origin, quiet: Quiet) -> None:
        super().__init__(db, timeout_ms, origin)
        self._quiet = quiet

    async def write(self, frames: Sequence[Frame]) -> list[Written]:
        """Write frames as a writer does, once no other loop writes alone."""
        async with self._quiet.beside_others():
            return await super().write(frames)

    def alone(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Have no other loop write while this one writes what may kill it."""
        return self._quiet.alone()
