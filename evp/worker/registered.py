"""Which groups there are: asked for all loops of a process at once.

The store has those of its own database. A log may be read for other databases, too, and
their groups are registered in the log alone: a partition that is new does not know them
yet, partition 0 does.
"""

from __future__ import annotations

import asyncio

from evp.clock import monotonic_s
from evp.errors import LogUnavailable, StoreUnavailable
from evp.limits import GROUPS_ASK_S, PARTITION_AWAY_S
from evp.logs import get
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.groups import registered
from evp.stream.groups import registered_groups
from evp.stream.partitions import Partition

_log = get("evp.worker")


class RegisteredGroups:
    """What store and log answered last, for GROUPS_ASK_S."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self._store_answer: set[str] | StoreUnavailable = set()
        self._store_ask_at_s = 0.0
        self._store_turn = asyncio.Lock()
        self._first = Partition(settings, 0)
        self._log_answer: set[str] = set()
        self._log_ask_at_s = 0.0
        self._log_turn = asyncio.Lock()

    async def names(self, partition: int) -> set[str]:
        """Return the names of all groups that a partition may have to be kept for.

        Partition 0 knows itself which groups are registered in the log. While it is away
        the others go by what it answered last. Raises StoreUnavailable.
        """
        async with self._store_turn:
            if monotonic_s() >= self._store_ask_at_s:
                self._store_answer = await self._ask_store()
            # While the log is asked, another loop may get another answer.
            stored = self._store_answer
        if isinstance(stored, StoreUnavailable):
            raise stored
        if partition == 0:
            return stored
        async with self._log_turn:
            if monotonic_s() >= self._log_ask_at_s:
                await self._ask_log()
        return stored | self._log_answer

    async def still_has(self, name: str) -> bool:
        """Return whether store or partition 0 has a group now; raises Store- and LogUnavailable."""
        if name in await registered(self._db):
            return True
        async with self._log_turn:
            return name in await registered_groups(await self._first.link.get(), self._first.keys)

    async def close(self) -> None:
        """Close the connection."""
        await self._first.link.close()

    async def _ask_store(self) -> set[str] | StoreUnavailable:
        try:
            return await registered(self._db)
        except StoreUnavailable as error:
            return error
        finally:
            self._store_ask_at_s = monotonic_s() + GROUPS_ASK_S

    async def _ask_log(self) -> None:
        again_s = GROUPS_ASK_S
        try:
            link = await self._first.link.get()
            self._log_answer = await registered_groups(link, self._first.keys)
        except LogUnavailable as error:
            again_s = PARTITION_AWAY_S
            _log.debug("partition 0 does not tell its groups", reason=str(error))
        self._log_ask_at_s = monotonic_s() + again_s
