"""Asking one of several streams: one that is moving is asked again, one that is away is named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from evp.clock import monotonic_s
from evp.limits import LOG_MOVED_AGAIN_S, LOG_MOVED_S_MAX
from evp.naming import named
from evp.stream.client import KeptLink, Link, LogMoved

T = TypeVar("T")


async def asked(link: KeptLink, ask: Callable[[Link], Awaitable[T]]) -> T:
    """Return an answer over the link; asked again for a while if a cluster moves the stream.

    Raises LogUnavailable.
    """

    async def attempt() -> T:
        return await ask(await link.get())

    return await while_it_moves(attempt)


async def while_it_moves(attempt: Callable[[], Awaitable[T]]) -> T:
    """Attempt something, and again for LOG_MOVED_S_MAX if a cluster moves the stream meanwhile.

    What was answered by LogMoved was certainly not carried out: another node has the
    stream, or will have it. Raises what `attempt` raises.
    """
    give_up_at_s = monotonic_s() + LOG_MOVED_S_MAX
    while True:
        try:
            return await attempt()
        except LogMoved:
            if monotonic_s() >= give_up_at_s:
                raise
        await asyncio.sleep(LOG_MOVED_AGAIN_S)


def told_away(away: Mapping[int, str], count: int) -> str | None:
    """Return why partitions can't be asked, by number; None if all `count` of them can.

    Where there is but one, or all are away for one reason, no number is told.
    """
    by_reason: dict[str, list[int]] = {}
    for number, reason in sorted(away.items()):
        by_reason.setdefault(reason, []).append(number)
    if not by_reason:
        return None
    if len(by_reason) == 1 and len(away) == count:
        return next(iter(by_reason))
    return "; ".join(f"{named(numbers)}: {reason}" for reason, numbers in by_reason.items())
