"""The balance: right when all is quiet, and never a loss too much while events flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from evp.balance import Balance, look_once
from evp.server import health
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.verify import run
from evp.verify.report import Scope
from tests.support.make import event
from tests.support.server import InProcess, request, serving
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS, hanging
from tests.support.streams import consumer
from tests.support.verifying import Accepting, accepting, look
from tests.support.wait import until
from tests.support.workers import changed, drain, until_drained, working

pytestmark = MAY_LEAVE_SOCKETS


@pytest.fixture
async def server(db: Database, link: Link, settings: Settings) -> AsyncIterator[Accepting]:
    """A server process."""
    async with accepting(settings) as server:
        yield server


def sums(balance: Balance) -> tuple[int, int, int, int, int | None, int | None]:
    """Return accepted, stored, duplicate, dead, in the log, unaccounted for."""
    settled = (balance.stored, balance.duplicate, balance.dead)
    return (balance.accepted, *settled, balance.in_log, balance.unaccounted)


async def test_nothing_yet(db: Database, link: Link, settings: Settings) -> None:
    """Before the first event all is zero, and recorded nowhere."""
    balance = await look_once(settings, db)
    assert sums(balance) == (0, 0, 0, 0, 0, 0)
    assert balance.source == ""


async def test_every_step(server: Accepting, db: Database, settings: Settings) -> None:
    """Waiting, delivered, settled: an event is always in one of the sums."""
    await server.frames([event(0), event(1)], [event(1), event(2)], [event(2, data="another")])
    await server.record_in_log()
    assert sums(await look_once(settings, db)) == (5, 0, 0, 0, 5, 0)
    reader = consumer(settings, "worker-1")
    await reader.ensure_group()
    await reader.read(1)
    assert sums(await look_once(settings, db)) == (5, 0, 0, 0, 5, 0)
    await reader.close()
    await drain(settings)
    assert sums(await look_once(settings, db)) == (5, 3, 1, 1, 0, 0)


async def test_a_log_that_was_flushed(
    server: Accepting, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """What was accepted is known when the log has lost all, and what is lost with it is told."""
    await server.frames([event(0)], [event(1)])
    await server.record_in_log()
    assert (await look_once(settings, db)).source == "log"
    await server.record_in_store(db)
    assert (await look_once(settings, db)).source == "log and store"
    await drain(settings)
    await server.frames([event(2), event(3)])
    await server.record_in_store(db)
    await link.call("DEL", *keys.all())
    balance = await look_once(settings, db)
    assert sums(balance) == (4, 2, 0, 0, 0, 2)
    assert balance.source == "store"
    await server.frames([event(4)])
    await server.record_in_store(db)
    assert sums(await look_once(settings, db)) == (5, 2, 0, 0, 1, 2)


async def test_plain_entries_are_counted_apart(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """Events of other programs neither hide a loss nor look like one."""
    plain = ("XADD", settings.stream, "*", "type", "t", "data", "1")
    await link.call(*plain)
    await server.frames([event(0), event(1)])
    await server.record_in_log()
    balance = await look_once(settings, db)
    assert sums(balance) == (2, 0, 0, 0, 2, 0)
    await drain(settings)
    await link.call(*plain)
    balance = await look_once(settings, db)
    assert (balance.accepted, balance.stored, balance.external) == (2, 3, 1)
    assert (balance.in_log, balance.unaccounted) == (0, 0)
    await link.calls([plain] * 120)
    await server.frames([event(2)])
    await server.record_in_log()
    balance = await look_once(settings, db)
    assert (balance.in_log, balance.unaccounted) == (1, 0)


async def test_an_outcome_that_is_gone(server: Accepting, db: Database, settings: Settings) -> None:
    """What is in none of the sums is unaccounted for."""
    await server.frames([event(0), event(1)], [event(2)])
    await server.record_in_log()
    await drain(settings)
    await db["outcomes"].delete_one({"stored": 2})
    assert (await look_once(settings, db)).unaccounted == 2


async def test_unknown_outcome_is_a_range(
    server: Accepting, db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """An append that landed although nobody was told hides no loss: the balance is a range."""
    await server.frames([event(0)], [event(1)])
    await server.frames([event(2), event(3), event(4)], is_told=False)
    await server.record_in_log()
    balance = await look_once(settings, db)
    assert (balance.accepted, balance.unknown, balance.in_log) == (2, 3, 5)
    assert (balance.unaccounted, balance.unaccounted_max) == (0, 0)
    await server.record_in_store(db)
    await drain(settings)
    await db["outcomes"].delete_many({"stored": 1})
    balance = await look_once(settings, db)
    assert (balance.unknown, balance.unaccounted, balance.unaccounted_max) == (3, 0, 2)
    await link.call("DEL", *keys.all())
    await db["outcomes"].delete_many({})
    balance = await look_once(settings, db)
    assert (balance.unknown, balance.unaccounted, balance.unaccounted_max) == (3, 2, 5)


async def test_never_too_large_under_load(db: Database, link: Link, settings: Settings) -> None:
    """While events are accepted and stored, none is ever unaccounted for."""
    stop = asyncio.Event()

    async def accept() -> int:
        async with accepting(settings) as server:
            count = 0
            while not stop.is_set():
                await server.frames([event(count), event(count + 1)])
                await server.record_in_log()
                count += 2
                # Workers share this loop.
                await asyncio.sleep(0.005)
            return count

    async with working(settings):
        task = asyncio.create_task(accept())
        looks = [await look_once(settings, db) for _ in range(15)]
        stop.set()
        accepted = await task
        await until_drained(settings)
    assert looks[-1].stored > looks[0].stored
    assert [look.unaccounted for look in looks if look.unaccounted] == []
    assert sums(await look_once(settings, db)) == (accepted, accepted, 0, 0, 0, 0)


async def health_of(server: InProcess) -> dict[str, object]:
    """Return what /api/health tells."""
    told: dict[str, object] = msgspec.json.decode((await server.get("/api/health")).body)
    return told


async def test_health_tells_the_balance(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health has the balance soon after it is asked; a loss degrades it until that is noted."""
    monkeypatch.setattr(health, "BALANCE_KEEP_S", 0.0)
    monkeypatch.setattr(health, "BALANCE_COST_FACTOR", 0)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        assert (await health_of(server))["balance"] is None
        await server.ask(request(b'{"type": "t", "id": "1"}'))
        await drain(settings)

        async def tells(unaccounted: int, status: str) -> bool:
            told = await health_of(server)
            balance = told["balance"]
            return (
                isinstance(balance, dict)
                and (balance["accepted"], balance["unaccounted"]) == (1, unaccounted)
                and told["status"] == status
            )

        await until(lambda: tells(0, "ok"), what="all is accounted for")
        for name in ("frames", "outcomes", "events"):
            await db[name].delete_many({})
        await link.call("XTRIM", settings.stream, "MAXLEN", 0)
        await until(lambda: tells(1, "degraded"), what="one is not")
        monkeypatch.setattr(run, "VERIFY_AGAIN_S", 0.0)
        await look(settings, Scope(acknowledge="it is known"))
        await until(lambda: tells(0, "ok"), what="somebody has taken note of it")


async def test_balance_is_made_rarely(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often health is asked, the sums are made again only after many times their cost."""
    made = 0

    async def look(settings: Settings, db: Database) -> Balance:
        nonlocal made
        made += 1
        return await look_once(settings, db)

    monkeypatch.setattr("evp.server.run.look_once", look)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")

        async def has_one() -> bool:
            return (await health_of(server))["balance"] is not None

        await until(has_one, what="there is a balance")
        for _ in range(20):
            await health_of(server)
    assert made == 1


async def test_health_does_not_wait_for_it(
    link: Link, settings: Settings, own_store_server: Server
) -> None:
    """While the store hangs health is told at once, and the server ends in time."""
    async with serving(changed(settings, mongo_url=own_store_server.url)) as server:
        await until(server.is_ready, what="the server accepts")
        with hanging(own_store_server):
            async with asyncio.timeout(2.5):
                assert (await health_of(server))["status"] == "degraded"
                assert (await server.ask(request(b'{"type": "t"}'))).status == 202
