"""Pages of stored events: a walk over all pages gives each once, in order, however stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from bson import ObjectId
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from evp.clock import from_ms, now_ms, to_ms
from evp.errors import StoreTooSlow
from evp.frame import MINUTE_MS, Frame
from evp.storage import listing, schema
from evp.storage.buckets import BUCKET_MS, bucket_of
from evp.storage.candidates import Wanted
from evp.storage.client import Database
from evp.storage.listing import page
from evp.storage.rollups import fold
from evp.storage.tail import TailReader
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, Listener, store
from tests.support.sums import fold_all, prune_all

pytestmark = MAY_LEAVE_SOCKETS

START_MS = 1_767_323_040_000
DAY_MS = 24 * 60 * MINUTE_MS
PAGES_MAX = 500

buckets = st.sampled_from([0, 1, 400, 9_000, 20_000])
frames = st.tuples(buckets, st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True))
steps = st.one_of(frames, frames, st.sampled_from(["fold", "fold all", "prune"]))
wanteds = st.builds(
    Wanted,
    type=st.none() | st.sampled_from(["t0", "t1", "none"]),
    source=st.none() | st.sampled_from(["s0", "s2", "none"]),
    subject=st.none() | st.sampled_from(["user_1", "none"]),
    first_ms=st.none() | st.sampled_from([START_MS - DAY_MS, START_MS - 30_000, START_MS]),
    end_ms=st.none() | st.sampled_from([START_MS - 30_000, START_MS + 1, START_MS + DAY_MS]),
)


def made(number: int) -> dict[str, Any]:
    """Return the event of a number, the same one each time."""
    time = from_ms(START_MS - number % 3 * (DAY_MS // 2) + number).isoformat()
    return event(number, time=time, type=f"t{number % 2}", source=f"s{number % 4}")


def frame_at(ms: int, numbers: list[int]) -> Frame:
    """Return a frame that the log took at `ms`."""
    return frame_of(*map(made, numbers), entry_id=f"{ms}-0")


async def walked(db: Database, wanted: Wanted, events_max: int) -> list[Any]:
    """Return the ids of all pages, in order."""
    found: list[Any] = []
    place = None
    for _ in range(PAGES_MAX):
        tail = await TailReader(db).read()
        one = await page(db, tail, wanted, place, events_max)
        assert len(one.events) <= events_max
        found += [event["_id"] for event in one.events]
        place = one.more_behind
        if place is None:
            return found
    raise AssertionError("the pages do not end")


async def stored(db: Database, is_wanted: Callable[[Any], bool]) -> list[Any]:
    """Return the ids of the same events in the same order, by looking at every document."""
    headers = {one["_id"]: one for one in await db[schema.FRAMES].find().to_list()}
    found = [one for one in await db[schema.EVENTS].find().to_list() if is_wanted(one)]

    def place(one: Any) -> tuple[Any, ObjectId, int]:
        header = headers[one["frame_id"]]
        ids = [header["ids"][start : start + 16] for start in range(0, len(header["ids"]), 16)]
        return header["bucket"], one["frame_id"], ids.index(bytes(one["_id"]))

    return [one["_id"] for one in sorted(found, key=place, reverse=True)]


def matches(wanted: Wanted, one: Any) -> bool:
    """Return whether a document is wanted."""
    time_ms = to_ms(one["time"])
    return (
        all(getattr(wanted, name) in {None, one[name]} for name in ("type", "source", "subject"))
        and (wanted.first_ms is None or wanted.first_ms <= time_ms)
        and (wanted.end_ms is None or time_ms < wanted.end_ms)
    )


@hypothesis.settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=2, max_size=10), st.lists(wanteds, min_size=1), st.integers(1, 9))
async def test_pages_are_what_stands_in_the_store(
    db: Database, happenings: list[Any], wants: list[Wanted], events_max: int
) -> None:
    """Summed up or not, pruned or not, with duplicates or without: each event once, in order."""
    await db.client.drop_database(db.name)
    await schema.ensure(db)
    for what in happenings:
        if what == "fold":
            await fold(db, now_ms() + 3_600_000)
        elif what == "fold all":
            await fold_all(db)
        elif what == "prune":
            await prune_all(db)
        else:
            bucket, numbers = what
            await Writer(db, WRITE_MS).write([frame_at(START_MS + bucket * BUCKET_MS, numbers)])
    for wanted in [Wanted(), *wants]:
        wanted_ids = await stored(db, lambda one, wanted=wanted: matches(wanted, one))  # type: ignore[misc]
        assert await walked(db, wanted, events_max) == wanted_ids


async def test_newest_event_is_there_at_once(db: Database) -> None:
    """A tail that was read a moment ago hides nothing that is stored since."""
    writer = Writer(db, WRITE_MS)
    await writer.write([frame_at(now_ms() - BUCKET_MS, [0])])
    await fold_all(db)
    tail = await TailReader(db).read()
    await writer.write([frame_at(now_ms(), [1])])
    for wanted in (Wanted(), Wanted(type="t1"), Wanted(first_ms=START_MS - DAY_MS)):
        found = await page(db, tail, wanted, None, 10)
        assert found.events[0]["id"] == "e1"


async def test_page_ends_early_and_goes_on(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that looked at as much as it may says where to go on, whatever it has found."""
    monkeypatch.setattr(listing, "PAGE_LOOKED_MAX", 3)
    writer = Writer(db, WRITE_MS)
    for bucket in range(3):
        for numbers in ([10 * bucket, 10 * bucket + 1], [10 * bucket + 2]):
            await writer.write([frame_at(START_MS + bucket * BUCKET_MS, numbers)])
    tail = await TailReader(db).read()
    first = await page(db, tail, Wanted(subject="nobody"), None, 5)
    assert (first.events, first.more_behind is None) == ([], False)
    assert await walked(db, Wanted(subject="nobody"), 5) == []
    assert len(await walked(db, Wanted(subject="user_1"), 5)) == 9


