"""The groups of a stream and their consumers: made, looked at, removed without losing anything."""

from __future__ import annotations

from typing import Any

from evp.stream.client import Link, LogRefused, name_of, pairs
from evp.stream.keys import Keys
from evp.stream.scripts import CREATE_GROUP, DELETE_CONSUMER

#: What is replied where there is no stream, by XINFO and by XGROUP.
_NO_STREAM = ("no such key", "requires the key to exist")


async def ensure_group(link: Link, keys: Keys, group: str) -> bool:
    """Register a group and create it at the stream's beginning; True if it was created.

    At 0, never at the end: what was accepted before is delivered too, and what
    is stored already is recognised. Raises LogUnavailable.
    """
    return bool(await link.script(CREATE_GROUP, (keys.stream, keys.groups), (group,)))


async def registered_groups(link: Link, keys: Keys) -> set[str]:
    """Return the names that the log has registered. Raises LogUnavailable."""
    return {name_of(name) for name in await link.call("SMEMBERS", keys.groups)}


async def group_rows(link: Link, keys: Keys) -> list[dict[bytes, Any]]:
    """Return what XINFO tells of each group; nothing where there is no stream.

    Raises LogUnavailable.
    """
    return await _rows(link, "GROUPS", keys.stream)


async def existing_groups(link: Link, keys: Keys) -> set[str]:
    """Return the names of the groups that the stream has. Raises LogUnavailable."""
    return {name_of(row[b"name"]) for row in await group_rows(link, keys)}


async def delete_group(link: Link, keys: Keys, group: str) -> bool:
    """Remove a group and its name; True if it existed. Raises LogUnavailable.

    What it has not read is no longer kept for it.
    """
    name = await _spelled(link, keys, group)
    await link.call("SREM", keys.groups, name)
    return await _destroy(link, keys, name)


async def drop_group(link: Link, keys: Keys, group: str) -> bool:
    """Destroy a group and leave its name registered, as an accident would; True if it existed.

    Its workers make it again, from the beginning. Raises LogUnavailable.
    """
    return await _destroy(link, keys, await _spelled(link, keys, group))


async def _destroy(link: Link, keys: Keys, name: bytes) -> bool:
    try:
        return bool(await link.call("XGROUP", "DESTROY", keys.stream, name))
    except LogRefused as error:
        if not _is_no_stream(error):
            raise
        return False


async def is_drained(link: Link, keys: Keys, group: str) -> bool:
    """Return True if every entry of the stream has been delivered to the group."""
    for row in await group_rows(link, keys):
        if row[b"name"] == group.encode():
            after = "(" + row[b"last-delivered-id"].decode()
            return not await link.call("XRANGE", keys.stream, after, "+", "COUNT", 1)
    return False


async def remove_consumer(
    link: Link, keys: Keys, group: str, name: str | bytes, *, idle_ms: int = 0
) -> bool:
    """Remove a consumer if nobody holds its name and nothing is pending under it; True if done.

    Raises LogUnavailable, and GroupLost if there is no such group.
    """
    lease = keys.slot(group, name_of(name) if isinstance(name, bytes) else name)
    return bool(await link.script(DELETE_CONSUMER, (keys.stream, lease), (group, name, idle_ms)))


async def remove_gone(link: Link, keys: Keys, group: str, *, idle_ms: int) -> list[str]:
    """Remove the consumers that are gone and own nothing; return their names.

    Gone is one whose name nobody holds and that has not read for `idle_ms`.
    Raises as `remove_consumer`.
    """
    removed = []
    for row in await _rows(link, "CONSUMERS", keys.stream, group):
        name = row[b"name"]
        may_be = row[b"pending"] == 0 and row[b"idle"] >= idle_ms
        if may_be and await remove_consumer(link, keys, group, name, idle_ms=idle_ms):
            removed.append(name_of(name))
    return removed


async def _spelled(link: Link, keys: Keys, group: str) -> bytes:
    """Return the bytes of a group's name, as `name_of` tells it."""
    spelled = group.encode()
    given = [row[b"name"] for row in await group_rows(link, keys)]
    if spelled in given:
        return spelled
    return next((name for name in given if name_of(name) == group), spelled)


async def _rows(link: Link, *what: str) -> list[dict[bytes, Any]]:
    """Return what XINFO tells; nothing where there is no stream."""
    try:
        rows = await link.call("XINFO", *what)
    except LogRefused as error:
        if not _is_no_stream(error):
            raise
        return []
    return [dict(pairs(flat)) for flat in rows]


def _is_no_stream(error: LogRefused) -> bool:
    """Return True if a refusal says that there is no stream, and not that it is elsewhere."""
    return any(text in str(error) for text in _NO_STREAM)
