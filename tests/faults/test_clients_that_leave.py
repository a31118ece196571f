"""Clients that go away, hang or crawl: nobody else gets their answer, or none."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.stream.client import Link
from tests.faults.kit.checker import quantile_s
from tests.faults.kit.session import until_ready
from tests.faults.kit.system import KEY, running_system
from tests.support.make import event
from tests.support.proxy import Proxy, Weather, proxying
from tests.support.server import Wire, remove_traces, request, serving, settings_of

CANCELS = 10_000
LINKS = 50
DELAY_MS = 25
CLIENTS = 2_000
CUT_SHARE = 0.3
SLOW_SOCKETS = 500
SEED = 16

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def far_log(settings: Settings) -> AsyncIterator[Proxy]:
    """The session's log, 50 ms away."""
    async with proxying(settings.redis_url, SEED) as proxy:
        proxy.change(Weather(delay_ms=DELAY_MS))
        yield proxy


async def test_cancels_cross_no_replies(far_log: Proxy, link: Link, settings: Settings) -> None:
    """10,000 calls cancelled at random: each answer that comes belongs to its question."""
    dice = random.Random(SEED)
    keys = [f"{settings.stream}:{number}" for number in range(100)]
    await link.call("MSET", *(item for key in keys for item in (key, f"value of {key}")))
    left = CANCELS
    answered = 0

    async def ask_and_cancel() -> None:
        nonlocal left, answered
        far: Link | None = None
        while left > 0:
            left -= 1
            if far is None or not far.is_open:
                far = await Link.open(far_log.url)
            key = dice.choice(keys)
            with contextlib.suppress(TimeoutError, LogUnavailable):
                async with asyncio.timeout(dice.uniform(0, 4 * DELAY_MS / 1000)):
                    assert await far.call("GET", key) == f"value of {key}".encode()
                    answered += 1
        if far is not None:
            await far.close()

    await asyncio.gather(*(ask_and_cancel() for _ in range(LINKS)))
    await link.call("DEL", *keys)
    assert CANCELS / 10 < answered < CANCELS


async def test_clients_cut_in_the_middle(log_url: str, store_url: str, tmp_path: Path) -> None:
    """A third of the clients goes away after asking; all others of their frames get a 202."""
    dice = random.Random(SEED)
    statuses: list[int] = []
    async with proxying(log_url, SEED) as proxy:
        proxy.change(Weather(delay_ms=DELAY_MS))
        settings = settings_of(proxy.url, store_url, tmp_path)
        async with serving(settings) as server:

            async def client(number: int) -> None:
                cut = dice.random() < CUT_SHARE
                async with server.wire() as wire:
                    await wire.send(request(msgspec.json.encode(event(number))))
                    await asyncio.sleep(dice.uniform(0, DELAY_MS / 1000))
                    if cut:
                        wire.abort()
                    else:
                        statuses.append((await wire.reply()).status)

            for start in range(0, CLIENTS, 100):
                await asyncio.gather(*(client(start + number) for number in range(100)))
            frames = await server.entries()
        await remove_traces(settings)
    assert set(statuses) == {202}
    assert CLIENTS / 2 < len(statuses) < CLIENTS
    assert frames < CLIENTS / 4, "requests shared frames"


async def test_slow_sockets(tmp_path: Path) -> None:
    """500 clients that send a byte a second: the p99 of the others stays below twice as much."""
    async with running_system(tmp_path, servers=1, workers=0) as system:
        await until_ready(system)
        [port] = system.ports
        await latencies_s(port)
        alone_s = await latencies_s(port)
        crawling = [asyncio.create_task(crawl(port, number)) for number in range(SLOW_SOCKETS)]
        try:
            await asyncio.sleep(2.0)
            beside_s = await latencies_s(port)
            assert not any(one.done() for one in crawling)
        finally:
            for one in crawling:
                one.cancel()
            await asyncio.gather(*crawling, return_exceptions=True)
    before_s, after_s = quantile_s(alone_s, 0.99), quantile_s(beside_s, 0.99)
    assert after_s < 2 * before_s + 0.01, f"p99 {before_s:.4f} s, then {after_s:.4f} s"


async def latencies_s(port: int) -> list[float]:
    """Return how long 4,000 single events took over 4 connections, sorted."""
    found: list[float] = []

    async def lane(first: int) -> None:
        headers = {"content-type": "application/json", "x-api-key": KEY}
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
        for number in range(first, first + 1000):
            began_at_s = time.monotonic()
            await wire.send(request(msgspec.json.encode(event(number)), headers=headers))
            assert (await wire.reply()).status == 202
            found.append(time.monotonic() - began_at_s)
        await wire.close()

    await asyncio.gather(*(lane(number * 1000) for number in range(4)))
    return sorted(found)


async def crawl(port: int, number: int) -> None:
    """Send a request, a byte a second."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    body = msgspec.json.encode(event(number))
    try:
        for byte in request(body, headers={"content-type": "application/json", "x-api-key": KEY}):
            await wire.send(bytes((byte,)))
            await asyncio.sleep(1.0)
    finally:
        wire.abort()
