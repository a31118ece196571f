"""Failover of the log: a replica that was promoted, and what the old primary had not told it.

Clients find the primary through one address, as a name, a proxy or a service
gives it. A replica is cut off by promoting it: what is written to the old
primary from then on, it never hears of.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.storage import schema
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.consumer import Consumer
from evp.stream.durability import FSYNC
from evp.verify.report import Kind, Report
from tests.support.backup import Number, frames_in_log, frames_in_store
from tests.support.make import event, ndjson
from tests.support.proxy import Proxy, proxying
from tests.support.server import NDJSON, InProcess, request, serving
from tests.support.servers import Server, own_log
from tests.support.stores import MAY_LEAVE_SOCKETS, documents
from tests.support.streams import append_events, consumer
from tests.support.verifying import clean, look, the_finding
from tests.support.wait import until
from tests.support.workers import (
    carrier_of,
    changed,
    drain,
    group_of,
    is_drained,
    until_drained,
    working,
)

pytestmark = [pytest.mark.timeout(120), MAY_LEAVE_SOCKETS]

ANSWER_S_MAX = 30.0
"""A log that hangs is given up and another one is asked within this."""

FAR_FUTURE_MS = 4_102_444_800_000
"""The year 2100: entries after one of then have ids that follow from it, not from the clock."""


class Pair:
    """A primary and its replica, behind one address."""

    def __init__(self, primary: Server, replica: Server, front: Proxy) -> None:
        self.primary = primary
        self.replica = replica
        self.front = front

    async def info(self, server: Server) -> dict[str, str]:
        """Return how a server replicates."""
        link = await Link.open(server.url)
        text = (await link.call("INFO", "replication")).decode()
        await link.close()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    async def follow(self) -> None:
        """Let the replica copy the primary; wait until it does."""
        await ask(self.replica, "REPLICAOF", "127.0.0.1", self.primary.port)
        await until(self._is_copied, what="the replica has all")

    async def cut(self) -> None:
        """Part them: the replica has all that was written, and nothing that will be."""
        await until(self._is_copied, what="the replica has all")
        await ask(self.replica, "REPLICAOF", "NO", "ONE")

    async def fail_over(self) -> None:
        """End the primary; whoever dials now finds what was its replica."""
        await asyncio.to_thread(self.primary.kill)
        self.front.lead_to(self.replica.url)

    async def _is_copied(self) -> bool:
        there, here = await self.info(self.replica), await self.info(self.primary)
        if there["role"] != "slave" or there["master_link_status"] != "up":
            return False
        return there["slave_repl_offset"] == here["master_repl_offset"]


async def ask(server: Server, *command: str | int) -> object:
    """Send one command as an operator does."""
    link = await Link.open(server.url)
    try:
        return await link.call(*command)
    finally:
        await link.close()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[list[Server]]:
    """Two logs of the test's own."""
    with contextlib.ExitStack() as ends:
        servers = []
        for name in ("primary", "replica"):
            (tmp_path / name).mkdir()
            # A replica is sent what it lacks at once, instead of after five seconds.
            servers.append(own_log(tmp_path / name, "--repl-diskless-sync-delay", "0"))
            servers[-1].start()
            ends.callback(servers[-1].kill)
        yield servers


@pytest.fixture
async def pair(logs: list[Server]) -> AsyncIterator[Pair]:
    """A primary that has a replica."""
    primary, replica = logs
    async with proxying(primary.url) as front:
        made = Pair(primary, replica, front)
        await made.follow()
        yield made


@pytest.fixture
def on_pair(settings: Settings, pair: Pair) -> Settings:
    """Settings that name the one address of the pair."""
    return changed(settings, redis_url=pair.front.url)


@pytest.fixture
async def reader(on_pair: Settings) -> AsyncIterator[Consumer]:
    """A consumer of the pair."""
    made = consumer(on_pair, "c-1")
    yield made
    await made.close()


async def stored(db: Database) -> Counter[str]:
    """Return how often each event stands in the store."""
    return Counter(one["id"] for one in await db[schema.EVENTS].find({}, {"id": 1}).to_list())


def once(count: int) -> Counter[str]:
    """Return what the store must hold of so many events."""
    return Counter(f"e{number}" for number in range(count))


