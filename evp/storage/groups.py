"""The consumer groups that exist, as the store knows them.

The log can lose its memory; the store's list then keeps the trimmer from
cutting away what a group that must be made anew has not read. A name is written
here first, then registered in the log, then the group is made.
"""

from __future__ import annotations

import contextlib

from pymongo.errors import DuplicateKeyError

from evp.clock import now
from evp.errors import WritingGroupTaken
from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.schema import GROUPS, META

_WRITING = "writing_group"


async def register(db: Database, group: str) -> None:
    """Note that a group exists. Raises StoreUnavailable."""
    # Another worker may be quicker.
    with told(), contextlib.suppress(DuplicateKeyError):
        await db[GROUPS].update_one(
            {"_id": group}, {"$setOnInsert": {"registered_at": now()}}, upsert=True
        )


async def registered(db: Database) -> set[str]:
    """Return the names of all groups. Raises StoreUnavailable."""
    with told():
        return {row["_id"] for row in await db[GROUPS].find().to_list()}


async def forget(db: Database, group: str) -> bool:
    """Remove a group from the list; True if it was there. Raises StoreUnavailable."""
    with told():
        gone = await db[GROUPS].delete_one({"_id": group})
        await db[META].delete_one({"_id": _WRITING, "group": group})
    return bool(gone.deleted_count)


async def become_writer(db: Database, stream: str, group: str, *, take_over: bool = False) -> None:
    """Register the group as the one that writes to this database.

    Two groups would each store every event; what one stored the other would
    count as duplicate. Raises WritingGroupTaken if there is another one and not
    `take_over`, and StoreUnavailable.
    """
    how = "$set" if take_over else "$setOnInsert"
    mine = {how: {"group": group, "stream": stream}}
    # Another worker may be quicker; whose it is then is read below.
    with told(), contextlib.suppress(DuplicateKeyError):
        await db[META].update_one({"_id": _WRITING}, mine, upsert=True)
    await require_writer(db, stream, group)
    await register(db, group)


async def require_writer(db: Database, stream: str, group: str) -> None:
    """Raise WritingGroupTaken if another group writes to this database; or StoreUnavailable."""
    holder = await writer(db)
    if holder is not None and holder != (stream, group):
        raise WritingGroupTaken(
            f"group {holder[1]!r} of stream {holder[0]!r} writes to this database, and two would "
            "count each other's events as duplicates: work as that group; or --take-over, which "
            f"makes {group!r} the one: workers of {holder[1]!r} finish their batch and stop within "
            f"seconds, and it holds the log until `evp groups delete {holder[1]}`"
        )


async def writer(db: Database) -> tuple[str, str] | None:
    """Return stream and name of the group that writes to this database. Raises StoreUnavailable."""
    with told():
        row = await db[META].find_one({"_id": _WRITING})
    return None if row is None else (row["stream"], row["group"])
