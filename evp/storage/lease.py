"""Who does a job that one worker at a time should do: a lease in the store.

It spares work, no more: each such job is right however many do it at once, also
where clocks differ.
"""

from __future__ import annotations

import pymongo
from pymongo.errors import DuplicateKeyError

from evp.clock import from_ms, now_ms
from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.schema import META


async def take(db: Database, job: str, holder: str, lease_ms: int) -> bool:
    """Take or renew the lease of a job for `lease_ms`; False if somebody else holds it.

    One that ends later than such a lease can was taken before a clock was set back: it is
    free, or the job would wait for that time to come. Raises StoreUnavailable.
    """
    at_ms = now_ms()
    free = {
        "$or": [
            {"holder": holder},
            {"expires_at": {"$lte": from_ms(at_ms)}},
            {"expires_at": {"$gt": from_ms(at_ms + 2 * lease_ms)}},
        ]
    }
    mine = {"holder": holder, "expires_at": from_ms(at_ms + lease_ms)}
    with told():
        try:
            await db[META].update_one({"_id": _id(job)} | free, {"$set": mine}, upsert=True)
        except DuplicateKeyError:
            return False  # It is there and not free, so it could only have been inserted.
    return True


async def release(db: Database, job: str, holder: str, *, within_s: float | None = None) -> None:
    """Give a lease back, if it is this holder's. Raises StoreUnavailable."""
    with told(), pymongo.timeout(within_s):
        await db[META].delete_one({"_id": _id(job), "holder": holder})


def _id(job: str) -> str:
    return f"lease:{job}"
