"""The worker: what is in the log gets into the store once, whatever goes away meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from functools import partial

import pytest

from evp.batch.policy import ReadSize
from evp.clock import now_ms
from evp.errors import GroupLost
from evp.limits import JOB_LEASE_MS
from evp.settings import Settings
from evp.storage import client, lease, schema
from evp.storage.client import Database
from evp.storage.ledger import deleted_entries
from evp.stream import slots
from evp.stream.client import Link
from evp.stream.consumer import Delivery
from evp.stream.keys import Keys
from evp.stream.slots import Slot
from evp.worker import heartbeat, loop
from evp.worker.carrier import Carrier
from evp.worker.journal import Journals
from evp.worker.loop import Worker
from evp.worker.parts import leave
from tests.support.make import SRV, event, open_frame
from tests.support.proxy import proxying
from tests.support.servers import Server
from tests.support.stores import (
    MAY_LEAVE_SOCKETS,
    Listener,
    documents,
    fail,
    hanging,
    in_rounds,
    store,
    the_one,
)
from tests.support.streams import append, append_events, consumer
from tests.support.wait import until
from tests.support.workers import (
    TROUBLE,
    append_at_once,
    carrier_of,
    changed,
    drain,
    gaps_s,
    group_of,
    heard,
    is_drained,
    of_level,
    said,
    until_drained,
    until_pending,
    working,
)

pytestmark = MAY_LEAVE_SOCKETS


async def exactly(db: Database, count: int) -> None:
    """Check that the events e0, e1, … are stored once each, and that nothing is dead."""
    found = await db[schema.EVENTS].find({}, {"id": 1}).to_list()
    assert Counter(one["id"] for one in found) == Counter(f"e{n}" for n in range(count))
    outcomes = await documents(db, schema.OUTCOMES)
    assert sum(one["stored"] for one in outcomes) == count
    assert await documents(db, schema.DEAD_LETTERS) == []


async def stored(db: Database) -> int:
    """Return how many events are stored."""
    return await db[schema.EVENTS].count_documents({})


async def until_stored(db: Database, count: int) -> None:
    """Wait until so many events are stored."""

    async def are_stored() -> bool:
        return await stored(db) == count

    await until(are_stored, what=f"{count} events are stored")


# Carrying


@pytest.mark.parametrize("in_flight", [1, 4])
async def test_everything_is_stored_once_and_acked(
    db: Database, link: Link, settings: Settings, in_flight: int
) -> None:
    """What was accepted before and after the worker's start is stored once and acked."""
    await append_events(settings, 60, each=6)
    async with working(settings, in_flight=in_flight):
        await until_stored(db, 60)
        await append_events(settings, 40, first=60, each=2)
        await until_drained(settings)
    await exactly(db, 100)


async def test_burst_ends_when_drained(db: Database, link: Link, settings: Settings) -> None:
    """With burst a worker makes its group, empties the stream, and ends by itself."""
    await drain(settings)
    await append_events(settings, 30, each=2)
    await drain(settings, in_flight=3)
    assert await is_drained(settings)
    await exactly(db, 30)


async def test_own_pending_entries_come_first(db: Database, link: Link, settings: Settings) -> None:
    """What was delivered to this name before it died is written before anything new."""
    before = consumer(settings, "worker-1")
    await before.ensure_group()
    await append_events(settings, 6, each=2)
    assert len(await before.read(10)) == 3
    await before.close()
    await append_events(settings, 4, first=6, each=2)
    await drain(changed(settings, read_count=1))
    assert await is_drained(settings)
    await exactly(db, 10)
    # Two may be written within one millisecond.
    headers = await db[schema.FRAMES].find().sort([("written_at", 1), ("entry", 1)]).to_list()
    assert [one["entry"] for one in headers] == sorted(one["entry"] for one in headers)
    group = await group_of(settings)
    assert group is not None
    assert group.consumers == []


async def test_acked_only_when_settled(
    faulty: Database, link: Link, settings: Settings, failing: Server
) -> None:
    """Events that are in the store are not acked as long as the outcome is not."""
    settings = changed(settings, mongo_url=failing.url)
    await append_events(settings, 3)
    async with contextlib.AsyncExitStack() as failures:
        # Headers and events pass.
        await failures.enter_async_context(fail(faulty, "insert", {"skip": 2}, errorCode=112))
        async with working(changed(settings, read_count=3)):
            await until_stored(faulty, 3)
            await until_pending(settings, 3)
            assert await documents(faulty, schema.OUTCOMES) == []
            await failures.aclose()
            await until_drained(settings)
    await exactly(faulty, 3)


