"""A store that is far away: a relay that brings each answer later by so many milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from evp.engines.engine import free_port

CHUNK_BYTES = 65_536
START_S_MAX = 10.0


@contextmanager
def distant(port: int, later_ms: float) -> Iterator[int]:
    """Give a port on which what listens on `port` answers later; relayed by a thread."""
    near, ready, stop = free_port(), threading.Event(), threading.Event()
    relay = _relay(near, port, later_ms / 1000, ready, stop)
    thread = threading.Thread(target=lambda: asyncio.run(relay))
    thread.start()
    try:
        ready.wait(START_S_MAX)
        yield near
    finally:
        stop.set()
        thread.join()


async def _relay(
    near: int, far: int, later_s: float, ready: threading.Event, stop: threading.Event
) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled at the end; asyncio would print that of each connection.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", far)
            ways = _pass_on(reader, far_writer, 0.0), _pass_on(far_reader, writer, later_s)
            await asyncio.gather(*ways)

    server = await asyncio.start_server(connected, "127.0.0.1", near)
    ready.set()
    await asyncio.to_thread(stop.wait)
    server.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, later_s: float
) -> None:
    """Pass bytes on, each piece so much later, in order, until one side has closed."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due_s, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if not piece:
                break
            writer.write(piece)
            await writer.drain()

    writing = asyncio.create_task(write())
    with contextlib.suppress(OSError):
        while piece := await reader.read(CHUNK_BYTES):
            pieces.put_nowait((time.monotonic() + later_s, piece))
    pieces.put_nowait((time.monotonic() + later_s, b""))
    with contextlib.suppress(OSError):
        await writing
    writer.close()
