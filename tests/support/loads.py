"""Plans and shares of load tests, and a server that answers as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from evp.loadtest.plan import Plan, Shape, Share, shares

ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}"


def plan_of(url: str = "http://127.0.0.1:1", **changes: Any) -> Plan:
    """Return a short plan."""
    plan = Plan(
        url=url,
        eps=1_000.0,
        duration_s=0.3,
        warmup_s=0.0,
        batch=10,
        connections=4,
        processes=1,
        shape=Shape(),
        verify=True,
    )
    return msgspec.structs.replace(plan, **changes)


def share_of(**changes: Any) -> Share:
    """Return the only share of a plan."""
    [share] = shares(plan_of(**changes), "run", "key")
    return share


def problem(status: int, code: str, *headers: str) -> bytes:
    """Return a refusal as it goes over the wire."""
    body = msgspec.json.encode({"code": code, "detail": f"about {code}"})
    lines = [f"HTTP/1.1 {status} Nope", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


Answer = Callable[[int, bytes], bytes | None]
"""Given the number of the request and its body: what goes over the wire, None to hang up."""


class Answering:
    """A server that answers as it is told, and keeps the ids of events that came in."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.port = 0
        self.bodies: list[bytes] = []
        self.times_s: list[float] = []
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ids(self) -> list[str]:
        """Ids of all events of all requests, in order."""
        return [event["id"] for body in self.bodies for event in msgspec.json.decode(body)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                number = len(self.bodies)
                self.bodies.append(body)
                self.times_s.append(asyncio.get_running_loop().time())
                text = self.answer(number, body)
                if text is None:
                    break
                writer.write(text)
                if b"connection: close" in text:
                    break
        writer.close()
        self._writers.discard(writer)

    def hang_up(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Answering]:
    """Run such a server."""
    server = Answering(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        server.hang_up()
        await listening.wait_closed()
