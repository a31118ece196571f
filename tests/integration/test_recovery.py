"""What a worker left behind is taken up by others, and whoever is slow keeps what it has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from evp.errors import EntryDeleted, WritingGroupTaken
from evp.groups.book import GroupBook
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage import schema
from evp.storage.client import Database
from evp.storage.ledger import deleted_entries
from evp.stream.client import Link
from evp.stream.consumer import Consumer, Delivery
from evp.stream.groups import (
    delete_group,
    ensure_group,
    existing_groups,
    registered_groups,
    remove_consumer,
    remove_gone,
)
from evp.stream.keys import Keys
from evp.stream.slots import Slot
from evp.worker import upkeep
from tests.support.make import event
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS, documents, fail, store
from tests.support.streams import append, append_events, consumer
from tests.support.wait import until
from tests.support.workers import (
    Working,
    append_at_once,
    carrier_of,
    changed,
    drain,
    group_of,
    heard,
    is_drained,
    said,
    until_drained,
    until_pending,
    working,
)

pytestmark = MAY_LEAVE_SOCKETS

Opener = Callable[..., Consumer]


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Opener]:
    """Makes consumers that claim at once; closes them at the end."""
    made: list[Consumer] = []

    def open_one(name: str, **changes: Any) -> Consumer:
        made.append(consumer(settings, name, **({"claim_idle_ms": 0} | changes)))
        return made[-1]

    yield open_one
    for one in made:
        await one.close()


async def leave_pending(settings: Settings, name: str, count: int) -> list[str]:
    """Deliver entries to a consumer that goes away without a word; return their ids."""
    gone = consumer(settings, name)
    await gone.ensure_group()
    await append_events(settings, count)
    found = await gone.read(count)
    await gone.close()
    return [one.entry_id for one in found]


async def one_pass(claimer: Consumer) -> list[Delivery]:
    """Take over all that is stale, ten entries at a time."""
    return [one async for found in claimer.stale(lambda: 10) for one in found]


async def exactly(db: Database, count: int) -> None:
    """Check that the events e0, e1, … are stored once each."""
    found = await db[schema.EVENTS].find({}, {"id": 1}).to_list()
    assert Counter(one["id"] for one in found) == Counter(f"e{n}" for n in range(count))


# Claiming


async def test_a_live_worker_takes_over_what_a_dead_one_left(
    db: Database, link: Link, settings: Settings
) -> None:
    """Entries that nobody worked on for CLAIM_IDLE_MS are stored by whoever lives."""
    await leave_pending(settings, "gone-1", 3)
    async with working(changed(settings, claim_idle_ms=100)):
        await until_drained(settings)
    await exactly(db, 3)


async def test_nothing_is_taken_from_a_worker_before_its_time(
    db: Database, link: Link, settings: Settings
) -> None:
    """Entries that were delivered a moment ago stay with the one that has them."""
    await leave_pending(settings, "other-1", 2)
    async with working(changed(settings, claim_idle_ms=60_000)):
        await append_events(settings, 1, first=2)
        await until(lambda: stored_are(db, 1), what="the new one is stored")
    group = await group_of(settings)
    assert group is not None
    assert [(one.name, one.pending) for one in group.consumers] == [("other-1", 2)]


async def stored_are(db: Database, count: int) -> bool:
    """Return True if so many events are stored."""
    return await db[schema.EVENTS].count_documents({}) == count


@pytest.mark.slow
async def test_a_pass_goes_to_the_end(settings: Settings, link: Link, opened: Opener) -> None:
    """5,000 pending entries, ten at a time, are all claimed in one pass."""
    await append_at_once(settings, 5_000)
    gone = opened("gone-1", claim_idle_ms=60_000)
    await gone.ensure_group()
    for _ in range(5):
        assert len(await gone.read(1_000)) == 1_000
    claimed = Counter(one.entry_id for one in await one_pass(opened("c-2")))
    assert len(claimed) == 5_000
    assert set(claimed.values()) == {1}


async def test_a_pass_looks_beyond_entries_that_are_not_stale(
    settings: Settings, link: Link, opened: Opener
) -> None:
    """One call looks at ten times COUNT; what lies behind more than that is found all the same."""
    await append_at_once(settings, 300)
    gone, alive = (opened(name, claim_idle_ms=60_000) for name in ("gone-1", "alive-1"))
    await gone.ensure_group()
    found = [*await alive.read(250), *await gone.read(50)]
    stale = [one.entry_id for one in found[250:]]
    group = (settings.stream, settings.consumer_group)
    await link.call("XCLAIM", *group, "gone-1", 0, *stale, "IDLE", 3_600_000, "JUSTID")
    claimed = await one_pass(opened("c-2", claim_idle_ms=60_000))
    assert [one.entry_id for one in claimed] == stale


async def test_how_often_an_entry_was_delivered(
    settings: Settings, link: Link, opened: Opener
) -> None:
    """Each delivery counts, whether it is read again by its owner or claimed by another."""
    await append_events(settings, 1)
    first = opened("c-1")
    await first.ensure_group()
    assert [one.times for one in await first.read(1)] == [1]
    await first.reset()
    assert [one.times for one in await first.read(1)] == [2]
    second = opened("c-2")
    assert [one.times for one in await second.read(1)] == [3]


async def test_an_entry_deleted_while_it_was_stale_is_told_once(
    db: Database, link: Link, settings: Settings
) -> None:
    """A pending id without an entry raises an alarm and a count; the worker goes on."""
    entries = await leave_pending(settings, "gone-1", 3)
    await link.call("XDEL", settings.stream, entries[1])
    with heard() as lines:
        async with working(changed(settings, claim_idle_ms=100)):
            await until_drained(settings)
    assert await deleted_entries(db) == 1
    [alarm] = said(lines, "data loss: entries were deleted before they were acked")
    assert entries[1] in alarm["reason"]
    assert await documents(db, schema.DEAD_LETTERS) == []
    assert await stored_are(db, 2)


async def test_deleted_entries_of_a_claim_are_no_frames(
    settings: Settings, link: Link, opened: Opener
) -> None:
    """What a claim found deleted is told apart from what it claimed."""
    entries = await leave_pending(settings, "gone-1", 2)
    await link.call("XDEL", settings.stream, entries[0])
    found = await one_pass(opened("c-2"))
    assert [(one.entry_id, type(one.error)) for one in found] == [
        (entries[0], EntryDeleted),
        (entries[1], type(None)),
    ]


@pytest.mark.slow
async def test_a_slow_write_keeps_its_claim(
    settings: Settings, failing: Server, opened: Opener
) -> None:
    """While a write takes longer than CLAIM_IDLE_MS, no other worker gets its entries."""
    # The claim is renewed three times within it: enough for a machine that is busy.
    settings = changed(settings, mongo_url=failing.url, claim_idle_ms=1200, write_timeout_ms=5000)
    async with store(failing.url, settings.mongo_db) as db:
        slow = fail(db, "insert", blockConnection=True, blockTimeMS=3000)
        async with slow, working(settings):
            await append_events(settings, 1)
            await until_pending(settings, 1)
            other = opened("other-1", claim_idle_ms=1200)
            for _ in range(20):
                assert await one_pass(other) == []
                await asyncio.sleep(0.1)
        await drain(settings)
        assert [one["stored"] for one in await documents(db, schema.OUTCOMES)] == [1]


async def test_what_was_taken_over_is_no_longer_kept(
    settings: Settings, link: Link, opened: Opener
) -> None:
    """A worker that was paused learns that others have its entries, and takes none of them back."""
    await append_events(settings, 3)
    paused = opened("c-1")
    await paused.ensure_group()
    found = await paused.read(3)
    taken = await anext(opened("c-2").stale(lambda: 2))
    assert [one.entry_id for one in taken] == [one.entry_id for one in found[:2]]
    assert await paused.keep(found) == found[2:]
    group = await group_of(settings)
    assert group is not None
    assert [(one.name, one.pending) for one in group.consumers] == [("c-1", 1), ("c-2", 2)]


async def test_a_late_writer_changes_nothing(
    db: Database, settings: Settings, link: Link, opened: Opener
) -> None:
    """A worker that wakes up with a batch that another has written stores nothing twice."""
    await append_events(settings, 4, each=2)
    paused = opened("c-1")
    await paused.ensure_group()
    found, stop = await paused.read(2), asyncio.Event()
    second = opened("c-2")
    assert await carrier_of(settings, second, db).carry(await one_pass(second), stop)
    assert await carrier_of(settings, paused, db).carry(found, stop)
    await exactly(db, 4)
    assert [one["stored"] for one in await documents(db, schema.OUTCOMES)] == [2, 2]
    assert await is_drained(settings)


async def test_what_a_stopped_worker_gives_back_is_taken_at_once(
    link: Link, settings: Settings, failing: Server
) -> None:
    """A worker that is told to stop while the store is away leaves nothing to wait for."""
    settings = changed(settings, mongo_url=failing.url, shutdown_timeout_s=2.0)
    async with store(failing.url, settings.mongo_db) as db:
        async with fail(db, "insert", errorCode=112), working(settings):
            await append_events(settings, 2)
            # One batch is written again and again, and one was read ahead.
            await until_pending(settings, 2)
        async with working(changed(settings, consumer_name="other")):
            await until_drained(settings)
        await exactly(db, 2)


# Consumers that are gone


async def test_a_consumer_with_pending_entries_is_never_removed(
    settings: Settings, link: Link, keys: Keys, opened: Opener
) -> None:
    """Fifty pending entries outlive every removal, and are claimed afterwards."""
    await leave_pending(settings, "gone-1", 50)
    group = settings.consumer_group
    assert not await remove_consumer(link, keys, group, "gone-1")
    assert await remove_gone(link, keys, group, idle_ms=0) == []
    assert len(await one_pass(opened("c-2"))) == 50
    assert await remove_gone(link, keys, group, idle_ms=0) == ["gone-1"]


async def test_a_consumer_whose_name_is_held_is_not_removed(
    settings: Settings, link: Link, keys: Keys, opened: Opener
) -> None:
    """An idle worker keeps its place as long as it holds its lease."""
    slot = await Slot.take(settings.redis_url, keys, settings.consumer_group, "idle")
    reader = opened(slot.name)
    await reader.ensure_group()
    assert await reader.read(1) == []
    assert await remove_gone(link, keys, settings.consumer_group, idle_ms=0) == []
    await slot.release()
    assert await remove_gone(link, keys, settings.consumer_group, idle_ms=60_000) == []
    assert await remove_gone(link, keys, settings.consumer_group, idle_ms=0) == [slot.name]


async def test_a_stopped_worker_leaves_no_consumer(
    db: Database, link: Link, settings: Settings
) -> None:
    """Workers that come and go leave nothing behind under their names."""
    for number in range(5):
        async with working(changed(settings, consumer_name=f"pod-{number}")):
            await append_events(settings, 1, first=number)
            await until_drained(settings)
    group = await group_of(settings)
    assert group is not None
    assert group.consumers == []
    await exactly(db, 5)


async def test_workers_that_were_killed(settings: Settings, keys: Keys, link: Link) -> None:
    """A worker counts as killed once its name is free or another's, unless it ended well."""
    group = settings.consumer_group
    asking = await Slot.take(settings.redis_url, keys, group, "asking")
    well = await Slot.take(settings.redis_url, keys, group, "well")
    dead = await Slot.take(settings.redis_url, keys, group, "dead")
    everyone = [asking.incarnation, well.incarnation, dead.incarnation]
    assert await asking.killed(everyone) == set()
    await well.release()
    await link.call("DEL", keys.slot(group, dead.name))
    assert await asking.killed(everyone) == {dead.incarnation}
    again = await Slot.take(settings.redis_url, keys, group, "dead")
    assert again.name == dead.name
    assert await asking.killed([*everyone, again.incarnation]) == {dead.incarnation}
    for slot in (asking, dead, again):
        await slot.release()


