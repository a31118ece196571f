"""All streams that a group is of: looked at before anything is changed, and changed together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from evp.errors import LogUnavailable
from evp.naming import named
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.partitions import known_partitions
from evp.stream.everywhere import Ask, Everywhere

T = TypeVar("T")


@contextlib.asynccontextmanager
async def all_streams(settings: Settings, db: Database) -> AsyncIterator[Everywhere]:
    """Give all streams that settings, log or store know of, for a while.

    Raises StoreUnavailable.
    """
    async with Everywhere.opened(settings) as log:
        log.grow(await known_partitions(db))
        yield log


async def change_each(log: Everywhere, change: Ask[T], done: str) -> list[T]:
    """Change something in each stream; return what that came to.

    Raises LogUnavailable if it failed in one; if it is `done` in others, that is told.
    """
    answers = await log.ask(change)
    changed = [one for one in answers if not isinstance(one, LogUnavailable)]
    if len(changed) == len(answers):
        return changed
    failed = [n for n, one in enumerate(answers) if isinstance(one, LogUnavailable)]
    error = next(one for one in answers if isinstance(one, LogUnavailable))
    if not changed:
        raise log.named(error, failed[0])
    raise half_done(done, [n for n in range(len(answers)) if n not in failed], failed, error)


def half_done(
    done: str, where: Sequence[int], failed: Sequence[int], error: Exception
) -> LogUnavailable:
    """Return what says that something was done in some streams, and not in others."""
    told = f"{done} in {named(where)} and not in {named(failed)} ({error}); do it again"
    half = LogUnavailable(told)
    half.__cause__ = error
    return half
