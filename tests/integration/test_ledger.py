"""The ledger of server processes: nothing is forgotten, nothing piles up, nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evp.balance import look_once
from evp.server import ledger
from evp.server.ledger import Ledger
from evp.settings import Settings
from evp.storage import ledger as storage_ledger
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.ledger import Record, record_epochs, recorded_epochs
from evp.stream.producer import Epoch, Producer
from tests.support.make import event, open_frame
from tests.support.server import InProcess, request, serving
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS, hanging
from tests.support.streams import connected
from tests.support.wait import until
from tests.support.workers import changed, heard, said

pytestmark = MAY_LEAVE_SOCKETS

OFTEN_S = 0.02
ONE = b'{"type": "t", "id": "1"}'


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record more often than a server does."""
    for name in ("LEDGER_RECORD_S", "LEDGER_CARRY_S"):
        monkeypatch.setattr(ledger, name, OFTEN_S)


@pytest.fixture
async def producer(settings: Settings, link: Link) -> AsyncIterator[Producer]:
    """What a server process appends with."""
    async with connected(settings) as producer:
        yield producer


class Nobody:
    """A process that accepted nothing."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def epochs(self) -> tuple[list[Epoch], list[Epoch]]:
        """Return nothing to record."""
        return [], []

    def forget(self, closed: list[Epoch]) -> None:
        """Have nothing to forget."""


async def rows(db: Database) -> dict[bytes, tuple[int, int]]:
    """Return what the store has recorded."""
    return {row["_id"]: (row["seq"], row["events"]) async for row in db["servers"].find()}


async def in_log(link: Link, keys: Keys) -> set[bytes]:
    """Return the epochs that the log has recorded, and that may not be over."""
    return {one.srv for one in await recorded_epochs(link, keys) if not one.retired_ms}


async def test_closed_epochs_pass_through_the_log(
    producer: Producer, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """However many epochs are closed, the store has all, and the log knows which are over."""
    book = Ledger(settings, db, producer)
    book.start()
    epochs = []
    for number in range(30):
        await producer.append(open_frame(event(number), event(100 + number)), 1)
        epochs.append(producer._epoch.srv)
        if number < 29:
            producer._close_epoch(unknown=0)
        await asyncio.sleep(OFTEN_S / 2)

    async def only_the_open_one() -> bool:
        return await in_log(link, keys) == {epochs[-1]} and producer.epochs()[0] == []

    await until(only_the_open_one, what="the log knows one that is open")
    await book.close()
    assert await in_log(link, keys) == set()
    # The record of the log was made before, or came with the mark.
    over = {one.srv: (one.seq, one.events) for one in await recorded_epochs(link, keys)}
    assert over == dict.fromkeys(epochs, (1, 2))
    assert await rows(db) == dict.fromkeys(epochs, (1, 2))


async def test_an_hour_of_unknown_outcomes_is_one_record(
    producer: Producer, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """Appends of unknown outcome make no rows: one of the process counts them, in log and store."""
    await producer.append(open_frame(event(0), event(1)), 1)
    first = producer._epoch.srv
    book = Ledger(settings, db, producer)
    for number in range(1, 21):
        producer._close_epoch(unknown=number)
        await book._tell_log()
        await book._tell_store()
        # Another process takes what it finds for left by one that is gone.
        await Ledger(settings, db, Nobody(Keys(settings.stream))).carry()
    await book.close()
    stored = [one async for one in db["servers"].find()]
    assert {one["_id"]: (one["seq"], one["events"], one["unknown"]) for one in stored} == {
        first: (1, 2, 1),
        producer.epochs()[1][0].srv: (0, 0, 209),
    }
    told = {
        (one.srv, one.seq, one.events, one.unknown) for one in await recorded_epochs(link, keys)
    }
    assert told == {(one["_id"], one["seq"], one["events"], one["unknown"]) for one in stored}
    balance = await look_once(settings, db)
    assert (balance.accepted, balance.unknown) == (2, 210)


async def test_a_record_under_way_does_not_bring_an_epoch_back(
    producer: Producer,
    db: Database,
    link: Link,
    keys: Keys,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record of the log that takes its time is over before what it says is removed."""
    await producer.append(open_frame(event(0)), 1)
    producer._close_epoch(unknown=0)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any) -> None:
        begun.set()
        await go_on.wait()
        await record_epochs(*args)

    monkeypatch.setattr(ledger, "record_epochs", slowly)
    book = Ledger(settings, db, producer)
    telling_log = asyncio.create_task(book._tell_log())
    await begun.wait()
    telling_store = asyncio.create_task(book._tell_store())

    async def is_recorded() -> bool:
        return len(await rows(db)) == 1

    await until(is_recorded, what="the store is told meanwhile")
    go_on.set()
    await asyncio.gather(telling_log, telling_store)
    await book.close()
    assert await in_log(link, keys) == set()
    assert producer.epochs() == ([], [])


