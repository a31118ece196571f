"""A 202 comes after the sync that keeps its event, and never without one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from evp.errors import LogNotDurable
from evp.settings import Settings
from evp.storage.client import connect, database
from evp.stream.client import Link
from evp.stream.durability import require_waiting
from evp.stream.keys import Keys
from tests.faults.power.conftest import MakeOnDisk, OnDisk
from tests.faults.power.disk import Disk
from tests.support.make import event
from tests.support.server import InProcess, request, serving, settings_of
from tests.support.stores import MAY_LEAVE_SOCKETS, documents
from tests.support.verifying import clean
from tests.support.wait import until
from tests.support.workers import drain

pytestmark = [pytest.mark.timeout(120), MAY_LEAVE_SOCKETS]

SYNC_S = 0.5
ALWAYS = ("--appendfsync", "always")
EVERYSEC = ("--appendfsync", "everysec")
WAITING = [pytest.param(ALWAYS, id="always"), pytest.param(EVERYSEC, id="WAITAOF")]


def settings_for(log: OnDisk, store_url: str, folder: Path, **environ: str) -> Settings:
    """Return settings for a log on a disk of its own."""
    return settings_of(log[0].url, store_url, folder, **environ)


async def post(server: InProcess, number: int) -> tuple[int, float]:
    """Send an event; return the status and when the answer was there."""
    reply = await server.ask(request(msgspec.json.encode(event(number))))
    return reply.status, time.monotonic()


async def require(log: OnDisk, how: tuple[str, ...]) -> None:
    """Skip a test on WAITAOF where the log's does not wait: there evp accepts nothing."""
    if how is EVERYSEC:
        async with Link.opened(log[0].url) as link:
            try:
                await require_waiting(link, Keys("t"))
            except LogNotDurable as error:
                pytest.skip(str(error))


def file_bytes(disk: Disk) -> int:
    """Return how long the log's file is now."""
    [path] = (disk.folder / "appendonlydir").glob("*.incr.aof")
    return path.stat().st_size


async def covering_sync_s(disk: Disk, length: int) -> float:
    """Return when the first sync ended after which the log's file was longer than that."""

    def ends_s() -> list[float]:
        return [
            one.ended_s
            for one in disk.syncs
            if one.name.endswith(".incr.aof") and not one.error and one.length > length
        ]

    await until(lambda: bool(ends_s()), what="the file is synced")
    return ends_s()[0]


async def stored_of(settings: Settings) -> list[str]:
    """Return the ids of all events that are stored."""
    client = connect(settings)
    try:
        return sorted(
            one["id"] for one in await documents(database(client, settings.mongo_db), "events")
        )
    finally:
        await client.close()


@pytest.mark.parametrize("how", WAITING)
async def test_no_202_before_the_sync_has_ended(
    log_on_disk: MakeOnDisk, store_url: str, tmp_path: Path, how: tuple[str, ...]
) -> None:
    """With a disk that takes half a second to sync each answer waits for it; none is refused."""
    log = await asyncio.to_thread(log_on_disk, *how)
    await require(log, how)
    disk = log[1]
    async with serving(settings_for(log, store_url, tmp_path)) as server:
        await until(server.is_ready, what="the server is ready")
        disk.slow(SYNC_S)
        for number in range(4):
            before_bytes = file_bytes(disk)
            status, answered_s = await post(server, number)
            assert status == 202
            assert answered_s > await covering_sync_s(disk, before_bytes)
        disk.well()


async def test_with_durability_memory_the_answer_comes_first(
    log_on_disk: MakeOnDisk, store_url: str, tmp_path: Path
) -> None:
    """The control: by the same clock an answer that waits for no disk comes before the sync."""
    log = await asyncio.to_thread(log_on_disk, *EVERYSEC)
    disk = log[1]
    settings = settings_for(log, store_url, tmp_path, EVP_DURABILITY="memory")
    async with serving(settings) as server:
        await until(server.is_ready, what="the server is ready")
        disk.slow(SYNC_S)
        before_bytes = file_bytes(disk)
        status, answered_s = await post(server, 0)
        assert status == 202
        assert answered_s < await covering_sync_s(disk, before_bytes)
        disk.well()


async def test_a_log_that_cannot_sync_ends(
    log_on_disk: MakeOnDisk, store_url: str, tmp_path: Path
) -> None:
    """`always`: the log ends at the first sync that fails; nothing is answered with 202 by it."""
    log = await asyncio.to_thread(log_on_disk, *ALWAYS)
    server_of_log, disk = log
    settings = settings_for(log, store_url, tmp_path)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server is ready")
        assert (await post(server, 0))[0] == 202
        disk.fail()
        assert (await post(server, 1))[0] == 503
        await until(lambda: not server_of_log.running, what="the log has ended")
        assert (await post(server, 2))[0] == 503
        disk.cut()
        disk.well()
        await asyncio.to_thread(server_of_log.start)
        await _until_accepted(server, 3)
    await drain(settings)
    assert await stored_of(settings) == ["e0", "e3"]
    await clean(settings)


async def test_waitaof_on_a_disk_that_cannot_sync(
    log_on_disk: MakeOnDisk, store_url: str, tmp_path: Path
) -> None:
    """`everysec`: the log stays, its WAITAOF says that all is well, and nothing is answered 202."""
    log = await asyncio.to_thread(log_on_disk, *EVERYSEC)
    await require(log, EVERYSEC)
    server_of_log, disk = log
    settings = settings_for(log, store_url, tmp_path)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server is ready")
        assert (await post(server, 0))[0] == 202
        disk.fail()
        for number in range(1, 4):
            assert (await post(server, number))[0] == 503
        # It syncs no more until it is started again.
        assert server_of_log.running
        await asyncio.to_thread(server_of_log.kill)
        disk.cut()
        disk.well()
        await asyncio.to_thread(server_of_log.start)
        await _until_accepted(server, 4)
    await drain(settings)
    assert await stored_of(settings) == ["e0", "e4"]
    await clean(settings)


async def _until_accepted(server: InProcess, number: int) -> None:
    """Send the same event, as a client does, until it is answered with 202."""

    async def is_accepted() -> bool:
        return (await post(server, number))[0] == 202

    await until(is_accepted, what="events are accepted again", within_s=30)