async def test_outage_costs_a_portion(
    faulty: Database, link: Link, settings: Settings, failing: Server
) -> None:
    """A batch too big for one call is written in portions, and goes on where it was cut off."""
    settings = changed(settings, mongo_url=failing.url, read_count=20, worker_batch_size=10)
    await append_events(settings, 100, each=5)
    with heard() as lines:
        async with contextlib.AsyncExitStack() as failures:
            # Ten portions of three inserts each: the sixth one does not get through.
            await failures.enter_async_context(fail(faulty, "insert", {"skip": 16}, errorCode=112))
            async with working(settings):
                await until(
                    lambda: bool(said(lines, "the store can't be written")), what="it fails"
                )
                assert len(await documents(faulty, schema.OUTCOMES)) == 10
                await failures.aclose()
                await until_drained(settings)
    await exactly(faulty, 100)
    [stopped] = said(lines, "stopped")
    assert (stopped["events"], stopped["stored"]) == (100, 100)


async def test_batches_in_flight_are_bounded(
    faulty: Database, link: Link, settings: Settings, failing: Server
) -> None:
    """While writes are under way no more is read than the batches in flight."""
    settings = changed(settings, mongo_url=failing.url, read_count=1)
    await append_events(settings, 10)
    for in_flight in (1, 3):
        async with (
            fail(faulty, "insert", blockConnection=True, blockTimeMS=150),
            working(settings, in_flight=in_flight),
        ):
            await until_pending(settings, in_flight)
            for _ in range(5):
                group = await group_of(settings)
                assert group is not None
                assert group.pending <= in_flight
                await asyncio.sleep(0.01)
    await drain(settings)
    await exactly(faulty, 10)


