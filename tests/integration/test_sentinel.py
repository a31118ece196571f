"""evp behind Sentinels: a primary dies and its replica is elected while events come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream.client import Link
from tests.support.sentinel import Watched, running_watched
from tests.support.server import serving
from tests.support.steady import each_once, sending
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.workers import changed, working

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180), MAY_LEAVE_SOCKETS]


@pytest.fixture(scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """One pair with its Sentinels for the module; each test leaves all of them running."""
    async with running_watched(tmp_path_factory.mktemp("watched")) as made:
        yield made


async def test_failover_under_load(watched: Watched, settings: Settings, db: Database) -> None:
    """The replica is elected, and has all that was answered with 202."""
    settings = changed(settings, redis_url=watched.url, durability_replicas=1)
    async with serving(settings) as server, working(settings):
        async with sending(server) as steady:
            await steady.more(200)
            killed = await watched.primary()
            await watched.fail_over()
            await watched.revive(killed)
            await steady.more(200)
        await each_once(settings, db, steady)


async def test_primary_that_wakes_up(watched: Watched, settings: Settings, db: Database) -> None:
    """One that hung meanwhile takes itself for the primary for a while; nothing is lost in it."""
    settings = changed(settings, redis_url=watched.url, durability_replicas=1)
    async with serving(settings) as server, working(settings):
        async with sending(server) as steady:
            await steady.more(200)
            primary = await watched.primary()
            [replica] = [one for one in watched.servers if one is not primary]
            with primary.paused():
                await watched.until_primary(replica)
            await watched.until_replica(primary)
            await steady.more(200)
        await each_once(settings, db, steady)


async def test_sentinel_that_names_a_replica(watched: Watched) -> None:
    """What is named must say itself that it is a primary; otherwise the next Sentinel is asked."""
    primary = await watched.primary()
    [replica] = [one for one in watched.servers if one is not primary]
    wrong = await asyncio.to_thread(watched.sentinel, "wrong", replica)
    try:
        await asyncio.to_thread(wrong.start)
        with pytest.raises(LogUnavailable, match="no primary any longer"):
            await Link.open(watched.url_of([wrong]))
        async with Link.opened(watched.url_of([wrong, watched.sentinels[0]])) as link:
            assert (await link.call("ROLE"))[0] == b"master"
    finally:
        wrong.kill()


async def test_sentinels_that_are_gone_or_know_no_such_service(watched: Watched) -> None:
    """One Sentinel that answers is enough; a wrong name of the service is told."""
    first, second, _ = watched.sentinels
    await asyncio.to_thread(first.kill)
    try:
        async with Link.opened(watched.url_of([first, second])) as link:
            assert (await link.call("ROLE"))[0] == b"master"
    finally:
        await asyncio.to_thread(first.start)
    with pytest.raises(LogUnavailable, match="knows no service 'other'"):
        await Link.open(watched.url.replace("/events/", "/other/"))
