"""Waiting for what will come true, instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

WAIT_S_MAX = 20.0
LOOK_S = 0.02


class NotInTime(AssertionError):
    """Raised when what was waited for has not come: the machine is slow, or it never comes."""


async def until(
    holds: Callable[[], bool | Awaitable[bool]], *, what: str, within_s: float = WAIT_S_MAX
) -> None:
    """Wait until `holds` is true; fail after `within_s`."""
    ends_at_s = time.monotonic() + within_s
    while True:
        found = holds()
        if found if isinstance(found, bool) else await found:
            return
        if time.monotonic() > ends_at_s:
            raise NotInTime(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(LOOK_S)


def until_now(holds: Callable[[], bool], *, what: str, within_s: float = WAIT_S_MAX) -> None:
    """Wait as `until` does, outside a loop."""
    ends_at_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > ends_at_s:
            raise NotInTime(f"not within {within_s:g} s: {what}")
        time.sleep(LOOK_S)
