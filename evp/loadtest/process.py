"""A generator process, and what it and the one that started it say to each other.

    python -m evp.loadtest.process

Its share comes over standard input, so that no key stands in a list of processes,
then the time of the start; the end of standard input stops it. Messages go to
standard output, and never hold the load up. Each goes after its length in four bytes.
"""

from __future__ import annotations

import asyncio
import struct
import sys

import msgspec
import uvloop
from msgspec import Struct

from evp.errors import Unavailable
from evp.loadtest.counts import Counts, Sample
from evp.loadtest.generator import Generator
from evp.loadtest.limits import LOADTEST_TELL_S
from evp.loadtest.plan import Share
from evp.machine import settle_memory
from evp.signals import end


class Ready(Struct, tag=True, frozen=True):
    """All is made and all connections are open: the load can start."""


class Progress(Struct, tag=True, frozen=True):
    """How things stand in one process; `latency` is a histogram of all that was accepted."""

    counts: Counts
    latency: bytes


class Done(Struct, tag=True, frozen=True):
    """The end. Times of all requests by number, 8 bytes each, and 1 for each that was accepted.

    The latter two are empty where no ledger is kept.
    """

    progress: Progress
    times_ms: bytes
    accepted: bytes


class Failed(Struct, tag=True, frozen=True):
    """It can't begin; most often there is no server."""

    error: str


Message = Ready | Sample | Progress | Done | Failed

START = struct.Struct("<d")
"""How the time of the start is written to a process that is ready."""

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode_share = msgspec.msgpack.Decoder(Share)
_decode: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def framed(message: Struct) -> bytes:
    """Return a message as it is written."""
    text = _encode(message)
    return _LENGTH.pack(len(text)) + text


async def read_message(stream: asyncio.StreamReader) -> Message | None:
    """Return the next message of a process; None at its end."""
    try:
        return _decode.decode(await _read(stream))
    except asyncio.IncompleteReadError:
        return None


async def _read(stream: asyncio.StreamReader) -> bytes:
    return await stream.readexactly(_LENGTH.unpack(await stream.readexactly(_LENGTH.size))[0])


class _Output(asyncio.BaseProtocol):
    """Standard output; `closed` is done once all was written, or nobody reads any more."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - of the protocol
        if not self.closed.done():
            self.closed.set_result(None)

    def tell(self, message: Struct) -> None:
        if not self.transport.is_closing():
            self.transport.write(framed(message))


def main() -> None:
    """Generate the load of the share that comes in."""
    uvloop.run(_main())


async def _main() -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin.buffer)
    _, output = await loop.connect_write_pipe(_Output, sys.stdout.buffer)
    try:
        await _generate(stdin, output)
    except asyncio.IncompleteReadError:
        return  # Whoever started it is gone, or wants no load any more.
    output.transport.close()
    await output.closed


async def _generate(stdin: asyncio.StreamReader, output: _Output) -> None:
    generator = Generator(_decode_share.decode(await _read(stdin)), output.tell)
    settle_memory()
    try:
        await generator.connect()
    except Unavailable as error:
        output.tell(Failed(str(error)))
        return
    output.tell(Ready())
    start_s = START.unpack(await stdin.readexactly(START.size))[0]
    beside = (
        asyncio.create_task(_stop_at_end(stdin, generator)),
        asyncio.create_task(_tell_progress(generator, output)),
    )
    try:
        await generator.run(start_s)
    finally:
        await end(*beside)
    ledger = generator.ledger
    output.tell(Done(_progress(generator), ledger.times_ms.tobytes(), bytes(ledger.accepted)))


async def _stop_at_end(stdin: asyncio.StreamReader, generator: Generator) -> None:
    await stdin.read()
    generator.stop()


async def _tell_progress(generator: Generator, output: _Output) -> None:
    while True:
        await asyncio.sleep(LOADTEST_TELL_S)
        output.tell(_progress(generator))


def _progress(generator: Generator) -> Progress:
    return Progress(generator.counts(), generator.latency.encode())


if __name__ == "__main__":
    main()
