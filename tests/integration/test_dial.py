"""Dialling a cluster or through Sentinels where some of those who are asked hang or lie."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from evp.errors import LogUnavailable
from evp.log_address import parse
from evp.stream import dial as dialling
from evp.stream.client import Link
from evp.stream.keys import Keys
from tests.support.servers import Server

KEYS = Keys("evp:events")


@contextlib.asynccontextmanager
async def answering(reply: bytes | None) -> AsyncIterator[int]:
    """Give the port of a node that answers everything alike, or nothing at all."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while await reader.read(1000):
                if reply is not None:
                    writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def port_of(server: Server) -> int:
    """Return the port of a real server."""
    port = urlsplit(server.url).port
    assert port
    return port


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of any node."""
    monkeypatch.setattr(dialling, "_nodes_seen", {})
    monkeypatch.setattr(dialling, "_avoided_until_s", {})
    monkeypatch.setattr(dialling, "LOG_ASK_S_MAX", 0.4)


def slots_at(port: int) -> bytes:
    """Return an answer to CLUSTER SLOTS: one server has them all."""
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port


async def test_node_that_hangs(log: Server) -> None:
    """A node that says nothing costs a moment once; others are asked first from then on."""
    async with answering(None) as silent, answering(slots_at(port_of(log))) as telling:
        url = f"redis+cluster://127.0.0.1:{silent},127.0.0.1:{telling}"
        for _ in range(3):
            async with Link.opened(url, KEYS) as link:
                assert await link.call("PING") == b"PONG"
        assert [one.port for one in dialling._best_first(parse(url).nodes)] == [telling, silent]


async def test_sentinel_that_hangs(log: Server) -> None:
    """So does a Sentinel."""
    told = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port_of(log))), port_of(log))
    async with answering(None) as silent, answering(told) as telling:
        url = f"redis+sentinel://127.0.0.1:{silent},127.0.0.1:{telling}/main"
        for _ in range(3):
            async with Link.opened(url, KEYS) as link:
                assert await link.call("PING") == b"PONG"
        assert [node.port for node in dialling._avoided_until_s] == [silent]


async def test_nobody_answers() -> None:
    """Where all hang the log is away, and it is told within the time of a command."""
    async with answering(None) as one, answering(None) as other:
        url = f"redis+cluster://127.0.0.1:{one},127.0.0.1:{other}"
        with pytest.raises(LogUnavailable, match="can't reach the log"):
            await Link.open(url, KEYS)


@pytest.mark.parametrize("url", ["redis+cluster://:pa/ss@h", "redis://u:se#cret@h:1", "http://h"])
async def test_password_that_is_not_escaped(url: str) -> None:
    """No part of an address that can't be read is told."""
    with pytest.raises(LogUnavailable) as raised:
        await Link.open(url, KEYS)
    told = str(raised.value).partition("no address of a log")
    assert told[1]
    assert not {"pa", "ss", "se", "cret"} & set(re.findall("[a-z]+", told[0]))
