"""The log as a trace reads it: single entries, or all of them, and nothing is moved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from evp.clock import monotonic_s
from evp.documents import Admission
from evp.errors import FrameError
from evp.frame import Frame, entry_order
from evp.limits import TRACE_FRAMES_MAX, TRACE_SEARCH_S_MAX
from evp.plain import read_entry
from evp.settings import Settings
from evp.stream.client import KeptLink
from evp.stream.info import events_ahead
from evp.stream.keys import Keys
from evp.stream.places import Place, Progress, places_of
from evp.stream.scan import BEGINNING, Edges, Entry, edges, entry_of, page
from evp.trace.story import Searched

Notify = Callable[[int, int], None]
"""Told how many events were searched, and of how many."""


class Sight(Struct):
    """What the log tells of an entry: the frame in it, or why it is none; how far groups are."""

    frame: Frame | None
    error: FrameError | None
    places: list[Place]
    events_ahead: int | None = None

    def progress_of(self, group: str) -> Progress | None:
        """Return how far a group is with it; None if there is no such group."""
        return next((one.progress for one in self.places if one.group == group), None)


class LogReader:
    """Reads one stream; every call raises LogUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self._keys = Keys(settings.stream)
        self._admission = Admission(settings.default_source, settings.time_in_id)
        self._link = KeptLink(settings.redis_url, self._keys)

    async def edges(self) -> Edges:
        """Return where the log begins and ends."""
        return await edges(await self._link.get(), self._keys)

    async def sight(self, entry_id: str, group: str) -> Sight | None:
        """Return what the log tells of an entry, for the group that writes; None if it lacks it."""
        link = await self._link.get()
        entry = await entry_of(link, self._keys, entry_id)
        if entry is None:
            return None
        sight = Sight(*self._read(entry), await places_of(link, self._keys, entry_id, group))
        if sight.progress_of(group) != Progress.ACKED:
            sight.events_ahead = await events_ahead(link, self._keys, group, entry_id)
        return sight

    async def search(self, event_id: bytes, notify: Notify) -> tuple[list[str], Searched]:
        """Return the entries that hold an event, oldest first, and how far they were searched.

        Rests as long as it reads, so that the log has time for others.
        """
        link = await self._link.get()
        found: list[str] = []
        done, after = 0, BEGINNING
        end = await edges(link, self._keys)
        ends_at_s = monotonic_s() + TRACE_SEARCH_S_MAX
        while entry_order(after) < entry_order(end.last) and len(found) < TRACE_FRAMES_MAX:
            began_at_s = monotonic_s()
            if began_at_s > ends_at_s:
                return found, Searched(done, whole=False)
            entries = (await page(link, self._keys, after)).entries
            if not entries:
                break
            for entry in entries:
                frame = self._may_hold(entry, event_id)
                done += _count(entry)
                if frame is not None and event_id in frame.ids:
                    found.append(entry.entry_id)
            after = entries[-1].entry_id
            notify(done, max(done, end.events_behind))
            await asyncio.sleep(monotonic_s() - began_at_s)
        return found, Searched(done, whole=len(found) < TRACE_FRAMES_MAX)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    def _read(self, entry: Entry) -> tuple[Frame | None, FrameError | None]:
        try:
            return read_entry(self._keys.stream, *entry, self._admission), None
        except FrameError as error:
            return None, error

    def _may_hold(self, entry: Entry, event_id: bytes) -> Frame | None:
        """Return the frame in an entry, unless its bytes show that the event is not in it."""
        docs = entry.fields.get(b"docs")
        return None if docs is not None and event_id not in docs else self._read(entry)[0]


def _count(entry: Entry) -> int:
    """Return how many events an entry says it has; another program's has one."""
    count = entry.fields.get(b"n", b"1")
    return int(count) if count.isdigit() else 1
