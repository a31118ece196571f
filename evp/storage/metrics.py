"""Reading sums: rollups of buckets that are not due, and the frames of the others.

So what is read is what a count of everything would give, as soon as nothing is
under way: after crashes, redelivery and repairs alike. A coarse bucket is read
only if nothing finer within it is due.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime

from msgspec import Struct, field

from evp.batch.tally import Tally
from evp.clock import from_ms, to_ms
from evp.frame import MINUTE_MS
from evp.limits import CELLS_AT_ONCE
from evp.storage.buckets import FINEST, HOURLY, LEVELS
from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.minutes import Minutes
from evp.storage.schema import BUCKETS, ROLLUPS
from evp.storage.steps import GROUP_BY, Steps
from evp.storage.tail import LONG_AGO, State, Tail, TailReader, rows_of, span

_COARSEST = len(LEVELS) - 1


class Point(Struct):
    """Events whose time lies within one step, which starts at `start_ms`.

    `types` and `sources` are empty unless steps are divided by them.
    """

    start_ms: int
    stored: int = 0
    types: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)


class Metrics(Struct):
    """What is known of a span of time, as it was `at`.

    `stored`, `types`, `sources` and `series`, where steps without events are left out,
    go by the events' own time; `accepted` goes by the time of acceptance.
    """

    at: datetime
    stored: int
    types: Counter[str]
    sources: Counter[str]
    series: list[Point]
    accepted: Tally


class Kept(Struct, frozen=True):
    """What is at hand from before: the tail, which may be a few seconds old, and minutes."""

    tail: Tail
    minutes: Minutes


async def metrics(db: Database, first_ms: int, end_ms: int, step_ms: int) -> Metrics:
    """Return sums as `metrics_with`, as they are now. Raises StoreUnavailable."""
    kept = Kept(await TailReader(db).read(), Minutes())
    return await metrics_with(db, kept, first_ms, end_ms, step_ms)


async def metrics_with(
    db: Database,
    kept: Kept,
    first_ms: int,
    end_ms: int,
    step_ms: int,
    groups: Collection[str] = GROUP_BY,
) -> Metrics:
    """Return sums from `first_ms` to before `end_ms`, both rounded down to minutes.

    `step_ms` is a number of minutes; steps are counted from 1970, and divided by `groups`,
    of which very many names are not all there (`evp.storage.steps`). Of what was
    accepted so long ago that minutes are not kept, all that happened in an hour
    stands at its start. Raises StoreUnavailable.
    """
    tail = kept.tail
    first_ms, end_ms = (ms // MINUTE_MS * MINUTE_MS for ms in (first_ms, end_ms))
    first, end = from_ms(first_ms), from_ms(end_ms)
    steps, by_acceptance = Steps(step_ms, groups), Tally()
    for bucket, sums in tail.fresh.items():
        steps.add_cells(sums.cells, first_ms, end_ms)
        if first <= bucket < end:
            by_acceptance.add(sums)
    for sums in tail.pruned.values():
        steps.add_cells(sums.cells, first_ms, end_ms)
    with told():
        await _add_accounts(db, tail.state, by_acceptance, first, end)
        for depth, start_ms, stop_ms in _segments(_depth(step_ms), first_ms, end_ms):
            start, stop = from_ms(start_ms), from_ms(stop_ms)
            await _add_cells(db, tail.state, steps, depth, start, stop)
            if depth == 0:
                await _add_minutes(db, kept, steps, start, stop)
    by_acceptance.cells.clear()
    by_type = steps.by_type.steps if steps.by_type else {}
    by_source = steps.by_source.steps if steps.by_source else {}
    series = [
        Point(
            start_ms, stored, by_type.get(start_ms, Counter()), by_source.get(start_ms, Counter())
        )
        for start_ms, stored in sorted(steps.stored.items())
    ]
    total = steps.stored.total()
    return Metrics(tail.at, total, steps.types, steps.sources, series, by_acceptance)


async def accepted(db: Database) -> Tally:
    """Return the sums over all frames, without cells. Raises StoreUnavailable."""
    tally, tail = Tally(), await TailReader(db).read()
    for sums in tail.fresh.values():
        tally.add(sums)
    with told():
        await _add_accounts(db, tail.state, tally, LONG_AGO, tail.state.listed_to)
    tally.cells.clear()
    return tally


async def _add_accounts(
    db: Database, state: State, tally: Tally, first: datetime, end: datetime
) -> None:
    """Add the accounts of buckets that start within a span of acceptance."""
    for depth, start, stop in _spans(state, _COARSEST, first, min(end, state.listed_to)):
        query = {"level": LEVELS[depth].name, "start": {"$gte": start, "$lt": stop}}
        async for bucket in rows_of(db, BUCKETS, query):
            if bucket["start"] not in state.due[depth] and "account" in bucket:
                tally.add_account(bucket["account"])


async def _add_cells(
    db: Database, state: State, steps: Steps, depth: int, first: datetime, end: datetime
) -> None:
    """Add cells that start within a span of the events' time, whenever they were accepted.

    With depth 0 only those of what was accepted before minutes are kept.
    """
    added = 0
    for level, start, stop in _cell_spans(state, depth):
        # One store takes the first index that fits, so only one may.
        if start == LONG_AGO:
            which = {"at": {"$gte": first, "$lt": end}}
        else:
            which = {"bucket": {"$gte": start, "$lt": stop}}
        async for cell in rows_of(db, ROLLUPS, {"level": LEVELS[level].name} | which):
            if (
                first <= cell["at"] < end
                and start <= cell["bucket"] < stop
                and cell["bucket"] not in state.due[level]
                and (level or cell["bucket"] not in state.pruned)
            ):
                steps.add(to_ms(cell["at"]), cell["types"], cell.get("sources", ()))
                added += 1
                if added % CELLS_AT_ONCE == 0:
                    # The loop has requests to answer meanwhile.
                    await asyncio.sleep(0)


def _cell_spans(state: State, depth: int) -> Iterator[tuple[int, datetime, datetime]]:
    """Give spans as `_spans` for all that has sums; with depth 0 of long ago, by the hour."""
    if depth:
        return _spans(state, depth, LONG_AGO, state.listed_to)
    return _spans(state, 1, LONG_AGO, min(state.fine_from, state.listed_to))


async def _add_minutes(
    db: Database, kept: Kept, steps: Steps, first: datetime, end: datetime
) -> None:
    """Add cells by the minute of what was accepted since minutes are kept."""
    state = kept.tail.state
    since, until = state.fine_from, state.listed_to
    changing = {hour for hour in (*state.due[1], HOURLY.start(until)) if since <= hour < until}
    for hour in changing:
        query = {"level": FINEST.name, "bucket": span(HOURLY, hour)}
        async for cell in rows_of(db, ROLLUPS, query):
            is_summed = cell["bucket"] < until and cell["bucket"] not in state.due[0]
            if is_summed and first <= cell["at"] < end:
                steps.add(to_ms(cell["at"]), cell["types"], cell.get("sources", ()))
    # The other hours in which events of this span were accepted.
    at = {"level": HOURLY.name, "at": {"$gte": HOURLY.start(first), "$lt": end}}
    rows = rows_of(db, ROLLUPS, at, {"bucket": 1})
    hours = {row["bucket"] async for row in rows if since <= row["bucket"] < until} - changing
    if not hours:
        return
    within = {"level": HOURLY.name, "start": {"$gte": min(hours), "$lte": max(hours)}}
    rows = rows_of(db, BUCKETS, within, {"start": 1, "done": 1})
    # Versions before cells: what is kept may be newer than its version, and never older.
    versions = {row["start"]: row["done"] async for row in rows if row["start"] in hours}
    for hour, version in versions.items():
        cells = await kept.minutes.of(db, hour, version)
        steps.add_cells(cells, to_ms(first), to_ms(end))
        # Weeks of minutes take a while to add up; the loop has requests to answer meanwhile.
        await asyncio.sleep(0)


def _spans(
    state: State, depth: int, first: datetime, end: datetime
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
