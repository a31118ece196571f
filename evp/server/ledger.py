"""The ledger of one server process: how far it got, told to the log and to the store.

Each is told in a loop of its own: one that hangs does not keep the other from
being told, and no request waits for either. A closed epoch is remembered here
until the store has it; what processes that are gone left in the log is carried
to the store as well, and so is what a store that was put back has lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from evp.errors import LogUnavailable, StoreUnavailable
from evp.logs import get
from evp.server.limits import LEDGER_CARRY_S, LEDGER_RECORD_S
from evp.settings import Settings
from evp.signals import end
from evp.storage.client import Database
from evp.storage.ledger import record_servers, unrecorded_servers
from evp.storage.partitions import note_partitions
from evp.stream.client import KeptLink, Link
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
    """Whose frames are numbered: what adds to one stream."""

    @property
    def keys(self) -> Keys:
        """The stream's."""
        ...

    def epochs(self) -> tuple[list[Epoch], list[Epoch]]:
        """Return the epochs to record: (those that are closed, those that may grow)."""
        ...

    def forget(self, closed: list[Epoch]) -> None:
        """Forget closed epochs that the store has recorded."""
        ...


class Ledger:
    """Records what one process adds to one stream, from `start` to `close`.

    It never raises, and is never in the way.

    Connections are its own: the one that appends must not wait for this.
    """

    def __init__(self, settings: Settings, db: Database, frames: Numbering) -> None:
        self._url = settings.redis_url
        self._link = KeptLink(settings.redis_url, frames.keys)
        self._keys = frames.keys
        self._db = db
        self._frames = frames
        # Whoever writes to the log's hash looks at the epochs within its turn. Otherwise one
        # that has just been marked as over could be overwritten by a record of before. The kept
        # connection is used within it.
        self._log_turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to record; needs a running loop."""
        steps = (
            (self._tell_log, LEDGER_RECORD_S),
            (self._tell_store, LEDGER_RECORD_S),
            (self.carry, LEDGER_CARRY_S),
        )
        self._tasks = [asyncio.create_task(_again(*one), name="ledger") for one in steps]

    async def stop(self) -> None:
        """Stop recording."""
        await end(*self._tasks)
        await self._link.close()

    async def close(self) -> None:
        """Stop, and record for good how far this process got, as far as the engines answer."""
        # What is told last goes over a new connection: the kept one may be dead, and nobody knows.
        await self.stop()
        # The log's turn comes first, and what the store then has is marked behind it.
        await asyncio.gather(_try(self._tell_log), _try(self._tell_store_for_good))
        await self._link.close()

    async def _tell_log(self) -> None:
        async with self._log_turn:
            link = await self._link.get()
            closed, open_ = self._frames.epochs()
            await record_epochs(link, self._keys, map(record_of, closed + open_))

    async def _tell_store(self, *, for_good: bool = False) -> None:
        closed, open_ = self._frames.epochs()
        await self._record_in_store([record_of(one) for one in closed + open_])
        done = closed + open_ if for_good else closed
        if not done:
            return
        async with self._log_turn:
            await retire_epochs(await self._link.get(), self._keys, map(record_of, done))
            self._frames.forget(closed)

    async def _tell_store_for_good(self) -> None:
        await self._tell_store(for_good=True)

    async def carry(self) -> None:
        """Carry what other processes recorded in the log to the store, then mark it there.

        A process that still runs records anew what it needs.
        """
        async with Link.opened(self._url, self._keys) as link:
            mine = {epoch.srv for some in self._frames.epochs() for epoch in some}
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


class Ledgers:
    """The ledgers of one process, one for each of its partitions.

    In streams that only servers with more PARTITIONS wrote to may be records that the
    store lacks; they are carried as well.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        lanes: Sequence[Numbering],
        partitions: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._db = db
        self.each = [Ledger(settings, db, lane) for lane in lanes]
        self._partitions = partitions
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to record; needs a running loop."""
        for one in self.each:
            one.start()
        steps = [(self._carry_former, LEDGER_CARRY_S)]
        if self._settings.partitions > 1:
            steps.append((self._note, LEDGER_RECORD_S))
        self._tasks = [asyncio.create_task(_again(*one), name="ledgers") for one in steps]

    async def stop(self) -> None:
        """Stop recording."""
        await end(*self._tasks)
        await asyncio.gather(*(one.stop() for one in self.each))

    async def _note(self) -> None:
        """Have the store know of all partitions that this process writes to: a log forgets."""
        await note_partitions(self._db, self._settings.partitions)

    async def _carry_former(self) -> None:
        former = (
            _Former(Keys(self._settings.stream, number))
            for number in range(len(self.each), self._partitions())
        )
        # One that is away keeps no other one's from being carried.
        await asyncio.gather(*(_try(Ledger(self._settings, self._db, one).carry) for one in former))


class _Former:
    """A stream to which this process adds nothing."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def epochs(self) -> tuple[list[Epoch], list[Epoch]]:
        return [], []

    def forget(self, closed: list[Epoch]) -> None:
        pass


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