async def test_what_was_delivered_before_is_carried_alone(
    faulty: Database,
    link: Link,
    settings: Settings,
    failing: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a backlog two batches are carried at once, but never one that may kill its writer."""
    settings = changed(settings, mongo_url=failing.url, read_count=1)
    before = consumer(settings, "worker-1")
    await before.ensure_group()
    await append_events(settings, 3)
    assert len(await before.read(3)) == 3
    await before.close()
    await append_events(settings, 5, first=3)
    under_way, most = 0, {True: 0, False: 0}
    carry = Carrier.carry

    async def counted(self: Carrier, batch: list[Delivery], stop: asyncio.Event) -> bool:
        nonlocal under_way
        under_way += 1
        again = any(one.times > 1 for one in batch)
        most[again] = max(most[again], under_way)
        try:
            return await carry(self, batch, stop)
        finally:
            under_way -= 1

    monkeypatch.setattr(Carrier, "carry", counted)
    async with (
        fail(faulty, "insert", blockConnection=True, blockTimeMS=50),
        working(settings),
    ):
        await until_drained(settings)
    assert most == {True: 1, False: 2}
    await exactly(faulty, 8)


async def test_what_follows_a_small_batch_is_read_at_once(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone event is stored without delay; those behind it wait a moment and make one batch."""
    monkeypatch.setattr(loop, "READ_AGAIN_S", 2)
    batches: list[int] = []
    carry = Carrier.carry

    async def counted(self: Carrier, batch: list[Delivery], stop: asyncio.Event) -> bool:
        batches.append(len(batch))
        return await carry(self, batch, stop)

    monkeypatch.setattr(Carrier, "carry", counted)
    async with working(changed(settings, read_count=50)):
        await append_events(settings, 1)
        await until_stored(db, 1)
        for first in (1, 2, 3):
            await append_events(settings, 1, first=first)
        await until_stored(db, 4)
    assert batches == [1, 3]


async def test_a_stop_does_not_wait_for_a_batch_to_grow(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to stop while it lets more come, a worker ends at once."""
    monkeypatch.setattr(loop, "READ_AGAIN_S", 3600)
    async with working(changed(settings, read_count=50)) as worker:
        await append_events(settings, 1)
        await until_stored(db, 1)
        worker.tell()
        assert await worker.ended() < 3


async def test_entries_that_are_no_frames(db: Database, link: Link, settings: Settings) -> None:
    """Corrupt is dead and acked, newer is left pending, plain is stored; none blocks the others."""
    stream = settings.stream
    await append(settings, [event(0)])
    await link.call("XADD", stream, "*", "foo", "bar")
    newer = open_frame(event(7)).fields(SRV, 1) | {b"v": b"9"}
    left = await link.call("XADD", stream, "*", *(item for pair in newer.items() for item in pair))
    await link.call("XADD", stream, "*", "type", "t", "id", "e1", "data", '{"a": 1}')
    await append(settings, [event(2)])
    with heard() as lines:
        await drain(settings)
    assert await stored(db) == 3
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert (letter["reason"], letter["payload"]) == ("invalid_entry", b"3:foo3:bar")
    assert (letter["stream"], letter["group"]) == (stream, settings.consumer_group)
    [plain] = [one for one in await documents(db, schema.FRAMES) if one.get("external")]
    assert (plain["srv"], plain["n"]) == (b"", 1)
    rows = await link.call("XPENDING", stream, settings.consumer_group, "-", "+", 10)
    assert [row[0] for row in rows] == [left]
    assert said(lines, "upgrade the workers")
    assert said(lines, "entries can't be read: dead letters")
    # The next worker does not choke on it either.
    await append(settings, [event(3)])
    await drain(settings)
    assert await stored(db) == 4
    assert len(await documents(db, schema.DEAD_LETTERS)) == 1


async def test_many_corrupt_entries_are_few_lines(
    db: Database, link: Link, settings: Settings
) -> None:
    """A flood of nonsense becomes dead letters, one each, and not a flood of log lines."""
    for number in range(40):
        await link.call("XADD", settings.stream, "*", "foo", str(number))
    with heard() as lines:
        await drain(changed(settings, read_count=10))
    assert await is_drained(settings)
    letters = await documents(db, schema.DEAD_LETTERS)
    assert [one["attempts"] for one in letters] == [1] * 40
    assert len(said(lines, "entries can't be read: dead letters")) <= 2


async def test_entry_deleted_while_pending(db: Database, link: Link, settings: Settings) -> None:
    """An entry that was deleted after its delivery is reported and holds nothing up."""
    before = consumer(settings, "worker-1")
    await before.ensure_group()
    await append_events(settings, 2)
    found = await before.read(10)
    await before.close()
    await link.call("XDEL", settings.stream, found[0].entry_id)
    with heard() as lines:
        await drain(settings)
    assert await is_drained(settings)
    assert await stored(db) == 1
    assert await documents(db, schema.DEAD_LETTERS) == []
    assert await deleted_entries(db) == 1
    [alarm] = said(lines, "data loss: entries were deleted before they were acked")
    assert found[0].entry_id in alarm["reason"]
    assert alarm["log_level"] == "error"


# Outages of the store


@pytest.mark.slow
async def test_store_killed_and_started_again(
    link: Link, settings: Settings, own_store_server: Server
) -> None:
    """While the store is away nothing is acked, dead or lost, and little is said about it."""
    in_flight = 2
    settings = changed(settings, mongo_url=own_store_server.url, write_timeout_ms=400, read_count=1)
    with heard() as lines:
        async with working(settings, in_flight=in_flight):
            await append_events(settings, 4)
            await until_drained(settings)
            await asyncio.to_thread(own_store_server.kill)
            await append_at_once(settings, 20, first=4)
            await until_pending(settings, in_flight)
            await until(
                lambda: len(of_level(lines, *TROUBLE)) >= 2, what="it was said more than once"
            )
            group = await group_of(settings)
            assert group is not None
            assert (group.pending, group.lag_events) == (in_flight, 20 - in_flight)
            await asyncio.to_thread(own_store_server.start)
            await until_drained(settings)
    assert min(gaps_s(lines, *TROUBLE)) > 0.99
    async with store(own_store_server.url, settings.mongo_db) as db:
        await exactly(db, 24)


async def test_store_that_hangs(link: Link, settings: Settings, failing: Server) -> None:
    """A store that stops answering in the middle of a write is waited out as well."""
    settings = changed(settings, mongo_url=failing.url, write_timeout_ms=200)
    async with working(settings):
        await append_events(settings, 5)
        await until_drained(settings)
        with hanging(failing), heard() as lines:
            await append_events(settings, 5, first=5)
            await until(
                lambda: bool(said(lines, "the store can't be written")), what="it is noticed"
            )
        await until_drained(settings)
    async with store(failing.url, settings.mongo_db) as db:
        await exactly(db, 10)


async def test_store_away_at_the_start(
    link: Link, settings: Settings, failing: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts before its store waits for it."""
    monkeypatch.setattr(client, "STORE_SELECT_MS_MAX", 200)
    settings = changed(settings, mongo_url=failing.url, mongo_connect_timeout_ms=200)
    await append_events(settings, 5)
    with heard() as lines, contextlib.ExitStack() as away:
        away.enter_context(hanging(failing))
        async with working(settings):
            await until(
                lambda: bool(said(lines, "the store can't be prepared")), what="it is noticed"
            )
            away.close()
            await until_drained(settings)
    async with store(failing.url, settings.mongo_db) as db:
        await exactly(db, 5)


# Outages of the log


async def test_log_killed_and_started_again(
    db: Database, settings: Settings, own_log_server: Server
) -> None:
    """After a crash of the log the worker goes on by itself, with all that was accepted."""
    settings = changed(settings, redis_url=own_log_server.url)
    await append_events(settings, 10)
    with heard() as lines:
        async with working(settings):
            await until_stored(db, 10)
            await append_events(settings, 10, first=10)
            await asyncio.to_thread(own_log_server.kill)
            await until(lambda: bool(of_level(lines, "warning")), what="it is noticed")
            await asyncio.to_thread(own_log_server.start)
            await append_events(settings, 10, first=20)
            await until_drained(settings)
    assert min(gaps_s(lines, "warning"), default=1) > 0.99
    await exactly(db, 30)


async def test_log_away_at_the_start(
    db: Database, settings: Settings, own_log_server: Server
) -> None:
    """A worker that starts before its log waits for it."""
    settings = changed(settings, redis_url=own_log_server.url)
    await append_events(settings, 5)
    await asyncio.to_thread(own_log_server.kill)
    with heard() as lines:
        async with working(settings):
            await until(lambda: bool(said(lines, "no consumer name yet")), what="it is noticed")
            await asyncio.to_thread(own_log_server.start)
            await until_drained(settings)
    await exactly(db, 5)


async def test_group_destroyed_while_working(db: Database, link: Link, settings: Settings) -> None:
    """A group that is gone is made again at the beginning: nothing is lost, nothing doubled."""
    await append_events(settings, 10)
    with heard() as lines:
        async with working(settings):
            await until_drained(settings)
            await link.call("XGROUP", "DESTROY", settings.stream, settings.consumer_group)
            await append_events(settings, 10, first=10)
            await until_drained(settings)
    assert len(said(lines, "the group is gone; it is made anew")) == 1
    assert len(said(lines, "group created at 0")) == 2
    await exactly(db, 20)


async def test_log_flushed_while_working(
    db: Database, settings: Settings, own_log_server: Server
) -> None:
    """After a flush everything that is accepted from then on is stored."""
    settings = changed(settings, redis_url=own_log_server.url)
    await append_events(settings, 5)
    with heard() as lines:
        async with working(settings):
            await until_drained(settings)
            link = await Link.open(settings.redis_url)
            await link.call("FLUSHALL")
            await link.close()
            await append_events(settings, 50, first=5)
            await until_drained(settings)
    assert len(of_level(lines, *TROUBLE)) <= 2
    await exactly(db, 55)


async def test_lost_reply_is_read_again(db: Database, link: Link, settings: Settings) -> None:
    """Entries whose delivery got lost on the way come again at once, by the same name."""
    async with proxying(settings.redis_url) as proxy:
        async with working(changed(settings, redis_url=proxy.url)):
            await append_events(settings, 3)
            await until_drained(settings)
            proxy.drop_reply("XREADGROUP", holding=b"docs")
            await append_events(settings, 3, first=3)
            await until_drained(settings)
        assert proxy.lost == 1
    await exactly(db, 6)


async def test_burst_does_not_end_on_a_lost_reply(
    db: Database, link: Link, settings: Settings
) -> None:
    """That a read failed does not mean that nothing is left."""
    await append_events(settings, 5)
    async with proxying(settings.redis_url) as proxy:
        proxy.drop_reply("XREADGROUP", holding=b"docs")
        await drain(changed(settings, redis_url=proxy.url, read_count=10))
        assert proxy.lost == 1
    assert await is_drained(settings)
    await exactly(db, 5)


async def test_lost_ack_comes_again_and_counts_once(
    db: Database, link: Link, settings: Settings
) -> None:
    """A frame whose ack got lost is recognised as settled and acked again."""
    async with proxying(settings.redis_url) as proxy:
        proxy.drop_reply("XACK")
        with heard() as lines:
            async with working(changed(settings, redis_url=proxy.url)):
                await append_events(settings, 3)
                await until_drained(settings)
                await append_events(settings, 2, first=3)
                await until_drained(settings)
        assert proxy.lost == 1
    assert said(lines, "the log was lost; the batch comes again")
    [stopped] = said(lines, "stopped")
    assert stopped["stored"] == 5
    await exactly(db, 5)


async def test_outages_of_both(
    settings: Settings, own_log_server: Server, own_store_server: Server
) -> None:
    """Log and store come and go in turn, and together: each event is stored once, none is dead."""
    settings = changed(
        settings,
        redis_url=own_log_server.url,
        mongo_url=own_store_server.url,
        write_timeout_ms=400,
        read_count=2,
    )
    first = 10

    async def restart(*servers: Server) -> None:
        nonlocal first
        await append_events(settings, 10, first=first)
        first += 10
        for server in servers:
            await asyncio.to_thread(server.kill)
        for server in servers:
            await asyncio.to_thread(server.start)

    async with working(settings, in_flight=2):
        await append_events(settings, 10)
        await until_drained(settings)
        await restart(own_store_server)
        await restart(own_log_server)
        await restart(own_log_server, own_store_server)
        await append_events(settings, 10, first=first)
        await until_drained(settings)
    async with store(own_store_server.url, settings.mongo_db) as db:
        await exactly(db, 50)


# Ending


async def test_stops_at_once_when_idle(db: Database, link: Link, settings: Settings) -> None:
    """A worker without work ends as soon as it is told."""
    async with working(changed(settings, read_block_ms=400)) as worker:
        await append_events(settings, 3)
        await until_drained(settings)
        worker.tell()
        assert await worker.ended() < 2
    await exactly(db, 3)


async def test_gives_back_while_the_store_hangs(
    link: Link, keys: Keys, settings: Settings, failing: Server
) -> None:
    """Told to stop with a write under way, it ends in time and others can have the entries."""
    settings = changed(settings, mongo_url=failing.url, shutdown_timeout_s=2.0, read_count=3)
    async with working(settings) as worker:
        await append_events(settings, 1)
        await until_drained(settings)
        with hanging(failing), heard() as lines:
            await append_at_once(settings, 8, first=1)
            # One batch is written, and one was read ahead.
            await until_pending(settings, 6)
            worker.tell()
            assert await worker.ended() < 2.2
            group = (settings.stream, settings.consumer_group)
            taken = await link.call("XAUTOCLAIM", *group, "other", 3_600_000, "0", "COUNT", 10)
            assert len(taken[1]) == 6
            assert said(lines, "given back")[0]["frames"] == 6
            assert not await link.call("EXISTS", keys.slot(settings.consumer_group, "worker-1"))
    async with store(failing.url, settings.mongo_db) as db:
        # What the store was sent before it hung may be there; it comes again.
        assert await stored(db) in {1, 4, 7}


async def test_second_signal_ends_at_once(link: Link, settings: Settings, failing: Server) -> None:
    """Told twice, it does not wait for anything."""
    settings = changed(settings, mongo_url=failing.url, shutdown_timeout_s=30, read_count=5)
    async with working(settings) as worker:
        await append_events(settings, 1)
        await until_drained(settings)
        with hanging(failing):
            await append_at_once(settings, 5, first=1)
            await until_pending(settings, 5)
            worker.tell()
            worker.tell()
            assert await worker.ended() < 1.5
        group = await group_of(settings)
        assert group is not None
        assert group.pending == 5


async def test_idle_worker_ends_while_the_store_hangs(
    link: Link, settings: Settings, failing: Server
) -> None:
    """A store that does not take leave holds nobody up."""
    settings = changed(settings, mongo_url=failing.url)
    async with working(settings) as worker:
        await append_events(settings, 1)
        await until_drained(settings)
        with hanging(failing):
            worker.tell()
            assert await worker.ended() < 2


async def test_ends_in_time_without_a_log(
    db: Database, settings: Settings, own_log_server: Server
) -> None:
    """A worker that can't give anything back ends all the same."""
    settings = changed(settings, redis_url=own_log_server.url, shutdown_timeout_s=2.0)
    with heard() as lines:
        async with working(settings) as worker:
            await append_events(settings, 1)
            await until_drained(settings)
            with hanging(own_log_server):
                worker.tell()
                assert await worker.ended() < settings.shutdown_timeout_s
    assert said(lines, "could not give back; it comes again by itself")


async def test_ends_before_its_engines_were_there(db: Database, settings: Settings) -> None:
    """A worker that still waits for its engines ends when it is told."""
    for mongo_url in ("mongodb://127.0.0.1:1", settings.mongo_url):
        away = changed(
            settings,
            redis_url="redis://127.0.0.1:1",
            mongo_url=mongo_url,
            mongo_min_pool_size=0,
            shutdown_timeout_s=2.0,
        )
        with heard() as lines:
            async with working(away) as worker:
                worker.tell()
                assert await worker.ended() < 2
        assert not said(lines, "working")


async def test_cancelled_at_any_moment_it_ends(
    link: Link, settings: Settings, failing: Server
) -> None:
    """Whatever a write waits for when the worker is cancelled, it does not outlive it."""
    await append_events(settings, 1)
    settings = changed(settings, mongo_url=failing.url)
    listener = Listener()
    async with store(failing.url, settings.mongo_db, listener) as db:
        for rounds in range(12):
            reader, stop = consumer(settings, "worker-1"), asyncio.Event()
            carrier, size = carrier_of(settings, reader, db), ReadSize(10)
            worker = Worker(reader, carrier, Journals(500).of(0), size, nothing, stop)
            async with fail(db, "insert", blockConnection=True, blockTimeMS=3000):
                running = asyncio.create_task(worker.run())
                listener.at_start = partial(cancel_in_rounds, rounds, running)
                done, _ = await asyncio.wait([running], timeout=1.5)
                assert done, f"cancelled {rounds} rounds after the command"
            listener.at_start = lambda _name: None
            await reader.close()
        await drain(settings)
        await exactly(db, 1)


async def nothing() -> None:
    """Register no group."""


def cancel_in_rounds(rounds: int, task: asyncio.Task[None], command: str) -> None:
    """Cancel a worker so many rounds of the loop after it has begun to write."""
    if command == "insert frames":
        in_rounds(rounds, task.cancel)


async def test_jobs_are_free_once_a_worker_has_ended(
    db: Database, link: Link, settings: Settings
) -> None:
    """Whoever folded and swept gives that up at its end, so that another one need not wait."""

    async def holders() -> int:
        return await db[schema.META].count_documents({"_id": {"$regex": "^lease:"}})

    async def both_held() -> bool:
        return await holders() == 2

    async with working(settings):
        await until(both_held, what="it folds and sweeps")
        # What another one has by now stays with it.
        taken = {"$set": {"holder": "another"}}
        await db[schema.META].update_one({"_id": "lease:sweep"}, taken)
    assert await holders() == 1
    assert not await lease.take(db, "sweep", "third", JOB_LEASE_MS)


async def test_given_up_name_is_free(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """A worker whose group is gone can't give entries back; its name it gives up all the same."""
    slot = await Slot.take(settings.redis_url, keys, settings.consumer_group, "worker")
    leaving = consumer(settings, slot.name)
    with pytest.raises(GroupLost):
        await leaving.read(1)
    await leave(leaving, slot)
    assert not await link.call("EXISTS", keys.slot(settings.consumer_group, slot.name))


# Names and what is said


async def test_names_are_kept_over_a_restart(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """Workers that run together have different names; one that starts again gets its own back."""
    group = settings.consumer_group

    async def held(*names: str) -> bool:
        leases = [keys.slot(group, f"worker-{number}") for number in (1, 2, 3)]
        found = [await link.call("EXISTS", lease) for lease in leases]
        return [f"worker-{n}" for n, there in enumerate(found, 1) if there] == list(names)

    async with working(settings):
        await until(lambda: held("worker-1"), what="the first has its name")
        async with working(settings):
            await until(lambda: held("worker-1", "worker-2"), what="the second has another")
        assert await held("worker-1")
        async with working(settings):
            await until(lambda: held("worker-1", "worker-2"), what="the name is used again")
    assert await held()


@pytest.mark.parametrize("burst", [False, True])
async def test_lost_name_is_replaced(
    faulty: Database,
    failing: Server,
    link: Link,
    keys: Keys,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    burst: bool,
) -> None:
    """A worker whose name another has takes a new one and goes on, also in a burst."""
    monkeypatch.setattr(slots, "SLOT_RENEW_MS", 20)
    settings = changed(settings, mongo_url=failing.url, read_count=1)
    lease = keys.slot(settings.consumer_group, "worker-1")
    await append_events(settings, 3)
    with heard() as lines:
        async with contextlib.AsyncExitStack() as failures:
            await failures.enter_async_context(fail(faulty, "insert", errorCode=112))
            async with working(settings, in_flight=1, burst=burst) as worker:
                await until_pending(settings, 1)
                await link.call("SET", lease, b"another")
                await until(lambda: len(said(lines, "working")) == 2, what="it has another")
                await failures.aclose()
                if burst:
                    await worker.ended()
                await until_stored(faulty, 2)
    assert [line["consumer"] for line in said(lines, "working")] == ["worker-1", "worker-2"]
    # What it was writing is the business of whoever has the name now.
    group = await group_of(settings)
    assert group is not None
    assert [(one.name, one.pending) for one in group.consumers] == [("worker-1", 1)]
    assert await link.call("GET", lease) == b"another"


async def test_every_group_is_the_configured_one(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """Reading, acking, giving back, leases and records name the group of the settings, no other."""
    settings = changed(settings, consumer_group="other-group")
    await append_events(settings, 5)
    async with working(settings):
        await until_drained(settings)
        rows = await link.call("XINFO", "GROUPS", settings.stream)
        assert [row[1] for row in rows] == [b"other-group"]
        assert await link.call("SMEMBERS", keys.groups) == [b"other-group"]
        leases = await link.call("KEYS", f"{{{settings.stream}}}:slot:*")
        assert leases == [keys.slot("other-group", "worker-1").encode()]
    await exactly(db, 5)


async def test_heartbeat(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker tells the store who it is, what it did, how fast, and what memory it takes."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.05)
    async with working(settings):
        await append_events(settings, 7, each=7)

        async def told() -> bool:
            record = await db[schema.WORKERS].find_one(
                {"_id": f"{settings.consumer_group}/worker-1"}
            )
            return record is not None and record["totals"]["stored"] == 7

        await until(told, what="the totals are told")
    record = await the_one(db, schema.WORKERS)
    assert record["group"] == settings.consumer_group
    did = {name: count for name, count in record["totals"].items() if count}
    assert did == {"frames": 1, "events": 7, "stored": 7}
    assert record["rss_bytes"] > 10_000_000
    assert record["pid"] > 0
    assert record["host"]
    assert record["stored_per_s"] >= 0
    assert abs(record["seen_at"].timestamp() * 1000 - now_ms()) < 60_000


async def test_last_totals_are_told(db: Database, link: Link, settings: Settings) -> None:
    """A worker that ends before its first heartbeat has told what it did all the same."""
    await append_events(settings, 7, each=7)
    await drain(settings)
    record = await the_one(db, schema.WORKERS)
    assert record["_id"] == f"{settings.consumer_group}/worker-1"
    assert (record["totals"]["stored"], record["stored_per_s"]) == (7, 0)


async def test_progress_is_said_now_and_then(db: Database, link: Link, settings: Settings) -> None:
    """Memory and counts are logged every so many events, at most once a second."""
    settings = changed(settings, rss_log_events=10)
    number, began_at_s = 0, time.monotonic()
    with heard() as lines:
        async with working(settings):
            while len(said(lines, "progress")) < 2:
                await append_events(settings, 10, first=number, each=10)
                number += 10
                # The line is said before the ack: then it is clear whether it was.
                await until_drained(settings)
    assert time.monotonic() - began_at_s > 2
    progress = said(lines, "progress")[-1]
    assert progress["rss_bytes"] > 10_000_000
    assert progress["events_per_s"] > 0
    assert progress["stored"] == progress["events"] == number >= 20
