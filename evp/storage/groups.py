"""The consumer groups that exist, as the store knows them.

The log can lose its memory; the store's list then keeps the trimmer from
cutting away what a group that must be made anew has not read. A name is written
here first, then registered in the log, then the group is made.
"""

from __future__ import annotations

from pymongo.errors import DuplicateKeyError, PyMongoError

from evp.clock import now
from evp.errors import WritingGroupTaken
from evp.storage.client import Database
from evp.storage.failures import unavailable
from evp.storage.schema import GROUPS, META

_WRITING = "writing_group"


async def register(db: Database, group: str) -> None:
    """Note that a group exists. Raises StoreUnavailable."""
    try:
        await db[GROUPS].update_one(
            {"_id": group}, {"$setOnInsert": {"registered_at": now()}}, upsert=True
        )
    except DuplicateKeyError:
        pass  # Another worker was quicker.
    except PyMongoError as error:
        raise unavailable(error) from error


async def registered(db: Database) -> set[str]:
    """Return the names of all groups. Raises StoreUnavailable."""
    try:
        return {row["_id"] for row in await db[GROUPS].find().to_list()}
    except PyMongoError as error:
        raise unavailable(error) from error


async def forget(db: Database, group: str) -> bool:
    """Remove a group from the list; True if it was there. Raises StoreUnavailable."""
    try:
        gone = await db[GROUPS].delete_one({"_id": group})
        await db[META].delete_one({"_id": _WRITING, "group": group})
    except PyMongoError as error:
        raise unavailable(error) from error
    return bool(gone.deleted_count)


async def become_writer(db: Database, stream: str, group: str, *, take_over: bool = False) -> None:
    """Register the group as the one that writes to this database.

    Two groups would each store every event; what one stored the other would
    count as duplicate. Raises WritingGroupTaken if there is another one and not
    `take_over`, and StoreUnavailable.
    """
    mine = {"group": group, "stream": stream}
    try:
        if take_over:
            await db[META].update_one({"_id": _WRITING}, {"$set": mine}, upsert=True)
        else:
            await db[META].update_one({"_id": _WRITING}, {"$setOnInsert": mine}, upsert=True)
    except DuplicateKeyError:
        pass  # Another worker was quicker; whose it is now is read below.
    except PyMongoError as error:
        raise unavailable(error) from error
    holder = await writer(db)
    if holder is not None and holder != (stream, group):
        raise WritingGroupTaken(
            f"group {holder[1]!r} of stream {holder[0]!r} writes to this database; two would "
            f"count every event twice: use it, or --take-over to make {group!r} the one"
        )
    await register(db, group)


async def writer(db: Database) -> tuple[str, str] | None:
    """Return stream and name of the group that writes to this database. Raises StoreUnavailable."""
    try:
        row = await db[META].find_one({"_id": _WRITING})
    except PyMongoError as error:
        raise unavailable(error) from error
    return None if row is None else (row["stream"], row["group"])
