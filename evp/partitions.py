"""How many streams there are, by everything that knows: the settings, the log and the store."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from evp.errors import LogUnavailable, StoreUnavailable
from evp.storage.client import Database
from evp.storage.partitions import known_partitions
from evp.stream.asking import asked
from evp.stream.partitions import Partitions, known


class Noted(Struct, frozen=True):
    """How many streams the log and the store know of, each; or why it does not tell."""

    log: int | LogUnavailable
    store: int | StoreUnavailable


async def find(partitions: Partitions, db: Database) -> Noted:
    """Have `partitions` know of all streams that the log or the store knows of.

    Where one of the two is away the other one knows them as well, or they are found the
    next time.
    """
    noted = Noted(*await asyncio.gather(_by_log(partitions), _by_store(db)))
    for count in (noted.log, noted.store):
        if isinstance(count, int):
            partitions.grow(count)
    return noted


async def _by_log(partitions: Partitions) -> int | LogUnavailable:
    first = partitions[0]
    try:
        return await asked(first.link, lambda link: known(link, first.keys))
    except LogUnavailable as error:
        return error


async def _by_store(db: Database) -> int | StoreUnavailable:
    try:
        return await known_partitions(db)
    except StoreUnavailable as error:
        return error
