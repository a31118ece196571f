"""Managing people: made, listed, given another password, disabled and enabled.

What ends with a change ends in this order: first the user's version grows, so
that no refresh token of before is taken any more and access tokens end within
a minute; then the sessions go. Ended in between, it is as good as done.
"""

from __future__ import annotations

import asyncio
import re

from evp.errors import UsageError
from evp.limits import USER_NAME_CHARS_MAX, USERS_MAX
from evp.passwords import check_password, hash_password, make_password
from evp.scopes import ADMIN, READ
from evp.storage import sessions
from evp.storage import users as store
from evp.storage.client import Database
from evp.storage.users import User

SCOPES = (READ, ADMIN)

FIRST_NAME = "admin"

_NAME = re.compile(rf"[a-z0-9][a-z0-9._@+-]{{0,{USER_NAME_CHARS_MAX - 1}}}")


def check_name(name: str) -> str:
    """Return a name as it is kept, in lower case. Raises UsageError if it can't be one."""
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        raise UsageError(
            f"{name!r} can't be a user name: up to {USER_NAME_CHARS_MAX} letters a to z, digits "
            "and . _ @ + -, of which a letter or digit comes first"
        )
    return lower


async def create(db: Database, name: str, password: str, scope: str) -> User:
    """Make a user. Raises UsageError if that can't be, and StoreUnavailable."""
    name = check_name(name)
    check_password(password)
    if len(await store.listed(db)) >= USERS_MAX:
        raise UsageError(f"there are {USERS_MAX:,} users, which is the most")
    kept = await asyncio.to_thread(hash_password, password)
    if not await store.add(db, name, kept, [scope]):
        raise UsageError(
            f"there is a user {name} already; `evp users passwd {name}` sets another password"
        )
    return await require(db, name)


async def create_first(db: Database) -> str | None:
    """Make the user `admin` where there is none at all; return the password if one was made.

    Nobody else knows it. Raises StoreUnavailable.
    """
    if await store.listed(db):
        return None
    password = make_password()
    kept = await asyncio.to_thread(hash_password, password)
    return password if await store.add(db, FIRST_NAME, kept, [ADMIN]) else None


async def require(db: Database, name: str) -> User:
    """Return a user. Raises UsageError if there is none of this name, and StoreUnavailable."""
    record = await store.find(db, check_name(name))
    if record is None:
        raise UsageError(f"there is no user {name}; `evp users list` shows those there are")
    return record.user


async def change_password(db: Database, name: str, password: str) -> User:
    """Set another password and end all sessions. Raises UsageError and StoreUnavailable."""
    user = await require(db, name)
    check_password(password)
    kept = await asyncio.to_thread(hash_password, password)
    await store.set_password(db, user.name, kept)
    await sessions.end_all(db, user.name)
    return await require(db, name)


async def disable(db: Database, name: str) -> User:
    """Keep a user from logging in and end all sessions. Raises UsageError and StoreUnavailable."""
    user = await require(db, name)
    await store.set_disabled(db, user.name, disabled=True)
    await sessions.end_all(db, user.name)
    return await require(db, name)


async def enable(db: Database, name: str) -> User:
    """Let a user log in again. Raises UsageError and StoreUnavailable."""
    user = await require(db, name)
    await store.set_disabled(db, user.name, disabled=False)
    return await require(db, name)
