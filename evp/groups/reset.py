"""Setting a consumer group to another place of the log: what that means, and doing it.

Going back delivers events once more, which is harmless: the store recognises them. Going
forward passes events over. The group that writes to the database must not pass over what
the store does not have, so that is counted, frame by frame; what others have nobody here
can tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import datetime
from typing import Self

from msgspec import Struct, field

from evp.clock import from_ms
from evp.errors import UsageError
from evp.frame import entry_ms, entry_order
from evp.groups.book import GroupBook, active_reader
from evp.groups.streams import all_streams, change_each
from evp.limits import GROUP_RESET_TRIES_MAX, GROUP_SKIPPED_FRAMES_MAX
from evp.naming import named
from evp.settings import Settings
from evp.storage.client import Database, opened
from evp.storage.evidence import settled_frames
from evp.stream.client import Link
from evp.stream.everywhere import Everywhere
from evp.stream.headers import clock_ms, headers
from evp.stream.keys import Keys
from evp.stream.positions import Place, Standing, moment, set_position, standing

Notify = Callable[[int, int], None]
"""Told how many events were looked up in the store, of how many."""


class Mark(Struct):
    """An entry, and when the log took it."""

    entry_id: str
    at: datetime


class Position(Struct):
    """`last` is the last entry that was given to the group, null at the beginning; `next` follows.

    `next` is null if the log has nothing more.
    """

    last: Mark | None
    next: Mark | None


class LogSpan(Struct):
    """What the log still holds: its first entry, events from there on, and events trimmed before.

    Entries that are done stay for `retention_s` or `retention_bytes`, whichever is less.
    """

    first: Mark | None
    events: int
    trimmed_events: int
    retention_s: int
    retention_bytes: int


class PartitionReset(Struct, kw_only=True):
    """What it means for one of several partitions."""

    partition: int
    before: Position = field(name="from")
    after: Position = field(name="to")
    again_events: int
    skipped_events: int
    pending_entries: int
    waiting_events: int


class Reset(Struct, kw_only=True):
    """What setting a group elsewhere means; if it was `executed`, what it meant.

    `again_events` are delivered once more, `skipped_events` are never delivered to it. Of the
    latter the store lacks `missing_events`, at most; they are counted if the group `writes`
    to the database. `pending_entries` are delivered until they are acked, as before. From then
    on `waiting_events` wait for it; beyond `backlog_max` servers refuse new ones meanwhile.
    `refused` tells why it can't be executed, or can't unless it is forced.

    Numbers are those of all partitions together. `from` and `to` are those of partition 0;
    where there are several, `partitions` has them all.
    """

    group: str
    stream: str
    database: str
    writes: bool
    before: Position = field(name="from")
    after: Position = field(name="to")
    again_events: int
    skipped_events: int
    missing_events: int
    pending_entries: int
    waiting_events: int
    backlog_max: int | None
    log: LogSpan
    refused: str | None = None
    executed: bool = False
    partitions: list[PartitionReset] = []


class Resetter:
    """Looks at one group in all partitions, and sets it elsewhere."""

    def __init__(self, settings: Settings, log: Everywhere, db: Database, group: str) -> None:
        self._settings = settings
        self._log = log
        self._db = db
        self._group = group

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings, group: str) -> AsyncIterator[Self]:
        """Give one for a group of the log that is set. Raises StoreUnavailable."""
        async with (
            opened(settings, connections_max=4) as db,
            all_streams(settings, db) as log,
        ):
            yield cls(settings, log, db, group)

    async def ago(self, span_s: float) -> str:
        """Return the target so long ago, by the log's clock. Raises LogUnavailable."""
        clocks_ms = await self._log.ask_each(lambda link, _keys: clock_ms(link))
        return moment(clocks_ms[0] - round(1000 * span_s))

    async def plan(self, target: str, notify: Notify, *, force: bool = False) -> Reset:
        """Return what setting the group to a target means; nothing is changed.

        `target` is one of `evp.stream.positions`. Raises UsageError if there is no such
        group, LogUnavailable and StoreUnavailable.
        """
        return await self._meaning(await self._look(target), notify, force=force)

    async def execute(self, target: str, notify: Notify, *, force: bool = False) -> Reset:
        """Set the group to a target; return what that meant.

        Nothing is changed unless it can be done in all partitions, as far as can be known
        beforehand. Raises UsageError if there is no such group, if somebody reads by it, or,
        unless `force`, if it would pass over events that the store lacks, or any if it writes
        elsewhere; LogUnavailable, which says if it was done in some partitions, and
        StoreUnavailable.
        """
        done: dict[int, Standing] = {}

        async def set_one(link: Link, keys: Keys) -> None:
            number = keys.partition
            if number not in done and await set_position(link, keys, self._group, seen[number]):
                done[number] = seen[number]

        for _ in range(GROUP_RESET_TRIES_MAX):
            seen = [done.get(n, one) for n, one in enumerate(await self._look(target))]
            reset = await self._meaning(seen, notify, force=force)
            if reset.refused is not None:
                raise self._unfinished(reset.refused, done)
            await change_each(self._log, set_one, f"group {self._group} is set")
            # Elsewhere it was given more in the meantime, or the log was trimmed: look again.
            reset.executed = len(done) == len(seen)
            if reset.executed:
                return reset
        raise self._unfinished(
            f"group {self._group} is read by, or the log trimmed, all the time", done
        )

    def _unfinished(self, why: str, done: Collection[int]) -> UsageError:
        if not done:
            return UsageError(why)
        return UsageError(f"{why}. In {named(sorted(done))} it is set by now; do it again")

    async def _look(self, target: str) -> list[Standing]:
        found = await self._log.ask_each(
            lambda link, keys: standing(link, keys, self._group, target)
        )
        missing = [number for number, one in enumerate(found) if one is None]
        if missing:
            where = "" if len(missing) == len(found) else f" in partition {missing[0]}"
            raise UsageError(
                f"the log has no group {self._group}{where}; `evp groups list` shows those there "
                "are, `evp groups create` makes one"
            )
        return [one for one in found if one is not None]

    async def _meaning(self, seen: Sequence[Standing], notify: Notify, *, force: bool) -> Reset:
        settings = self._settings
        reader = await active_reader(self._log, self._db, self._group)
        writes = await GroupBook(settings, self._db).writes(self._group)
        missing = await self._missing(seen, notify) if writes else 0
        parts = [_partition(number, one) for number, one in enumerate(seen)]
        reset = Reset(
            group=self._group,
            stream=settings.stream,
            database=settings.mongo_db,
            writes=writes,
            before=parts[0].before,
            after=parts[0].after,
            again_events=sum(one.again_events for one in parts),
            skipped_events=sum(one.skipped_events for one in parts),
            missing_events=missing,
            pending_entries=sum(one.pending_entries for one in parts),
            waiting_events=sum(one.waiting_events for one in parts),
            backlog_max=settings.backlog_max,
            log=_span(seen, settings),
            partitions=parts if len(parts) > 1 else [],
        )
        if reader is not None:
            reset.refused = reader
        elif missing and not force:
            reset.refused = _would_lose(reset)
        elif reset.skipped_events and not writes and not force:
            reset.refused = _would_skip_unseen(reset)
        return reset

    async def _missing(self, seen: Sequence[Standing], notify: Notify) -> int:
        """Return how many of the events that would be passed over the store has not, at most."""
        total = sum(max(0, one.there.events_before - one.here.events_before) for one in seen)
        looked_up = [0] * len(seen)

        async def look(link: Link, keys: Keys) -> int:
            def tell(events: int) -> None:
                looked_up[keys.partition] = events
                notify(sum(looked_up), total)

            return await missing_events(link, keys, self._db, seen[keys.partition], tell)

        return sum(await self._log.ask_each(look))


