"""The log as a trace reads it: single entries, or all of them, and nothing is moved."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from msgspec import Struct

from evp.clock import monotonic_s
from evp.documents import Admission
from evp.errors import FrameError, LogUnavailable
from evp.frame import Frame, entry_order
from evp.limits import TRACE_FRAMES_MAX, TRACE_SEARCH_S_MAX
from evp.plain import read_entry
from evp.settings import Settings
from evp.stream.asking import asked
from evp.stream.client import Link
from evp.stream.info import events_ahead
from evp.stream.keys import Keys
from evp.stream.partitions import Partition, Partitions
from evp.stream.places import Place, Progress, places_of
from evp.stream.scan import BEGINNING, Edges, Entry, edges, entry_of, page

Notify = Callable[[int, int], None]
"""Told how many events were searched, and of how many."""


class EntryPlace(NamedTuple):
    """Where an entry is, or was: in which stream, and under which id."""

    partition: int
    entry_id: str


class Sight(Struct):
    """What the log tells of an entry: the frame in it, or why it is none; how far groups are."""

    frame: Frame | None
    error: FrameError | None
    places: list[Place]
    events_ahead: int | None = None

    def progress_of(self, group: str) -> Progress | None:
        """Return how far a group is with it; None if there is no such group."""
        return next((one.progress for one in self.places if one.group == group), None)


class Search:
    """A search for an event through all streams, one after the other, within limits for all.

    `found` are the places that hold it, in each stream the oldest first. `events` were looked
    at, of about as many as are `expected`; it was `whole` if no limit was met.
    """

    def __init__(self, event_id: bytes) -> None:
        self.event_id = event_id
        self.found: list[EntryPlace] = []
        self.events = 0
        self.expected = 0
        self.whole = True
        self._ends_at_s = monotonic_s() + TRACE_SEARCH_S_MAX

    def goes_on(self) -> bool:
        """Return whether no limit is met yet."""
        if len(self.found) >= TRACE_FRAMES_MAX or monotonic_s() > self._ends_at_s:
            self.whole = False
        return self.whole


class LogReader:
    """Reads the streams by their numbers; what asks one of them raises LogUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self._partitions = Partitions(settings)
        self._admission = Admission(settings.default_source, settings.time_in_id)

    @property
    def partitions(self) -> int:
        """How many streams are known."""
        return len(self._partitions)

    async def find(self, stored: int) -> None:
        """Find all streams there ever were, if the log can tell; the store knows of `stored`."""
        self._partitions.grow(stored)
        with contextlib.suppress(LogUnavailable):
            await self._partitions.look()

    async def edges(self, partition: int) -> Edges:
        """Return where a stream begins and ends."""
        one = self._one(partition)
        return await asked(one.link, lambda link: edges(link, one.keys))

    async def sight(self, place: EntryPlace, group: str) -> Sight | None:
        """Return what the log tells of an entry, for the group that writes; None if it lacks it."""
        one = self._one(place.partition)
        return await asked(
            one.link, lambda link: self._sight(link, one.keys, place.entry_id, group)
        )

    async def search(self, partition: int, search: Search, end: Edges, notify: Notify) -> None:
        """Go through a stream up to its `end`, which `edges` told, unless a limit was met.

        Rests as long as it reads, so that the log has time for others.
        """
        one, after = self._one(partition), BEGINNING
        while entry_order(after) < entry_order(end.last) and search.goes_on():
            began_at_s = monotonic_s()
            read = partial(page, keys=one.keys, after=after)
            entries = (await asked(one.link, read)).entries
            if not entries:
                break
            for entry in entries:
                frame = self._may_hold(one.keys, entry, search.event_id)
                search.events += _count(entry)
                if frame is not None and search.event_id in frame.ids:
                    search.found.append(EntryPlace(partition, entry.entry_id))
            after = entries[-1].entry_id
            notify(search.events, max(search.events, search.expected))
            await asyncio.sleep(monotonic_s() - began_at_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._partitions.close()

    def _one(self, number: int) -> Partition:
        # A receipt or a frame may be of a stream that was not found, as the log is away.
        self._partitions.grow(number + 1)
        return self._partitions[number]

    async def _sight(self, link: Link, keys: Keys, entry_id: str, group: str) -> Sight | None:
        entry = await entry_of(link, keys, entry_id)
        if entry is None:
            return None
        sight = Sight(*self._read(keys, entry), await places_of(link, keys, entry_id, group))
        if sight.progress_of(group) != Progress.ACKED:
            sight.events_ahead = await events_ahead(link, keys, group, entry_id)
        return sight

    def _read(self, keys: Keys, entry: Entry) -> tuple[Frame | None, FrameError | None]:
        try:
            return read_entry(keys.stream, *entry, self._admission), None
        except FrameError as error:
            return None, error

    def _may_hold(self, keys: Keys, entry: Entry, event_id: bytes) -> Frame | None:
        """Return the frame in an entry, unless its bytes show that the event is not in it."""
        docs = entry.fields.get(b"docs")
        return None if docs is not None and event_id not in docs else self._read(keys, entry)[0]


def _count(entry: Entry) -> int:
    """Return how many events an entry says it has; another program's has one."""
    count = entry.fields.get(b"n", b"1")
    return int(count) if count.isdigit() else 1
