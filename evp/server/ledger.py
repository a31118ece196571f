"""The ledger of one server process: how far it got, told to the log and to the store.

Each is told in a loop of its own: one that hangs does not keep the other from
being told, and no request waits for either. A closed epoch is remembered here
until the store has it; what processes that are gone left in the log is carried
to the store as well, and so is what a store that was put back has lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from evp.errors import LogUnavailable, StoreUnavailable
from evp.logs import get
from evp.server.limits import LEDGER_CARRY_S, LEDGER_RECORD_S
from evp.settings import Settings
from evp.signals import end
from evp.storage.client import Database
from evp.storage.ledger import record_servers, unrecorded_servers
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.ledger import (
    Record,
    record_epochs,
    record_of,
    recorded_epochs,
    retire_epochs,
)
from evp.stream.producer import Epoch

_log = get("evp.server")


class Numbering(Protocol):
    """Whose frames are numbered: the acceptor of a server process."""

    def epochs(self) -> tuple[list[Epoch], list[Epoch]]:
        """Return the epochs to record: (those that are closed, those that may grow)."""
        ...

    def forget(self, closed: list[Epoch]) -> None:
        """Forget closed epochs that the store has recorded."""
        ...


class Ledger:
    """Records a process's epochs from `start` to `close`; never raises, is never in the way.

    Connections are its own: the one that appends must not wait for this.
    """

    def __init__(self, settings: Settings, db: Database, acceptor: Numbering) -> None:
        self._url = settings.redis_url
        self._keys = Keys(settings.stream)
        self._db = db
        self._acceptor = acceptor
        # Whoever writes to the log's hash looks at the epochs within its turn. Otherwise one
        # that has just been marked as over could be overwritten by a record of before.
        self._log_turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to record; needs a running loop."""
        steps = (
            (self._tell_log, LEDGER_RECORD_S),
            (self._tell_store, LEDGER_RECORD_S),
            (self._carry, LEDGER_CARRY_S),
        )
        self._tasks = [asyncio.create_task(_again(*one), name="ledger") for one in steps]

    async def stop(self) -> None:
        """Stop recording."""
        await end(*self._tasks)

    async def close(self) -> None:
        """Stop, and record for good how far this process got, as far as the engines answer."""
        await self.stop()
        # The log's turn comes first, and what the store then has is marked behind it.
        await asyncio.gather(_try(self._tell_log), _try(self._tell_store_for_good))

    async def _tell_log(self) -> None:
        async with self._log_turn, Link.opened(self._url, self._keys) as link:
            closed, open_ = self._acceptor.epochs()
            await record_epochs(link, self._keys, map(record_of, closed + open_))

    async def _tell_store(self, *, for_good: bool = False) -> None:
        closed, open_ = self._acceptor.epochs()
        await self._record_in_store([record_of(one) for one in closed + open_])
        done = closed + open_ if for_good else closed
        if not done:
            return
        async with self._log_turn, Link.opened(self._url, self._keys) as link:
            await retire_epochs(link, self._keys, map(record_of, done))
            self._acceptor.forget(closed)

    async def _tell_store_for_good(self) -> None:
        await self._tell_store(for_good=True)

    async def _carry(self) -> None:
        """Carry what other processes recorded in the log to the store, then mark it there.

        A process that still runs records anew what it needs.
        """
        async with Link.opened(self._url, self._keys) as link:
            mine = {epoch.srv for some in self._acceptor.epochs() for epoch in some}
            found = [one for one in await recorded_epochs(link, self._keys) if one.srv not in mine]
            left = [one for one in found if not one.retired_ms]
            lacking = await unrecorded_servers(
                self._db, {one.srv: (one.seq, one.unknown) for one in found if one.retired_ms}
            )
            await self._record_in_store(left + [one for one in found if one.srv in lacking])
            await retire_epochs(link, self._keys, left)

    async def _record_in_store(self, records: list[Record]) -> None:
        await record_servers(
            self._db,
            [(one.srv, one.seq, one.events, one.unknown) for one in records],
            self._keys.partition,
        )


async def _again(step: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await _try(step)


async def _try(step: Callable[[], Awaitable[None]]) -> None:
    """Do a step of the ledger; one that fails is done again the next time."""
    try:
        await step()
    except (LogUnavailable, StoreUnavailable) as error:
        _log.debug("ledger not recorded", reason=str(error))
    except Exception as error:  # noqa: BLE001 - what is not recorded now must be the next time
        _log.error("unexpected error in the ledger", exc_info=error)