# Groups


async def test_a_second_writing_group_is_refused(
    db: Database, link: Link, settings: Settings
) -> None:
    """Two groups would count each event twice; the second one has to be asked for."""
    await drain(settings)
    second = changed(settings, consumer_group="second")
    with pytest.raises(WritingGroupTaken, match="evp-workers-group"):
        await drain(second)
    assert await store_groups.registered(db) == {settings.consumer_group}
    await drain(second, take_over=True)
    assert await store_groups.registered(db) == {settings.consumer_group, "second"}
    with pytest.raises(WritingGroupTaken, match="second"):
        await drain(settings)


async def test_groups_become_the_writer_together(db: Database, settings: Settings) -> None:
    """Workers that start at once agree on one group."""
    names = [f"g{number % 2}" for number in range(8)]
    tries = [store_groups.become_writer(db, settings.stream, name) for name in names]
    results = await asyncio.gather(*tries, return_exceptions=True)
    holder = await store_groups.writer(db)
    assert holder is not None
    winners = {name for name, found in zip(names, results, strict=True) if found is None}
    assert winners == {holder[1]}
    assert sum(found is None for found in results) == 4


async def test_a_group_is_in_the_store_before_it_is_in_the_log(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """A worker's group is known to the store, registered in the log, and made."""
    await drain(settings)
    assert await store_groups.registered(db) == {settings.consumer_group}
    assert await link.call("SMEMBERS", keys.groups) == [settings.consumer_group.encode()]


async def test_events_accepted_between_loss_and_creation_are_delivered(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """A group that is made again begins at 0: a hundred events from before it was are stored."""
    await ensure_group(link, keys, settings.consumer_group)
    await link.call("XGROUP", "DESTROY", settings.stream, settings.consumer_group)
    await append(settings, *([event(number)] for number in range(100)))
    await drain(settings)
    await exactly(db, 100)


async def test_a_group_deleted_beside_its_worker_is_known_again(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """A live worker makes its group again; store and log have its name, and it is the writer."""
    await append_events(settings, 2)
    async with working(settings):
        await until_drained(settings)
        async with GroupBook.opened(settings) as book:
            await book.delete(settings.consumer_group, force=True)
        await append_events(settings, 2, first=2)
        await until_drained(settings)
        assert await store_groups.registered(db) == {settings.consumer_group}
        assert await registered_groups(link, keys) == {settings.consumer_group}
        assert await store_groups.writer(db) == (settings.stream, settings.consumer_group)
    await exactly(db, 4)


async def test_a_deleted_group_does_not_write_beside_its_successor(
    db: Database, link: Link, keys: Keys, settings: Settings
) -> None:
    """Where another group became the writer, the workers of a deleted one stop, and say why."""
    await append_events(settings, 2)
    worker = Working(settings)
    await until_drained(settings)
    await store_groups.forget(db, settings.consumer_group)
    await store_groups.become_writer(db, settings.stream, "second")
    await delete_group(link, keys, settings.consumer_group)
    with pytest.raises(WritingGroupTaken, match="second"):
        await worker.ended()
    assert await store_groups.registered(db) == {"second"}
    assert await existing_groups(link, keys) == set()


async def test_workers_of_a_group_that_was_taken_over_stop(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once another group was made the writer, workers of the old one end their batch and stop."""
    monkeypatch.setattr(upkeep, "_WRITER_LOOK_S", 0.1)
    await append_events(settings, 2)
    worker = Working(settings)
    await until_drained(settings)
    second = changed(settings, consumer_group="second", consumer_name="other")
    await drain(second, take_over=True)
    with pytest.raises(WritingGroupTaken, match="'second' of stream"):
        await worker.ended()
    group = await group_of(settings)
    assert group is not None
    assert (group.pending, group.consumers) == (0, [])
    await exactly(db, 2)


async def test_what_taking_over_does_is_told(db: Database, settings: Settings) -> None:
    """The refusal says what the other group is, what --take-over does, and what it leaves."""
    await store_groups.become_writer(db, settings.stream, "first")
    with pytest.raises(WritingGroupTaken) as refused:
        await store_groups.become_writer(db, settings.stream, "second")
    for part in ("'first' of stream", "--take-over", "stop within seconds", "groups delete"):
        assert part in str(refused.value)
