"""Workers on several partitions: each event once, and one that is away holds up no other."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from redis.crc import key_slot
from rich.console import Console, RenderableType

from evp.clock import monotonic_s, now_ms
from evp.engines.engine import free_port
from evp.erasure import Erased, erase
from evp.errors import LogUnavailable, StoreUnavailable, WritingGroupTaken
from evp.groups.book import GroupBook
from evp.limits import GROUPS_ASK_S
from evp.partitions import find
from evp.settings import Settings
from evp.signals import Signals, end
from evp.storage import groups as store_groups
from evp.storage import schema
from evp.storage.client import Database
from evp.storage.dead_letters import NOWHERE
from evp.storage.erasure import Wanted
from evp.storage.isolation import Witness
from evp.storage.ledger import record_servers
from evp.storage.partitions import known_partitions, note_partitions
from evp.storage.rollups import fold
from evp.storage.writer import Writer
from evp.stream.client import Link
from evp.stream.groups import ensure_group, existing_groups, registered_groups
from evp.stream.info import log_facts, unsettled
from evp.stream.keys import Keys
from evp.stream.partitions import note
from evp.stream.positions import EARLIEST
from evp.views.claimed import claimed_line
from evp.views.erasure import erased_view
from evp.worker import chores, following, registered, upkeep
from evp.worker import streams as streams_module
from evp.worker.following import Following
from evp.worker.journal import Journals
from evp.worker.quiet import Quiet, QuietWriter
from evp.worker.registered import RegisteredGroups
from evp.worker.stale import Claimed, claim_stale
from evp.worker.streams import Streams
from evp.worker.upkeep import StreamUpkeep
from tests.support.make import event, frame_of
from tests.support.servers import Server, own_log
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, documents, fail, hanging
from tests.support.streams import append, append_events, consumer
from tests.support.sums import sweep_all
from tests.support.wait import WAIT_S_MAX, until
from tests.support.workers import changed, drain, heard, of_level, said, working

pytestmark = MAY_LEAVE_SOCKETS

THREE = range(3)
NAMES = ("worker-1", "worker-p1-1", "worker-p2-1")


@pytest.fixture
def three(settings: Settings, link: Link) -> Settings:
    """Settings with three partitions, all on one plain server."""
    assert link.is_open
    return changed(settings, partitions=3)


class Node:
    """A cluster of one node: a partition is away while its slot is nobody's."""

    def __init__(self, server: Server, settings: Settings) -> None:
        address = server.url.removeprefix("redis://").removesuffix("/0")
        self.settings = changed(settings, redis_url=f"redis+cluster://{address}", partitions=3)
        self.dropped = set[int]()
        self._server = server

    async def serve(self, partition: int) -> None:
        """Have the slot of a partition served again."""
        await self._slot("ADDSLOTS", partition)
        self.dropped.discard(partition)

    async def drop(self, partition: int) -> None:
        """Have the slot of a partition served by nobody."""
        await self._slot("DELSLOTS", partition)
        self.dropped.add(partition)

    async def _slot(self, what: str, partition: int) -> None:
        slot = key_slot(Keys(self.settings.stream, partition).stream.encode())
        async with Link.opened(self._server.url) as link:
            await link.call("CLUSTER", what, slot)


