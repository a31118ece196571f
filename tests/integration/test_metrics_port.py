"""The port for metrics of a worker: strangers can neither fill its memory nor keep others out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from evp.limits import METRICS_CONNECTIONS_MAX, METRICS_HEAD_BYTES_MAX
from evp.metrics.exporter import Exporter
from evp.metrics.families import Values
from evp.metrics.port import tell_metrics
from evp.signals import end
from evp.supervise import bind
from tests.support.server import Wire, request, wire_to
from tests.support.wait import until

MIB = 1 << 20
QUICK_S = 0.3
ASKED = request(b"", method="GET", path="/metrics", headers={})
PROBED = request(b"", method="GET", path="/api/live", headers={})


class Port:
    """A port that tells metrics in the test's loop."""

    def __init__(self, token: str | None = None, **limits: float) -> None:
        async def log() -> Values:
            return {"evp_log_up": 1}

        listener = bind("127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        exporter = Exporter("work-1", lambda: {"evp_events_stored_total": 7}, log)
        self.task = asyncio.create_task(tell_metrics(exporter, listener, token, **limits))

    def wire(self) -> AbstractAsyncContextManager[Wire]:
        """Give a connection that is closed at the end."""
        return wire_to(self.port)

    async def ask(self, sent: bytes) -> tuple[int, bytes]:
        """Return the status of an answer, and what comes after its head until the end."""
        async with self.wire() as wire:
            await wire.send(sent)
            head = await wire.head()
            return int(head.split(b" ")[1]), await wire.rest()

    async def answers(self) -> bool:
        """Return whether metrics are told."""
        return (await self.ask(ASKED))[0] == 200


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    """A port with evp's limits."""
    port = Port()
    yield port
    await end(port.task)


@pytest.fixture
async def quick() -> AsyncIterator[Port]:
    """A port on which a request must be done soon."""
    port = Port(request_s_max=QUICK_S)
    yield port
    await end(port.task)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (ASKED, 200),
        (request(b"", method="GET", path="/metrics?x=1", headers={"accept": "*/*"}), 200),
        (request(b"", method="GET", path="/", headers={}), 404),
        (request(b"", method="GET", path="/metricsx", headers={}), 404),
        (request(b"{}", path="/metrics"), 405),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 400),
        (b"\xff\x00\r\n\r\n", 400),
    ],
)
async def test_what_it_answers(port: Port, sent: bytes, status: int) -> None:
    """There are metrics and a probe, nothing else; whatever comes is answered, and that was it."""
    told, body = await port.ask(sent)
    assert told == status
    assert body.endswith(b"\n")
    assert (b'evp_events_stored_total{process="work-1"} 7.0' in body) == (status == 200)


async def test_head_has_no_body(port: Port) -> None:
    """HEAD is answered as GET, without the text."""
    assert await port.ask(ASKED.replace(b"GET", b"HEAD")) == (200, b"")


async def test_token() -> None:
    """Where there is a token, it is asked for."""
    port = Port("s3cret")
    assert (await port.ask(ASKED))[0] == 401
    for given, status in (("Bearer s3cret", 200), ("Bearer other", 401), ("\xfc", 401)):
        headers = {"Authorization": given}
        sent = request(b"", method="GET", path="/metrics", headers=headers)
        assert (await port.ask(sent))[0] == status
    await end(port.task)


async def test_probe() -> None:
    """That the process lives is told to anyone, also where metrics are not."""
    port = Port("s3cret")
    assert await port.ask(PROBED) == (200, b'{"status":"live"}\n')
    assert (await port.ask(PROBED.replace(b"GET", b"PUT")))[0] == 405
    await end(port.task)


@pytest.mark.parametrize("start", [ASKED[:-2] + b"x: ", b"GET /", b"\r\n"])
async def test_head_without_an_end(port: Port, start: bytes) -> None:
    """Of a head that is too long little is read before it is refused."""
    async with port.wire() as wire:
        await wire.send(start + b"a" * (2 * METRICS_HEAD_BYTES_MAX))
        assert (await wire.reply()).status == 431
    assert await port.answers()


async def test_body_is_not_kept(port: Port) -> None:
    """A body of any size is let go, and its client sees the answer."""
    async with port.wire() as wire:
        await wire.send(request(b"a" * (16 * MIB), path="/metrics"))
        assert (await wire.reply()).status == 405


@pytest.mark.parametrize("sent", [b"", b"GET /met", ASKED[:-2], ASKED])
async def test_clients_that_stay(quick: Port, sent: bytes) -> None:
    """Whoever comes with a request byte by byte, or stays after it, is cut off in time."""
    _reader, writer = await asyncio.open_connection("127.0.0.1", quick.port)
    writer.write(sent)
    started_s = asyncio.get_running_loop().time()

    async def is_cut() -> bool:
        if writer.is_closing():
            return True
        try:
            writer.write(b"a")
            await writer.drain()
        except OSError:
            return True
        return False

    await until(is_cut, what="the connection is cut off")
    assert asyncio.get_running_loop().time() - started_s < 10 * QUICK_S
    writer.transport.abort()


async def test_connections_are_few(quick: Port) -> None:
    """Silent connections keep others out for no longer than a request may take."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(METRICS_CONNECTIONS_MAX):
            await stack.enter_async_context(quick.wire())
        async with quick.wire() as wire:
            assert (await wire.reply()).status == 503
            assert await wire.rest() == b""
        await until(quick.answers, what="metrics are told again")


async def test_end_waits_for_nobody(port: Port) -> None:
    """A port that ends closes what is open, and listens no more."""
    async with port.wire() as wire:
        await wire.send(b"GET /met")
        await until(port.answers, what="it answers")
        async with asyncio.timeout(8):
            await end(port.task)
        with contextlib.suppress(ConnectionError):
            assert await wire.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port.port)
