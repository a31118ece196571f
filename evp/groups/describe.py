"""One consumer group, described: where it stands, what waits for it, who reads by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from msgspec import Struct

from evp.clock import from_ms
from evp.errors import LogUnavailable, StoreUnavailable, UsageError
from evp.frame import entry_order
from evp.groups.reset import Mark, mark_of
from evp.limits import GROUP_CONSUMERS_NAMED_MAX, GROUP_READ_MS, GROUP_STORE_S_MAX
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage.bounded import limited
from evp.storage.client import Database, Document, opened, reach
from evp.storage.ledger import live_workers, worker_records
from evp.storage.partitions import known_partitions
from evp.stream.client import Link
from evp.stream.everywhere import Everywhere
from evp.stream.groups import registered_groups
from evp.stream.info import ConsumerFacts, GroupFacts, log_facts, unsettled
from evp.stream.keys import Keys
from evp.stream.positions import Standing, standing
from evp.stream.slots import held
from evp.stream.sums import summed_consumers


class State(Enum):
    """Whether a consumer is there: a live worker, another program that reads, or neither.

    `lost` is a worker that lives, but whose consumer the log has lost: it makes it again.
    """

    WORKS = "works"
    READS = "reads"
    GONE = "gone"
    LOST = "lost"


class Member(Struct, kw_only=True):
    """One consumer: entries pending under its name, and when it last tried to read.

    The rest is what a worker of this name last told the store, `heard_at` then; null where
    it never did, or the store is away.
    """

    name: str
    state: State
    pending: int = 0
    idle_s: float | None = None
    host: str | None = None
    pid: int | None = None
    stored_per_s: float | None = None
    heard_at: datetime | None = None

    @property
    def works(self) -> bool:
        """Whether it is a live worker: what it told last is so now."""
        return self.state is State.WORKS


class PartitionStanding(Struct, kw_only=True):
    """How a group stands in one of several partitions; nothing is known of one that is `away`."""

    partition: int
    server: str
    exists: bool = False
    last_delivered: Mark | None = None
    first_unacked: Mark | None = None
    lag_events: int = 0
    lag_s: float = 0.0
    pending_entries: int = 0
    pending_events: int = 0
    away: str | None = None


class Described(Struct, kw_only=True):
    """One group, at a moment of the log's clock.

    `exists` is false for one that is registered and missing from the log: it begins where
    the log does once it is made. `last_delivered` is the last entry given to it as new,
    `first_unacked` the first entry that it has not acked, given or not; `lag_s` is how old
    that one is. `pending_events` is what `pending_entries` hold at most. `consumers` has
    those with most pending entries, of `consumers_total`. `writes` and `registered` are null
    if the store, which knows, is away: `store_error` tells why.

    Of several partitions that is all of them together, the newest `last_delivered` and the
    oldest `first_unacked`; `partitions` has each by itself.
    """

    name: str
    stream: str
    database: str
    at: datetime
    exists: bool
    writes: bool | None
    registered: bool | None
    last_delivered: Mark | None
    first_unacked: Mark | None
    lag_events: int
    lag_s: float
    pending_entries: int
    pending_events: int
    consumers_total: int
    consumers: list[Member]
    store_error: str | None = None
    partitions: list[PartitionStanding] = []


class _Told(Struct):
    """What the store knows of a group; nothing but `error` if it is away."""

    writes: bool | None = None
    registered: bool | None = None
    workers: Sequence[Document] = ()
    live: frozenset[str] = frozenset()
    error: str | None = None
    partitions: int = 1


class _Seen(Struct, kw_only=True):
    """What one stream tells of a group; `lag_events` is all there is if it has no such group."""

    at_ms: int
    group: GroupFacts | None
    place: Standing | None
    lag_events: int
    registered: bool


async def describe(settings: Settings, name: str) -> Described:
    """Return how a group stands; without the store, what the log tells of it.

    Raises UsageError if neither knows it, LogUnavailable, and StoreUnavailable if only the
    store could know it, and is away.
    """
    async with Everywhere.opened(settings) as log:
        answers = await log.ask(lambda link, keys: _look(link, keys, name))
        consumers = sorted(summed_consumers(_groups(answers)), key=_by_pending)
        async with opened(settings, connections_max=1) as db:
            told = await _told(settings, db, name, consumers[:GROUP_CONSUMERS_NAMED_MAX])
        if told.partitions > len(answers):
            # The log has lost the number.
            log.grow(told.partitions)
            answers = await log.ask(lambda link, keys: _look(link, keys, name))
        seen = [one for one in answers if isinstance(one, _Seen)]
        if not seen:
            raise next(one for one in answers if isinstance(one, LogUnavailable))
        if any(one.registered for one in seen):
            told.registered = True
        groups = _groups(answers)
        if not groups and not told.registered:
            raise _unknown(name, told)
        rows = [_row(n, log.server_of(n), one) for n, one in enumerate(answers)]
        return Described(
            name=name,
            stream=settings.stream,
            database=settings.mongo_db,
            at=from_ms(seen[0].at_ms),
            exists=bool(groups),
            writes=told.writes,
            registered=told.registered,
            last_delivered=max((one.last_delivered for one in rows), key=_order),
            first_unacked=_oldest(one.first_unacked for one in rows),
            lag_events=sum(one.lag_events for one in rows),
            lag_s=max(one.lag_s for one in rows),
            pending_entries=sum(one.pending_entries for one in rows),
            pending_events=sum(one.pending_events for one in rows),
            consumers_total=len(consumers),
            consumers=await _members(log, name, consumers, told),
            store_error=told.error,
            partitions=rows if len(rows) > 1 else [],
        )


async def _look(link: Link, keys: Keys, name: str) -> _Seen:
    facts = await log_facts(link, keys)
    group = next((one for one in facts.groups if one.name == name), None)
    return _Seen(
        at_ms=facts.at_ms,
        group=group,
        place=await standing(link, keys, name) if group else None,
        lag_events=group.lag_events if group else (await unsettled(link, keys, name)).events,
        registered=name in await registered_groups(link, keys),
    )


def _groups(answers: Sequence[_Seen | LogUnavailable]) -> list[GroupFacts]:
    """Return how the group stands where it is."""
    return [one.group for one in answers if isinstance(one, _Seen) and one.group is not None]


def _row(number: int, server: str, seen: _Seen | LogUnavailable) -> PartitionStanding:
    row = PartitionStanding(partition=number, server=server)
    if isinstance(seen, LogUnavailable):
        row.away = str(seen)
        return row
    row.lag_events = seen.lag_events
    if (group := seen.group) is not None:
        row.exists, row.lag_s = True, group.lag_s
        row.pending_entries, row.pending_events = group.pending, group.pending_events
    if (place := seen.place) is not None:
        row.last_delivered = mark_of(place.here.last_id)
        waiting = [one for one in (place.first_pending, place.here.next_id) if one is not None]
        row.first_unacked = mark_of(min(waiting, key=entry_order, default=None))
    return row


def _order(mark: Mark | None) -> tuple[int, int]:
    return (-1, 0) if mark is None else entry_order(mark.entry_id)


def _oldest(marks: Iterable[Mark | None]) -> Mark | None:
    return min((one for one in marks if one is not None), key=_order, default=None)


async def _told(
    settings: Settings, db: Database, group: str, consumers: Sequence[ConsumerFacts]
) -> _Told:
    names = [one.name for one in consumers]
    try:
        await reach(db, GROUP_STORE_S_MAX)
        with limited(GROUP_STORE_S_MAX):
            live = [row for row in await live_workers(db) if row["group"] == group]
            return _Told(
                writes=await store_groups.writer(db) == (settings.stream, group),
                registered=group in await store_groups.registered(db),
                workers=[*await worker_records(db, group, names), *live],
                live=frozenset(row["name"] for row in live),
                partitions=await known_partitions(db),
            )
    except StoreUnavailable as error:
        return _Told(error=str(error))


async def _members(
    log: Everywhere, group: str, consumers: Sequence[ConsumerFacts], told: _Told
) -> list[Member]:
    """Return the consumers of the log, and workers that live and have none there."""
    named = consumers[:GROUP_CONSUMERS_NAMED_MAX]
    lost = sorted(told.live - {one.name for one in consumers})
    asked = [*(one.name for one in named), *lost]
    answers = await log.ask(lambda link, keys: held(link, keys, group, asked))
    holding = {one for names in answers if not isinstance(names, LogUnavailable) for one in names}
    records = {row["name"]: row for row in told.workers}
    members = [
        Member(
            name=one.name,
            state=_state(one, holds=one.name in holding, is_worker=one.name in records),
            pending=one.pending,
            idle_s=one.idle_ms / 1000,
            **_record(records.get(one.name)),
        )
        for one in named
    ]
    return members + [
        Member(name=name, state=State.LOST, **_record(records.get(name)))
        for name in lost
        if name in holding
    ]


def _state(consumer: ConsumerFacts, *, holds: bool, is_worker: bool) -> State:
    if holds:
        return State.WORKS
    # A worker without its name has ended, or was killed, however lately it read.
    reads = consumer.idle_ms < GROUP_READ_MS and not is_worker
    return State.READS if reads else State.GONE


def _record(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a worker told of itself; one that works no more stores nothing."""
    if row is None:
        return {}
    return {
        "host": row.get("host"),
        "pid": row.get("pid"),
        "stored_per_s": row.get("stored_per_s"),
        "heard_at": row["seen_at"],
    }


def _by_pending(consumer: ConsumerFacts) -> tuple[int, str]:
    return -consumer.pending, consumer.name


def _unknown(name: str, told: _Told) -> UsageError | StoreUnavailable:
    if told.error is not None:
        return StoreUnavailable(f"the log has no group {name}, and {told.error}")
    return UsageError(f"there is no group {name}; `evp groups list` shows those there are")
