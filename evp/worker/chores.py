"""Chores: what is due every so often, done beside the work, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from evp.clock import monotonic_s
from evp.errors import LogUnavailable, StoreUnavailable
from evp.logs import get

_LOOK_S = 0.5
_log = get("evp.worker")


class Chore(Struct):
    """Something to do every so often; `do` returns True if there is more to do now."""

    name: str
    every_s: float
    do: Callable[[], Awaitable[bool]]
    due_at_s: float = 0.0


async def do_chores(chores: Sequence[Chore]) -> None:
    """Do what is due, until cancelled. One that fails is tried again at its next turn."""
    while True:
        for chore in chores:
            if monotonic_s() >= chore.due_at_s:
                await _do(chore)
        await asyncio.sleep(_LOOK_S)


async def _do(chore: Chore) -> None:
    chore.due_at_s = monotonic_s() + chore.every_s
    try:
        if await chore.do():
            chore.due_at_s = 0.0
    except (LogUnavailable, StoreUnavailable) as error:
        _log.debug("a chore was put off", chore=chore.name, reason=str(error))
    except Exception as error:  # noqa: BLE001 - a fault in a chore is no reason to stop the others
        _log.error("unexpected error in a chore", chore=chore.name, exc_info=error)
