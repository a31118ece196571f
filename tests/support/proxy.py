"""A proxy between a client and an engine that does to their connections what networks do.

It passes whole messages and knows which reply answers which request, so that it
can lose exactly the reply to an append, a read, an ack or an insert: the command
was carried out, and the client can't know. Everything else it does (`delay_ms`,
`blackhole`, `reset`, …) it does to all connections, open and new ones, until
`heal`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from tests.support.wire import Conversation, Message, conversation

_CHUNK_BYTES = 65_536
_SPLIT_BYTES_MAX = 512
"""How much of a message goes byte by byte: enough to tear every header and line."""

_CUT = (OSError, RuntimeError)
"""What a connection raises that was cut; uvloop has a RuntimeError for some of it."""


class Way(enum.Enum):
    """Which way bytes go."""

    UP = "to the engine"
    DOWN = "to the client"


BOTH = frozenset(Way)


@dataclass
class Loss:
    """Replies to lose: those to requests whose name matches, as many as are `left`.

    With `holding`, only replies that have these bytes. The connection is cut
    afterwards or, with `hangs`, stays open and silent.
    """

    command: re.Pattern[str]
    left: int
    holding: bytes = b""
    hangs: bool = False

    def takes(self, reply: Message) -> bool:
        """Return whether this reply is to be lost."""
        return bool(
            self.left and self.command.fullmatch(reply.name) and self.holding in reply.content
        )


@dataclass
class Weather:
    """What happens to bytes now. `cut_after_bytes` counts for each connection by itself."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    bytes_per_s: int | None = None
    cut_after_bytes: int | None = None
    split_writes: bool = False
    swallowing: frozenset[Way] = frozenset()


class _Pair:
    """One connection of a client, and the one to the engine that stands for it."""

    def __init__(
        self, client: asyncio.StreamWriter, engine: asyncio.StreamWriter, talk: Conversation
    ) -> None:
        self.writers = {Way.UP: engine, Way.DOWN: client}
        self.talk = talk
        self.passed_bytes = 0
        self.silent = False

    def end(self, way: Way) -> None:
        """Say that nothing more comes this way."""
        if not self.writers[way].is_closing():
            self.writers[way].write_eof()

    def abort(self) -> None:
        """End both with a reset."""
        for writer in self.writers.values():
            writer.transport.abort()


