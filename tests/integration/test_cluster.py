"""evp on a cluster: slots move and primaries die while events come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from evp.doctor.run import examine
from evp.errors import LogUnavailable
from evp.groups.book import GroupBook
from evp.groups.describe import describe
from evp.groups.reset import Resetter
from evp.identity import event_id
from evp.keybook import KeyBook
from evp.settings import Settings
from evp.stats import look_once
from evp.storage.client import Database
from evp.stream.client import KeptLink, Link
from evp.stream.keys import Keys
from evp.stream.positions import EARLIEST
from evp.trace.run import trace
from evp.trace.tell import Asked
from evp.worker.stale import claim_stale
from tests.integration.test_tap import shown, tapped
from tests.support.cluster import Cluster, ask, running_cluster
from tests.support.make import event, ndjson
from tests.support.server import NDJSON, request, serving
from tests.support.servers import Server
from tests.support.steady import each_once, sending
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.verifying import EVERYTHING, clean
from tests.support.wait import until
from tests.support.workers import changed, drain, working

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180), MAY_LEAVE_SOCKETS]

#: When `event` says that it was.
EVENT_MS = 1_767_323_045_678


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One cluster for the module; each test leaves six nodes that run."""
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
async def on_cluster(cluster: Cluster, settings: Settings) -> Settings:
    """Settings of a test, on the cluster."""
    await cluster.until_settled()
    return changed(settings, redis_url=cluster.url)


async def test_slot_moves_key_by_key(cluster: Cluster, on_cluster: Settings, db: Database) -> None:
    """A slot that moves under load, and moves again, costs no event."""
    async with serving(on_cluster) as server, working(on_cluster):
        async with sending(server) as steady:
            for _ in range(3):
                target = await cluster.other_primary(on_cluster.stream)
                await cluster.move(on_cluster.stream, target)
                await steady.more(100)
        assert not steady.refusals
        await each_once(on_cluster, db, steady)


async def test_slot_moves_at_once(cluster: Cluster, on_cluster: Settings, db: Database) -> None:
    """The same, where the server moves a slot by itself (Valkey 9)."""
    async with serving(on_cluster) as server, working(on_cluster):
        async with sending(server) as steady:
            for _ in range(3):
                target = await cluster.other_primary(on_cluster.stream)
                if not await cluster.move_at_once(on_cluster.stream, target):
                    pytest.skip("the server does not know CLUSTER MIGRATESLOTS")
                await steady.more(100)
        assert not steady.refusals
        await each_once(on_cluster, db, steady)


async def test_primary_is_killed(cluster: Cluster, on_cluster: Settings, db: Database) -> None:
    """A replica takes over by itself, and has all that was answered with 202."""
    settings = changed(on_cluster, durability_replicas=1)
    async with serving(settings) as server, working(settings):
        async with sending(server) as steady:
            await steady.more(200)
            killed, _ = await cluster.fail_over(settings.stream)
            await cluster.revive(killed)
            await cluster.until_settled()
            await steady.more(200)
        await each_once(settings, db, steady)


async def test_primary_that_wakes_up(cluster: Cluster, on_cluster: Settings, db: Database) -> None:
    """One that hung until its replica took over acknowledges nothing for good when it wakes."""
    settings = changed(on_cluster, durability_replicas=1)
    async with serving(settings) as server, working(settings):
        async with sending(server) as steady:
            await steady.more(200)
            primary = await cluster.owner(settings.stream)
            replica = await cluster.replica_of(primary)
            await cluster.until_copied(primary)
            with primary.paused():
                await cluster.until_owned(settings.stream, replica)
            await cluster.until_settled()
            await steady.more(200)
        await each_once(settings, db, steady)


async def test_roles_are_exchanged(cluster: Cluster, on_cluster: Settings, db: Database) -> None:
    """A primary that hands over in good order takes no write any longer, and loses none."""
    async with serving(on_cluster) as server, working(on_cluster):
        async with sending(server) as steady:
            for _ in range(2):
                await cluster.switch_over(on_cluster.stream)
                await steady.more(100)
                await cluster.until_settled()
        await each_once(on_cluster, db, steady)


async def test_a_primary_of_three_is_away(
    cluster: Cluster, on_cluster: Settings, db: Database
) -> None:
    """While one partition has no primary the others take all requests, and workers go on."""
    settings = changed(on_cluster, partitions=3, durability_replicas=1)
    names = await spread(cluster, settings)
    async with serving(settings) as server, working(settings):
        async with sending(server) as steady:
            await steady.more(100)
            killed = await cluster.owner(names[1])
            await cluster.until_copied(killed)
            await cluster.kill(killed)
            await steady.more(300)
            await cluster.revive(killed)
            await cluster.until_settled()
            await steady.more(100)
        await each_once(settings, db, steady, partitions=3)


