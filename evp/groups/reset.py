"""Setting a consumer group to another place of the log: what that means, and doing it.

Going back delivers events once more, which is harmless: the store recognises them. Going
forward passes events over. The group that writes to the database must not pass over what
the store does not have, so that is counted, frame by frame; what others have nobody here
can tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Self

from msgspec import Struct, field

from evp.clock import from_ms
from evp.errors import UsageError
from evp.frame import entry_ms, entry_order
from evp.groups.book import GroupBook, active_reader
from evp.limits import GROUP_RESET_TRIES_MAX, GROUP_SKIPPED_FRAMES_MAX
from evp.settings import Settings
from evp.storage.client import Database, opened
from evp.storage.evidence import settled_frames
from evp.stream.client import Link
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


class Reset(Struct, kw_only=True):
    """What setting a group elsewhere means; if it was `executed`, what it meant.

    `again_events` are delivered once more, `skipped_events` are never delivered to it. Of the
    latter the store lacks `missing_events`, at most; they are counted if the group `writes`
    to the database. `pending_entries` are delivered until they are acked, as before. From then
    on `waiting_events` wait for it; beyond `backlog_max` servers refuse new ones meanwhile.
    `refused` tells why it can't be executed, or can't unless it is forced.
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


class Resetter:
    """Looks at one group, and sets it elsewhere."""

    def __init__(self, settings: Settings, link: Link, db: Database, group: str) -> None:
        self._settings = settings
        self._link = link
        self._db = db
        self._keys = Keys(settings.stream)
        self._group = group

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings, group: str) -> AsyncIterator[Self]:
        """Give one for a group of the stream that is set. Raises LogUnavailable."""
        async with (
            Link.opened(settings.redis_url, Keys(settings.stream)) as link,
            opened(settings, connections_max=4) as db,
        ):
            yield cls(settings, link, db, group)

    async def ago(self, span_s: float) -> str:
        """Return the target so long ago, by the log's clock. Raises LogUnavailable."""
        return moment(await clock_ms(self._link) - round(1000 * span_s))

    async def plan(self, target: str, notify: Notify, *, force: bool = False) -> Reset:
        """Return what setting the group to a target means; nothing is changed.

        `target` is one of `evp.stream.positions`. Raises UsageError if there is no such
        group, LogUnavailable and StoreUnavailable.
        """
        return await self._meaning(await self._look(target), notify, force=force)

    async def execute(self, target: str, notify: Notify, *, force: bool = False) -> Reset:
        """Set the group to a target; return what that meant.

        Raises UsageError if there is no such group, if somebody reads by it, or, unless
        `force`, if it would pass over events that the store lacks, or any if it writes
        elsewhere; LogUnavailable and StoreUnavailable.
        """
        for _ in range(GROUP_RESET_TRIES_MAX):
            seen = await self._look(target)
            reset = await self._meaning(seen, notify, force=force)
            if reset.refused is not None:
                raise UsageError(reset.refused)
            reset.executed = await set_position(self._link, self._keys, self._group, seen)
            if reset.executed:
                return reset
        raise UsageError(f"group {self._group} is read by, or the log trimmed, all the time")

    async def _look(self, target: str) -> Standing:
        seen = await standing(self._link, self._keys, self._group, target)
        if seen is None:
            raise UsageError(
                f"the log has no group {self._group}; `evp groups list` shows those there are, "
                "`evp groups create` makes one"
            )
        return seen

    async def _meaning(self, seen: Standing, notify: Notify, *, force: bool) -> Reset:
        settings, moved = self._settings, seen.there.events_before - seen.here.events_before
        reader = await active_reader(self._link, self._db, self._keys, self._group)
        writes = await GroupBook(settings, self._db).writes(self._group)
        missing = await self._missing(seen, notify) if writes else 0
        reset = Reset(
            group=self._group,
            stream=settings.stream,
            database=settings.mongo_db,
            writes=writes,
            before=_position(seen.here),
            after=_position(seen.there),
            again_events=max(0, -moved),
            skipped_events=max(0, moved),
            missing_events=missing,
            pending_entries=seen.pending,
            waiting_events=seen.events_accepted - seen.there.events_before,
            backlog_max=settings.backlog_max,
            log=LogSpan(
                mark_of(seen.beginning.next_id),
                seen.events_accepted - seen.beginning.events_before,
                seen.beginning.events_before,
                settings.log_retention_s,
                settings.log_retention_bytes,
            ),
        )
        if reader is not None:
            reset.refused = reader
        elif missing and not force:
            reset.refused = _would_lose(reset)
        elif reset.skipped_events and not writes and not force:
            reset.refused = _would_skip_unseen(reset)
        return reset

    async def _missing(self, seen: Standing, notify: Notify) -> int:
        """Return how many of the events that would be passed over the store has not, at most.

        A plain entry counts as one event. One that is pending for all that is counted as well.
        """
        after, last = seen.here.last_id, entry_order(seen.there.last_id)
        total = seen.there.events_before - seen.here.events_before
        frames = events = missing = 0
        while entry_order(after) < last:
            if frames >= GROUP_SKIPPED_FRAMES_MAX:
                return missing + max(0, total - events)
            page = await headers(self._link, self._keys, after)
            skipped = [one for one in page if entry_order(one.entry_id) <= last]
            if not skipped:
                break
            after = skipped[-1].entry_id
            settled = await settled_frames(
                self._db, [one.frame_id for one in skipped if one.frame_id]
            )
            missing += sum(one.count or 1 for one in skipped if one.frame_id not in settled)
            events += sum(one.count for one in skipped)
            frames += len(skipped)
            notify(events, total)
        return missing


def mark_of(entry_id: str | None) -> Mark | None:
    """Return an entry with its time; None of the beginning, and of none."""
    if entry_id is None or entry_id == "0-0":
        return None
    return Mark(entry_id, from_ms(entry_ms(entry_id)))


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