class Proxy:
    """Stands at `url` for the engine; `lost` counts the replies that were lost."""

    def __init__(self, url: str, seed: int = 0) -> None:
        self.url = url
        self.lost = 0
        self.weather = Weather()
        self._losses: list[Loss] = []
        self._engine = urlsplit(url)
        self._random = random.Random(seed)
        self._changed = asyncio.Event()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many connections are open through it."""
        return len(self._pairs)

    def change(self, weather: Weather) -> None:
        """Let something happen from now on, instead of what did."""
        self.weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    def heal(self) -> None:
        """Pass everything again. What was held back by a black hole arrives now."""
        self._losses.clear()
        self.change(Weather())

    def drop_reply(
        self, command: str, count: int = 1, *, holding: bytes = b"", hangs: bool = False
    ) -> None:
        """Lose the next `count` replies to commands that match the pattern `command`."""
        self._losses.append(Loss(re.compile(command), count, holding, hangs))

    def blackhole(self, ways: Iterable[Way] = BOTH) -> None:
        """Hold everything back that goes these ways, on connections that stay open."""
        self.change(Weather(swallowing=frozenset(ways)))

    def lead_to(self, url: str) -> None:
        """Let new connections go to another engine; open ones stay where they are."""
        self._engine = urlsplit(url)

    def reset(self) -> None:
        """Cut every connection that is open."""
        for pair in list(self._pairs):
            pair.abort()

    def half_close(self, way: Way) -> None:
        """Say on every open connection that nothing more comes this way."""
        for pair in list(self._pairs):
            with contextlib.suppress(*_CUT):
                pair.end(way)

    async def listen(self) -> asyncio.Server:
        """Listen on a free port; `url` is then the proxy's."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = urlunsplit(self._engine._replace(netloc=f"127.0.0.1:{port}"))
        return server

    async def end(self) -> None:
        """Cut what is open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = (self._engine.hostname, self._engine.port)
        try:
            answers, requests = await asyncio.open_connection(*address)
            pair = _Pair(writer, requests, conversation(self._engine.scheme))
            self._pairs.add(pair)
            try:
                await self._pass_both(pair, reader, answers)
            finally:
                self._pairs.discard(pair)
                pair.abort()
        except OSError:
            return  # Nobody listens there now.
        finally:
            writer.transport.abort()

    async def _pass_both(
        self, pair: _Pair, reader: asyncio.StreamReader, answers: asyncio.StreamReader
    ) -> None:
        """Pass both ways until both have ended, or one of them was cut."""
        pumps = [
            asyncio.create_task(self._pump(pair, Way.UP, reader)),
            asyncio.create_task(self._pump(pair, Way.DOWN, answers)),
        ]
        try:
            await asyncio.gather(*pumps)
        except _CUT:
            return
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, pair: _Pair, way: Way, reader: asyncio.StreamReader) -> None:
        """Pass one way. Raises OSError when the connection is to be cut, or was."""
        messages = pair.talk.requests if way is Way.UP else pair.talk.replies
        while data := await reader.read(_CHUNK_BYTES):
            for message in messages(data):
                if way is Way.DOWN and self._loses(pair, message):
                    continue
                await self._send(pair, way, message.content)
        pair.end(way)

    def _loses(self, pair: _Pair, reply: Message) -> bool:
        """Return whether a reply gets lost. Raises OSError if the connection is cut with it."""
        if pair.silent:
            return True
        loss = next((one for one in self._losses if one.takes(reply)), None)
        if loss is None:
            return False
        loss.left -= 1
        self.lost += 1
        if not loss.hangs:
            raise ConnectionAbortedError
        # A reply after one that is missing would be taken for it.
        pair.silent = True
        return True

    async def _send(self, pair: _Pair, way: Way, content: bytes) -> None:
        weather = self.weather
        if weather.delay_ms:
            spread_ms = self._random.uniform(-weather.jitter_ms, weather.jitter_ms)
            await asyncio.sleep(max(0.0, weather.delay_ms + spread_ms) / 1000)
        if weather.bytes_per_s:
            await self._unless_changed(len(content) / weather.bytes_per_s)
        while way in self.weather.swallowing:
            await self._unless_changed(None)
        limit_bytes = self.weather.cut_after_bytes
        if limit_bytes is not None and pair.passed_bytes + len(content) > limit_bytes:
            pair.writers[way].write(content[: max(0, limit_bytes - pair.passed_bytes)])
            await pair.writers[way].drain()
            raise ConnectionAbortedError
        pair.passed_bytes += len(content)
        if self.weather.split_writes:
            for byte in content[:_SPLIT_BYTES_MAX]:
                pair.writers[way].write(bytes((byte,)))
                await asyncio.sleep(0)
            content = content[_SPLIT_BYTES_MAX:]
        pair.writers[way].write(content)
        await pair.writers[way].drain()

    async def _unless_changed(self, wait_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), wait_s)


@contextlib.asynccontextmanager
async def proxying(url: str, seed: int = 0) -> AsyncIterator[Proxy]:
    """Run a proxy to the engine at `url`."""
    proxy = Proxy(url, seed)
    server = await proxy.listen()
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()


class Network:
    """Proxies by the groups of processes that they stand between: (who asks, who is asked)."""

    def __init__(self, proxies: dict[tuple[str, str], Proxy]) -> None:
        self.proxies = proxies

    def partition(self, *groups: set[str]) -> list[Proxy]:
        """Let nothing pass between processes of different groups; return the proxies concerned."""
        part = {name: number for number, group in enumerate(groups) for name in group}
        cut = [
            proxy
            for (asks, asked), proxy in self.proxies.items()
            if part.get(asks, -1) != part.get(asked, -1)
        ]
        for proxy in cut:
            proxy.blackhole()
        return cut

    def heal(self) -> None:
        """Let everything pass."""
        for proxy in self.proxies.values():
            proxy.heal()
