"""Several partitions seen together: sums are right, and one that is away stops nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import pytest

from evp.balance import look_once
from evp.errors import LogUnavailable
from evp.loadtest.backlog import LogWatch
from evp.looks import LogLooks
from evp.server.live import Snapshot, _cut
from evp.settings import Settings
from evp.stats import Collector
from evp.storage.client import Database
from evp.storage.partitions import note_partitions
from evp.stream.client import Link, LogMoved
from evp.stream.everywhere import Everywhere
from evp.stream.gauges import LogGauges
from evp.stream.keys import Keys
from evp.stream.ledger import record_epochs, record_of
from evp.stream.partitions import note
from tests.support.apart import move
from tests.support.make import event, open_frame
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import append, append_events, connected, consumer
from tests.support.workers import changed

pytestmark = MAY_LEAVE_SOCKETS


@pytest.fixture
def three(settings: Settings) -> Settings:
    """Settings with three partitions."""
    return changed(settings, partitions=3)


class Closes(Protocol):
    """What has connections."""

    async def close(self) -> None:
        """Close them."""


T = TypeVar("T", bound=Closes)


class CloseAtEnd:
    """Closes what it was given when the test is over, however that ends."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack

    def __call__(self, thing: T) -> T:
        """Return it."""
        self._stack.push_async_callback(thing.close)
        return thing


@pytest.fixture
async def closed_at_end() -> AsyncIterator[CloseAtEnd]:
    """Takes what is to be closed."""
    async with contextlib.AsyncExitStack() as stack:
        yield CloseAtEnd(stack)


async def read_one(settings: Settings, partition: int) -> None:
    """Give one entry of a partition to a consumer that goes without a word."""
    reader = consumer(settings, partition=partition)
    await reader.ensure_group()
    await reader.read(1)
    await reader.close()


async def test_sums(link: Link, db: Database, three: Settings, closed_at_end: CloseAtEnd) -> None:
    """Events and entries are added up, the oldest counts for all, and each stream is told."""
    await append(three, [event(0), event(1)], partition=1)
    await append(three, [event(2)], [event(3), event(4)], partition=2)
    for partition in range(3):
        await read_one(three, partition)
    collector = closed_at_end(Collector(three))
    found = await collector.look()
    assert (found.log.events_accepted, found.log.length) == (5, 3)
    [group] = found.log.groups
    assert (group.pending, group.pending_events, group.lag_events) == (2, 3, 2)
    assert [(one.name, one.pending) for one in group.consumers] == [("c-1", 2)]
    rows = found.partitions
    assert [(one.partition, one.waiting_events, one.away) for one in rows] == [
        (0, 0, None),
        (1, 2, None),
        (2, 3, None),
    ]
    assert group.lag_s == max(one.lag_s or 0 for one in rows)
    assert len({one.server for one in rows}) == 1
    assert found.log_servers == []
    assert found.log_state.durability == "fsync"


async def test_one_partition_is_told_as_ever(
    link: Link, db: Database, settings: Settings, closed_at_end: CloseAtEnd
) -> None:
    """Where there is one, nothing is told of partitions and servers."""
    collector = closed_at_end(Collector(settings))
    found = await collector.look()
    assert (found.partitions, found.log_servers) == ([], [])


async def test_those_that_the_settings_do_not_name(
    link: Link, db: Database, keys: Keys, settings: Settings, closed_at_end: CloseAtEnd
) -> None:
    """Partitions that servers have noted in the log are seen at once, those of the store too."""
    await append_events(settings, 3, partition=2)
    await note(link, keys, 2)
    looks = closed_at_end(LogLooks(settings))
    assert len((await looks.look()).partitions) == 2
    assert (await look_once(settings, db)).in_log == 0
    await note_partitions(db, 3)
    assert (await look_once(settings, db)).in_log == 3


async def test_balance(link: Link, db: Database, settings: Settings) -> None:
    """What servers recorded in all partitions is what was accepted; what waits is added up."""
    two = changed(settings, partitions=2)
    for partition in range(2):
        async with connected(two, partition=partition) as server:
            await server.append(open_frame(event(partition), event(9)), 1)
            epochs = map(record_of, server.epochs()[1])
            await record_epochs(link, Keys(two.stream, partition), epochs)
    balance = await look_once(two, db)
    assert (balance.accepted, balance.in_log, balance.unaccounted) == (4, 4, 0)


