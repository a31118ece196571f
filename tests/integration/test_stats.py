"""Where everything stands: counts, lag and rates are right, and looking disturbs nobody."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from evp import balance, looks, stats
from evp.clock import from_ms, now_ms
from evp.errors import LogUnavailable
from evp.limits import HEARTBEAT_S, TOTALS_COST_FACTOR, WORKER_MISSED_S, WORKER_SILENT_S
from evp.settings import Settings
from evp.stats import Collector, Stats, look_once
from evp.storage import ledger
from evp.storage.account import Totals, totals
from evp.storage.client import Database
from evp.storage.schema import WORKERS
from evp.stream.client import Link
from evp.stream.info import GroupFacts
from evp.worker import heartbeat
from tests.support.make import event
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS, hanging
from tests.support.streams import append, append_events, consumer
from tests.support.wait import until
from tests.support.workers import changed, drain, until_drained, working

pytestmark = MAY_LEAVE_SOCKETS


@contextlib.asynccontextmanager
async def collecting(settings: Settings) -> AsyncIterator[Collector]:
    """Give a collector that is closed at the end."""
    collector = Collector(settings)
    try:
        yield collector
    finally:
        await collector.close()


@pytest.fixture
async def collector(settings: Settings) -> AsyncIterator[Collector]:
    """A collector."""
    async with collecting(settings) as collector:
        yield collector


def the_group(found: Stats) -> GroupFacts:
    """Return the only group."""
    [group] = found.log.groups
    assert group.name == found.group
    return group


async def test_nothing_yet(db: Database, link: Link, collector: Collector) -> None:
    """Before the first event everything is zero, and that is no error."""
    found = await collector.look()
    assert found.totals == Totals()
    assert (found.log.events_accepted, found.log.groups) == (0, [])
    assert (found.rates.accepted_per_s, found.rates.stored_per_s) == (0, 0)
    assert found.store_error is None


async def test_totals_and_lag(
    db: Database, link: Link, settings: Settings, collector: Collector
) -> None:
    """What is accepted, pending, waiting, stored, doubled and dead is counted in events."""
    reader = consumer(settings, "worker-1")
    await reader.ensure_group()
    await append(settings, [event(0), event(1)], [event(1), event(2)], [event(2, data="another")])
    found = await collector.look()
    group = the_group(found)
    assert (found.log.events_accepted, found.log.frames_accepted) == (5, 3)
    assert (group.lag_events, group.pending, group.pending_events) == (5, 0, 0)
    await reader.read(1)
    group = the_group(await collector.look())
    assert (group.lag_events, group.pending, group.pending_events) == (3, 1, 2)
    await reader.close()
    await drain(settings)
    found = await look_once(settings, 0.01)
    group = the_group(found)
    assert (group.lag_events, group.pending, group.lag_s) == (0, 0, 0)
    assert found.totals == Totals(stored=3, duplicate=1, dead=1, frames=3)
    assert (found.stream, found.group) == (settings.stream, settings.consumer_group)


async def test_lag_in_seconds(
    db: Database, link: Link, settings: Settings, collector: Collector
) -> None:
    """Lag in seconds is the age of the oldest entry that is not acked, pending or not."""
    seconds, _ = await link.call("TIME")
    old = int(seconds) * 1000 - 30_000
    for age_ms in (30_000, 20_000):
        entry = f"{old + 30_000 - age_ms}-0"
        await link.call("XADD", settings.stream, entry, "type", "t", "data", "1")
    reader = consumer(settings, "worker-1")
    await reader.ensure_group()
    assert 30 <= the_group(await collector.look()).lag_s < 35
    first = await reader.read(1)
    assert 30 <= the_group(await collector.look()).lag_s < 35
    await reader.ack(first)
    assert 20 <= the_group(await collector.look()).lag_s < 25
    await reader.ack(await reader.read(1))
    assert the_group(await collector.look()).lag_s == 0
    await reader.close()


async def test_rates(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted a second is measured between two looks, stored a second is what workers tell."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.05)
    looking = asyncio.create_task(look_once(settings, 0.5))
    await asyncio.sleep(0.1)
    await append_events(settings, 50, each=10)
    found = await looking
    # 50 events within half a second, or little more.
    assert 30 < found.rates.accepted_per_s <= 105
    assert found.rates.stored_per_s == 0
    async with working(settings):
        await until_drained(settings)
        await ledger.record_worker(db, "g", "elsewhere-1", {"stored_per_s": 70.5}, within_s=5)
        found = await look_once(settings, 0.05)
        assert found.rates.accepted_per_s == 0
        assert found.rates.stored_per_s >= 70.5


async def test_what_workers_tell(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker tells the size and time of its writes, and how long events took."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.3)
    async with working(settings), collecting(settings) as collector:
        await append_events(settings, 40, each=10)
        await append(settings, [event(0), event(0, data="another", id="new")])

        seen: list[Stats] = []

        async def has_written() -> bool:
            seen.append(await collector.look())
            return seen[-1].rates.stored_per_s > 0

        await until(has_written, what="the worker tells what it has stored")
        found = seen[-1]
        [worker] = found.workers
        assert worker.group == settings.consumer_group
        assert 1 <= worker.batch_events <= 42
        assert 0 < worker.write_ms < 5_000
        assert worker.rss_bytes > 10_000_000
        assert worker.seen_s < WORKER_SILENT_S
        assert found.latency_ms is not None
        assert 0 <= found.latency_ms.p50 <= found.latency_ms.p99 < 60_000


async def test_workers_that_are_missed(
    db: Database, link: Link, settings: Settings, collector: Collector
) -> None:
    """One that fell silent is marked, and its rates don't count; one that ended is gone."""
    facts = {"stored_per_s": 70.0, "duplicate_per_s": 5.0, "dead_per_s": 1.0, "took": [[8, 3]]}
    for name in ("hangs", "killed-long-ago", "works"):
        await ledger.record_worker(db, "g", name, facts, within_s=5)
    ended = {**facts, "ended": True}
    await ledger.record_worker(db, "g", "ended", ended, within_s=5)
    for name, silent_s in (("hangs", WORKER_SILENT_S + 1), ("killed-long-ago", WORKER_MISSED_S)):
        seen_at = from_ms(now_ms() - int(silent_s * 1000))
        await db[WORKERS].update_one({"_id": f"g/{name}"}, {"$set": {"seen_at": seen_at}})
    found = await collector.look()
    assert [(one.name, one.silent) for one in found.workers] == [("hangs", True), ("works", False)]
    rates = found.rates
    assert (rates.stored_per_s, rates.duplicate_per_s, rates.dead_per_s) == (70, 5, 1)


