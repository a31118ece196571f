"""Poison: events that kill the worker that writes them, told from bad luck and set aside.

An entry that was delivered often is only suspected: an outage delivers often as
well. So it is written alone, and before each attempt the worker writes down who
tries. Once two of those who tried were killed, the events are tried in halves,
down to the one that does it; that one is dead, and its frame goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from evp.errors import StoreUnavailable
from evp.frame import Frame
from evp.limits import KILLED_CONFIRM_S, POISON_DEATHS
from evp.storage.bounded import Bounded
from evp.storage.client import Database
from evp.storage.failures import Failure
from evp.storage.schema import ATTEMPTS

POISON = "poison"

Insert = Callable[[list[RawBSONDocument]], Awaitable[dict[int, Failure]]]
"""Inserts documents; returns by position why some were not."""

Alone = Callable[[], contextlib.AbstractAsyncContextManager[None]]
"""Gives the right to insert while nobody else in this process does."""

Killed = Callable[[Iterable[str]], Awaitable[set[str]]]
"""Returns which of these workers, by incarnation, were killed."""


class Witness(Struct, frozen=True):
    """Who writes, and how to find out what became of others that tried before."""

    incarnation: str
    killed: Killed


async def insert_alone(
    db: Database, bounded: Bounded, witness: Witness, frame: Frame, insert: Insert, alone: Alone
) -> dict[int, Failure]:
    """Insert the events of one suspected frame; return by index why some were not.

    It holds `alone` only while it inserts, which is when it is written down who tries: to
    find out who was killed can take long.
    Raises StoreUnavailable and what `killed` raises; calling again is right.
    """
    attempts = _Attempts(db, bounded, witness, frame)
    failures: dict[int, Failure] = {}
    waiting = [(0, frame.count)]
    while waiting:
        first, last = waiting.pop()
        mark = f"{frame.frame_id}:{first}:{last}"
        if not await attempts.were_deadly(mark):
            async with alone(), attempts.attempt(mark):
                found = await insert(frame.documents[first:last])
            failures |= {first + place: failure for place, failure in found.items()}
        elif last - first == 1:
            failures[first] = Failure(POISON, f"{POISON_DEATHS} workers died while they wrote it")
        else:
            middle = (first + last) // 2
            waiting += [(middle, last), (first, middle)]
    return failures


async def forget_attempts(db: Database, frame: Frame) -> None:
    """Remove what was written down about a frame that is settled now."""
    await db[ATTEMPTS].delete_many({"frame_id": frame.frame_id})


class _Attempts:
    """Who tried to write which events of a frame."""

    def __init__(self, db: Database, bounded: Bounded, witness: Witness, frame: Frame) -> None:
        self._rows = db[ATTEMPTS]
        self._bounded = bounded
        self._witness = witness
        self._frame = frame

    async def were_deadly(self, mark: str) -> bool:
        """Return True if enough of those who tried were killed."""
        if len(await self._killed(mark)) < POISON_DEATHS:
            return False
        # After an outage of the log a lease may be gone for a moment although its holder lives.
        await asyncio.sleep(KILLED_CONFIRM_S)
        return len(await self._killed(mark)) >= POISON_DEATHS

    @contextlib.asynccontextmanager
    async def attempt(self, mark: str) -> AsyncIterator[None]:
        """Write down that this worker tries, and afterwards that it lives, whatever came of it."""
        change = {
            "$addToSet": {"incarnations": self._witness.incarnation},
            "$setOnInsert": {"frame_id": self._frame.frame_id},
        }
        await self._bounded(self._rows.update_one({"_id": mark}, change, upsert=True))
        try:
            yield
        except StoreUnavailable:
            with contextlib.suppress(StoreUnavailable):
                await self._survived(mark)
            raise
        await self._survived(mark)

    async def _survived(self, mark: str) -> None:
        change = {"$pull": {"incarnations": self._witness.incarnation}}
        await self._bounded(self._rows.update_one({"_id": mark}, change))

    async def _killed(self, mark: str) -> set[str]:
        row = await self._bounded(self._rows.find_one({"_id": mark}))
        tried: list[str] = row["incarnations"] if row else []
        others = [one for one in tried if one != self._witness.incarnation]
        return await self._witness.killed(others) if others else set()
