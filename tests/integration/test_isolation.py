"""Poison: the event that kills its writers is set aside; everything beside it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from bson.raw_bson import RawBSONDocument

from evp.errors import StoreUnavailable
from evp.frame import Frame
from evp.limits import POISON_DEATHS
from evp.settings import Settings
from evp.storage import isolation, schema
from evp.storage.client import Database
from evp.storage.failures import Failure
from evp.storage.isolation import POISON, Witness
from evp.storage.writer import Writer, Written
from evp.stream.client import Link
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, documents, the_one
from tests.support.streams import append_events, consumer
from tests.support.workers import carrier_of, drain

pytestmark = MAY_LEAVE_SOCKETS

DEATHS_MAX = 40


class Killed(BaseException):
    """Stands for the end of a worker in the middle of a write."""


class Mortal(Writer):
    """A writer that does not survive the events with these ids."""

    def __init__(self, db: Database, deadly: Iterable[str]) -> None:
        super().__init__(db, WRITE_MS)
        self._deadly = set(deadly)

    async def _insert(self, documents: list[RawBSONDocument]) -> dict[int, Failure]:
        if self._deadly & {one["id"] for one in documents}:
            raise Killed
        return await super()._insert(documents)


class Fleet:
    """Workers that try one after the other; it knows which were killed."""

    def __init__(self, db: Database, deadly: Iterable[str]) -> None:
        self.deaths: set[str] = set()
        self._db = db
        self._deadly = deadly
        self._number = 0

    async def killed(self, incarnations: Iterable[str]) -> set[str]:
        """Return which of these workers were killed."""
        return self.deaths & set(incarnations)

    async def attempt(self, frame: Frame) -> Written | None:
        """Let the next worker write a frame; None if that was its end."""
        self._number += 1
        incarnation = f"w-{self._number} token"
        try:
            witness = Witness(incarnation, self.killed)
            return await Mortal(self._db, self._deadly).write_alone(frame, witness)
        except Killed:
            self.deaths.add(incarnation)
            return None

    async def settle(self, frame: Frame) -> Written:
        """Let workers try until one has settled the frame."""
        while (written := await self.attempt(frame)) is None:
            assert len(self.deaths) < DEATHS_MAX
        return written


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait for leases that may come back."""
    monkeypatch.setattr(isolation, "KILLED_CONFIRM_S", 0.0)


@pytest.mark.parametrize("place", [0, 3, 7])
async def test_the_culprit_alone_is_dead(db: Database, place: int) -> None:
    """Of eight events one kills; it becomes a dead letter, the other seven are stored."""
    frame = frame_of(*(event(number) for number in range(8)))
    fleet = Fleet(db, [f"e{place}"])
    outcome = (await fleet.settle(frame)).outcome
    assert outcome is not None
    assert (outcome.stored, outcome.duplicate, outcome.dead) == (7, 0, [place])
    assert (await the_one(db, schema.DEAD_LETTERS))["reason"] == POISON
    # Two for all eight, two for each of the halves, down to the one.
    assert len(fleet.deaths) == POISON_DEATHS * 4
    assert await documents(db, schema.ATTEMPTS) == []


async def test_two_culprits(db: Database) -> None:
    """More than one event of a frame may kill; each is found."""
    frame = frame_of(*(event(number) for number in range(6)))
    outcome = (await Fleet(db, ["e1", "e4"]).settle(frame)).outcome
    assert outcome is not None
    assert (outcome.stored, sorted(outcome.dead)) == (4, [1, 4])


async def test_one_death_accuses_nobody(db: Database) -> None:
    """A worker that was killed once while it wrote an innocent event proves nothing."""
    frame, fleet = frame_of(event(0)), Fleet(db, ["e0"])
    for _ in range(POISON_DEATHS - 1):
        assert await fleet.attempt(frame) is None
    innocent = Writer(db, WRITE_MS)
    written = await innocent.write_alone(frame, Witness("w-9 token", fleet.killed))
    assert written.outcome is not None
    assert (written.outcome.stored, written.outcome.dead) == (1, [])


async def test_workers_that_live_accuse_nobody(db: Database) -> None:
    """However many workers are trying, only those that were killed count."""
    frame, fleet = frame_of(event(0)), Fleet(db, ["e0"])
    for _ in range(5):
        assert await fleet.attempt(frame) is None
        fleet.deaths.clear()
    written = await Writer(db, WRITE_MS).write_alone(frame, Witness("w-9 token", fleet.killed))
    assert written.outcome is not None
    assert written.outcome.dead == []


async def test_whoever_survived_has_nothing_to_answer_for(db: Database) -> None:
    """An attempt that came to an end is no death, whatever becomes of the worker later."""

    class Away(Writer):
        """A writer whose store is away."""

        async def _insert(self, documents: list[RawBSONDocument]) -> dict[int, Failure]:
            raise StoreUnavailable("away")

    async def all_killed(incarnations: Iterable[str]) -> set[str]:
        return set(incarnations)

    frame = frame_of(event(0))
    for number in range(5):
        with pytest.raises(StoreUnavailable):
            await Away(db, WRITE_MS).write_alone(frame, Witness(f"w-{number} t", all_killed))
    written = await Writer(db, WRITE_MS).write_alone(frame, Witness("w-9 t", all_killed))
    assert written.outcome is not None
    assert written.outcome.dead == []


async def test_a_lease_that_comes_back_is_waited_for(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before events are split or dead, those who seem killed are looked at once more."""
    monkeypatch.setattr(isolation, "KILLED_CONFIRM_S", 0.05)
    frame, fleet = frame_of(event(0)), Fleet(db, ["e0"])
    for _ in range(POISON_DEATHS):
        assert await fleet.attempt(frame) is None
    asyncio.get_running_loop().call_later(0.02, fleet.deaths.clear)
    written = await Writer(db, WRITE_MS).write_alone(frame, Witness("w-9 token", fleet.killed))
    assert written.outcome is not None
    assert written.outcome.dead == []


async def test_many_deliveries_alone_make_nothing_dead(
    db: Database, link: Link, settings: Settings
) -> None:
    """Entries that were delivered a thousand times, as in a long outage, are stored."""
    await append_events(settings, 6, each=2)
    reader = consumer(settings)
    await reader.ensure_group()
    ids = [one.entry_id for one in await reader.read(3)]
    group = (settings.stream, settings.consumer_group)
    await link.call("XCLAIM", *group, reader.name, 0, *ids, "RETRYCOUNT", 1000)
    await reader.reset()
    found = await reader.read(3)
    assert [one.times for one in found] == [1001] * 3
    assert await carrier_of(settings, reader, db).carry(found, asyncio.Event())
    await reader.close()
    assert [one["stored"] for one in await documents(db, schema.OUTCOMES)] == [2, 2, 2]
    assert await documents(db, schema.DEAD_LETTERS) == []
    assert await documents(db, schema.ATTEMPTS) == []
    await drain(settings)