async def test_a_worker_that_ended_is_not_missed(
    db: Database,
    link: Link,
    settings: Settings,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who ends as it should says so, and is no longer told of; who comes back is."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.05)
    async with working(settings):
        await until(lambda: _has_workers(collector), what="the worker tells of itself")
    assert not await _has_workers(collector)
    async with working(settings):
        await until(lambda: _has_workers(collector), what="it is back")


async def _has_workers(collector: Collector) -> bool:
    return bool((await collector.look()).workers)


async def test_engines(db: Database, link: Link, collector: Collector) -> None:
    """A look tells which engines there are, what an acknowledgement is worth, and the memory."""
    found = await collector.look()
    assert found.log_state.version.split()[0] in {"valkey", "redis"}
    assert (found.log_state.durability, found.log_state.detail) == ("fsync", "")
    assert found.log_state.used_bytes
    assert found.store_state is not None
    assert found.store_state.version
    assert found.store_state.answer_ms is not None


async def test_time_to_drain(
    db: Database, link: Link, settings: Settings, collector: Collector
) -> None:
    """It is known where less and less waits, zero where nothing does, and else it is not told."""
    reader = consumer(settings, "worker-1")
    await reader.ensure_group()
    assert the_group(await collector.look()).drain_s == 0
    await append(settings, *[[event(number)] for number in range(10)])
    assert the_group(await collector.look()).drain_s is None
    async with collecting(settings) as other:
        await other.look()
        await reader.ack(await reader.read(4))
        drain_s = the_group(await other.look()).drain_s
        assert drain_s is not None
        assert drain_s > 0
    await reader.close()


async def test_stuck(
    db: Database,
    link: Link,
    settings: Settings,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A group is stuck while its oldest entry stays the same, whatever others do behind it."""
    monkeypatch.setattr(looks, "STUCK_S", 0.05)
    reader = consumer(settings, "worker-1")
    await reader.ensure_group()
    await append(settings, [event(0)])
    # The log tells times in milliseconds: the others are younger by some.
    await asyncio.sleep(0.01)
    await append(settings, *[[event(number)] for number in range(1, 6)])
    first = await reader.read(1)
    assert not the_group(await collector.look()).stuck
    await reader.ack(await reader.read(3))
    await asyncio.sleep(0.06)
    found = the_group(await collector.look())
    assert (found.stuck, found.waiting_events) == (True, 3)
    await reader.ack(first)
    assert not the_group(await collector.look()).stuck
    await reader.close()


async def test_looking_again_is_cheap(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Summing reads much: it is done again only after many times what it took."""
    began_at_s: list[float] = []
    ended_at_s: list[float] = []

    async def timed(db: Database) -> Totals:
        began_at_s.append(time.monotonic())
        found = await totals(db)
        ended_at_s.append(time.monotonic())
        return found

    monkeypatch.setattr(balance, "totals", timed)
    async with collecting(settings) as collector:
        while len(began_at_s) < 4:
            await collector.look()
    for began, ended, again in zip(began_at_s, ended_at_s, began_at_s[1:], strict=False):
        assert again - ended >= TOTALS_COST_FACTOR * (ended - began)


async def test_store_away(
    link: Link, settings: Settings, own_store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the store the log's side is told all the same, with the totals of before."""
    monkeypatch.setattr(stats, "STORE_LOOK_S_MAX", 3.0)
    settings = changed(settings, mongo_url=own_store_server.url)
    await append_events(settings, 3)
    await drain(settings)
    async with collecting(settings) as collector:
        assert (await collector.look()).totals == Totals(stored=3, frames=3)
        await append_events(settings, 2, first=3)
        with hanging(own_store_server):
            await told_in_time(collector)
        await asyncio.to_thread(own_store_server.kill)
        # Whoever looks on sees the log in time, however long the store is waited for.
        for _ in range(3):
            await told_in_time(collector, store_wait_s=0.3, within_s=2.5)
        await asyncio.to_thread(own_store_server.start)

        async def is_back() -> bool:
            return (await collector.look()).store_error is None

        await until(is_back, what="the store is found again")


async def told_in_time(
    collector: Collector, store_wait_s: float | None = None, within_s: float = 10.0
) -> None:
    """Check a look without a store: it tells of the log, and does not wait for long."""
    started_at_s = time.monotonic()
    found = await collector.look(store_wait_s)
    assert time.monotonic() - started_at_s < within_s
    assert found.store_error
    assert found.totals == Totals(stored=3, frames=3)
    assert (found.log.events_accepted, the_group(found).lag_events) == (5, 2)


async def test_log_away(db: Database, settings: Settings, own_log_server: Server) -> None:
    """Without the log there is nothing to tell; once it is back, there is."""
    settings = changed(settings, redis_url=own_log_server.url)
    await append_events(settings, 3)
    async with collecting(settings) as collector:
        assert (await collector.look()).log.events_accepted == 3
        await asyncio.to_thread(own_log_server.kill)
        for _ in range(2):
            with pytest.raises(LogUnavailable):
                await collector.look()
        await asyncio.to_thread(own_log_server.start)
        assert (await collector.look()).log.events_accepted == 3


async def test_counters_that_began_anew(
    db: Database, link: Link, settings: Settings, collector: Collector
) -> None:
    """After a flush of the log the rate is not negative."""
    await append_events(settings, 5)
    await collector.look()
    await link.call("DEL", settings.stream, f"{{{settings.stream}}}:counters")
    assert (await collector.look()).rates.accepted_per_s == 0


def test_silence_is_longer_than_a_heartbeat() -> None:
    """A worker that speaks regularly is never taken as silent."""
    assert WORKER_SILENT_S > 2 * HEARTBEAT_S
