"""What the processes of evp tell the store about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pymongo
from pymongo import UpdateOne

from evp.clock import from_ms, now, now_ms
from evp.limits import LEDGER_STORE_S_MAX, WORKER_SILENT_S
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.lookup import portions
from evp.storage.schema import META, SERVERS, WORKERS

_DELETED = "deleted_entries"
_DELETED_NAMED_MAX = 100


async def record_servers(
    db: Database, rows: Iterable[tuple[bytes, int, int, int]], partition: int
) -> None:
    """Record (epoch, last acknowledged seq, events, events of unknown outcome) of server epochs.

    All are of one partition, which is named where it is not 0. Numbers and times only grow,
    so a late or repeated record does no harm. Raises StoreUnavailable, at the latest after
    LEDGER_STORE_S_MAX.
    """
    at = now()
    where = {"partition": partition} if partition else {}
    writes = [
        UpdateOne(
            {"_id": srv},
            {
                "$max": {"seq": seq, "events": events, "unknown": unknown, "seen_at": at},
                "$setOnInsert": {"first_at": at, **where},
            },
            upsert=True,
        )
        for srv, seq, events, unknown in rows
    ]
    if not writes:
        return
    with told(), pymongo.timeout(LEDGER_STORE_S_MAX):
        await db[SERVERS].bulk_write(writes, ordered=False)


async def unrecorded_servers(db: Database, reached: Mapping[bytes, tuple[int, int]]) -> set[bytes]:
    """Return the epochs that are not recorded as far as given.

    `reached` are their (last acknowledged seq, events of unknown outcome). Raises
    StoreUnavailable.
    """
    lacking, fields = set(reached), {"seq": 1, "unknown": 1}
    with told():
        for portion in portions(list(reached)):
            for row in await db[SERVERS].find({"_id": {"$in": portion}}, fields).to_list():
                seq, unknown = reached[row["_id"]]
                if row["seq"] >= seq and row.get("unknown", 0) >= unknown:
                    lacking.discard(row["_id"])
    return lacking


async def record_worker(
    db: Database,
    group: str,
    name: str,
    facts: Mapping[str, object],
    *,
    within_s: float,
    partition: int = 0,
) -> None:
    """Record what a worker of a group does now. Raises StoreUnavailable, at the latest in time.

    Two groups, or two partitions, may have consumers of one name: each has a record of its own.
    """
    # No name has a space.
    where = f" p{partition}" if partition else ""
    record = {**facts, "group": group, "name": name, "seen_at": now()}
    with told(), pymongo.timeout(within_s):
        await db[WORKERS].update_one(
            {"_id": f"{group}/{name}{where}"}, {"$set": record}, upsert=True
        )


async def live_workers(db: Database, within_s: float = WORKER_SILENT_S) -> list[Document]:
    """Return the records of workers that were heard of lately. Raises StoreUnavailable."""
    since = from_ms(now_ms() - int(within_s * 1000))
    with told():
        return await db[WORKERS].find({"seen_at": {"$gte": since}}).to_list()


async def worker_records(db: Database, group: str, names: Iterable[str]) -> list[Document]:
    """Return what workers of a group with these names told last, however long ago.

    Raises StoreUnavailable.
    """
    found: list[Document] = []
    with told():
        for some in portions(list(names)):
            found += await db[WORKERS].find({"group": group, "name": {"$in": some}}).to_list()
    return found


async def record_deleted(db: Database, stream: str, entries: Sequence[str]) -> None:
    """Record entries that the log had lost while they were pending; the last ones by id.

    Raises PyMongoError. Calling again counts again.
    """
    change = {
        "$inc": {"entries": len(entries)},
        "$push": {
            "last": {"$each": [f"{stream} {one}" for one in entries], "$slice": -_DELETED_NAMED_MAX}
        },
        "$set": {"last_at": now()},
    }
    await db[META].update_one({"_id": _DELETED}, change, upsert=True)


async def deleted_entries(db: Database) -> int:
    """Return how many entries were deleted before they were acked. Raises StoreUnavailable."""
    with told():
        row = await db[META].find_one({"_id": _DELETED})
    return int(row["entries"]) if row else 0
