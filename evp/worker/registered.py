"""Which groups there are, as the store has them: asked for all loops of a process at once."""

from __future__ import annotations

import asyncio

from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.limits import GROUPS_ASK_S
from evp.storage.client import Database
from evp.storage.groups import registered


class RegisteredGroups:
    """What the store answered last, for GROUPS_ASK_S; an answer may be why there is none."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._answer: set[str] | StoreUnavailable = set()
        self._ask_at_s = 0.0
        self._turn = asyncio.Lock()

    async def names(self) -> set[str]:
        """Return the names of all groups. Raises StoreUnavailable."""
        async with self._turn:
            if monotonic_s() >= self._ask_at_s:
                self._answer = await self._ask()
        if isinstance(self._answer, StoreUnavailable):
            raise self._answer
        return self._answer

    async def still_has(self, name: str) -> bool:
        """Return whether the store has a group now. Raises StoreUnavailable."""
        return name in await registered(self._db)

    async def _ask(self) -> set[str] | StoreUnavailable:
        try:
            return await registered(self._db)
        except StoreUnavailable as error:
            return error
        finally:
            self._ask_at_s = monotonic_s() + GROUPS_ASK_S
