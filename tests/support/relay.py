"""A relay between a client and a server that loses one answer and cuts the connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 65_536


class Relay:
    """Passes bytes both ways at `url`, until it is told to lose an answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lost = 0
        self._upstream = urlsplit(url)
        self._request = b""
        self._holding = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def lose_answer_to(self, request: bytes, *, holding: bytes = b"") -> None:
        """Lose the next answer to a request that has these bytes, if it holds those."""
        self._request, self._holding = request, holding

    async def start(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = urlunsplit(self._upstream._replace(netloc=f"127.0.0.1:{port}"))
        return server

    async def end(self) -> None:
        """Cut what is open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            await self._pass(reader, writer, *upstream)
        finally:
            writer.transport.abort()
            upstream[1].transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        asked = False

        async def ask() -> None:
            nonlocal asked
            while data := await reader.read(_CHUNK_BYTES):
                asked = bool(self._request) and self._request in data
                requests.write(data)

        asking = asyncio.create_task(ask())
        try:
            while data := await answers.read(_CHUNK_BYTES):
                if asked and self._holding in data:
                    self._request = b""
                    self.lost += 1
                    return
                writer.write(data)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


@contextlib.asynccontextmanager
async def relaying(url: str) -> AsyncIterator[Relay]:
    """Run a relay to the server at `url`."""
    relay = Relay(url)
    server = await relay.start()
    try:
        yield relay
    finally:
        server.close()
        await relay.end()
