"""One stream, read on from where it begins.

What was in the log at the start is read at the pace at which it is shown, and nothing
of it is passed over. What is accepted from then on is passed over where it is too much:
whoever looks at everything reads but a few frames a turn and goes on with the newest;
whoever filters reads all, as long as that keeps up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from bson.raw_bson import RawBSONDocument

from evp.batch.raw import event_as_json
from evp.batch.retry import Backoff
from evp.documents import Admission
from evp.errors import FrameError, LogUnavailable
from evp.frame import entry_order
from evp.limits import TAP_BEHIND_EVENTS_MAX, TAP_BLOCK_MS
from evp.plain import read_entry
from evp.stream.asking import asked
from evp.stream.client import Link
from evp.stream.headers import clock_ms
from evp.stream.partitions import Partition
from evp.stream.scan import BEGINNING, Entry, before_ms, edges, page
from evp.tap.showing import Portion, Showing
from evp.tap.wanted import Start


class Tail:
    """Reads one stream for as long as it is asked for the `next` portion."""

    def __init__(
        self, partition: Partition, admission: Admission, showing: Showing, start: Start | None
    ) -> None:
        """Set it to begin as `start` says, or, if that is None, with the first entry there ever is.

        The partition's link is its own from now on.
        """
        self.number = partition.number
        self._keys = partition.keys
        self._link = partition.link
        self._admission = admission
        self._showing = showing
        self._start = start
        self._backoff = Backoff()
        self._after = BEGINNING
        self._history_end = BEGINNING
        self._held: deque[RawBSONDocument] = deque()

    @property
    def is_live(self) -> bool:
        """Whether all that was there at the start has been read."""
        return entry_order(self._after) >= entry_order(self._history_end)

    async def begin(self) -> None:
        """Find the place to begin at, unless it is found. Raises LogUnavailable."""
        start = self._start
        if start is None:
            return
        link = await self._link.get()
        at_ms = start.at_ms
        if start.ago_s is not None:
            at_ms = await clock_ms(link) - int(start.ago_s * 1000)
        if start.earliest:
            at_ms = 0
        self._history_end = (await edges(link, self._keys)).last
        self._after = self._history_end if at_ms is None else before_ms(at_ms)
        self._start = None

    async def next(self) -> Portion:
        """Return what came next, waiting a moment for it: it may be nothing.

        While the log is away it is dialled again and again, and that is told once.
        """
        was_away = self._backoff.attempts > 0
        try:
            await self.begin()
            if was_away:
                await self._find_again(await self._link.get())
            portion = await asked(self._link, self._next)
        except LogUnavailable as error:
            await asyncio.sleep(self._backoff.next_s())
            return Portion() if was_away else Portion(notice=f"{error}; waiting for it")
        if was_away:
            self._backoff.reset()
            portion.notice = "the log is back"
        return portion

    async def _next(self, link: Link) -> Portion:
        showing = self._showing
        if self._held:
            await showing.allowance.turn()
            return Portion(self._allowed())
        events_max = None
        if self.is_live and showing.wanted.is_all:
            if not showing.allowance.events:
                await showing.allowance.turn()
                await self._go_to_newest(link)
            events_max = showing.allowance.events
        found = await page(link, self._keys, self._after, events_max, block_ms=TAP_BLOCK_MS)
        if self.is_live and found.events_behind > TAP_BEHIND_EVENTS_MAX:
            await self._go_to_newest(link)
            return Portion()
        return self._sift(found.entries)

    def _sift(self, entries: Iterable[Entry]) -> Portion:
        """Return what may be shown of entries now; hold the rest of those from before the start."""
        portion = Portion()
        for entry_id, fields in entries:
            self._after = entry_id
            try:
                frame = read_entry(self._keys.stream, entry_id, fields, self._admission)
            except FrameError as error:
                self._showing.counts.broken += 1
                portion.broken.append(str(error))
                continue
            self._hold(frame.documents)
            if entry_order(entry_id) > entry_order(self._history_end):
                portion.events += self._allowed()
                self._showing.drop(len(self._held))
                self._held.clear()
        portion.events += self._allowed()
        return portion

    def _hold(self, documents: Iterable[RawBSONDocument]) -> None:
        chosen = list(islice(self._chosen(documents), self._showing.left))
        self._showing.held += len(chosen)
        self._held.extend(chosen)

    def _chosen(self, documents: Iterable[RawBSONDocument]) -> Iterator[RawBSONDocument]:
        """Give the events that are wanted, every so manieth of them."""
        for document in documents:
            self._showing.counts.read += 1
            if self._showing.wanted.holds(document) and self._showing.chooses():
                yield document

    def _allowed(self) -> list[dict[str, Any]]:
        allowed = self._showing.take(len(self._held))
        return [event_as_json(bytes(self._held.popleft().raw)) for _ in range(allowed)]

    async def _go_to_newest(self, link: Link) -> None:
        """Go on after the last entry there is; what lies between is passed over."""
        end = await edges(link, self._keys, self._after)
        self._after = max(self._after, end.last, key=entry_order)
        self._showing.counts.unread += end.events_behind

    async def _find_again(self, link: Link) -> None:
        """Go back to the end of a log that has lost its newest entries, or all of them."""
        end = (await edges(link, self._keys)).last
        self._after = min(self._after, end, key=entry_order)
        self._history_end = min(self._history_end, end, key=entry_order)