async def test_page_is_bounded_in_bytes(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large events make short pages, of one at least."""
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 1_000)
    frame = frame_of(*(event(n, data="x" * 900) for n in range(5)), entry_id=f"{START_MS}-0")
    await Writer(db, WRITE_MS).write([frame])
    tail = await TailReader(db).read()
    assert len((await page(db, tail, Wanted(), None, 5)).events) == 1
    assert len(await walked(db, Wanted(), 5)) == 5


async def test_rare_type_is_found_without_looking_at_all(store_url: str, db: Database) -> None:
    """Sums tell where a rare type is: hardly anything else is read."""
    writer = Writer(db, WRITE_MS)
    await writer.write([frame_at(START_MS, [0])])
    for bucket in range(1, 21):
        numbers = [1 + 2 * n for n in range(10 * bucket, 10 * bucket + 10)]
        await writer.write([frame_at(START_MS + bucket * 360 * BUCKET_MS, numbers)])
    await fold_all(db)
    listener = Listener()
    async with store(store_url, db.name, listener) as heard:
        tail = await TailReader(heard).read()
        listener.commands.clear()
        found = await page(heard, tail, Wanted(type="t0"), None, 10)
    assert [one["id"] for one in found.events] == ["e0"]
    assert found.more_behind is None
    asked = [command for name, command in listener.commands if name == "find events"]
    assert len(asked) == 1
    assert listener.names.count("find frames") <= 3


async def test_values_are_values(db: Database) -> None:
    """What looks like an operator, a pattern or a field is compared as a text."""
    await Writer(db, WRITE_MS).write([frame_at(START_MS, [0, 1])])
    for text in ("$ne", "", ".*", "{'$gt': ''}", "t0\0", "_id", "user_\x31.*"):
        assert await walked(db, Wanted(subject=text), 5) == []
        assert await walked(db, Wanted(type=text), 5) == []


async def test_tail_is_read_once(store_url: str, db: Database) -> None:
    """What can't change any more is not read again; what is new, or may change, is."""
    writer = Writer(db, WRITE_MS)
    await writer.write([frame_at(now_ms(), [0, 1]), frame_at(now_ms(), [2])])
    listener = Listener()
    async with store(store_url, db.name, listener) as heard:
        reader = TailReader(heard)
        assert sum(one.stored for one in (await reader.read()).fresh.values()) == 3
        listener.commands.clear()
        tail = await reader.read()
        assert sum(one.stored for one in tail.fresh.values()) == 3
        assert "find outcomes" not in listener.names
        await writer.write([frame_at(now_ms(), [3, 0])])
        tail = await reader.read()
        assert sum(one.stored for one in tail.fresh.values()) == 4
        assert sum(one.duplicate for one in tail.fresh.values()) == 1
        assert listener.names.count("find outcomes") == 1
        with pytest.raises(StoreTooSlow):
            await TailReader(heard, frames_max=2).read()
        await db[schema.FRAMES].delete_many({"bucket": {"$gte": bucket_of(0)}})
        assert (await reader.read()).fresh == {}