async def accounts(db: Database) -> list[tuple[int, int, int]]:
    """Return stored, duplicate, dead of every frame."""
    outcomes = await documents(db, schema.OUTCOMES)
    return [(one["stored"], one["duplicate"], len(one["dead"])) for one in outcomes]


async def test_acks_that_a_failover_takes_back(pair: Pair, on_pair: Settings, db: Database) -> None:
    """Entries whose acks were not replicated come again, and change nothing."""
    await drain(on_pair)
    await append_events(on_pair, 20, each=2)
    await pair.cut()
    async with working(on_pair):
        await until_drained(on_pair)
        await pair.fail_over()
        group = await group_of(on_pair)
        assert group is not None
        assert group.pending_events + group.lag_events == 20
        await until_drained(on_pair)
    assert await stored(db) == once(20)
    assert await accounts(db) == [(2, 0, 0)] * 10
    await clean(on_pair)


async def test_consumer_that_the_new_primary_does_not_know(
    pair: Pair, on_pair: Settings, db: Database
) -> None:
    """An idle worker whose consumer and name were not replicated goes on reading."""
    async with working(on_pair):
        await append_events(on_pair, 1)
        await until_drained(on_pair)
        await pair.cut()
        group = await group_of(changed(on_pair, redis_url=pair.replica.url))
        assert group is not None
        for one in group.consumers:
            head = ("XGROUP", "DELCONSUMER", on_pair.stream, on_pair.consumer_group)
            await ask(pair.replica, *head, one.name)
        await pair.fail_over()
        await append_events(on_pair, 5, first=1)
        await until_drained(on_pair)
    assert await stored(db) == once(6)
    await clean(on_pair)


async def test_primary_that_hangs(pair: Pair, on_pair: Settings, db: Database) -> None:
    """Servers and workers leave a log that takes connections and never answers, in time."""
    async with serving(on_pair) as server, working(on_pair):
        await until(server.is_ready, what="the server accepts")
        await post(server, 0)
        await until_drained(on_pair)
        await pair.cut()
        with pair.primary.paused():
            pair.front.lead_to(pair.replica.url)
            hung_at_s = time.monotonic()
            assert await post(server, 1) == (503, "ack_unknown")
            await until(server.is_ready, what="the server accepts again", within_s=ANSWER_S_MAX)
            assert await post(server, 1) == (202, "")
            await until_drained(on_pair)
            assert time.monotonic() - hung_at_s < ANSWER_S_MAX
    assert await stored(db) == once(2)


@pytest.mark.parametrize("replicas", [0, 1])
async def test_tail_that_was_not_replicated(
    pair: Pair, on_pair: Settings, db: Database, replicas: int
) -> None:
    """Acknowledged by replicas, nothing is lost; without that the tail is lost, and named."""
    settings = changed(on_pair, durability_replicas=replicas)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        for number in range(10):
            assert await post(server, number) == (202, "")
        await pair.cut()
        tail = [await post(server, number) for number in range(10, 13)]
        lost = [number for number, answer in enumerate(tail, 10) if answer == (202, "")]
        # Only one waits for the replicas; then the server knows that there are none.
        assert lost == ([] if replicas else [10, 11, 12])
        assert tail[0] == ((503, "ack_unknown") if replicas else (202, ""))

        async def recorded() -> bool:
            rows = await documents(db, schema.SERVERS)
            return sum(int(one["seq"]) for one in rows) == 10 + len(lost)

        await until(recorded, what="the store knows how far the server got")
        await pair.fail_over()
    await drain(on_pair)
    assert await stored(db) == once(10)
    if replicas:
        await clean(on_pair)
    else:
        hole = await the_finding(on_pair)
        assert (hole.kind, hole.first_seq, hole.last_seq) == (Kind.HOLE, 11, 13)
        assert (hole.frames, hole.events) == (3, 3)


