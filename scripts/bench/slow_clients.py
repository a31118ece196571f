"""What clients that send one byte a second do to the latency of healthy ones.

    python scripts/bench/slow_clients.py

In turns with and without them, on one `evp up`; told as a ratio of the p99 of accepting.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import systems
from contenders import prefer_built_store
from load import loadtest
from processes import fresh_folder
from systems import System

HEAD = (
    "POST /events HTTP/1.1\r\nhost: evp\r\nx-api-key: {key}\r\n"
    "content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
)
BYTE_S = 1.0


@contextmanager
def slow_clients(system: System, count: int) -> Iterator[None]:
    """Keep `count` connections open that send a byte a second, from a thread of its own."""
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_all(system, count, ready, stop)))
    thread.start()
    try:
        ready.wait(30)
        yield
    finally:
        stop.set()
        thread.join(30)


async def _all(system: System, count: int, ready: threading.Event, stop: threading.Event) -> None:
    address = urlsplit(system.url)
    writers = []
    for _ in range(count):
        _reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(HEAD.format(key=system.key).encode())
        writers.append(writer)
    ready.set()
    while not stop.is_set():
        for writer in writers:
            with contextlib.suppress(OSError):
                writer.write(b" ")
            # Spread over the second, as many clients are.
            await asyncio.sleep(BYTE_S / count)
    for writer in writers:
        writer.close()


def p99_ms(system: System, eps: int, seconds: float) -> float:
    """Return the p99 of accepting single events at a steady pace."""
    pace = ["--eps", str(eps), "--batch", "1", "--duration", f"{seconds:g}s", "--accept-only"]
    return float(loadtest(system, pace)["accept_ms"]["p99"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=500, help="how many slow ones")
    parser.add_argument("--eps", type=int, default=2_000, help="events a second of healthy ones")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each turn lasts")
    parser.add_argument("--rounds", type=int, default=5, help="how many turns of each")
    flags = parser.parse_args()
    prefer_built_store()
    ratios = []
    with fresh_folder() as folder, systems.start_evp(folder) as system:
        p99_ms(system, flags.eps, flags.seconds)
        for number in range(flags.rounds):
            without = p99_ms(system, flags.eps, flags.seconds)
            with slow_clients(system, flags.clients):
                beside = p99_ms(system, flags.eps, flags.seconds)
            ratios.append(beside / without)
            print(
                f"round {number + 1}: p99 {without:.1f} ms without, {beside:.1f} ms beside "
                f"{flags.clients} slow clients: {ratios[-1]:.2f} times",
                flush=True,
            )
    print(f"median: {statistics.median(ratios):.2f} times")


if __name__ == "__main__":
    main()
