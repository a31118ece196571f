"""A load test behind the server: events are looked up once each, and watched until they are there.

The database is prepared by hand, so that what was accepted and what is stored differ.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from bson import Binary

from evp.clock import monotonic_s
from evp.loadtest.check import Check, Checker, Sent
from evp.loadtest.counts import Sample
from evp.loadtest.events import id_of, source_of, stored_id
from evp.loadtest.watch import StoredWatch
from evp.signals import end
from evp.storage.client import Database
from tests.support.wait import until

BATCH = 3
TIME_MS = 1_767_323_045_000
Place = tuple[int, int, int]


def sent(accepted: bytes) -> Sent:
    """Return what a process sent: a request a millisecond."""
    return Sent(memoryview(array("q", range(TIME_MS, TIME_MS + len(accepted)))), accepted)


def document(place: Place, *, time_in_id: bool = True, **changes: Any) -> dict[str, Any]:
    """Return the document of an event by process, request and place."""
    time_ms = TIME_MS + place[1] if time_in_id else 0
    made = {
        "_id": Binary(stored_id("run", *place, time_ms), 4),
        "source": source_of("run"),
        "id": id_of(*place),
    }
    return made | changes


def places(process: int, *requests: int) -> list[Place]:
    """Return all events of some requests."""
    return [(process, number, place) for number in requests for place in range(BATCH)]


async def checked(db: Database, *processes: bytes, time_in_id: bool = True) -> Check:
    """Look up what these processes had accepted."""
    told: list[int] = []
    by_process = [sent(accepted) for accepted in processes]
    checker = Checker(db, "run", BATCH, by_process, time_in_id=time_in_id)
    check = await checker.run(told.append)
    assert told == sorted(told)
    return check


async def store(db: Database, documents: Iterable[dict[str, Any]]) -> None:
    """Put documents into the store, and one of another run."""
    other = {"_id": Binary(stored_id("other", 0, 0, 0, TIME_MS), 4), "source": "x", "id": "0.0-0"}
    await db.events.insert_many([*documents, other])


@pytest.mark.parametrize("time_in_id", [True, False], ids=["with time", "without time"])
async def test_all_are_there(db: Database, time_in_id: bool) -> None:  # noqa: FBT001 - a case
    """Everything is found once; what was never accepted and is stored all the same is no matter."""
    whole = [*places(0, 0, 1, 2), *places(1, 0)]
    await store(db, (document(place, time_in_id=time_in_id) for place in whole))
    check = await checked(db, b"\1\0\1", b"\1", time_in_id=time_in_id)
    assert check == Check(9, 9, 0, 0, [], [])


async def test_lost_events_are_named(db: Database) -> None:
    """Of accepted events those that are not stored are counted, and the first twenty named."""
    some = [(0, 0, 0), (0, 0, 2), *places(1, 0)]
    await store(db, map(document, some))
    check = await checked(db, b"\1\0" + b"\1" * 8, b"\1")
    assert (check.checked, check.found, check.lost, check.doubled) == (30, 5, 25, 0)
    expected = [(0, 0, 1), *places(0, *range(2, 10))]
    assert check.lost_ids == [id_of(*place) for place in expected[:20]]


async def test_doubled_events_are_named(db: Database) -> None:
    """An event that stands in two documents is found, whatever the second one's `_id` is."""
    twin = Binary(stored_id("elsewhere", 0, 0, 0, TIME_MS + 1), 4)
    whole = [document(place) for place in places(0, 0, 1)]
    await store(db, [*whole, document((0, 1, 2), _id=twin)])
    check = await checked(db, b"\1\1")
    assert check == Check(6, 6, 0, 1, [], ["0.1-2"])


async def test_nothing_was_accepted(db: Database) -> None:
    """Without accepted events there is nothing to look up."""
    assert await checked(db, b"\0", b"") == Check(0, 0, 0, 0, [], [])


@contextlib.asynccontextmanager
async def watching(db: Database, *numbers: int) -> AsyncIterator[StoredWatch]:
    """Watch the first events of these requests, all due now."""
    watch = StoredWatch(db, "run", time_in_id=True)
    for number in numbers:
        watch.add(Sample(0, number, 0, TIME_MS + number, monotonic_s()))
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        await end(task)


async def test_events_are_seen_as_they_come(db: Database) -> None:
    """An event is waited for until it is stored, and its time is as long as that took."""
    async with watching(db, 0) as watch:
        await asyncio.sleep(0.1)
        assert (watch.waiting, watch.latency.count) == (1, 0)
        await store(db, [document((0, 0, 0))])
        await until(lambda: not watch.waiting, what="it is seen")
        found = watch.latency.quantiles()
        assert found is not None
        assert found.max >= 100


async def test_one_that_never_comes_holds_no_other(db: Database) -> None:
    """Events behind missing ones are seen all the same, and those as well once they come."""
    missing = [*range(70), 500]
    async with watching(db, *range(1_000)) as watch:
        await store(db, (document((0, n, 0)) for n in range(1_000) if n not in missing))
        await until(lambda: watch.waiting == len(missing), what="all others are seen")
        await db.events.insert_many([document((0, n, 0)) for n in missing])
        await until(lambda: not watch.waiting, what="those are seen too")
        assert watch.latency.count == 1_000


async def test_watched_events_are_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait, no more are watched than the limit says."""
    monkeypatch.setattr("evp.loadtest.watch.LOADTEST_WATCHED_MAX", 10)
    async with watching(db, *range(100)) as watch:
        assert watch.waiting == 10
