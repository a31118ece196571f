"""Whether every accepted event of a run is in the store, once.

Read by the events' own `id`, in one pass over the run's source: of how `_id`s are made
nothing is trusted but that their times lie between those of the run's events, so an event
that is stored under two of them shows. What the pass did not meet is looked up by `_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from evp.loadtest.events import id_of, place_of, source_of, stored_id
from evp.loadtest.limits import LOADTEST_NAMED_MAX
from evp.storage.account import ids_of_source, present
from evp.storage.client import Database

_PAGE_EVENTS = 10_000


class Sent(NamedTuple):
    """What one process sent: times of its requests by number, and 1 for each accepted one."""

    times_ms: memoryview
    accepted: bytes


class Check(Struct, frozen=True):
    """What was found of `checked` accepted events; some of the ids that are lost or doubled."""

    checked: int
    found: int
    lost: int
    doubled: int
    lost_ids: list[str]
    doubled_ids: list[str]


class Checker:
    """Compares what was accepted with what the store has."""

    def __init__(
        self, db: Database, run: str, batch: int, sent: Sequence[Sent], *, time_in_id: bool
    ) -> None:
        self._db = db
        self._run = run
        self._batch = batch
        self._sent = sent
        self._time_in_id = time_in_id
        self._seen = [bytearray(len(one.accepted) * batch) for one in sent]
        self._doubled: set[str] = set()
        self._lost = 0
        self._lost_ids: list[str] = []

    async def run(self, progress: Callable[[int], None]) -> Check:
        """Return what was found; `progress` is told how many so far. Raises StoreUnavailable."""
        expected = self._batch * sum(sum(one.accepted) for one in self._sent)
        found = 0
        source, bounds = source_of(self._run), self._bounds()
        async for ids in ids_of_source(self._db, source, bounds):
            found += self._mark(ids)
            progress(found)
        await self._look_up_unseen()
        return Check(
            checked=expected,
            found=expected - self._lost,
            lost=self._lost,
            doubled=len(self._doubled),
            lost_ids=self._lost_ids,
            doubled_ids=sorted(self._doubled)[:LOADTEST_NAMED_MAX],
        )

    def _bounds(self) -> tuple[int, int]:
        """Return the times between which all events lie, as they stand in `_id`."""
        times = [one.times_ms for one in self._sent if len(one.times_ms)]
        if not times or not self._time_in_id:
            return 0, 0
        # A clock may be set back meanwhile; so the ends are not simply the first and the last.
        return min(map(min, times)), max(map(max, times))

    def _mark(self, ids: Sequence[str]) -> int:
        """Take note of stored ids; return how many accepted ones were met for the first time."""
        fresh = 0
        for id_ in ids:
            process, number, place = place_of(id_)
            seen, where = self._seen[process], number * self._batch + place
            if seen[where]:
                self._doubled.add(id_)
            else:
                seen[where] = 1
                fresh += self._sent[process].accepted[number]
        return fresh

    async def _look_up_unseen(self) -> None:
        """Count as lost what is not there by its `_id` either."""
        unseen: dict[bytes, str] = {}
        for id_, name in self._unseen():
            unseen[id_] = name
            if len(unseen) == _PAGE_EVENTS:
                await self._count_lost(unseen)
                unseen = {}
        await self._count_lost(unseen)

    async def _count_lost(self, unseen: Mapping[bytes, str]) -> None:
        there = await present(self._db, list(unseen))
        lost = [name for id_, name in unseen.items() if id_ not in there]
        self._lost += len(lost)
        self._lost_ids += lost[: LOADTEST_NAMED_MAX - len(self._lost_ids)]

    def _unseen(self) -> Iterator[tuple[bytes, str]]:
        """Give `_id` and `id` of accepted events that the pass did not meet."""
        for process, (sent, seen) in enumerate(zip(self._sent, self._seen, strict=True)):
            for number, accepted in enumerate(sent.accepted):
                first = number * self._batch
                if not accepted or seen.count(0, first, first + self._batch) == 0:
                    continue
                time_ms = sent.times_ms[number] if self._time_in_id else 0
                for place in range(self._batch):
                    if not seen[first + place]:
                        id_ = stored_id(self._run, process, number, place, time_ms)
                        yield id_, id_of(process, number, place)
