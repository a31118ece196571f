"""Consumer groups as log and store know them together: listed, made, and deleted for good."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Self

from msgspec import Struct

from evp.errors import UsageError
from evp.limits import GROUP_READ_MS
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage.client import Database, opened
from evp.storage.ledger import live_workers
from evp.stream.client import Link
from evp.stream.groups import delete_group, registered_groups
from evp.stream.info import GroupFacts, log_facts, unsettled
from evp.stream.keys import Keys
from evp.stream.positions import EARLIEST, create_group, standing
from evp.stream.slots import held


class GroupRow(Struct):
    """One group.

    `writes`: its workers write to this database. `registered`: evp knows it, so
    while it is missing from the stream nothing is trimmed. `pins`: it holds the
    log; nothing that it has not acked can be trimmed, and no other is further back.
    `oldest_s` is the age of the oldest entry it has not acked.
    """

    name: str
    writes: bool
    registered: bool
    exists: bool
    pins: bool = False
    consumers: int = 0
    pending_events: int = 0
    lag_events: int = 0
    oldest_s: float = 0.0


class Created(Struct):
    """A new group: the last entry of the log that it is not given (`0-0`: none), what it is."""

    name: str
    stream: str
    last_id: str
    lag_events: int


class GroupBook:
    """The groups of one stream."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._keys = Keys(settings.stream)
        self._db = db

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator[Self]:
        """Give the groups of the stream that is set, for a while."""
        async with opened(settings, connections_max=1) as db:
            yield cls(settings, db)

    async def rows(self) -> list[GroupRow]:
        """Return all groups, by name. Raises LogUnavailable and StoreUnavailable."""
        async with Link.opened(self._settings.redis_url, self._keys) as link:
            facts = {one.name: one for one in (await log_facts(link, self._keys)).groups}
            known = await registered_groups(link, self._keys)
        known |= await store_groups.registered(self._db)
        writer = await store_groups.writer(self._db)
        rows = [
            _row(name, facts.get(name), writes=writer == (self._settings.stream, name))
            for name in sorted(known | facts.keys())
        ]
        furthest = max((row.oldest_s for row in rows), default=0.0)
        for row in rows:
            row.registered = row.name in known
            row.pins = not row.exists or row.oldest_s == furthest > 0
        return rows

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Remove a group for good; what it has not read is no longer kept for it.

        Raises UsageError, unless `force`, if it is the one that writes to this
        database and has not written everything, or if a worker holds a name of it
        or anyone read by it within GROUP_READ_MS; LogUnavailable and
        StoreUnavailable. Doing it again is right.
        """
        async with Link.opened(self._settings.redis_url, self._keys) as link:
            if not force:
                await self._refuse_if_unwritten(link, name)
                await self._refuse_if_active(link, name)
            # The store first: while the log has the name and the group, nothing is trimmed away.
            await store_groups.forget(self._db, name)
            await delete_group(link, self._keys, name)

    async def create(self, name: str, target: str) -> Created:
        """Make a group and register it, as workers do; what is before the target it is not given.

        `target` is one of `evp.stream.positions`. Raises UsageError if the group is there
        already, or would pass over events that this database is to have; LogUnavailable and
        StoreUnavailable.
        """
        async with Link.opened(self._settings.redis_url, self._keys) as link:
            if await standing(link, self._keys, name) is not None:
                raise _there_already(name)
            if target != EARLIEST and await self.writes(name):
                raise UsageError(
                    f"group {name} writes to {self._settings.mongo_db}, so it begins at the "
                    f"earliest entry; `evp groups reset {name}` shows what it would lose elsewhere"
                )
            # The store first: once it has the name, nothing is trimmed away before the group is.
            await store_groups.register(self._db, name)
            if not await create_group(link, self._keys, name, target):
                raise _there_already(name)
            made = await standing(link, self._keys, name)
        if made is None:
            raise UsageError(f"group {name} was deleted as soon as it was made")
        lag_events = made.events_accepted - made.here.events_before
        return Created(name, self._settings.stream, made.here.last_id, lag_events)

    async def writes(self, name: str) -> bool:
        """Return True if a group writes to this database, or will as the first one.

        Raises StoreUnavailable.
        """
        writer = await store_groups.writer(self._db)
        mine = (self._settings.stream, self._settings.consumer_group)
        return (writer or mine) == (self._settings.stream, name)

    async def take_over(self, name: str) -> None:
        """Make a group the one that writes to this database. Raises StoreUnavailable."""
        await store_groups.become_writer(self._db, self._settings.stream, name, take_over=True)

    async def _refuse_if_active(self, link: Link, name: str) -> None:
        reader = await active_reader(link, self._db, self._keys, name)
        if reader is not None:
            raise UsageError(f"{reader}, or use --force")

    async def _refuse_if_unwritten(self, link: Link, name: str) -> None:
        if await store_groups.writer(self._db) != (self._settings.stream, name):
            return
        unwritten = await unsettled(link, self._keys, name)
        if unwritten.any_entry:
            what = f"{unwritten.events:,} events" if unwritten.events else "entries"
            raise UsageError(
                f"group {name} writes to {self._settings.mongo_db} and has {what} in the log that "
                "it would never write; let `evp work --burst` finish, or use --force"
            )


async def active_reader(link: Link, db: Database, keys: Keys, name: str) -> str | None:
    """Return who reads by a group, and what to do about it; None if nobody does.

    A worker that holds a name of it, or anyone who read by it within GROUP_READ_MS.
    Raises LogUnavailable and StoreUnavailable.
    """
    groups = {one.name: one for one in (await log_facts(link, keys)).groups}
    consumers = groups[name].consumers if name in groups else []
    # Those who lost the log's group with its memory have yet to make it again.
    names = {one.name for one in consumers}
    names |= {row["name"] for row in await live_workers(db) if row["group"] == name}
    for holder in await held(link, keys, name, sorted(names)):
        return f"{holder} reads by group {name}; stop it first"
    for one in consumers:
        if one.idle_ms < GROUP_READ_MS:
            return (
                f"{one.name} read by group {name} {one.idle_ms / 1000:.1f} s ago; stop it and "
                f"wait {GROUP_READ_MS / 1000:g} s"
            )
    return None


def _there_already(name: str) -> UsageError:
    return UsageError(
        f"there is a group {name} already; `evp groups describe {name}` shows where it stands, "
        "`evp groups reset` sets it elsewhere"
    )


def _row(name: str, facts: GroupFacts | None, *, writes: bool) -> GroupRow:
    if facts is None:
        return GroupRow(name, writes=writes, registered=True, exists=False)
    return GroupRow(
        name,
        writes=writes,
        registered=True,
        exists=True,
        consumers=len(facts.consumers),
        pending_events=facts.pending_events,
        lag_events=facts.lag_events,
        oldest_s=facts.lag_s,
    )
