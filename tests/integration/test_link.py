"""Connections to the log that break in unusual ways."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from structlog.testing import capture_logs

from evp.codec import Media, decode
from evp.errors import AckUnknown, LogUnavailable
from evp.frame import OpenFrame
from evp.settings import Settings
from evp.stream.client import Link, LogRefused
from evp.stream.flusher import Flusher
from evp.stream.keys import Keys
from evp.stream.producer import Producer
from tests.support.make import ADMISSION
from tests.support.servers import Server
from tests.support.wait import until


async def test_reset_of_an_idle_connection() -> None:
    """What breaks while nobody looks is told as an outage at the next call, whatever it is."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        opening = asyncio.create_task(Link.open(f"redis://127.0.0.1:{listener.getsockname()[1]}/0"))
        connection, _ = await loop.sock_accept(listener)
        link = await opening
        # Closed like this it sends RST, as a gateway does that has forgotten a connection.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        writer = link._connection._writer
        assert writer is not None
        await until(writer.transport.is_closing, what="the reset is seen")
        with pytest.raises(LogUnavailable):
            await link.call("PING")
        assert not link.is_open


async def test_dial_that_is_cancelled() -> None:
    """Given up between the connection and the greeting, a dial leaves no open connection."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        opening = asyncio.create_task(Link.open(f"redis://127.0.0.1:{listener.getsockname()[1]}/1"))
        connection, _ = await loop.sock_accept(listener)
        with connection:
            assert b"SELECT" in await loop.sock_recv(connection, 1000)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            async with asyncio.timeout(8):
                assert await loop.sock_recv(connection, 1000) == b""


async def test_server_that_became_a_replica(own_log_server: Server) -> None:
    """A log that takes no writes any more is left: the next connection may find the right one."""
    link, operator = await Link.open(own_log_server.url), await Link.open(own_log_server.url)
    await operator.call("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(LogRefused, match="read only"):
        await link.call("SET", "a", "b")
    assert not link.is_open
    await operator.close()


async def test_fault_in_an_append_is_answered(settings: Settings, link: Link) -> None:
    """An error that nobody foresaw is told as unknown; the flusher goes on."""

    class Faulty(Producer):
        """A producer whose first append fails in a way of its own."""

        faults = 1

        async def append(self, frame: OpenFrame, requests: int) -> str:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("nobody foresaw this")
            return await super().append(frame, requests)

    producer = Faulty(settings.redis_url, Keys(settings.stream), "auto", 0)
    await producer.connect()
    flusher = Flusher(producer, ADMISSION)
    flusher.start()
    told: list[str | LogUnavailable] = []
    with capture_logs() as lines:
        for _ in range(2):
            flusher.add(decode(b'{"type": "t"}', Media.EVENT), told.append, batch=False)
            await flusher.drain()
    assert [line["event"] for line in lines] == ["unexpected error in an append"]
    assert isinstance(told[0], AckUnknown)
    assert isinstance(told[1], str)
    await flusher.stop()
    await producer.close()