async def test_the_log_is_dialled_once(
    producer: Producer, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """All records go over one connection; once it is lost there is another one."""

    async def dialled() -> int:
        text = (await link.call("INFO", "stats")).decode()
        return int(text.partition("total_connections_received:")[2].split()[0])

    await producer.append(open_frame(event(0)), 1)
    book, before = Ledger(settings, db, producer), await dialled()
    for _ in range(3):
        await book._tell_log()
        producer._close_epoch(unknown=0)
        await producer.append(open_frame(event(0)), 1)
        await book._tell_store()
    assert await dialled() == before + 1
    await (await book._link.get()).close()
    await book._tell_log()
    assert await dialled() == before + 2
    await book.close()
    assert await in_log(link, keys) == set()


async def test_what_the_dead_left_is_carried_to_the_store(
    producer: Producer, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """What a process that was killed had recorded in the log gets into the store, and leaves."""
    await producer.append(open_frame(event(0)), 1)
    left = Record(b"gone" * 2, 7, 70)
    await record_epochs(link, keys, [left])
    await storage_ledger.record_servers(db, [(left.srv, 5, 50, 0)], 0)
    book = Ledger(settings, db, producer)
    book.start()

    async def is_carried() -> bool:
        mine = {producer._epoch.srv}
        return await in_log(link, keys) == mine and mine <= (await rows(db)).keys()

    await until(is_carried, what="the log knows what runs, and the rest is over")
    await book.close()
    assert (await rows(db))[left.srv] == (7, 70)


async def test_a_late_record_takes_nothing_back(
    producer: Producer, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """Who carries what the log knew a moment ago leaves what the store has learnt since."""
    book = Ledger(settings, db, producer)
    await producer.append(open_frame(event(0)), 1)
    await book._tell_log()
    await producer.append(open_frame(event(1)), 1)
    await book._tell_store()
    await book.stop()
    await Ledger(settings, db, Nobody(keys)).carry()
    assert await rows(db) == {producer._epoch.srv: (2, 2)}


async def test_a_store_that_was_put_back_is_told_again(
    producer: Producer, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """Epochs that were over before a store was put back are known by the log, and carried."""
    for number in range(3):
        await producer.append(open_frame(event(number)), 1)
        producer._close_epoch(unknown=4)
    first = Ledger(settings, db, producer)
    await first.close()
    known = await rows(db)
    assert len(known) == 3
    await db["servers"].delete_many({"_id": {"$ne": min(known)}})
    await db["servers"].update_many({}, {"$set": {"seq": 0}})
    assert {one.srv: (one.seq, one.events) for one in await recorded_epochs(link, keys)} == known
    await Ledger(settings, db, producer).carry()
    assert await rows(db) == known
    await db["servers"].update_one({}, {"$set": {"unknown": 0}})
    await Ledger(settings, db, producer).carry()
    assert sum([row["unknown"] async for row in db["servers"].find()]) == 4 * 3
    before = await db["servers"].find().to_list()
    await Ledger(settings, db, producer).carry()
    assert await db["servers"].find().to_list() == before


async def accepted_s(server: InProcess) -> float:
    """Send an event that must be accepted; return how long that took."""
    started_at_s = time.monotonic()
    reply = await server.ask(request(ONE))
    assert reply.status == 202, reply.body
    return time.monotonic() - started_at_s


async def test_the_store_hangs(
    link: Link,
    keys: Keys,
    settings: Settings,
    own_store_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the store hangs, events are accepted at once and the log is told how far it got."""
    monkeypatch.setattr(storage_ledger, "LEDGER_STORE_S_MAX", 0.5)
    settings = changed(settings, mongo_url=own_store_server.url)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        await accepted_s(server)
        with hanging(own_store_server):
            took_s = [await accepted_s(server) for _ in range(20)]

            async def is_told() -> bool:
                return [one.seq for one in await recorded_epochs(link, keys)] == [21]

            await until(is_told, what="the log knows of all of them")
            server.stop()
            await asyncio.wait_for(asyncio.shield(server.task), settings.shutdown_timeout_s + 2)
    assert max(took_s) < 1
    # It could not tell the store, so the log still has it as one to be carried.
    assert [(one.seq, one.retired_ms) for one in await recorded_epochs(link, keys)] == [(21, 0)]


async def test_the_log_hangs(db: Database, settings: Settings, own_log_server: Server) -> None:
    """While the log hangs the store is told all the same; afterwards events are accepted."""
    settings = changed(settings, redis_url=own_log_server.url)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        await accepted_s(server)

        async def is_told() -> bool:
            return len(await rows(db)) == 1

        await until(is_told, what="the store knows of it")
        await db["servers"].delete_many({})
        with hanging(own_log_server):
            await until(is_told, what="the store is told again")
        assert await accepted_s(server) < 10
        assert len(await rows(db)) == 1


async def test_a_fault_of_ours_does_not_end_it(
    producer: Producer, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody expected is told, and the next record is made."""
    await producer.append(open_frame(event(0)), 1)
    original, faults = storage_ledger.record_servers, [ValueError("no"), ValueError("again")]

    async def faulty(*args: Any) -> None:
        if faults:
            raise faults.pop()
        await original(*args)

    monkeypatch.setattr(ledger, "record_servers", faulty)
    book = Ledger(settings, db, producer)

    async def is_told() -> bool:
        return len(await rows(db)) == 1

    with heard() as lines:
        book.start()
        await until(is_told, what="the store is told")
    await book.close()
    assert len(said(lines, "unexpected error in the ledger")) == 2
