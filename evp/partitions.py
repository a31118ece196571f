"""How many streams there are, by everything that knows: the settings, the log and the store."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from evp.errors import LogUnavailable, StoreUnavailable
from evp.storage.client import Database
from evp.storage.partitions import known_partitions
from evp.stream.partitions import Partitions, known


class Noted(Struct, frozen=True):
    """How many streams the log and the store know of; None if that one is away."""

    log: int | None
    store: int | None


async def find(partitions: Partitions, db: Database) -> Noted:
    """Have `partitions` know of all streams that the log or the store knows of.

    Whichever is away is not asked: the other one knows them as well, or they are
    found the next time.
    """
    log, store = await asyncio.gather(_by_log(partitions), _by_store(db))
    for count in (log, store):
        partitions.grow(count or 1)
    return Noted(log, store)


async def _by_log(partitions: Partitions) -> int | None:
    first = partitions[0]
    try:
        return await known(await first.link.get(), first.keys)
    except LogUnavailable:
        return None


async def _by_store(db: Database) -> int | None:
    try:
        return await known_partitions(db)
    except StoreUnavailable:
        return None
