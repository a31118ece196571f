"""How long a connection may take: for a request, between requests, after a refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from evp.server import connection
from tests.support.server import InProcess, remove_traces, request, serving, settings_of
from tests.support.servers import Server
from tests.support.wait import until

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

ONE = b'{"type": "t", "id": "1"}'


@pytest.fixture(scope="module", autouse=True)
def _short_deadlines() -> Iterator[None]:
    """Deadlines that a test can wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_SWEEP_S", 0.02)
        patch.setattr(connection, "LINGER_S_MAX", 0.2)
        patch.setattr(connection, "REQUEST_READ_S_MAX", 0.3)
        patch.setattr(connection, "KEEP_ALIVE_S", 0.3)
        yield


@pytest.fixture(scope="module")
async def server(
    log: Server, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InProcess]:
    """A server that waits for nobody."""
    settings = settings_of(log.url, store_url, tmp_path_factory.mktemp("server"))
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        yield server
    await remove_traces(settings)


@pytest.mark.parametrize(
    "sent",
    [
        request(ONE)[:10],
        request(ONE)[:-1],
        request(ONE, chunked=True)[:-1],
        request(ONE, chunked=True)[:-8],
    ],
    ids=["head", "plain body", "last chunk", "body in chunks"],
)
async def test_request_that_comes_slowly(server: InProcess, sent: bytes) -> None:
    """A request that is not there in time is told so and cut off; nobody else waits."""
    before = await server.entries()
    async with server.wire() as slow:
        await slow.send(sent)
        assert (await server.ask(request(ONE))).status == 202
        reply = await slow.reply()
        assert (reply.status, reply.code) == (408, "request_timeout")
        assert reply.headers["connection"] == "close"
        assert await slow.rest() == b""
    assert await server.entries() == before + 1


@both_ways
async def test_drip_does_not_move_the_deadline(server: InProcess, *, chunked: bool) -> None:
    """A byte now and then keeps no request alive beyond its time."""
    head = request(b"", chunked=chunked).replace(b"content-length: 0", b"content-length: 100")
    drop = b"1\r\n \r\n" if chunked else b" "
    async with server.wire() as wire:
        await wire.send(head.removesuffix(b"0\r\n\r\n"))
        began_at_s = time.monotonic()
        answer = asyncio.create_task(wire.reply())
        while not answer.done():
            await wire.send(drop)
            await asyncio.sleep(0.02)
        assert (await answer).code == "request_timeout"
        assert time.monotonic() - began_at_s < 10


@both_ways
async def test_late_request_is_told_after_the_one_before_it(
    log: Server, server: InProcess, *, chunked: bool
) -> None:
    """A request that waits for the log is answered before the late one behind it is refused."""
    async with server.wire() as wire:
        with log.paused():
            await wire.send(request(ONE, chunked=chunked) + request(ONE)[:-1])
            await asyncio.sleep(0.5)
        assert (await wire.reply()).status == 202
        assert (await wire.reply()).code == "request_timeout"
        assert await wire.rest() == b""


@pytest.mark.parametrize("used", ["", "plain", "asgi"])
async def test_idle_connection_is_closed(server: InProcess, used: str) -> None:
    """A connection without a request is closed after a while, without a word."""
    async with server.wire() as wire:
        if used:
            await wire.send(request(ONE, chunked=used == "asgi"))
            assert (await wire.reply()).status == 202
        assert await wire.rest() == b""


@both_ways
async def test_waiting_for_the_log_is_not_idling(
    log: Server, server: InProcess, *, chunked: bool
) -> None:
    """A client that waits for its answer is not cut off, however long the log takes."""
    async with server.wire() as wire:
        with log.paused():
            await wire.send(request(ONE, chunked=chunked))
            await asyncio.sleep(0.5)
        assert (await wire.reply()).status == 202


async def test_client_that_never_stops_is_cut_off(server: InProcess) -> None:
    """Who goes on sending after a refusal gets the answer, a little time, and the end."""
    head = request(b"", headers={}).replace(b"content-length: 0", b"content-length: %d" % (1 << 40))

    async def send_on() -> None:
        while True:
            await wire.send(b" " * 65_536)
            await asyncio.sleep(0.001)

    async with server.wire() as wire:
        await wire.send(head)
        assert (await wire.reply()).code == "unauthenticated"
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_on(), 5)
