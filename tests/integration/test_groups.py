"""Deleting a consumer group: not while it is read by, nor while it has events to write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evp.errors import UsageError
from evp.groups.book import GroupBook
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage.client import Database
from evp.storage.ledger import record_worker
from evp.stream.client import Link, LogRefused
from evp.stream.groups import delete_group, ensure_group, existing_groups
from evp.stream.info import log_facts
from evp.stream.keys import Keys
from evp.stream.places import places_of
from evp.stream.positions import LATEST
from evp.stream.slots import Slot
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import append_events, consumer
from tests.support.workers import drain

pytestmark = MAY_LEAVE_SOCKETS

GROUP = "analytics"


@pytest.fixture
async def book(settings: Settings) -> AsyncIterator[GroupBook]:
    """The groups of the test's stream."""
    async with GroupBook.opened(settings) as book:
        yield book


async def read_one(settings: Settings, name: str, group: str = GROUP) -> None:
    """Read once by a group, under a name, and go without a word."""
    reader = consumer(settings, name, group=group)
    await reader.ensure_group()
    await append_events(settings, 1)
    await reader.read(1)
    await reader.close()


async def test_a_group_whose_name_is_held_is_in_use(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """As long as a worker holds a name of it, a group is not deleted, unless that is forced."""
    slot = await Slot.take(settings.redis_url, keys, GROUP, "worker")
    await read_one(settings, slot.name)
    with pytest.raises(UsageError, match="worker-1 reads by group analytics; stop it first"):
        await book.delete(GROUP)
    assert await existing_groups(link, keys) == {GROUP}
    await book.delete(GROUP, force=True)
    assert await existing_groups(link, keys) == set()
    await slot.release()


async def test_a_group_that_was_made_meanwhile(
    settings: Settings,
    keys: Keys,
    link: Link,
    db: Database,
    book: GroupBook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a worker makes the group in between, it is told as there: it stands at its place."""
    register = store_groups.register

    async def made_by_a_worker(*names: Any) -> None:
        await register(*names)
        await ensure_group(link, keys, GROUP)

    monkeypatch.setattr(store_groups, "register", made_by_a_worker)
    with pytest.raises(UsageError, match="there is a group analytics already"):
        await book.create(GROUP, LATEST)


async def test_a_reader_that_left_holds_nothing_up(
    settings: Settings,
    keys: Keys,
    link: Link,
    db: Database,
    book: GroupBook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader of another program counts as one for ten seconds after its last read."""
    await read_one(settings, "indexer")
    with pytest.raises(UsageError, match=r"indexer read by group analytics \d+\.\d s ago; stop it"):
        await book.delete(GROUP)
    assert await existing_groups(link, keys) == {GROUP}
    monkeypatch.setattr("evp.groups.book.GROUP_READ_MS", 1)
    await asyncio.sleep(0.01)
    await book.delete(GROUP)
    assert await existing_groups(link, keys) == set()


async def test_a_worker_without_its_consumer_is_in_use(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """A worker whose group the log has lost still keeps it: it is about to make it again."""
    slot = await Slot.take(settings.redis_url, keys, GROUP, "worker")
    await store_groups.register(db, GROUP)
    await record_worker(db, GROUP, slot.name, {}, within_s=5.0)
    with pytest.raises(UsageError, match="worker-1 reads by group analytics; stop it first"):
        await book.delete(GROUP)
    await slot.release()
    await book.delete(GROUP)
    assert await store_groups.registered(db) == set()


async def test_the_writing_group_is_kept_while_events_wait(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """Pending or undelivered, what the writing group would never write is told, and forced only."""
    group = settings.consumer_group
    await append_events(settings, 4, each=2)
    await drain(settings)
    await append_events(settings, 6, first=4, each=2)
    with pytest.raises(UsageError, match="6 events in the log that it would never write"):
        await book.delete(group)
    await read_one(settings, "gone", group)
    with pytest.raises(UsageError, match="7 events in the log that it would never write"):
        await book.delete(group)
    await link.call("XGROUP", "DESTROY", settings.stream, group)
    with pytest.raises(UsageError, match="11 events in the log that it would never write"):
        await book.delete(group)
    assert await store_groups.registered(db) == {group}
    await book.delete(group, force=True)
    assert await store_groups.registered(db) == set()


async def test_entries_of_other_programs_count_as_unwritten(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """Undelivered, pending, or with no group at all, plain entries keep the writing group too."""
    group, refused = settings.consumer_group, "has entries in the log that it would never write"
    await drain(settings)
    await link.call("XADD", settings.stream, "*", "event", '{"type":"t","source":"s"}')
    with pytest.raises(UsageError, match=refused):
        await book.delete(group)
    await link.call("XREADGROUP", "GROUP", group, "gone", "STREAMS", settings.stream, ">")
    with pytest.raises(UsageError, match=refused):
        await book.delete(group)
    await link.call("XGROUP", "DESTROY", settings.stream, group)
    with pytest.raises(UsageError, match=refused):
        await book.delete(group)
    assert await store_groups.registered(db) == {group}


async def test_the_writing_group_that_is_done_is_deleted(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """Once it has written everything, the writing group is deleted like any other."""
    await append_events(settings, 2)
    await drain(settings)
    await book.delete(settings.consumer_group)
    assert await store_groups.writer(db) is None
    assert await existing_groups(link, keys) == set()


async def test_a_refusal_is_not_taken_for_no_stream(link: Link, keys: Keys) -> None:
    """No stream is an answer; whatever else is refused is raised, as a stream that moved is."""
    assert await existing_groups(link, keys) == set()
    assert await places_of(link, keys, "1-0") == []
    assert (await log_facts(link, keys)).groups == []
    assert not await delete_group(link, keys, GROUP)
    await link.call("SET", keys.stream, "of another program")
    for ask in (existing_groups(link, keys), delete_group(link, keys, GROUP)):
        with pytest.raises(LogRefused, match="WRONGTYPE"):
            await ask
