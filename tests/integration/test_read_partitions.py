"""`trace`, `tap` and receipts find what is in any partition, and what of them is away is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evp.errors import LogUnavailable
from evp.identity import event_id
from evp.receipt import Receipt
from evp.server.waiting import LogPlace, Waiting
from evp.settings import Settings
from evp.storage import schema
from evp.storage.client import Database
from evp.stream.asking import asked
from evp.stream.client import KeptLink, Link, LogMoved
from evp.stream.keys import Keys
from evp.stream.partitions import note
from evp.tap.run import Tap
from evp.tap.showing import Portion
from evp.tap.wanted import Start, Wanted
from evp.trace.run import trace
from evp.trace.story import Fate, Story
from evp.trace.tell import Asked
from tests.support.make import event
from tests.support.missing import take_away
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import append, append_events
from tests.support.wait import WAIT_S_MAX
from tests.support.workers import changed, drain

pytestmark = MAY_LEAVE_SOCKETS

TIME_MS = 1_767_323_045_678
GROUP = "evp-workers-group"


@pytest.fixture
def three(settings: Settings) -> Settings:
    """Settings of three partitions."""
    return changed(settings, partitions=3)


def id_of(number: int) -> bytes:
    """Return the `_id` of a test's event."""
    return event_id("test", f"e{number}", TIME_MS)


async def told(settings: Settings, **asked: Any) -> Story:
    """Return the story of an event."""
    return await trace(settings, Asked(**asked), lambda _done, _total: None)


async def test_trace_by_a_receipt(three: Settings, link: Link, db: Database) -> None:
    """A receipt leads to its partition, though another one has an entry with the same id."""
    [entry] = await append(three, [event(0), event(1)], partition=2)
    await link.call("XADD", three.stream, entry, "type", "other")
    for fate in (Fate.PENDING, Fate.STORED):
        story = await told(three, receipt=Receipt(entry, 1, 2))
        [arrival] = story.arrivals
        assert (story.fate, arrival.partition, arrival.entry) == (fate, 2, entry)
        assert story.event is not None
        assert story.event["id"] == "e1"
        if fate == Fate.PENDING:
            await drain(three)
    # The log has lost it; whether it has begun the store tells by the partition as well.
    await link.call("DEL", Keys(three.stream, 2).stream)
    [arrival] = (await told(three, receipt=Receipt(entry, 1, 2))).arrivals
    assert (arrival.in_log, arrival.log_first, arrival.fate) == (False, None, Fate.STORED)


async def test_trace_by_an_id(
    three: Settings, link: Link, db: Database, settings: Settings
) -> None:
    """All partitions there ever were are searched, and each time it was sent is told."""
    await append(three, [event(0)])
    await append(three, [event(7), event(1)], partition=1)
    await append(three, [event(7)], partition=2)
    await note(link, Keys(settings.stream), 3)
    story = await told(settings, event_id=id_of(7))
    assert (story.fate, story.partitions) == (Fate.PENDING, 3)
    assert [one.partition for one in story.arrivals] == [1, 2]
    assert story.searched is not None
    assert (story.searched.events, story.searched.whole) == (4, True)
    await drain(three)
    story = await told(three, event_id=id_of(7), search=True)
    assert sorted(one.fate or "" for one in story.arrivals) == ["duplicate", "stored"]


async def test_trace_of_an_entry_that_can_not_be_read(
    three: Settings, link: Link, db: Database
) -> None:
    """Its dead letter is found by the name of its partition's stream."""
    entry = (await link.call("XADD", Keys(three.stream, 1).stream, "*", "v", "1")).decode()
    await drain(three)
    story = await told(three, receipt=Receipt(entry, 0, 1))
    assert (story.fate, len(story.dead_letters)) == (Fate.DEAD_LETTER, 1)
    assert (await told(three, receipt=Receipt(entry, 0, 0))).dead_letters == []
    assert await db[schema.DEAD_LETTERS].count_documents({}) == 1


