"""Logins that go on: one document for each, with the hash of its refresh token.

A refresh token is good once; the next one takes its place in the same document.
So all tokens of one login are a family, which lives and ends as one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pymongo
from msgspec import Struct

from evp.limits import PEOPLE_STORE_S_MAX, SESSIONS_MAX
from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.schema import REFRESH_TOKENS


class Session(Struct, frozen=True):
    """One login. `version` is the user's at that time (`evp.storage.users`).

    `current` and `former` are the hashes of the token that is good and of the one
    before it, `rotated_at` is when the one took the place of the other.
    """

    family: bytes
    user: str
    version: int
    current: bytes
    former: bytes | None
    started_at: datetime
    rotated_at: datetime
    expires_at: datetime


async def begin(db: Database, session: Session) -> None:
    """Add a session; of the user's others only the newest stay. Raises StoreUnavailable."""
    row = {
        "_id": session.family,
        "user": session.user,
        "version": session.version,
        "current": session.current,
        "former": session.former,
        "started_at": session.started_at,
        "rotated_at": session.rotated_at,
        "expires_at": session.expires_at,
    }
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        await db[REFRESH_TOKENS].insert_one(row)
        theirs = db[REFRESH_TOKENS].find({"user": session.user}, {"_id": 1})
        newest_first = theirs.sort("started_at", pymongo.DESCENDING)
        surplus = await newest_first.skip(SESSIONS_MAX).to_list(SESSIONS_MAX)
        if surplus:
            ids = [one["_id"] for one in surplus]
            await db[REFRESH_TOKENS].delete_many({"_id": {"$in": ids}})


async def find(db: Database, family: bytes) -> Session | None:
    """Return a session. Raises StoreUnavailable."""
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        row = await db[REFRESH_TOKENS].find_one({"_id": family})
    return None if row is None else _session(row)


async def rotate(
    db: Database, session: Session, following: bytes, at: datetime, expires_at: datetime
) -> bool:
    """Put the hash of the following token in the place of the current one, if it still is that.

    Raises StoreUnavailable.
    """
    same = {"_id": session.family, "current": session.current}
    change = {
        "current": following,
        "former": session.current,
        "rotated_at": at,
        "expires_at": expires_at,
    }
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        done = await db[REFRESH_TOKENS].update_one(same, {"$set": change})
    return bool(done.matched_count)


async def end(db: Database, family: bytes) -> None:
    """End a session. Raises StoreUnavailable."""
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        await db[REFRESH_TOKENS].delete_one({"_id": family})


async def end_all(db: Database, user: str) -> int:
    """End all sessions of a user; return how many there were. Raises StoreUnavailable."""
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        gone = await db[REFRESH_TOKENS].delete_many({"user": user})
    return int(gone.deleted_count)


def _session(row: dict[str, Any]) -> Session:
    return Session(
        row["_id"],
        row["user"],
        row["version"],
        row["current"],
        row["former"],
        row["started_at"],
        row["rotated_at"],
        row["expires_at"],
    )
