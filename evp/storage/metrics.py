"""Reading sums: rollups of buckets that are not due, and the frames of the others.

So what is read is what a count of everything would give, as soon as nothing is
under way: after crashes, redelivery and repairs alike. A coarse bucket is read
only if nothing finer within it is due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime

import msgspec
from msgspec import Struct, field

from evp.batch.tally import Tally
from evp.clock import from_ms, to_ms
from evp.frame import MINUTE_MS
from evp.storage.buckets import FINEST, HOURLY, LEVELS, Level, frontier
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.lookup import portions
from evp.storage.schema import BUCKETS, FRAMES, OUTCOMES, ROLLUPS

_LONG_AGO = from_ms(0)
_COARSEST = len(LEVELS) - 1


class Point(Struct):
    """Events whose time lies within one step, which starts at `start_ms`."""

    start_ms: int
    stored: int = 0
    types: Counter[str] = field(default_factory=Counter)


class Metrics(Struct):
    """What is known of a span of time.

    `stored`, `types` and `series`, where steps without events are left out, go
    by the events' own time; `accepted` goes by the time of acceptance.
    """

    stored: int
    types: Counter[str]
    series: list[Point]
    accepted: Tally


async def metrics(db: Database, first_ms: int, end_ms: int, step_ms: int) -> Metrics:
    """Return sums from `first_ms` to before `end_ms`, both rounded down to minutes.

    `step_ms` is a number of minutes; steps are counted from 1970. Of what was
    accepted so long ago that minutes are not kept, all that happened in an hour
    stands at its start. Raises StoreUnavailable.
    """
    first_ms, end_ms = (ms // MINUTE_MS * MINUTE_MS for ms in (first_ms, end_ms))
    first, end = from_ms(first_ms), from_ms(end_ms)
    by_time, by_acceptance = Tally(), Tally()
    with told():
        state = await _look_with_pruned(db)
        async for outcome in _outcomes(db, state):
            by_time.add_outcome(outcome)
            if first <= outcome["accepted_at"] < end:
                by_acceptance.add_outcome(outcome)
        async for outcome in _pruned_outcomes(db, state):
            by_time.add_outcome(outcome)
        await _add_accounts(db, state, by_acceptance, first, end)
        for depth, start_ms, stop_ms in _segments(_depth(step_ms), first_ms, end_ms):
            await _add_cells(db, state, by_time, depth, from_ms(start_ms), from_ms(stop_ms))
    by_acceptance.cells.clear()
    points: dict[int, Point] = {}
    for at_ms, types in by_time.cells.items():
        if first_ms <= at_ms < end_ms:
            start_ms = at_ms // step_ms * step_ms
            points.setdefault(start_ms, Point(start_ms)).types.update(types)
    for point in points.values():
        point.stored = point.types.total()
    series = [points[start_ms] for start_ms in sorted(points)]
    types = sum((point.types for point in series), Counter[str]())
    return Metrics(types.total(), types, series, by_acceptance)


async def accepted(db: Database) -> Tally:
    """Return the sums over all frames, without cells. Raises StoreUnavailable."""
    tally = Tally()
    with told():
        state = await _look(db)
        async for outcome in _outcomes(db, state):
            tally.add_outcome(outcome)
        await _add_accounts(db, state, tally, _LONG_AGO, state.listed_to)
    tally.cells.clear()
    return tally


class _State(Struct, frozen=True):
    """Buckets from `listed_to` on have no sums yet; `due` has, by level, the others without.

    Those before `fine_from` may have no cells by the minute; `pruned` are some
    that have none and are not due, but their hours are.
    """

    listed_to: datetime
    due: list[set[datetime]]
    fine_from: datetime = _LONG_AGO
    pruned: set[datetime] = set()


async def _look(db: Database) -> _State:
    edge = await frontier(db)
    listed_to = edge.listed_to if edge else _LONG_AGO
    due: list[set[datetime]] = []
    for level in LEVELS:
        # From fine to coarse: a fold makes a bucket's parent due before it is done with it.
        query = {"fold_at": {"$gte": _LONG_AGO}, "level": level.name}
        rows = await db[BUCKETS].find(query, {"start": 1}).to_list()
        own = {row["start"] for row in rows if row["start"] < listed_to}
        due.append(own | {level.start(below) for below in (due[-1] if due else ())})
    return _State(listed_to, due, edge.fine_from if edge else _LONG_AGO)


async def _look_with_pruned(db: Database) -> _State:
    state = await _look(db)
    pruned: set[datetime] = set()
    for hour in state.due[1]:
        if hour < state.fine_from:
            query = {"level": FINEST.name, "start": _span(HOURLY, hour), "pruned": True}
            rows = await db[BUCKETS].find(query, {"start": 1}).to_list()
            pruned.update(row["start"] for row in rows)
    return msgspec.structs.replace(state, pruned=pruned - state.due[0])


async def _outcomes(db: Database, state: _State) -> AsyncIterator[Document]:
    """Give the outcomes of all frames that no sums have."""
    for bucket in ({"$gte": state.listed_to}, *state.due[0]):
        async for outcome in _outcomes_of(db, {"bucket": bucket}):
            yield outcome


async def _pruned_outcomes(db: Database, state: _State) -> AsyncIterator[Document]:
    """Give the outcomes of frames that only the accounts of buckets have."""
    for bucket in state.pruned:
        async for outcome in _outcomes_of(db, {"bucket": bucket}):
            yield outcome


async def _outcomes_of(db: Database, which: Document) -> AsyncIterator[Document]:
    rows = await db[FRAMES].find(which, {"_id": 1}).to_list()
    for portion in portions([row["_id"] for row in rows]):
        for outcome in await db[OUTCOMES].find({"_id": {"$in": portion}}).to_list():
            yield outcome


async def _add_accounts(
    db: Database, state: _State, tally: Tally, first: datetime, end: datetime
) -> None:
    """Add the accounts of buckets that start within a span of acceptance."""
    for depth, start, stop in _spans(state, _COARSEST, first, min(end, state.listed_to)):
        query = {"level": LEVELS[depth].name, "start": {"$gte": start, "$lt": stop}}
        async for bucket in db[BUCKETS].find(query):
            if bucket["start"] not in state.due[depth] and "account" in bucket:
                tally.add_account(bucket["account"])


async def _add_cells(
    db: Database, state: _State, tally: Tally, depth: int, first: datetime, end: datetime
) -> None:
    """Add cells that start within a span of the events' time, whenever they were accepted."""
    for level, start, stop in _cell_spans(state, depth):
        # One store takes the first index that fits, so only one may.
        if start in {_LONG_AGO, state.fine_from}:
            which = {"at": {"$gte": first, "$lt": end}}
        else:
            which = {"bucket": {"$gte": start, "$lt": stop}}
        async for cell in db[ROLLUPS].find({"level": LEVELS[level].name} | which):
            if (
                first <= cell["at"] < end
                and start <= cell["bucket"] < stop
                and cell["bucket"] not in state.due[level]
                and (level or cell["bucket"] not in state.pruned)
            ):
                tally.add_cell(to_ms(cell["at"]), cell["types"])


