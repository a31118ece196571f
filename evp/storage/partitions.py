"""How many streams the log ever had, as the store knows it: a log can lose its memory.

Servers and workers note it. Where neither could, a partition is known by the first epoch
that is recorded of it.
"""

from __future__ import annotations

import contextlib

from pymongo.errors import DuplicateKeyError

from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.schema import META, SERVERS

_PARTITIONS = "partitions"


async def known_partitions(db: Database) -> int:
    """Return the most streams that were ever noted, 1 where none were. Raises StoreUnavailable."""
    with told():
        row = await db[META].find_one({"_id": _PARTITIONS})
        last = await db[SERVERS].find_one({"partition": {"$gt": 0}}, sort=[("partition", -1)])
    noted = 1 if row is None else int(row["count"])
    return noted if last is None else max(noted, int(last["partition"]) + 1)


async def note_partitions(db: Database, count: int) -> None:
    """Note that there are `count` streams; the number only grows. Raises StoreUnavailable."""
    # Another process may be quicker to write it for the first time.
    with told(), contextlib.suppress(DuplicateKeyError):
        await db[META].update_one({"_id": _PARTITIONS}, {"$max": {"count": count}}, upsert=True)
