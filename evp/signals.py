"""Being told to stop, and stopping: signals as a queue, tasks that are sure to end."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

Signals = asyncio.Queue[int]
"""Signal numbers in the order in which they came; the first one asks, the second one urges."""


def own_signals() -> Signals:
    """Return a queue into which SIGTERM, SIGINT and SIGHUP of this process go from now on."""
    signals: Signals = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    return signals


async def end(*tasks: asyncio.Task[Any], again_s: float = 0.2) -> None:
    """Cancel tasks until they have ended, whatever they end with.

    Once is not enough: a task that waits for the store's client loses a
    cancellation now and then. `again_s` is the time for them to clean up.
    """
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=again_s)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Otherwise asyncio says that nobody looked at it.