@pytest.fixture(scope="module")
async def cluster_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """The one node of a cluster; it has all slots."""
    flags = {
        "cluster-enabled": "yes",
        "cluster-port": str(free_port()),
        "cluster-require-full-coverage": "no",
    }
    extra = (part for name, value in flags.items() for part in (f"--{name}", value))
    server = own_log(tmp_path_factory.mktemp("node"), *extra)
    await asyncio.to_thread(server.start)
    async with Link.opened(server.url) as link:
        await link.call("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)

        async def is_up() -> bool:
            return b"cluster_state:ok" in await link.call("CLUSTER", "INFO")

        await until(is_up, what="the cluster is up")
    yield server
    await asyncio.to_thread(server.kill)


@pytest.fixture
async def node(cluster_server: Server, settings: Settings) -> AsyncIterator[Node]:
    """A cluster that serves three partitions of the test's stream, for now."""
    node = Node(cluster_server, settings)
    yield node
    for partition in list(node.dropped):
        await node.serve(partition)


async def append_to(settings: Settings, *partitions: int, count: int, first: int = 0) -> int:
    """Append `count` events to each of these; return the number of the next one."""
    for partition in partitions:
        await append_events(settings, count, first=first, each=2, partition=partition)
        first += count
    return first


async def exactly(db: Database, count: int) -> None:
    """Check that the events e0, e1, … are stored once each, and that nothing is dead."""
    found = await db[schema.EVENTS].find({}, {"id": 1}).to_list()
    assert Counter(one["id"] for one in found) == Counter(f"e{n}" for n in range(count))
    assert sum(one["stored"] for one in await documents(db, schema.OUTCOMES)) == count
    assert await documents(db, schema.DEAD_LETTERS) == []


async def waiting(settings: Settings, partition: int) -> int:
    """Return how many events of a partition the group has not done with."""
    keys = Keys(settings.stream, partition)
    async with Link.opened(settings.redis_url, keys) as link:
        return (await unsettled(link, keys, settings.consumer_group)).events


async def until_done(settings: Settings, *partitions: int) -> None:
    """Wait until nothing waits in these partitions."""

    async def are_done() -> bool:
        return not any([await waiting(settings, one) for one in partitions])

    await until(are_done, what=f"partitions {partitions} are done")


async def consumers_of(settings: Settings, partition: int) -> list[str]:
    """Return the names under which a partition is read."""
    keys = Keys(settings.stream, partition)
    async with Link.opened(settings.redis_url, keys) as link:
        facts = await log_facts(link, keys)
    return [one.name for group in facts.groups for one in group.consumers]


# Following them


async def test_every_partition_is_worked_on(db: Database, three: Settings) -> None:
    """What is in any partition is stored once, under a name of its own, with its partition."""
    count = await append_to(three, *THREE, count=10)
    with heard() as lines:
        async with working(three):
            await until_done(three, *THREE)
            names = [await consumers_of(three, partition) for partition in THREE]
            assert names == [[name] for name in NAMES]
            count = await append_to(three, *THREE, count=4, first=count)
            await until_done(three, *THREE)
    await exactly(db, count)
    frames = await documents(db, schema.FRAMES)
    assert Counter(one.get("partition") for one in frames) == {None: 7, 1: 7, 2: 7}
    assert sorted(one["partition"] for one in said(lines, "working")) == [0, 1, 2]
    [stopped] = said(lines, "stopped")
    assert (stopped["events"], stopped["stored"]) == (count, count)
    told = {one["name"]: one["totals"]["stored"] for one in await documents(db, schema.WORKERS)}
    assert told == dict.fromkeys(NAMES, 14)


async def test_one_partition_is_not_spoken_of(db: Database, link: Link, settings: Settings) -> None:
    """With one partition neither log lines nor documents tell of partitions."""
    await append_events(settings, 2)
    with heard() as lines:
        await drain(settings)
    assert not [one for one in lines if "partition" in one]
    for name in (schema.FRAMES, schema.WORKERS, schema.META):
        assert not [one for one in await documents(db, name) if "partition" in str(one)]


async def test_burst_ends_when_all_are_drained(db: Database, three: Settings) -> None:
    """With burst a worker ends once every partition is drained, however full one of them is."""
    count = await append_to(three, 1, count=40)
    count = await append_to(three, 2, count=2, first=count)
    await drain(changed(three, read_count=2))
    assert [await waiting(three, partition) for partition in THREE] == [0, 0, 0]
    await exactly(db, count)


async def test_partition_that_appears_later(
    db: Database, link: Link, keys: Keys, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What servers note in the log is found while a worker runs, and kept in the store."""
    monkeypatch.setattr(following, "PARTITIONS_LOOK_S", 0.05)
    async with working(settings):
        count = await append_to(settings, 0, count=4)
        await note(link, keys, 3)
        count = await append_to(settings, 2, 1, count=4, first=count)
        await until_done(settings, *THREE)
        assert await known_partitions(db) == 3
    await exactly(db, count)


@pytest.mark.parametrize("place", ["log", "store", "epochs"])
async def test_fewer_partitions_than_there_were(
    db: Database, link: Link, keys: Keys, settings: Settings, place: str
) -> None:
    """After PARTITIONS was lowered all that there were are drained: the log or the store knows."""
    count = await append_to(settings, 2, count=6)
    if place == "log":
        await note(link, keys, 3)
    elif place == "store":
        await note_partitions(db, 3)
    else:
        epochs = [(n, bytes([n] * 8)) for n in (0, 2, 1)]
        for partition, srv in epochs:
            await record_servers(db, [(srv, 3, 6, 0)], partition)
    await drain(settings)
    await exactly(db, count)


async def test_a_number_that_nobody_tells_is_said(
    db: Database, link: Link, keys: Keys, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that refuses to tell how many partitions there are is named, not once a look."""
    monkeypatch.setattr(following, "PARTITIONS_LOOK_S", 0.01)
    await append_events(settings, 2)
    await link.call("HSET", keys.partitions, "not", "a number")
    looks = Counter[str]()

    async def counted(*known: Any) -> Any:
        looks["all"] += 1
        return await find(*known)

    monkeypatch.setattr(following, "find", counted)
    with heard() as lines:
        async with working(settings, burst=True):
            await until_done(settings, 0)
            await until(lambda: looks["all"] > 5, what="it looks again and again")
            [line] = of_level(lines, "error")
            assert (line["engine"], "WRONGTYPE" in line["reason"]) == ("log", True)
            await link.call("DEL", keys.partitions)
    assert of_level(lines, "error") == [line]


async def test_one_that_is_away_holds_up_no_other(
    db: Database, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a partition's server is away the others are worked on, and it is named; then it is."""
    three = node.settings
    count = await append_to(three, *THREE, count=4)
    await node.drop(1)
    with heard() as lines:
        async with working(three):
            await until_done(three, 0, 2)
            await until(lambda: bool(of_level(lines, "warning")), what="it is noticed")
            await node.serve(1)
            await until_done(three, 1)
            await node.drop(0)
            count = await append_to(three, 1, 2, count=4, first=count)
            await until_done(three, 1, 2)
            await node.serve(0)
            count = await append_to(three, 0, count=4, first=count)
            await until_done(three, 0)
    await exactly(db, count)
    assert {one["partition"] for one in of_level(lines, "warning")} <= {0, 1}
    assert said(lines, "no consumer name yet")[0]["partition"] == 1


async def test_told_to_stop_all_loops_give_back(
    link: Link, settings: Settings, failing: Server
) -> None:
    """However many loops have a write under way, they end together and give back what they have."""
    three = changed(settings, partitions=3, mongo_url=failing.url, shutdown_timeout_s=1.6)
    async with working(three) as worker:
        first = await append_to(three, *THREE, count=2)
        await until_done(three, *THREE)
        with hanging(failing), heard() as lines:
            await append_to(three, *THREE, count=2, first=first)
            await until(lambda: are_under_way(three), what="all are under way")
            worker.tell()
            await worker.ended()
            assert not said(lines, "could not give back; it comes again by itself")
            for partition in THREE:
                group = (Keys(three.stream, partition).stream, three.consumer_group)
                taken = await link.call("XAUTOCLAIM", *group, "other", 3_600_000, "0", "COUNT", 9)
                assert len(taken[1]) == 1


async def are_under_way(settings: Settings) -> bool:
    """Return whether one frame of each partition was read and is not acked."""
    async with Link.opened(settings.redis_url) as link:
        streams = [Keys(settings.stream, partition).stream for partition in THREE]
        rows = [await link.call("XPENDING", one, settings.consumer_group) for one in streams]
    return all(row[0] == 1 for row in rows)


async def test_what_may_kill_is_written_while_no_loop_writes(
    faulty: Database,
    link: Link,
    settings: Settings,
    failing: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that dies takes all loops along: so nobody writes beside a suspected frame."""
    three = changed(settings, partitions=3, mongo_url=failing.url, max_deliveries=1, read_count=1)
    for partition in (0, 1):
        await leave_behind(three, partition, first=4 * partition, name=NAMES[partition])
    await append_to(three, 2, count=8, first=8)
    under_way, seen = Counter[str](), set[tuple[int, int]]()

    how: ContextVar[str] = ContextVar("how", default="unasked")
    inserted = set[str]()
    write, insert, alone = Writer.write, Writer._insert, Quiet.alone

    @contextlib.contextmanager
    def counted(kind: str) -> Iterator[None]:
        under_way[kind] += 1
        seen.add((under_way["alone"], under_way["beside"]))
        token = how.set(kind)
        try:
            yield
        finally:
            how.reset(token)
            under_way[kind] -= 1

    async def watched_write(*args: Any) -> Any:
        with counted("beside"):
            return await write(*args)

    async def watched_insert(*args: Any) -> Any:
        inserted.add(how.get())
        return await insert(*args)

    @contextlib.asynccontextmanager
    async def watched_alone(quiet: Quiet) -> AsyncIterator[None]:
        async with alone(quiet):
            with counted("alone"):
                yield

    monkeypatch.setattr(Writer, "write", watched_write)
    monkeypatch.setattr(Writer, "_insert", watched_insert)
    monkeypatch.setattr(Quiet, "alone", watched_alone)
    async with fail(faulty, "insert", blockConnection=True, blockTimeMS=20), working(three):
        await until_done(three, *THREE)
    assert {(1, 0), (0, 1)} <= seen <= {(1, 0), (0, 1), (0, 2)}
    assert inserted == {"alone", "beside"}
    await exactly(faulty, 16)


async def test_others_write_while_it_is_asked_who_was_killed(db: Database) -> None:
    """The answer comes from the log, and may take long: meanwhile the other loops write."""
    quiet, asked, answered = Quiet(), asyncio.Event(), asyncio.Event()
    suspected, other = frame_of(event(0)), frame_of(event(1), seq=2)
    mark = f"{suspected.frame_id}:0:{suspected.count}"
    await db[schema.ATTEMPTS].insert_one({"_id": mark, "incarnations": ["w-1 a", "w-2 b"]})

    async def killed(_incarnations: Iterable[str]) -> set[str]:
        asked.set()
        await answered.wait()
        return set()

    first, second = (QuietWriter(db, WRITE_MS, NOWHERE, quiet) for _ in range(2))
    writing = asyncio.create_task(first.write_alone(suspected, Witness("w-3 c", killed)))
    try:
        await asyncio.wait_for(asked.wait(), WAIT_S_MAX)
        await asyncio.wait_for(second.write([other]), WAIT_S_MAX)
    finally:
        answered.set()
        await writing
    await exactly(db, 2)


async def test_loop_that_fails_ends_the_others(db: Database, three: Settings) -> None:
    """A loop that ends with an error has the others end in their own time; then it is raised."""
    stop, ended = asyncio.Event(), list[int]()

    async def work_on(partition: int) -> None:
        if partition == 1:
            raise WritingGroupTaken("taken")
        await stop.wait()
        ended.append(partition)

    with pytest.raises(WritingGroupTaken):
        await Following(three, db, work_on, stop).run()
    assert sorted(ended) == [0, 2]


def test_journals_add_up() -> None:
    """Metrics of a process are what its loops have counted, taken together."""
    journals = Journals(500)
    for partition in THREE:
        journal = journals.of(partition)
        journal.totals.stored += 5
        journal.timed(10, 0.5)
        journal.counts.dead_letters["poison"] += partition
    values: dict[str, Any] = dict(journals.values())
    assert values["evp_events_stored_total"] == 15
    assert values["evp_store_batch_events"].total == 30
    assert sum(values["evp_store_batch_seconds"].counts) == 3
    assert values["evp_dead_letters_total"]["poison"] == 3
    assert journals.totals().stored == 15


# Chores


async def test_sweep_asks_the_partition_of_each_frame(
    db: Database, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame is lost if its own partition lacks it; of one that is away that is not known."""
    three = node.settings
    entries = [await append(three, [event(2 * n)], [event(2 * n + 1)], partition=n) for n in THREE]
    await drain(three)
    # As if the workers had died before they settled them, and the log had lost a half.
    await db[schema.OUTCOMES].delete_many({})
    for number, (lost, _kept) in enumerate(entries):
        keys = Keys(three.stream, number)
        async with Link.opened(three.redis_url, keys) as link:
            await link.call("XDEL", keys.stream, lost)
    await fold(db, now_ms() + 60_000)
    await node.drop(2)
    streams = Streams(three)
    try:
        await sweep_all(db, still_have=streams.still_have)
        assert await judged(db) == {(0, entries[0][0]), (1, entries[1][0])}
        await node.serve(2)
        await sweep_all(db, still_have=streams.still_have)
        assert len(await judged(db)) == 2, "it is left alone for a while"
        monkeypatch.setattr(streams_module, "monotonic_s", lambda: monotonic_s() + 60)
        await sweep_all(db, still_have=streams.still_have)
        assert await judged(db) == {(n, entries[n][0]) for n in THREE}
    finally:
        await streams.close()


async def judged(db: Database) -> set[tuple[int, str]]:
    """Return partition and entry of the frames that have an outcome."""
    outcomes = [one["_id"] for one in await documents(db, schema.OUTCOMES)]
    frames = await db[schema.FRAMES].find({"_id": {"$in": outcomes}}).to_list()
    return {(one.get("partition", 0), one["entry"]) for one in frames}


async def test_every_stream_is_trimmed(
    db: Database, three: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done leaves every partition's stream."""
    monkeypatch.setattr(chores, "_LOOK_S", 0.05)
    await append_to(three, *THREE, count=4)

    async def are_empty() -> bool:
        async with Link.opened(three.redis_url) as link:
            names = [Keys(three.stream, partition).stream for partition in THREE]
            return not any([await link.call("XLEN", name) for name in names])

    async with working(changed(three, log_retention_s=0)):
        await until(are_empty, what="the streams are empty")


@pytest.mark.parametrize("place", ["store", "another database"])
async def test_group_of_before_does_not_hold_new_partitions(
    db: Database,
    link: Link,
    keys: Keys,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """A group made when there was one partition is made in new ones: given all, holding no more."""
    monkeypatch.setattr(chores, "_LOOK_S", 0.05)
    if place == "store":
        async with GroupBook.opened(settings) as book:
            await book.create("analytics", EARLIEST)
    else:
        await ensure_group(link, keys, "analytics")
    two = changed(settings, partitions=2, log_retention_s=0)
    await append_to(two, 0, 1, count=4)
    stream = Keys(settings.stream, 1).stream

    async def are(count: int) -> bool:
        return bool(await link.call("XLEN", stream) == count)

    async with working(two):
        await until_done(two, 0, 1)

        async def is_there() -> bool:
            return "analytics" in await existing_groups(link, Keys(settings.stream, 1))

        await until(is_there, what="it is made")
        read = ("XREADGROUP", "GROUP", "analytics", "a", "STREAMS", stream, ">")
        [[_, entries]] = await link.call(*read)
        assert len(entries) == 2
        await link.call("XACK", stream, "analytics", *[entry for entry, _ in entries])
        await until(lambda: are(0), what="the stream is empty")
        assert await link.call("XLEN", keys.stream) == 2


async def test_group_deleted_meanwhile_is_not_made_again(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that is deleted just when it would be made in a new partition stays deleted."""
    await append_to(settings, 1, count=2)
    keys, groups = Keys(settings.stream, 1), RegisteredGroups(settings, db)
    await store_groups.register(db, "analytics")
    made = asyncio.Event()

    async def made_late(*what: Any) -> bool:
        await store_groups.forget(db, "analytics")
        await ensure_group(*what)
        made.set()
        return True

    monkeypatch.setattr(upkeep, "ensure_group", made_late)
    keeping = asyncio.create_task(StreamUpkeep(settings, keys, groups).run())
    try:
        await asyncio.wait_for(made.wait(), WAIT_S_MAX)
        await until(lambda: is_gone(link, keys), what="it is not there any longer")
    finally:
        await end(keeping)
        await groups.close()


async def is_gone(link: Link, keys: Keys) -> bool:
    """Return whether a stream neither has nor knows any group."""
    return not await existing_groups(link, keys) | await registered_groups(link, keys)


async def test_loops_ask_together_which_groups_there_are(
    db: Database, link: Link, keys: Keys, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many loops ask within a second, the store is asked once, also if it is away."""
    answers: list[set[str] | StoreUnavailable] = [{"a"}, StoreUnavailable("away")]
    asked = list[Database]()

    async def answer(asked_db: Database) -> set[str]:
        asked.append(asked_db)
        found = answers[len(asked) - 1]
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    monkeypatch.setattr(registered, "registered", answer)
    await link.call("SADD", keys.groups, "b")
    groups = RegisteredGroups(settings, db)
    found = await asyncio.gather(*map(groups.names, range(16)))
    assert (found, len(asked)) == ([{"a"}, *[{"a", "b"}] * 15], 1)
    later_s = monotonic_s() + GROUPS_ASK_S
    monkeypatch.setattr(registered, "monotonic_s", lambda: later_s)
    failed = await asyncio.gather(*map(groups.names, range(16)), return_exceptions=True)
    await groups.close()
    assert [str(one) for one in failed] == ["away"] * 16
    assert len(asked) == 2


async def test_store_goes_away_while_the_log_is_asked(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop goes by what the store told it, also if another one was told nothing meanwhile."""
    answers: list[set[str] | StoreUnavailable] = [{"a"}, StoreUnavailable("away")]

    async def answer(_db: Database) -> set[str]:
        found = answers.pop(0)
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    async def answer_late(_link: Link, _keys: Keys) -> set[str]:
        later_s = monotonic_s() + GROUPS_ASK_S
        monkeypatch.setattr(registered, "monotonic_s", lambda: later_s)
        with pytest.raises(StoreUnavailable):
            await groups.names(0)
        return {"b"}

    monkeypatch.setattr(registered, "registered", answer)
    monkeypatch.setattr(registered, "registered_groups", answer_late)
    groups = RegisteredGroups(settings, db)
    try:
        assert await groups.names(1) == {"a", "b"}
    finally:
        await groups.close()


# What is left behind, and what waits


async def leave_behind(settings: Settings, partition: int, *, first: int, name: str = "") -> None:
    """Deliver four events of a partition to a consumer that goes away."""
    await append_events(settings, 4, first=first, each=2, partition=partition)
    gone = consumer(settings, name or f"gone-p{partition}-1", partition=partition)
    await gone.ensure_group()
    assert len(await gone.read(100)) == 2
    await gone.close()


async def claimed(settings: Settings) -> Claimed:
    """Claim what is stale, whoever has it."""
    signals: Signals = asyncio.Queue()
    return await claim_stale(settings, 0, signals, lambda _account: None)


async def test_claim_stale_goes_through_all(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """Whatever partition it was left in is claimed; one that has no group yet is passed over."""
    await note(link, keys, 4)
    await append_to(settings, 1, count=1, first=8)
    for partition, first in ((0, 0), (3, 4)):
        await leave_behind(settings, partition, first=first)
    account = await claimed(settings)
    assert (account.frames, account.events, account.stored) == (4, 8, 8)
    assert (account.removed, account.away) == (["gone-p0-1", "gone-p3-1"], [])
    await exactly(db, 8)


async def test_claim_stale_without_a_partition(db: Database, node: Node) -> None:
    """One that is away is named and left alone; without any there is no account."""
    for partition in THREE:
        await leave_behind(node.settings, partition, first=4 * partition)
    await node.drop(0)
    await node.drop(2)
    account = await claimed(node.settings)
    assert (account.events, account.away, account.clean) == (4, [0, 2], True)
    assert "partitions 0, 2" in claimed_line(account)
    await node.drop(1)
    with pytest.raises(LogUnavailable):
        await claimed(node.settings)
    for partition in THREE:
        await node.serve(partition)
    assert (await claimed(node.settings)).stored == 8
    await exactly(db, 12)


@pytest.mark.parametrize("settings_know", [False, True], ids=["store knows", "settings know"])
async def test_claim_stale_without_the_first_partition(
    db: Database, node: Node, *, settings_know: bool
) -> None:
    """Also where its server is away, or it has no group, the others are found and gone through."""
    await leave_behind(node.settings, 1, first=0)
    await note_partitions(db, 2)
    known = changed(node.settings, partitions=2 if settings_know else 1)
    await node.drop(0)
    account = await claimed(known)
    assert (account.stored, account.away) == (4, [0])
    await node.serve(0)
    await leave_behind(node.settings, 1, first=4)
    account = await claimed(known)
    assert (account.stored, account.away) == (4, [])
    await exactly(db, 8)


async def test_erase_looks_at_all_that_waits(db: Database, node: Node) -> None:
    """What waits in any partition is told, and which of them could not be asked."""
    await append_to(node.settings, *THREE, count=4)
    found = await erased(node.settings, db)
    assert (found.waiting_events, found.log_error) == (12, None)
    await node.drop(1)
    found = await erased(node.settings, db)
    assert found.waiting_events == 8
    assert (found.log_error or "").startswith("partition 1: ")
    text = rendered(erased_view(found))
    assert "8 events in the log may not be stored yet" in text
    assert "whether more wait in the log is not known: partition 1" in text


async def erased(settings: Settings, db: Database) -> Erased:
    """Look what would be erased."""
    found = Erased(dry_run=True)
    await erase(settings, db, Wanted(subject="nobody"), found, lambda _so_far: None)
    return found


def rendered(view: RenderableType) -> str:
    """Return a view as wide text."""
    console = Console(file=io.StringIO(), width=400)
    with console.capture() as capture:
        console.print(view)
    return capture.get()
