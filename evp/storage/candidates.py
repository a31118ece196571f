"""Which buckets may hold events that are wanted: by the tail, and by sums from days to 10 s."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container, Iterator
from datetime import datetime

from msgspec import Struct

from evp.batch.tally import Tally
from evp.clock import from_ms, now_ms, to_ms
from evp.frame import MINUTE_MS, SOURCE_OTHER
from evp.limits import PAGE_FRAMES_MAX
from evp.storage.buckets import FINEST, LEVELS, Level, bucket_of, is_expired
from evp.storage.client import Database, Document
from evp.storage.schema import BUCKETS, ROLLUPS
from evp.storage.tail import LONG_AGO, Tail, rows_of

_COARSEST = len(LEVELS) - 1


class Wanted(Struct, frozen=True):
    """What events must have; None is anything. Times are the events' own, ms, the end apart."""

    type: str | None = None
    source: str | None = None
    subject: str | None = None
    first_ms: int | None = None
    end_ms: int | None = None

    @property
    def by_sums(self) -> bool:
        """True if sums can tell where it is not."""
        return any(one is not None for one in (self.type, self.source, self.first_ms, self.end_ms))

    def query(self) -> Document:
        """Return it as the store understands it: values only, whatever they look like."""
        which: Document = {}
        for name in ("type", "source", "subject"):
            value = getattr(self, name)
            if value is not None:
                which[name] = {"$eq": value}
        time: Document = {}
        if self.first_ms is not None:
            time["$gte"] = from_ms(self.first_ms)
        if self.end_ms is not None:
            time["$lt"] = from_ms(self.end_ms)
        return which | ({"time": time} if time else {})

    def may_be_in(self, tally: Tally) -> bool:
        """Return False if no event of these sums, by the minute, can be one."""
        return any(
            self.may_be_within(start_ms, MINUTE_MS, cell.types, cell.sources)
            for start_ms, cell in tally.cells.items()
        )

    def may_be_within(
        self, start_ms: int, width_ms: int, types: Container[str], sources: Container[str]
    ) -> bool:
        """Return False if no event of this span, with these types and sources, can be one."""
        return (
            (self.first_ms is None or self.first_ms < start_ms + width_ms)
            and (self.end_ms is None or start_ms < self.end_ms)
            and (self.type is None or self.type in types or SOURCE_OTHER in types)
            and (self.source is None or self.source in sources or SOURCE_OTHER in sources)
        )


async def buckets(
    db: Database, tail: Tail, wanted: Wanted, newest: datetime | None
) -> AsyncGenerator[datetime]:
    """Give the starts of buckets that may hold what is wanted, from `newest` on backwards.

    None is the newest there is. Raises PyMongoError.
    """
    for start in _open(tail, wanted):
        if newest is None or start <= newest:
            yield start
    end = tail.state.listed_to
    if newest is not None and newest < end:
        end = min(end, newest + FINEST.width)
    async for start in _Closed(db, tail, wanted).below(_COARSEST, LONG_AGO, end):
        yield start


def _open(tail: Tail, wanted: Wanted) -> Iterator[datetime]:
    """Give the open buckets, the newest first; those of after the tail was read as well.

    What has come into a bucket since is looked for, unless that has very many frames.
    """
    read_ms = to_ms(bucket_of(to_ms(tail.at)))
    fresh = {from_ms(ms) for ms in range(read_ms, now_ms() + FINEST.bucket_ms, FINEST.bucket_ms)}
    for start in sorted(fresh | tail.fresh.keys(), reverse=True):
        if start < tail.state.listed_to:
            return
        sums = tail.fresh.get(start, Tally())
        grows = start in fresh and sums.frames <= PAGE_FRAMES_MAX
        if grows or not wanted.by_sums or wanted.may_be_in(sums):
            yield start


class _Closed:
    """The buckets that sums were made of, or will be."""

    def __init__(self, db: Database, tail: Tail, wanted: Wanted) -> None:
        self._db = db
        self._state = tail.state
        self._wanted = wanted

    async def below(self, depth: int, first: datetime, end: datetime) -> AsyncGenerator[datetime]:
        """Give buckets of 10 s within a span, last one first, looking for them level by level."""
        width = LEVELS[depth].width
        for start in sorted(await self._holding(depth, first, end), reverse=True):
            if depth == 0:
                yield start
                continue
            async for finer in self.below(depth - 1, start, min(end, start + width)):
                yield finer

    async def _holding(self, depth: int, first: datetime, end: datetime) -> set[datetime]:
        """Return the buckets of one level within a span that may hold what is wanted."""
        level, within = LEVELS[depth], {"$gte": first, "$lt": end}
        due = {start for start in self._state.due[depth] if first <= start < end}
        query = {"level": level.name, "start": within}
        there, without_cells = set(due), set(due)
        fields = {"start": 1, "pruned": 1, "dirty": 1, "expired": 1}
        async for row in rows_of(self._db, BUCKETS, query, fields):
            if is_expired(row):
                continue
            there.add(row["start"])
            if row.get("pruned"):
                without_cells.add(row["start"])
        if not self._wanted.by_sums:
            return there
        cells = rows_of(self._db, ROLLUPS, {"level": level.name} | self._span(depth, within))
        found = {cell["bucket"] async for cell in cells if self._is_in(level, cell)}
        return without_cells | there & found

    def _span(self, depth: int, within: Document) -> Document:
        """Return the condition for cells: by their own time where all of history would be read."""
        at: Document = {}
        if depth == _COARSEST and self._wanted.first_ms is not None:
            at["$gte"] = LEVELS[depth].start(from_ms(self._wanted.first_ms))
        if depth == _COARSEST and self._wanted.end_ms is not None:
            at["$lt"] = from_ms(self._wanted.end_ms)
        # One store takes the first index that fits, so only one may.
        return {"at": at} if at else {"bucket": within}

    def _is_in(self, level: Level, cell: Document) -> bool:
        names = dict(cell["types"]), dict(cell.get("sources", ((SOURCE_OTHER, 0),)))
        return self._wanted.may_be_within(to_ms(cell["at"]), level.cell_ms, *names)
