"""Being told to stop: signals as a queue, so that whoever waits for them can be tested."""

from __future__ import annotations

import asyncio
import signal

Signals = asyncio.Queue[int]
"""Signal numbers in the order in which they came; the first one asks, the second one urges."""


def own_signals() -> Signals:
    """Return a queue into which SIGTERM, SIGINT and SIGHUP of this process go from now on."""
    signals: Signals = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    return signals
