"""Asking one of several streams: one that is moving is asked again, one that is away is named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import groupby
from typing import TypeVar

from evp.clock import monotonic_s
from evp.limits import LOG_MOVED_AGAIN_S, LOG_MOVED_S_MAX
from evp.stream.client import KeptLink, Link, LogMoved

T = TypeVar("T")


async def asked(link: KeptLink, ask: Callable[[Link], Awaitable[T]]) -> T:
    """Return an answer over the link; asked again for a while if a cluster moves the stream.

    Raises LogUnavailable.
    """
    give_up_at_s = monotonic_s() + LOG_MOVED_S_MAX
    while True:
        try:
            return await ask(await link.get())
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
    return "; ".join(f"{_named(numbers)}: {reason}" for reason, numbers in by_reason.items())


def _named(numbers: list[int]) -> str:
    """Return numbers, which are in order, as people write them: partitions 0 to 2, 5."""
    runs = []
    for _, group in groupby(enumerate(numbers), key=lambda one: one[1] - one[0]):
        run = [number for _, number in group]
        runs.append(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}")
    return f"partition{'s' if len(numbers) > 1 else ''} {', '.join(runs)}"
