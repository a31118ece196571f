"""Losses that an operator has taken note of: each by itself, with a reason and a time.

What is acknowledged is a finding of `evp verify`, by what it is about; a new one, or
one that has grown, is another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from msgspec import Struct
from pymongo import UpdateOne

from evp.limits import VERIFY_PAGE_FRAMES
from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.schema import ACKNOWLEDGED, META

_EVENTS = "acknowledged"


class Acknowledgement(Struct, frozen=True):
    """Why a finding is known, and since when."""

    reason: str
    at: datetime


async def acknowledged(db: Database) -> dict[str, Acknowledgement]:
    """Return all that is acknowledged, by the key of the finding. Raises StoreUnavailable."""
    with told():
        rows = db[ACKNOWLEDGED].find(batch_size=VERIFY_PAGE_FRAMES)
        return {row["_id"]: Acknowledgement(row["reason"], row["at"]) async for row in rows}


async def acknowledge(
    db: Database, rows: Iterable[tuple[str, str, Acknowledgement]], kept: Collection[str]
) -> None:
    """Make (key, kind, why) all that is acknowledged, but for other ones of the kinds `kept`.

    What was acknowledged before keeps its reason and time. Raises
    StoreUnavailable; some may then be acknowledged, and calling again is safe.
    """
    keys, writes = [], []
    for key, kind, why in rows:
        keys.append(key)
        row = {"kind": kind, "reason": why.reason, "at": why.at}
        writes.append(UpdateOne({"_id": key}, {"$setOnInsert": row}, upsert=True))
    with told():
        for start in range(0, len(writes), VERIFY_PAGE_FRAMES):
            await db[ACKNOWLEDGED].bulk_write(writes[start : start + VERIFY_PAGE_FRAMES])
        present = set(keys)
        there = await db[ACKNOWLEDGED].find({}, {"kind": 1}).to_list()
        gone = [
            row["_id"] for row in there if row["_id"] not in present and row["kind"] not in kept
        ]
        for start in range(0, len(gone), VERIFY_PAGE_FRAMES):
            portion = gone[start : start + VERIFY_PAGE_FRAMES]
            await db[ACKNOWLEDGED].delete_many({"_id": {"$in": portion}})


async def acknowledge_events(db: Database, events: int) -> None:
    """Say how many accepted events all losses have together that are acknowledged.

    Raises StoreUnavailable.
    """
    with told():
        await db[META].update_one({"_id": _EVENTS}, {"$set": {"events": events}}, upsert=True)


async def acknowledged_events(db: Database) -> int:
    """Return how many accepted events are acknowledged as lost. Raises StoreUnavailable."""
    with told():
        row = await db[META].find_one({"_id": _EVENTS})
    return max(0, int(row["events"])) if row else 0
