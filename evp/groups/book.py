"""Consumer groups as log and store know them together: listed, made, and deleted for good."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Self

from msgspec import Struct

from evp.errors import UsageError
from evp.groups.streams import all_streams, change_each
from evp.limits import GROUP_READ_MS
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage.client import Database, opened
from evp.storage.ledger import live_workers
from evp.stream.client import Link
from evp.stream.everywhere import Everywhere
from evp.stream.groups import delete_group, registered_groups
from evp.stream.info import GroupFacts, Unsettled, log_facts, unsettled
from evp.stream.keys import Keys
from evp.stream.positions import EARLIEST, create_group, standing
from evp.stream.slots import held
from evp.stream.sums import summed_group


class GroupRow(Struct):
    """One group, in all partitions together.

    `writes`: its workers write to this database. `registered`: evp knows it, so
    while it is missing from a stream nothing is trimmed there. `exists`: it is missing from
    none; of several partitions `missing_from` has those. `pins`: it holds the
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
    missing_from: list[int] = []


class Created(Struct):
    """A new group: the last entry of the log that it is not given (`0-0`: none), what it is.

    Of several partitions that is the entry of partition 0.
    """

    name: str
    stream: str
    last_id: str
    lag_events: int


class GroupBook:
    """The groups of one log."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._db = db

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator[Self]:
        """Give the groups of the log that is set, for a while."""
        async with opened(settings, connections_max=1) as db:
            yield cls(settings, db)

    async def rows(self) -> list[GroupRow]:
        """Return all groups, by name. Raises LogUnavailable and StoreUnavailable."""
        async with all_streams(self._settings, self._db) as log:
            streams = [facts.groups for facts in await log.ask_each(log_facts)]
            known = set().union(*await log.ask_each(registered_groups))
        known |= await store_groups.registered(self._db)
        writer = await store_groups.writer(self._db)
        names = known.union(one.name for groups in streams for one in groups)
        rows = [
            _row(name, streams, writes=writer == (self._settings.stream, name))
            for name in sorted(names)
        ]
        pinning = {name for groups in streams for name in _furthest(groups)}
        for row in rows:
            row.registered = row.name in known
            if not row.registered:
                # It need not be everywhere.
                row.exists, row.missing_from = True, []
            row.pins = not row.exists or row.name in pinning
        return rows

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Remove a group for good; what it has not read is no longer kept for it.

        Raises UsageError, unless `force`, if it is the one that writes to this
        database and has not written everything, or if a worker holds a name of it
        or anyone read by it within GROUP_READ_MS; LogUnavailable and
        StoreUnavailable. Doing it again is right.
        """
        async with all_streams(self._settings, self._db) as log:
            # Also a look whether all of them are there.
            unwritten = await log.ask_each(lambda link, keys: unsettled(link, keys, name))
            if not force:
                await self._refuse_if_unwritten(unwritten, name)
                await self._refuse_if_active(log, name)
            # The store first: while the log has the name and the group, nothing is trimmed away.
            await store_groups.forget(self._db, name)
            await change_each(
                log,
                lambda link, keys: delete_group(link, keys, name),
                f"group {name} is deleted",
            )

    async def create(self, name: str, target: str) -> Created:
        """Make a group and register it, as workers do; what is before the target it is not given.

        `target` is one of `evp.stream.positions`. Raises UsageError if the group is there
        already, or would pass over events that this database is to have; LogUnavailable and
        StoreUnavailable.
        """
        async with all_streams(self._settings, self._db) as log:
            if all(await log.ask_each(lambda link, keys: standing(link, keys, name))):
                raise _there_already(name)
            if target != EARLIEST and await self.writes(name):
                raise UsageError(
                    f"group {name} writes to {self._settings.mongo_db}, so it begins at the "
                    f"earliest entry; `evp groups reset {name}` shows what it would lose elsewhere"
                )
            # The store first: once it has the name, nothing is trimmed away before the group is.
            await store_groups.register(self._db, name)
            # Where it is already, as it was left half made, it stays where it stands.
            made = await change_each(
                log,
                lambda link, keys: create_group(link, keys, name, target),
                f"group {name} is made",
            )
            if not any(made):
                raise _there_already(name)
            seen = await log.ask_each(lambda link, keys: standing(link, keys, name))
        there = [one for one in seen if one is not None]
        if len(there) < len(seen):
            raise UsageError(f"group {name} was deleted as soon as it was made")
        lag_events = sum(one.events_accepted - one.here.events_before for one in there)
        return Created(name, self._settings.stream, there[0].here.last_id, lag_events)

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

    async def _refuse_if_active(self, log: Everywhere, name: str) -> None:
        reader = await active_reader(log, self._db, name)
        if reader is not None:
            raise UsageError(f"{reader}, or use --force")

    async def _refuse_if_unwritten(self, unwritten: Sequence[Unsettled], name: str) -> None:
        if await store_groups.writer(self._db) != (self._settings.stream, name):
            return
        if any(one.any_entry for one in unwritten):
            events = sum(one.events for one in unwritten)
            what = f"{events:,} events" if events else "entries"
            raise UsageError(
                f"group {name} writes to {self._settings.mongo_db} and has {what} in the log that "
                "it would never write; let `evp work --burst` finish, or use --force"
            )


async def active_reader(log: Everywhere, db: Database, name: str) -> str | None:
    """Return who reads by a group, and what to do about it; None if nobody does.

    A worker that holds a name of it, or anyone who read by it within GROUP_READ_MS.
    Raises LogUnavailable and StoreUnavailable.
    """
    # Those who lost the log's group with its memory have yet to make it again.
    live = {row["name"] for row in await live_workers(db) if row["group"] == name}

    async def reader(link: Link, keys: Keys) -> str | None:
        groups = {one.name: one for one in (await log_facts(link, keys)).groups}
        consumers = groups[name].consumers if name in groups else []
        names = live.union(one.name for one in consumers)
        for holder in await held(link, keys, name, sorted(names)):
            return f"{holder} reads by group {name}; stop it first"
        for one in consumers:
            if one.idle_ms < GROUP_READ_MS:
                return (
                    f"{one.name} read by group {name} {one.idle_ms / 1000:.1f} s ago; stop it and "
                    f"wait {GROUP_READ_MS / 1000:g} s"
                )
        return None

    return next(filter(None, await log.ask_each(reader)), None)


def _there_already(name: str) -> UsageError:
    return UsageError(
        f"there is a group {name} already; `evp groups describe {name}` shows where it stands, "
        "`evp groups reset` sets it elsewhere"
    )


def _row(name: str, streams: Sequence[Sequence[GroupFacts]], *, writes: bool) -> GroupRow:
    by_stream = [next((one for one in groups if one.name == name), None) for groups in streams]
    found = [one for one in by_stream if one is not None]
    row = GroupRow(name, writes=writes, registered=True, exists=len(found) == len(streams))
    if found:
        facts = summed_group(found)
        row.consumers = len(facts.consumers)
        row.pending_events, row.lag_events = facts.pending_events, facts.lag_events
        row.oldest_s = facts.lag_s
    if len(streams) > 1:
        row.missing_from = [number for number, one in enumerate(by_stream) if one is None]
    return row


def _furthest(groups: Sequence[GroupFacts]) -> list[str]:
    """Return the groups that hold a stream: no other is further back."""
    furthest_s = max((one.lag_s for one in groups), default=0.0)
    return [one.name for one in groups if one.lag_s == furthest_s > 0]
