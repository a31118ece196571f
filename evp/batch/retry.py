"""How long to wait before the next attempt: exponential back-off with full jitter.

Each wait is drawn evenly between nothing and a bound that doubles from attempt
to attempt, so that many processes that failed together don't come back together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from evp.limits import BACKOFF_FIRST_S, BACKOFF_LONGEST_S

_DOUBLINGS_MAX = 30


async def is_set_within(event: asyncio.Event, wait_s: float) -> bool:
    """Wait until `event` is set, but not longer than `wait_s`; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await event.wait()
    return event.is_set()


class Backoff:
    """The waits of one thing that is tried again and again."""

    def __init__(
        self,
        first_s: float = BACKOFF_FIRST_S,
        longest_s: float = BACKOFF_LONGEST_S,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.attempts = 0
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw

    def next_s(self) -> float:
        """Return how many seconds to wait now, after one more failure."""
        bound_s = self._first_s * 2.0 ** min(self.attempts, _DOUBLINGS_MAX)
        self.attempts += 1
        return self._draw() * min(bound_s, self._longest_s)

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait as long as `next_s` says, or until `stop` is set."""
        await is_set_within(stop, self.next_s())

    def reset(self) -> None:
        """Begin again: it worked."""
        self.attempts = 0
