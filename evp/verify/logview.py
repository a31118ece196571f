"""The log as a verification sees it: everything once, single entries later, or not at all.

Each of its streams may be away by itself, or go away in the middle; what that one alone could
tell is not known then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from enum import Enum

from msgspec import Struct, field

from evp.errors import LogUnavailable
from evp.frame import entry_order
from evp.partitions import find
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.evidence import FrameHeader
from evp.stream.asking import asked, told_away
from evp.stream.headers import Header, all_headers, clock_ms, deliver_again, header_of
from evp.stream.ledger import Record, recorded_epochs
from evp.stream.partitions import Partition, Partitions
from evp.verify.intervals import IntervalSet

Place = tuple[int, int]


class Whereabouts(Enum):
    """What the log says of a frame: workers may still be given it, have done with it, or can't."""

    WAITING = "waiting"
    ACKED = "acked"
    GONE = "gone"
    UNKNOWN = "unknown"


class _Seen(Struct):
    """What was seen of a stream that was looked at, from its oldest entry to its newest.

    `frames` and `events` are those of it that are not settled; `numbers`, by epoch, those of
    all. What is not settled of plain entries, which have no number, is `plain`.
    """

    looked_at_ms: int
    oldest: Place | None = None
    newest: Place = (0, 0)
    frames: int = 0
    events: int = 0
    plain: int = 0
    numbers: dict[bytes, IntervalSet] = field(default_factory=dict)


class LogView:
    """Looks into all streams, over connections that are dialled again when they have gone.

    `group` is the one that writes: what it has acked must be in the store.

    Of a stream that is away, or has gone away, nothing is known, and `error` tells why. If any
    was there and the last one goes away, LogUnavailable is raised.
    """

    def __init__(self, settings: Settings) -> None:
        self._partitions = Partitions(settings)
        self._away: dict[int, str] = {}
        self._seen: dict[int, _Seen] = {}
        self._was_there = False
        self.group = settings.consumer_group

    @property
    def partitions(self) -> int:
        """How many streams are known."""
        return len(self._partitions)

    @property
    def error(self) -> str | None:
        """Why streams can't be read, if any can't."""
        return told_away(self._away, len(self._partitions))

    @property
    def frames(self) -> int:
        """Frames that were seen and are not settled."""
        return sum(one.frames + one.plain for one in self._seen.values())

    @property
    def events(self) -> int:
        """Events of those frames."""
        return sum(one.events + one.plain for one in self._seen.values())

    def tells_of(self, partition: int) -> bool:
        """Return whether a stream was looked at, and has not gone away since."""
        return partition in self._seen

    def grow(self, count: int) -> None:
        """Know of `count` streams at least; those found before `pages` are looked at."""
        self._partitions.grow(count)

    async def find(self, db: Database) -> None:
        """Find all streams there ever were, as far as log and store can tell."""
        await find(self._partitions, db)

    async def records(self) -> list[tuple[int, Record]]:
        """Return the epochs that the log has recorded, each with its partition.

        Does not fail: of streams that are away there are none.
        """
        found = await asyncio.gather(*map(self._records, self._partitions))
        self._was_there = len(self._away) < len(self._partitions)
        return [pair for pairs in found for pair in pairs]

    async def pages(self, *, counted: bool = True) -> AsyncIterator[list[Header]]:
        """Give all entries, stream by stream, in each the oldest first.

        The `counted` ones are those of `frames` and `events`. Raises LogUnavailable.
        """
        for one in self._partitions:
            if one.number in self._away:
                continue
            try:
                seen = _Seen(await asked(one.link, clock_ms))
                if counted:
                    self._seen[one.number] = seen
                async for page in all_headers(one.link, one.keys, self.group):
                    _count(seen, page)
                    yield page
            except LogUnavailable as error:
                self._lose(one.number, error)

    def was_early(self, partition: int, at_ms: int) -> bool:
        """Return whether a moment was before a stream was looked at; one that wasn't has none."""
        seen = self._seen.get(partition)
        return seen is not None and at_ms < seen.looked_at_ms

    def settled(self, frame: FrameHeader) -> None:
        """Take a frame that is settled off what was counted, if it was.

        Its place does not tell: a log that was put back, or has failed over, may lack it.
        """
        seen = self._seen.get(frame.partition)
        if seen is None or seen.oldest is None:
            return
        numbers = seen.numbers.get(frame.srv)
        if numbers is not None and numbers.has(frame.seq):
            seen.frames -= 1
            seen.events -= frame.count
        elif not frame.srv and seen.oldest <= entry_order(frame.entry_id) <= seen.newest:
            seen.plain = max(0, seen.plain - 1)

    async def where(self, frame: FrameHeader) -> Whereabouts:
        """Return how a frame stands in the log now. Raises LogUnavailable.

        Entry ids may be issued again after a failover, so the frame must be the same.
        """
        if frame.partition in self._away:
            return Whereabouts.UNKNOWN
        try:
            header = await self._header_again(frame)
        except LogUnavailable as error:
            self._lose(frame.partition, error)
            return Whereabouts.UNKNOWN
        same = b"" if frame.external else frame.frame_id.binary
        if header is None or header.frame_id != same:
            return Whereabouts.GONE
        return Whereabouts.ACKED if header.acked else Whereabouts.WAITING

    async def deliver_again(self, partition: int, entry_ids: Sequence[str]) -> int:
        """Have acked entries delivered once more; return how many. Raises LogUnavailable."""
        one = self._partitions[partition]
        if partition in self._away:
            return 0
        try:
            return await asked(
                one.link, lambda link: deliver_again(link, one.keys, self.group, entry_ids)
            )
        except LogUnavailable as error:
            self._lose(partition, error)
            return 0

    async def close(self) -> None:
        """Close the connections."""
        await self._partitions.close()

    def _lose(self, partition: int, error: LogUnavailable) -> None:
        """Go on without a stream. Raises LogUnavailable if that was the last one."""
        self._away[partition] = str(error)
        self._seen.pop(partition, None)
        if self._was_there and len(self._away) == len(self._partitions):
            raise LogUnavailable(self.error) from error

    async def _records(self, one: Partition) -> list[tuple[int, Record]]:
        try:
            records = await asked(one.link, lambda link: recorded_epochs(link, one.keys))
        except LogUnavailable as error:
            self._away[one.number] = str(error)
            return []
        return [(one.number, record) for record in records]

    async def _header_again(self, frame: FrameHeader) -> Header | None:
        try:
            return await self._header_of(frame)
        except LogUnavailable:
            # The log may have closed a connection that was idle for long.
            return await self._header_of(frame)

    async def _header_of(self, frame: FrameHeader) -> Header | None:
        # It may be younger than the number of streams that was found.
        self._partitions.grow(frame.partition + 1)
        one = self._partitions[frame.partition]
        return await asked(
            one.link, lambda link: header_of(link, one.keys, frame.entry_id, self.group)
        )


def _count(seen: _Seen, page: Sequence[Header]) -> None:
    seen.oldest = seen.oldest or entry_order(page[0].entry_id)
    seen.newest = entry_order(page[-1].entry_id)
    for one in page:
        if not one.srv:
            seen.plain += 1
        elif seen.numbers.setdefault(one.srv, IntervalSet()).add(one.seq, 0):
            seen.frames += 1
            seen.events += one.count
