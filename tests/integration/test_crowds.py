"""Many clients at once: what one server process holds for all of them together is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evp.server import connection, request
from evp.server.connection import connections_max
from tests.support import server as support
from tests.support.server import InProcess, Wire, serving_alone
from tests.support.wait import until

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

ONE = b'{"type": "t"}'
LARGE = b'{"type": "t", "data": "' + b"x" * 200_000 + b'"}'


@pytest.fixture(scope="module")
async def server(
    log_url: str, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InProcess]:
    """One server for the tests of this module."""
    folder: Path = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        # So many connections that the tests can open more.
        patch.setattr("evp.server.protocol.connections_max", lambda: 8)
        async with serving_alone(log_url, store_url, folder) as server:
            await until(server.is_ready, what="the server accepts")
            yield server


async def opened(server: InProcess, stack: contextlib.AsyncExitStack, count: int) -> list[Wire]:
    """Open connections, and use them once, so that the server has them all."""
    wires = [await stack.enter_async_context(server.wire()) for _ in range(count)]
    for wire in wires:
        await wire.send(support.request(ONE))
        assert (await wire.reply()).status == 202
    return wires


@both_ways
async def test_connections_are_bounded(server: InProcess, *, chunked: bool) -> None:
    """One too many is told so and closed; probes are still answered; those before it work on."""
    async with contextlib.AsyncExitStack() as stack:
        wires = await opened(server, stack, 8)
        async with server.wire() as wire:
            await wire.send(support.request(ONE, chunked=chunked))
            reply = await wire.reply()
            assert (reply.status, reply.code) == (503, "server_busy")
            assert reply.headers["connection"] == "close"
            assert await wire.rest() == b""
        for path in ("/api/live", "/api/ready", "/api/health", "/metrics"):
            assert (await server.get(path)).status == 200
        await wires[0].send(support.request(ONE, chunked=chunked))
        assert (await wires[0].reply()).status == 202
        await wires.pop().close()

        async def is_taken() -> bool:
            return (await server.ask(support.request(ONE, chunked=chunked))).status == 202

        await until(is_taken, what="the place of one that left is free")


async def test_far_too_many_connections_are_cut(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond those that are told so, connections are cut, and cost nothing."""
    monkeypatch.setattr(connection, "CONNECTIONS_REFUSED_MAX", 2)
    async with contextlib.AsyncExitStack() as stack:
        await opened(server, stack, 8)
        surplus = [await stack.enter_async_context(server.wire()) for _ in range(6)]
        cut = 0
        for wire in surplus:
            with contextlib.suppress(ConnectionResetError, asyncio.IncompleteReadError):
                await wire.send(support.request(b"", method="GET", path="/api/live", headers={}))
                assert (await wire.reply()).status == 200
                continue
            cut += 1
        assert cut == 4


def test_connections_need_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may open few files holds few connections."""
    for files, most in ((1024, 928), (64, 1), (10**6, 4096), (resource.RLIM_INFINITY, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connections_max() == most


@both_ways
async def test_bodies_on_their_way_are_bounded(
    server: InProcess, monkeypatch: pytest.MonkeyPatch, *, chunked: bool
) -> None:
    """Bodies of which a part came count together; who exceeds the bound is refused, alone."""
    monkeypatch.setattr(request, "BODIES_BYTES_MAX", 450_000)
    sent = support.request(LARGE, chunked=chunked)
    async with server.wire() as one, server.wire() as other, server.wire() as third:
        for wire in (one, other):
            await wire.send(sent[:-10])
        await asyncio.sleep(0.2)
        await third.send(sent[:-10])
        reply = await third.reply()
        assert (reply.status, reply.code) == (503, "server_busy")
        await third.rest()
        for wire in (one, other):
            await wire.send(sent[-10:])
            assert (await wire.reply()).status == 202
    # Those that left in the middle are forgotten.
    for _ in range(5):
        async with server.wire() as wire:
            await wire.send(sent[:-10])
            await asyncio.sleep(0.02)

    async def is_taken() -> bool:
        async with server.wire() as one, server.wire() as other:
            for wire in (one, other):
                await wire.send(sent[:-10])
            for wire in (one, other):
                await wire.send(sent[-10:])
            replies = [await wire.reply() for wire in (one, other)]
            return [reply.status for reply in replies] == [202, 202]

    await until(is_taken, what="the room of those that left is free")