async def test_trace_while_one_is_away(
    three: Settings, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others have is told all the same; only who needs it hears that it is away."""
    [entry] = await append(three, [event(0)], partition=2)
    take_away(monkeypatch, three, 1)
    story = await told(three, receipt=Receipt(entry, 0, 2))
    assert (story.fate, story.log_error) == (Fate.PENDING, None)
    story = await told(three, event_id=id_of(0))
    assert (story.fate, story.is_whole) == (Fate.PENDING, False)
    assert story.searched is not None
    assert (story.searched.events, story.searched.whole) == (1, False)
    assert story.log_error is not None
    assert story.log_error.startswith("partition 1: can't reach the log")
    assert (await told(three, event_id=id_of(1))).fate is None


async def test_a_receipt_that_waits(
    three: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server looks into the partition of a receipt, if there is one, and at no other's cost."""
    settings = changed(three, partitions=1)
    [_, entry] = await append(three, [event(0)], [event(1)], partition=2)
    waiting = Waiting(settings)
    asked = (id_of(1), Receipt(entry, 0, 2), GROUP)
    assert await waiting.place(*asked) is None
    # Servers with more partitions have begun.
    await note(link, Keys(settings.stream), 3)
    assert await waiting.place(*asked) == LogPlace(entry, 1)
    assert await waiting.place(id_of(1), Receipt(entry, 0, 0), GROUP) is None
    assert await waiting.place(id_of(1), Receipt(entry, 0, 3), GROUP) is None
    take_away(monkeypatch, three, 1)
    with pytest.raises(LogUnavailable):
        await waiting.place(id_of(1), Receipt(entry, 0, 1), GROUP)
    assert await waiting.place(*asked) == LogPlace(entry, 1)
    await waiting.close()


@asynccontextmanager
async def tapped(
    settings: Settings, start: Start, *, per_s: float = 10_000, most: int | None = None
) -> AsyncIterator[Tap]:
    """Give a tap that has begun."""
    tap = Tap(settings, Wanted(), shown_per_s=per_s, shown_max=most)
    try:
        await tap.begin(start)
        yield tap
    finally:
        await tap.close()


async def shown(tap: Tap, count: int) -> list[Portion]:
    """Return portions until they have so many events."""
    found: list[Portion] = []
    async with asyncio.timeout(WAIT_S_MAX):
        while sum(len(one.events) for one in found) < count:
            found.append(await tap.next())
    return found


def ids(portions: list[Portion]) -> list[str]:
    """Return the ids of the events of portions, sorted."""
    return sorted(one["id"] for portion in portions for one in portion.events)


async def test_tap_sees_all(three: Settings, link: Link) -> None:
    """What was there and what comes is shown, of all partitions, and limits are for them all."""
    for number in range(3):
        await append_events(three, 2, first=2 * number, partition=number)
    async with tapped(three, Start(earliest=True), most=8) as tap:
        assert ids(await shown(tap, 6)) == [f"e{number}" for number in range(6)]
        for number in range(3):
            await append_events(three, 1, first=6 + number, partition=number)
        await shown(tap, 2)
        assert tap.is_done
        assert tap.counts.shown == 8


async def test_tap_shows_no_more_for_more_partitions(three: Settings, link: Link) -> None:
    """So many a second are shown altogether; the rest of all of them is counted."""
    async with tapped(three, Start(), per_s=8) as tap:
        for number in range(3):
            await append_events(three, 100, first=100 * number, each=50, partition=number)
        async with asyncio.timeout(WAIT_S_MAX):
            while tap.counts.shown + tap.counts.passed_over < 300:
                await tap.next()
        assert tap.counts.shown < 40


async def test_tap_of_a_partition_that_is_new(
    settings: Settings, three: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found, and read from its first entry on."""
    monkeypatch.setattr("evp.tap.run.PARTITIONS_LOOK_S", 0.0)
    await append_events(three, 1)
    async with tapped(settings, Start()) as tap:
        await note(link, Keys(settings.stream), 3)
        await append_events(three, 2, first=1, partition=2)
        assert ids(await shown(tap, 2)) == ["e1", "e2"]


async def test_tap_while_one_is_away(
    three: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops nobody, is told once, and is read when it is back."""
    for number in (0, 2):
        await append_events(three, 1, first=number, partition=number)
    take_away(monkeypatch, three, 1)
    async with tapped(three, Start(earliest=True)) as tap:
        found = await shown(tap, 2)
        assert ids(found) == ["e0", "e2"]
        async with asyncio.timeout(WAIT_S_MAX):
            while not any(one.notice for one in found):
                found.append(await tap.next())
        found += [await tap.next() for _ in range(6)]
        [notice] = [one.notice for one in found if one.notice]
        assert notice.startswith("partition 1: can't reach the log")
        monkeypatch.undo()
        await append_events(three, 1, first=1, partition=1)
        back = await shown(tap, 1)
        assert (ids(back), "partition 1: the log is back" in [one.notice for one in back]) == (
            ["e1"],
            True,
        )


async def test_tap_while_all_are_away(three: Settings) -> None:
    """Then there is nothing to begin with."""
    tap = Tap(changed(three, redis_url="redis://127.0.0.1:1"), Wanted(), shown_per_s=1)
    with pytest.raises(LogUnavailable):
        await tap.begin(Start())
    await tap.close()


async def test_a_stream_that_moves_is_asked_again(
    settings: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a cluster moves a slot its nodes send callers on; that ends, or they give up."""
    kept = KeptLink(settings.redis_url, Keys(settings.stream))
    moves = 2

    async def ask(link: Link) -> str:
        nonlocal moves
        moves -= 1
        if moves >= 0:
            raise LogMoved("to another node")
        return str(await link.call("ECHO", "here"), "ascii")

    assert await asked(kept, ask) == "here"
    moves = 1_000_000
    monkeypatch.setattr("evp.stream.asking.LOG_MOVED_S_MAX", 0.1)
    with pytest.raises(LogMoved):
        await asked(kept, ask)
    await kept.close()