async def test_tail_of_which_workers_stored_some(
    pair: Pair, on_pair: Settings, db: Database, reader: Consumer
) -> None:
    """Of what the new primary lacks each frame that nobody stored is named, and nothing else."""
    async with serving(on_pair) as server:
        await until(server.is_ready, what="the server accepts")
        await accepted(server, 0, 10)
        await drain(on_pair)
        await pair.cut()
        await accepted(server, 10, 30)
        stop = asyncio.Event()
        read = await reader.read(30)
        # Several workers end in the middle of it: every second frame is stored.
        assert await carrier_of(on_pair, reader, db).carry(read[::2], stop)
        await reader.close()
        had = await frames_in_log(pair.primary.url, on_pair.stream)
        await pair.fail_over()
        await until(server.is_ready, what="the server accepts again", within_s=ANSWER_S_MAX)
        await accepted(server, 40, 5)
    await drain(on_pair)
    stored_frames = await frames_in_store(db)
    lost = {number: count for number, count in had.items() if number not in stored_frames}
    report = await look(on_pair)
    assert named(report) == lost.keys()
    assert {one.kind for one in report.findings} == {Kind.HOLE}
    assert report.counts.lost_events == sum(lost.values())
    assert report.counts.in_log_frames == 0
    assert (await stored(db)).total() == 45 - report.counts.lost_events
    assert set((await stored(db)).values()) == {1}


def named(report: Report) -> set[Number]:
    """Return epoch and number of each frame that was found missing."""
    return {
        (bytes.fromhex(one.srv or ""), seq)
        for one in report.findings
        for seq in range(one.first_seq or 0, (one.last_seq or 0) + 1)
    }


async def accepted(server: InProcess, first: int, count: int) -> None:
    """Send events, each until it is accepted."""
    for number in range(first, first + count):
        await until(partial(is_accepted, server, number), what=f"event {number} is accepted")


async def is_accepted(server: InProcess, number: int) -> bool:
    """Send one event; return whether it is accepted."""
    return await post(server, number) == (202, "")


async def test_entry_id_that_is_issued_again(
    pair: Pair, on_pair: Settings, db: Database, reader: Consumer
) -> None:
    """Two frames that two primaries gave one entry id are both stored, each acked for itself."""
    await drain(on_pair)
    # Ids follow from the last one where that is ahead, as for a primary whose clock is behind.
    link = await Link.open(on_pair.redis_url)
    await link.call("XADD", on_pair.stream, f"{FAR_FUTURE_MS}-0", "type", "t", "id", "e0")
    await link.close()
    await drain(on_pair)
    await pair.cut()
    await append_events(on_pair, 1, first=1)
    before = await reader.read(10)
    assert [one.entry_id for one in before] == [f"{FAR_FUTURE_MS}-1"]
    await pair.fail_over()
    await append_events(on_pair, 1, first=2)
    carrier, stop = carrier_of(on_pair, reader, db), asyncio.Event()
    with pytest.raises(LogUnavailable):
        await reader.ack(before)
    again = await reader.read(10)
    assert [one.entry_id for one in again] == [f"{FAR_FUTURE_MS}-1"]
    # What was written is of the old primary; acked, it would take the other one with it.
    assert not await carrier.carry(before, stop)
    assert await stored(db) == once(2)
    assert not await is_drained(on_pair)
    assert await carrier.carry(again, stop)
    assert await is_drained(on_pair)
    assert await stored(db) == once(3)
    await clean(on_pair)


async def test_primary_without_enough_replicas(on_pair: Settings, pair: Pair) -> None:
    """A log that refuses writes for want of replicas takes nothing, and is told as unavailable."""
    await ask(pair.primary, "CONFIG", "SET", "min-replicas-to-write", 1)
    await ask(pair.primary, "CONFIG", "SET", "min-replicas-max-lag", 1)
    async with serving(on_pair) as server:
        await until(server.is_ready, what="the server accepts")
        assert (await server.get("/api/ready")).status == 200
        assert await post(server, 0) == (202, "")
        await pair.cut()

        async def refused() -> bool:
            return (await post(server, 1)) == (503, "log_unavailable")

        await until(refused, what="the log refuses")
        entries = await server.entries()
        assert await post(server, 1) == (503, "log_unavailable")
        assert await server.entries() == entries


async def post(server: InProcess, number: int) -> tuple[int, str]:
    """Send one event; return the status, and the code of a refusal."""
    body = ndjson(event(number))
    reply = await server.ask(request(body, path="/events/batch", headers=NDJSON))
    if reply.status == 202:
        assert f'"durability":"{FSYNC}"'.encode() in reply.body
        return 202, ""
    return reply.status, reply.code
