"""`evp erase`: every trace of some events in the store goes, and every count stays.

What waits in the log is not stored yet, so it can't be erased yet: it is looked at
first, and told. Everything can be ended at any moment and done again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from msgspec import Struct, field

from evp.batch.raw import text_of
from evp.clock import now
from evp.errors import LogUnavailable
from evp.partitions import find
from evp.settings import Settings
from evp.storage import dlq, erasure
from evp.storage.client import Database
from evp.storage.erasure import Wanted
from evp.storage.groups import writer
from evp.stream.asking import told_away
from evp.stream.info import unsettled
from evp.stream.partitions import Partition, Partitions

_OTHER = "other"
_SOURCES_MAX = 20


class Erased(Struct):
    """What was erased, or would be (`dry_run`).

    `waiting_events` are those that the log has and the store may not, of whomever; None if
    no partition of the log can be asked. Where one can't be, `log_error` says why, and those
    of the others are counted. `unreadable_letters` are
    dead letters of which nobody can tell what they hold. `refused` events stay, by
    reason: an index of the operator's does not take what would be left of them.
    """

    dry_run: bool
    events: int = 0
    letters: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    unreadable_letters: int = 0
    waiting_events: int | None = None
    log_error: str | None = None
    finished: bool = False


Notify = Callable[[Erased], None]
"""Told after each portion."""


async def erase(
    settings: Settings, db: Database, wanted: Wanted, erased: Erased, notify: Notify
) -> None:
    """Erase what is wanted, or count it, and add it to `erased`. Raises StoreUnavailable."""
    # First: what comes to the store from now on may be passed.
    await _look_at_log(settings, db, erased)
    with erasure.unhurried():
        await _erase_events(db, wanted, erased, notify)
        await _erase_letters(db, wanted, erased, notify)
        erased.unreadable_letters = await erasure.unreadable_letters(db)
    erased.finished = True


async def _erase_events(db: Database, wanted: Wanted, erased: Erased, notify: Notify) -> None:
    sources: Counter[str] = Counter()
    async for rows in erasure.matching(db, wanted):
        count = len(rows)
        if not erased.dry_run:
            count, refused = await erasure.erase(db, rows, now())
            for one in refused:
                erased.refused[one.reason] = erased.refused.get(one.reason, 0) + 1
        erased.events += count
        sources.update(text_of(row, "source") or "" for row in rows)
        erased.by_source = dict(sources.most_common(_SOURCES_MAX))
        others = sources.total() - sum(erased.by_source.values())
        if others:
            erased.by_source[_OTHER] = erased.by_source.get(_OTHER, 0) + others
        notify(erased)


async def _erase_letters(db: Database, wanted: Wanted, erased: Erased, notify: Notify) -> None:
    async for letters in erasure.matching_letters(db, wanted):
        if not erased.dry_run:
            await dlq.purge(db, letters)
        erased.letters += len(letters)
        notify(erased)


async def _look_at_log(settings: Settings, db: Database, erased: Erased) -> None:
    writing = await writer(db)
    group = writing[1] if writing is not None else settings.consumer_group
    partitions = Partitions(settings)
    try:
        await find(partitions, db)
        found = await asyncio.gather(*(_waiting(one, group) for one in partitions))
    finally:
        await partitions.close()
    counted = [one for one in found if isinstance(one, int)]
    away = {number: str(one) for number, one in enumerate(found) if not isinstance(one, int)}
    if counted:
        erased.waiting_events = sum(counted)
    erased.log_error = told_away(away, len(found))


async def _waiting(partition: Partition, group: str) -> int | LogUnavailable:
    """Return how many events of a partition wait, at least one if anything does; or why not."""
    try:
        waiting = await unsettled(await partition.link.get(), partition.keys, group)
    except LogUnavailable as error:
        return error
    return max(waiting.events, int(waiting.any_entry))
