"""What commands do on the store, each with a client of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from evp.cli.away import hint_if_away
from evp.cli.context import run
from evp.settings import Settings
from evp.storage.client import Database, opened

T = TypeVar("T")

_CONNECTIONS_MAX = 2


@contextlib.asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[Database]:
    """Give the store. Raises StoreUnavailable, with what to do about it."""
    with hint_if_away():
        async with opened(settings, connections_max=_CONNECTIONS_MAX) as db:
            yield db


def with_store(
    settings: Settings,
    work: Callable[[Database], Coroutine[Any, Any, T]],
    *,
    asking: str | None = "the store",
) -> T:
    """Run something on the store, to its end or to Ctrl-C; `asking` is as for `run`.

    Raises StoreUnavailable.
    """

    async def opened_work() -> T:
        async with store_of(settings) as db:
            return await work(db)

    return run(opened_work(), asking=asking)