async def missing_events(
    link: Link, keys: Keys, db: Database, seen: Standing, notify: Callable[[int], None]
) -> int:
    """Return how many events that a stream has between two places the store has not, at most.

    A plain entry counts as one event. One that is pending for all that is counted as well.
    """
    after, last = seen.here.last_id, entry_order(seen.there.last_id)
    total = seen.there.events_before - seen.here.events_before
    frames = events = missing = 0
    while entry_order(after) < last:
        if frames >= GROUP_SKIPPED_FRAMES_MAX:
            return missing + max(0, total - events)
        page = await headers(link, keys, after)
        skipped = [one for one in page if entry_order(one.entry_id) <= last]
        if not skipped:
            break
        after = skipped[-1].entry_id
        settled = await settled_frames(db, [one.frame_id for one in skipped if one.frame_id])
        missing += sum(one.count or 1 for one in skipped if one.frame_id not in settled)
        events += sum(one.count for one in skipped)
        frames += len(skipped)
        notify(events)
    return missing


def mark_of(entry_id: str | None) -> Mark | None:
    """Return an entry with its time; None of the beginning, and of none."""
    if entry_id is None or entry_id == "0-0":
        return None
    return Mark(entry_id, from_ms(entry_ms(entry_id)))


def _partition(number: int, seen: Standing) -> PartitionReset:
    moved = seen.there.events_before - seen.here.events_before
    return PartitionReset(
        partition=number,
        before=_position(seen.here),
        after=_position(seen.there),
        again_events=max(0, -moved),
        skipped_events=max(0, moved),
        pending_entries=seen.pending,
        waiting_events=seen.events_accepted - seen.there.events_before,
    )


def _span(seen: Sequence[Standing], settings: Settings) -> LogSpan:
    firsts = [one.beginning.next_id for one in seen if one.beginning.next_id is not None]
    return LogSpan(
        mark_of(min(firsts, key=entry_order, default=None)),
        sum(one.events_accepted - one.beginning.events_before for one in seen),
        sum(one.beginning.events_before for one in seen),
        settings.log_retention_s,
        settings.log_retention_bytes,
    )


def _position(place: Place) -> Position:
    return Position(mark_of(place.last_id), mark_of(place.next_id))


def _would_lose(reset: Reset) -> str:
    return (
        f"group {reset.group} writes to {reset.database}, which lacks {reset.missing_events:,} of "
        "the events it would pass over: `evp verify` would tell them as acked_not_stored, and its "
        "--repair bring them back, while the log holds them; later as a hole, lost for good. "
        "Let `evp work --burst` finish first, or use --force"
    )


def _would_skip_unseen(reset: Reset) -> str:
    return (
        f"group {reset.group} does not write to {reset.database}, so nobody here can tell whether "
        f"its readers need the {reset.skipped_events:,} events it would pass over. With the "
        "settings of its workers (EVP_MONGO_URL, EVP_MONGO_DB) that is looked up; or use --force"
    )