def _cell_spans(state: _State, depth: int) -> Iterator[tuple[int, datetime, datetime]]:
    """Give spans as `_spans` for all that has sums, of long ago by the hour at least."""
    if depth:
        yield from _spans(state, depth, _LONG_AGO, state.listed_to)
        return
    yield from _spans(state, 1, _LONG_AGO, min(state.fine_from, state.listed_to))
    yield from _spans(state, 0, state.fine_from, state.listed_to)


def _span(level: Level, start: datetime) -> Document:
    return {"$gte": start, "$lt": start + level.width}


def _spans(
    state: _State, depth: int, first: datetime, end: datetime
) -> Iterator[tuple[int, datetime, datetime]]:
    """Give spans of acceptance that make up a whole, each with the level at which to read it.

    Buckets of it that are due are to be left out: they are given again, finer.
    """
    if first >= end:
        return
    level = LEVELS[depth]
    if depth == 0:
        yield depth, first, end
        return
    inner_end = level.start(end)
    inner_first = level.start(first)
    if inner_first < first:
        inner_first += level.width
    if inner_first >= inner_end:
        yield from _spans(state, depth - 1, first, end)
        return
    yield depth, inner_first, inner_end
    yield from _spans(state, depth - 1, first, inner_first)
    yield from _spans(state, depth - 1, inner_end, end)
    for start in state.due[depth]:
        if inner_first <= start < inner_end:
            yield from _spans(state, depth - 1, start, start + level.width)


def _depth(step_ms: int) -> int:
    """Return the coarsest level whose cells fit into a step."""
    return max(depth for depth, level in enumerate(LEVELS) if step_ms % level.cell_ms == 0)


def _segments(depth: int, first_ms: int, end_ms: int) -> Iterator[tuple[int, int, int]]:
    """Give spans of the events' time that make up a whole, each with the level of its cells."""
    cell_ms = LEVELS[depth].cell_ms
    inner_first_ms = -(-first_ms // cell_ms) * cell_ms
    inner_end_ms = end_ms // cell_ms * cell_ms
    if first_ms >= end_ms:
        return
    if inner_first_ms >= inner_end_ms:
        yield from _segments(depth - 1, first_ms, end_ms)
        return
    yield depth, inner_first_ms, inner_end_ms
    if depth:
        yield from _segments(depth - 1, first_ms, inner_first_ms)
        yield from _segments(depth - 1, inner_end_ms, end_ms)
