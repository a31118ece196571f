"""The people who may look at this deployment, by name.

A user's `version` grows whenever what was handed out before must not hold any
more: with a new password, and when the user is disabled or enabled. Tokens carry
the version of their time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import pymongo
from msgspec import Struct
from pymongo.errors import DuplicateKeyError

from evp.clock import now
from evp.limits import PEOPLE_STORE_S_MAX, USERS_MAX
from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.schema import USERS


class User(Struct, frozen=True):
    """One user; `password_at` is when the password was set."""

    name: str
    scopes: list[str]
    version: int
    disabled: bool
    created_at: datetime
    password_at: datetime


class Record(NamedTuple):
    """A user and the hash of the password (`evp.passwords`)."""

    user: User
    password_hash: str


async def add(db: Database, name: str, password_hash: str, scopes: list[str]) -> bool:
    """Add a user; False if there is one of this name. Raises StoreUnavailable."""
    at = now()
    row = {
        "_id": name,
        "password": password_hash,
        "scopes": scopes,
        "version": 1,
        "disabled": False,
        "created_at": at,
        "password_at": at,
    }
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        try:
            await db[USERS].insert_one(row)
        except DuplicateKeyError:
            return False
    return True


async def find(db: Database, name: str) -> Record | None:
    """Return a user. Raises StoreUnavailable."""
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        row = await db[USERS].find_one({"_id": name})
    return None if row is None else Record(_user(row), row["password"])


async def listed(db: Database) -> list[User]:
    """Return all users, by name. Raises StoreUnavailable."""
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        rows = await db[USERS].find({}, {"password": 0}).sort("_id").to_list(USERS_MAX)
    return [_user(row) for row in rows]


async def set_password(db: Database, name: str, password_hash: str) -> bool:
    """Give a user another password; False if there is no such user. Raises StoreUnavailable."""
    change = {"$set": {"password": password_hash, "password_at": now()}, "$inc": {"version": 1}}
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        done = await db[USERS].update_one({"_id": name}, change)
    return bool(done.matched_count)


async def set_disabled(db: Database, name: str, *, disabled: bool) -> bool:
    """Disable or enable a user; False if that changes nothing. Raises StoreUnavailable."""
    change = {"$set": {"disabled": disabled}, "$inc": {"version": 1}}
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        done = await db[USERS].update_one({"_id": name, "disabled": not disabled}, change)
    return bool(done.matched_count)


async def keep_better_hash(db: Database, record: Record, password_hash: str) -> None:
    """Replace the hash of a password that is still the same one. Raises StoreUnavailable."""
    same = {"_id": record.user.name, "password": record.password_hash}
    with told(), pymongo.timeout(PEOPLE_STORE_S_MAX):
        await db[USERS].update_one(same, {"$set": {"password": password_hash}})


def _user(row: dict[str, Any]) -> User:
    return User(
        row["_id"],
        row["scopes"],
        row["version"],
        row["disabled"],
        row["created_at"],
        row["password_at"],
    )
