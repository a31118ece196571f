"""A whole server inside the test's loop, and clients that speak bytes to it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import bson
from bson.codec_options import CodecOptions

from evp import configuration
from evp.frame import Frame
from evp.http import Reply
from evp.plain import read_entry
from evp.server.run import serve
from evp.settings import Settings
from evp.signals import Signals
from evp.storage.client import connect
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.supervise import bind
from tests.support.make import ADMISSION

API_KEY = "test-key"
KEY = {"x-api-key": API_KEY}
JSON = KEY | {"content-type": "application/json"}
NDJSON = JSON | {"content-type": "application/x-ndjson"}
ANSWER_S_MAX = 15.0

_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


class Wire:
    """One connection to a server. What is sent is exactly what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *parts: bytes) -> None:
        """Send bytes; the server sees each part by itself."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def head(self) -> bytes:
        """Return the head of the next answer as it comes."""
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self._reader.readuntil(b"\r\n\r\n")

    async def reply(self) -> Reply:
        """Return the next answer."""
        head = (await self.head()).decode().split("\r\n")
        async with asyncio.timeout(ANSWER_S_MAX):
            headers = {}
            for line in filter(None, head[1:]):
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
            return Reply(int(head[0].split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """Return what comes until the server closes."""
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self._reader.read()

    async def close(self) -> None:
        """Go away."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Go away at once, with a reset."""
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """Give a connection to a port of this machine that is closed at the end."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield wire
    finally:
        await wire.close()


class InProcess:
    """A server that runs in this loop, with what it needs to be looked at."""

    def __init__(self, settings: Settings, port: int = 0) -> None:
        listener = bind("127.0.0.1", port)
        self.settings = settings
        self.port: int = listener.getsockname()[1]
        self.signals: Signals = asyncio.Queue()
        self.task = asyncio.create_task(serve(settings, listener, self.signals))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def wire(self) -> AbstractAsyncContextManager[Wire]:
        """Give a connection that is closed at the end."""
        return wire_to(self.port)

    async def ask(self, *parts: bytes) -> Reply:
        """Send a request over a connection of its own and return the answer."""
        async with self.wire() as wire:
            await wire.send(*parts)
            return await wire.reply()

    async def get(self, path: str, headers: Mapping[str, str] = KEY) -> Reply:
        """GET something, with the key unless other headers are given."""
        return await self.ask(request(b"", method="GET", path=path, headers=headers))

    async def is_ready(self) -> bool:
        """Return whether the server says that it accepts."""
        return (await self.get("/api/ready")).status == 200

    def stop(self) -> None:
        """Tell the server to stop; a second time to force it."""
        self.signals.put_nowait(signal.SIGTERM)

    async def entries(self) -> int:
        """Return how many entries the stream has."""
        async with self.log() as link:
            return int(await link.call("XLEN", self.settings.stream))

    async def frames(self, count: int = 1) -> list[Frame]:
        """Return the newest frames as a worker reads them, oldest first."""
        stream = self.settings.stream
        async with self.log() as link:
            rows = await link.call("XREVRANGE", stream, "+", "-", "COUNT", count)
        return [
            read_entry(
                stream,
                entry_id.decode(),
                dict(zip(flat[::2], flat[1::2], strict=True)),
                ADMISSION,
            )
            for entry_id, flat in reversed(rows)
        ]

    async def documents(self) -> list[dict[str, Any]]:
        """Return the documents of the newest frame."""
        [frame] = await self.frames()
        return [bson.decode(document.raw, _CODEC) for document in frame.documents]

    @contextlib.asynccontextmanager
    async def log(self) -> AsyncIterator[Link]:
        """Give a connection to the log."""
        link = await Link.open(self.settings.redis_url, Keys(self.settings.stream))
        try:
            yield link
        finally:
            await link.close()


def settings_of(log_url: str, store_url: str, folder: Path, **environ: str) -> Settings:
    """Return settings of a server with a stream and a database of its own."""
    name = f"t{secrets.token_hex(6)}"
    given = {
        "EVP_REDIS_URL": log_url,
        "EVP_MONGO_URL": store_url,
        "EVP_MONGO_DB": name,
        "EVP_STREAM": name,
        "EVP_API_KEYS": API_KEY,
        "EVP_DATA_DIR": str(folder),
        "EVP_DRAIN_DELAY_MS": "0",
    }
    return configuration.load(given | environ, {}, cwd=folder).settings


@contextlib.asynccontextmanager
async def serving(settings: Settings, port: int = 0) -> AsyncIterator[InProcess]:
    """Run a server; at the end it is told to stop, and must."""
    server = InProcess(settings, port)
    try:
        yield server
    finally:
        if not server.task.done():
            server.stop()
        _, late = await asyncio.wait({server.task}, timeout=ANSWER_S_MAX)
        assert not late, "the server does not stop"
        server.task.result()


async def remove_traces(settings: Settings) -> None:
    """Remove what a server left in a log and a store that others use too."""
    keys = Keys(settings.stream)
    link = await Link.open(settings.redis_url, keys)
    await link.call("DEL", *keys.all())
    await link.close()
    client = connect(settings)
    await client.drop_database(settings.mongo_db)
    await client.close()


def request(
    body: bytes,
    *,
    method: str = "POST",
    path: str = "/events",
    headers: Mapping[str, str] = JSON,
    chunked: bool = False,
    version: str = "1.1",
) -> bytes:
    """Return a request. A chunked one goes through the ASGI app, never the short way."""
    lines = [f"{method} {path} HTTP/{version}", "host: test"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if chunked:
        lines.append("transfer-encoding: chunked")
        body = chunks(body)
    elif body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunks(body: bytes) -> bytes:
    """Return a body in two chunks and the end."""
    half = len(body) // 2
    parts = [part for part in (body[:half], body[half:]) if part]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@contextlib.asynccontextmanager
async def serving_alone(log_url: str, store_url: str, folder: Path) -> AsyncIterator[InProcess]:
    """Run a server on a stream and a database of its own; nothing is left of them."""
    settings = settings_of(log_url, store_url, folder)
    async with serving(settings) as server:
        yield server
    await remove_traces(settings)