async def test_one_that_is_away(
    link: Link,
    db: Database,
    three: Settings,
    own_log_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    closed_at_end: CloseAtEnd,
) -> None:
    """Without one of its servers the rest of the log is told, with what was known of that one."""
    move(monkeypatch, three, 1, own_log_server)
    for partition in range(3):
        await append_events(three, 2, partition=partition)
    looks, gauges = closed_at_end(LogLooks(three)), closed_at_end(LogGauges(three))
    found = await looks.look()
    assert [(one.partitions, one.state.durability) for one in found.servers] == [
        ([0, 2], "fsync"),
        ([1], "fsync"),
    ]
    await asyncio.to_thread(own_log_server.kill)
    await append_events(three, 5, first=10, partition=2)
    found = await looks.look()
    assert (found.facts.events_accepted, found.facts.length) == (11, 11)
    assert found.accepted_per_s > 0
    away = {one.partition: one.away for one in found.partitions if one.away}
    assert list(away) == [1]
    assert "can't reach the log" in away[1] or "lost the log" in away[1]
    with pytest.raises(LogUnavailable, match="partition 1: "):
        await look_once(three, db)
    told = await gauges.look()
    assert [told[number]["evp_log_up"] for number in "012"] == [1, 0, 1]
    assert told["2"]["evp_stream_entries"] == 7
    assert list(told["1"]) == ["evp_log_up"]
    await asyncio.to_thread(own_log_server.start)
    found = await looks.look()
    assert [one.away for one in found.partitions] == [None] * 3


async def test_load_behind_a_server(
    link: Link, db: Database, three: Settings, closed_at_end: CloseAtEnd
) -> None:
    """What waits behind a load is what waits in all partitions, read by a group or not."""
    await append_events(three, 4, partition=1)
    watch = closed_at_end(LogWatch(three))
    await watch.open()
    assert watch.now is not None
    assert (watch.now.accepted, watch.now.waiting) == (4, 4)
    reader = consumer(three, partition=1)
    await reader.ensure_group()
    await reader.ack(await reader.read(3))
    await reader.close()
    await append_events(three, 2, partition=2)
    await watch.open()
    assert (watch.now.accepted, watch.now.waiting, watch.now.settled) == (6, 3, 3)


async def test_snapshot_of_a_server(
    link: Link,
    db: Database,
    three: Settings,
    monkeypatch: pytest.MonkeyPatch,
    closed_at_end: CloseAtEnd,
) -> None:
    """What watchers are told has the partitions, of many those that are away first."""
    monkeypatch.setattr("evp.server.live.LIVE_PARTITIONS_MAX", 2)
    collector = closed_at_end(Collector(three))
    stats = await collector.look()
    stats.partitions[2].away = "gone"
    snapshot = Snapshot(0, stats)
    _cut(snapshot, stats)
    assert [one.partition for one in stats.partitions] == [0, 2]
    assert snapshot.partitions_more == 1


async def test_the_first_one_is_away(
    link: Link,
    db: Database,
    settings: Settings,
    own_log_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    closed_at_end: CloseAtEnd,
) -> None:
    """Partition 0 tells how many there are; without it the store does."""
    move(monkeypatch, settings, 0, own_log_server)
    await append_events(settings, 3, partition=1)
    await asyncio.to_thread(own_log_server.kill)
    collector = closed_at_end(Collector(settings))
    with pytest.raises(LogUnavailable):
        await collector.look()
    await note_partitions(db, 2)
    found = await collector.look()
    assert [one.away is None for one in found.partitions] == [False, True]
    assert found.log.events_accepted == 3


async def test_one_that_moves(link: Link, three: Settings, closed_at_end: CloseAtEnd) -> None:
    """A stream that a cluster moves is asked again, where it is by then, and not told as away."""
    everywhere = closed_at_end(Everywhere(three))
    moved: list[int] = []

    async def ask(link: Link, keys: Keys) -> int:
        if keys.partition == 1 and len(moved) < 2:
            moved.append(keys.partition)
            await link.close()
            raise LogMoved("to another node")
        return int(await link.call("XLEN", keys.stream))

    await append_events(three, 2, partition=1)
    assert await everywhere.ask(ask) == [0, 2, 0]
    assert moved == [1, 1]


async def test_one_that_hangs(
    link: Link,
    three: Settings,
    own_log_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    closed_at_end: CloseAtEnd,
) -> None:
    """A server that answers nothing costs a look a bounded time; the others are told."""
    monkeypatch.setattr("evp.looks.PARTITION_ANSWER_S_MAX", 0.2)
    move(monkeypatch, three, 2, own_log_server)
    looks = closed_at_end(LogLooks(three))
    await looks.look()
    with own_log_server.paused():
        found = await looks.look()
    assert [one.away for one in found.partitions] == [
        None,
        None,
        "the log did not answer within 0.2 s",
    ]