async def test_partitions_are_raised_and_lowered(
    cluster: Cluster, on_cluster: Settings, db: Database
) -> None:
    """From one to three and down to two, server by server: workers follow, and nothing is left."""
    one, three, two = (changed(on_cluster, partitions=number) for number in (1, 3, 2))
    await spread(cluster, three)
    async with working(one), serving(one) as first:
        async with sending(first) as steady:
            await steady.more(100)
            async with serving(three) as second:
                steady.go_to(second)
                await steady.more(200)
                first.stop()
                async with serving(two) as third, working(two):
                    steady.go_to(third)
                    await steady.more(200)
                    steady.end()
                    await steady.ended()
        await each_once(one, db, steady, partitions=3)


async def spread(cluster: Cluster, settings: Settings) -> list[str]:
    """Have each partition on a primary of its own; return their streams."""
    names = [Keys(settings.stream, number).stream for number in range(settings.partitions)]
    taken: list[Server] = []
    for name in names:
        if (owner := await cluster.owner(name)) in taken:
            primaries = await cluster.primaries()
            owner = next(node for node in primaries if node not in taken)
            await cluster.move(name, owner)
        taken.append(owner)
    return names


@pytest.mark.parametrize("partitions", [1, 3])
async def test_commands(
    cluster: Cluster, on_cluster: Settings, db: Database, partitions: int
) -> None:
    """What people ask and set finds each stream where it is."""
    settings = changed(on_cluster, partitions=partitions)
    await spread(cluster, settings)
    async with serving(settings) as server:
        for number in range(6):
            sent = request(ndjson(event(number)), path="/events/batch", headers=NDJSON)
            assert (await server.ask(sent)).status == 202
        await drain(settings)
        assert (await look_once(settings, 0.1)).log is not None
        async with tapped(settings) as tap:
            assert len(await shown(tap, 6)) == 6
        wanted = Asked(event_id("test", "e1", EVENT_MS), search=True)
        assert (await trace(settings, wanted, lambda _done, _total: None)) is not None
        group = settings.consumer_group
        assert (await describe(settings, group)).exists
        async with GroupBook.opened(settings) as book:
            assert {row.name for row in await book.rows()} == {group}
        async with Resetter.opened(settings, group) as resetter:
            await resetter.plan(EARLIEST, lambda _done, _total: None)
        async with KeyBook.opened(settings) as keys:
            await keys.create("ours", ("ingest",))
        assert (await claim_stale(settings, 0, asyncio.Queue(), lambda _account: None)).clean
        report = await examine(settings, lambda _check: None)
        assert (report.away, report.not_checked) == ({}, [])
    await clean(settings, EVERYTHING)


async def test_seeds_that_are_dead_or_know_nothing(
    cluster: Cluster, on_cluster: Settings, keys: Keys
) -> None:
    """Of the nodes that the address names, one that knows the cluster is enough."""
    owner = await cluster.owner(on_cluster.stream)
    *_, dead = [node for node in cluster.nodes if node is not owner]
    await cluster.kill(dead)
    try:
        async with Link.opened(cluster.url_of([dead, owner]), keys) as link:
            assert await link.call("XLEN", keys.stream) == 0
        with pytest.raises(LogUnavailable, match="can't reach the log"):
            await Link.open(cluster.url_of([dead]), keys)
    finally:
        await cluster.revive(dead)


async def test_node_that_was_away(cluster: Cluster, on_cluster: Settings, keys: Keys) -> None:
    """A node that names the former holder of a slot leads astray, and only for a moment."""
    owner, target = await cluster.owner(keys.stream), await cluster.other_primary(keys.stream)
    # A primary tells its replica first that a slot moves: theirs must not be the one that hangs.
    busy = [owner, target, await cluster.replica_of(owner), await cluster.replica_of(target)]
    stale = next(node for node in cluster.nodes if node not in busy)
    kept = KeptLink(cluster.url_of([stale]), keys)
    with stale.paused():
        await cluster.move(keys.stream, target)

    async def found() -> bool:
        try:
            return bool(await (await kept.get()).call("XADD", keys.stream, "*", "type", "t"))
        except LogUnavailable:
            return False

    await until(found, what="the stream is found")
    assert await ask(target, "XLEN", keys.stream) == 1
    await kept.close()


async def test_address_of_a_single_node(cluster: Cluster, on_cluster: Settings, keys: Keys) -> None:
    """Whoever names a node as if it were the whole log is told which address to set."""
    elsewhere = await cluster.other_primary(on_cluster.stream)
    async with Link.opened(elsewhere.url, keys) as link:
        with pytest.raises(LogUnavailable, match=r"redis\+cluster://"):
            await link.call("XLEN", keys.stream)
