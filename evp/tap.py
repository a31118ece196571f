"""A live sample of what the log accepts: read by no group, filtered, and bounded in rate.

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
from msgspec import Struct

from evp.batch.paths import has_text
from evp.batch.raw import event_as_json, text_of
from evp.batch.retry import Backoff
from evp.clock import monotonic_s
from evp.documents import Admission
from evp.errors import FrameError, LogUnavailable
from evp.frame import entry_order
from evp.limits import TAP_BEHIND_EVENTS_MAX, TAP_BLOCK_MS, TAP_TURN_S
from evp.plain import read_entry
from evp.stream.client import KeptLink, Link
from evp.stream.headers import clock_ms
from evp.stream.keys import Keys
from evp.stream.scan import BEGINNING, Entry, before_ms, edges, page


class Start(Struct, frozen=True):
    """Where to begin: now, unless `earliest` or at a moment of the log's clock.

    That is `at_ms`, milliseconds since 1970, or `ago_s` seconds ago.
    """

    earliest: bool = False
    at_ms: int | None = None
    ago_s: float | None = None

    @property
    def is_now(self) -> bool:
        """Whether nothing that is in the log already is wanted."""
        return not self.earliest and self.at_ms is None and self.ago_s is None


class Wanted(Struct, frozen=True):
    """Which events, by texts that must be equal; and every how manieth of those.

    `where` are paths into the event as JSON (`data.order.id`, `data.items.0.sku`) and the
    text there: a text as it is, anything else as JSON writes it (`17`, `true`, `null`).
    """

    type: str | None = None
    source: str | None = None
    subject: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    every: int = 1

    @property
    def is_all(self) -> bool:
        """Whether any event will do, so that not all of them need be read."""
        return self == Wanted()

    def holds(self, document: RawBSONDocument) -> bool:
        """Return whether an event is as it should be, `every` apart."""
        for name in ("type", "source", "subject"):
            wanted = getattr(self, name)
            if wanted is not None and text_of(document, name) != wanted:
                return False
        return all(has_text(document, path, text) for path, text in self.where)


class Counts(Struct):
    """What became of events: those looked at (`read`), and of them `shown`.

    `dropped` were wanted as well, but too many at a time; `unread` were passed over without
    a look, to keep up. `broken` are entries that can't be read.
    """

    read: int = 0
    shown: int = 0
    dropped: int = 0
    unread: int = 0
    broken: int = 0

    @property
    def passed_over(self) -> int:
        """Events that were wanted, or may have been, and were not shown."""
        return self.dropped + self.unread


class Portion(Struct):
    """What to tell next: events as JSON has them, why entries can't be read, how the log is."""

    events: list[dict[str, Any]] = []
    broken: list[str] = []
    notice: str | None = None


class Allowance:
    """How many events may be shown now: `per_s` a second, given out by turns of TAP_TURN_S."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s * TAP_TURN_S)
        self._left = self._most
        self._at_s = monotonic_s()

    @property
    def events(self) -> int:
        """How many may be shown now."""
        now_s = monotonic_s()
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return int(self._left)

    def take(self, wanted: int) -> int:
        """Return how many of these may be shown now, and count them."""
        taken = min(wanted, self.events)
        self._left -= taken
        return taken

    async def turn(self) -> None:
        """Wait until some may be shown."""
        if not self.events:
            await asyncio.sleep(max(TAP_TURN_S, (1 - self._left) / self._per_s))


class Tap:
    """Reads one stream for as long as it is asked for the `next` portion."""

    def __init__(
        self,
        url: str,
        keys: Keys,
        admission: Admission,
        wanted: Wanted,
        *,
        shown_per_s: float,
        shown_max: int | None = None,
    ) -> None:
        self.counts = Counts()
        self._shown_max = shown_max
        self._keys = keys
        self._admission = admission
        self._wanted = wanted
        self._allowance = Allowance(shown_per_s)
        self._link = KeptLink(url, keys)
        self._backoff = Backoff()
        self._after = BEGINNING
        self._history_end = BEGINNING
        self._holding = 0
        self._held: deque[RawBSONDocument] = deque()

    @property
    def is_done(self) -> bool:
        """Whether as many events were shown as are wanted."""
        return self.counts.shown == self._shown_max

    async def begin(self, start: Start) -> None:
        """Find the place to begin at. Raises LogUnavailable."""
        link = await self._link.get()
        at_ms = start.at_ms
        if start.ago_s is not None:
            at_ms = await clock_ms(link) - int(start.ago_s * 1000)
        if start.earliest:
            at_ms = 0
        self._history_end = (await edges(link, self._keys)).last
        self._after = self._history_end if at_ms is None else before_ms(at_ms)

    async def next(self) -> Portion:
        """Return what came next, waiting a moment for it: it may be nothing.

        While the log is away it is dialled again and again, and that is told once.
        """
        was_away = self._backoff.attempts > 0
        try:
            link = await self._link.get()
            if was_away:
                await self._find_again(link)
            portion = await self._next(link)
        except LogUnavailable as error:
            await asyncio.sleep(self._backoff.next_s())
            return Portion() if was_away else Portion(notice=f"{error}; waiting for it")
        if was_away:
            self._backoff.reset()
            portion.notice = "the log is back"
        return portion

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    @property
    def _left(self) -> int | None:
        """How many events are wanted yet; None if there is no end to it."""
        if self._shown_max is None:
            return None
        return self._shown_max - self.counts.shown - len(self._held)

    @property
    def _is_live(self) -> bool:
        """Whether all that was there at the start has been read."""
        return entry_order(self._after) >= entry_order(self._history_end)

    async def _next(self, link: Link) -> Portion:
        if self._held:
            await self._allowance.turn()
            return Portion(self._allowed())
        events_max = None
        if self._is_live and self._wanted.is_all:
            if not self._allowance.events:
                await self._allowance.turn()
                await self._go_to_newest(link)
            events_max = self._allowance.events
        found = await page(link, self._keys, self._after, events_max, block_ms=TAP_BLOCK_MS)
        if self._is_live and found.events_behind > TAP_BEHIND_EVENTS_MAX:
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
                self.counts.broken += 1
                portion.broken.append(str(error))
                continue
            self._held.extend(islice(self._chosen(frame.documents), self._left))
            if entry_order(entry_id) > entry_order(self._history_end):
                portion.events += self._allowed()
                self.counts.dropped += len(self._held)
                self._held.clear()
        portion.events += self._allowed()
        return portion

    def _chosen(self, documents: Iterable[RawBSONDocument]) -> Iterator[RawBSONDocument]:
        """Give the events that are wanted, every so manieth of them."""
        for document in documents:
            self.counts.read += 1
            if self._wanted.holds(document):
                self._holding += 1
                if self._holding % self._wanted.every == 1 % self._wanted.every:
                    yield document

    def _allowed(self) -> list[dict[str, Any]]:
        allowed = self._allowance.take(len(self._held))
        self.counts.shown += allowed
        return [event_as_json(bytes(self._held.popleft().raw)) for _ in range(allowed)]

    async def _go_to_newest(self, link: Link) -> None:
        """Go on after the last entry there is; what lies between is passed over."""
        end = await edges(link, self._keys, self._after)
        self._after = max(self._after, end.last, key=entry_order)
        self.counts.unread += end.events_behind

    async def _find_again(self, link: Link) -> None:
        """Go back to the end of a log that has lost its newest entries, or all of them."""
        end = (await edges(link, self._keys)).last
        self._after = min(self._after, end, key=entry_order)
        self._history_end = min(self._history_end, end, key=entry_order)
