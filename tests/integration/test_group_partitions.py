"""A consumer group of several partitions: made, told, set and deleted in all of them together."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rich.console import Console, RenderableType

from evp.errors import LogUnavailable, UsageError
from evp.groups import book as book_module
from evp.groups.book import GroupBook
from evp.groups.describe import describe
from evp.groups.reset import Reset, Resetter
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.groups import ensure_group, existing_groups
from evp.stream.keys import Keys
from evp.stream.positions import EARLIEST, LATEST
from evp.views.groups import description_view, group_table, reset_view
from tests.support.apart import move
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import append_events, consumer
from tests.support.workers import changed

pytestmark = MAY_LEAVE_SOCKETS

GROUP = "analytics"


@pytest.fixture(autouse=True)
def _readers_leave_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has read counts as gone at once: tests don't wait ten seconds."""
    monkeypatch.setattr(book_module, "GROUP_READ_MS", 0)


@pytest.fixture
def two(settings: Settings) -> Settings:
    """Settings with two partitions."""
    return changed(settings, partitions=2)


@pytest.fixture
async def book(two: Settings) -> AsyncIterator[GroupBook]:
    """The groups of both partitions."""
    async with GroupBook.opened(two) as book:
        yield book


def quietly(_done: int, _total: int) -> None:
    """Tell nobody how far it is."""


async def execute(settings: Settings, target: str, *, force: bool = False) -> Reset:
    """Set the group elsewhere."""
    async with Resetter.opened(settings, GROUP) as resetter:
        return await resetter.execute(target, quietly, force=force)


async def groups_of(link: Link, settings: Settings) -> list[set[str]]:
    """Return which groups each stream has."""
    streams = (Keys(settings.stream, number) for number in range(settings.partitions))
    return [await existing_groups(link, keys) for keys in streams]


def shown(view: RenderableType) -> str:
    """Return what people see, without line breaks."""
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(view)
    return " ".join(capture.get().split())


async def test_made_and_deleted_everywhere(
    two: Settings, link: Link, db: Database, book: GroupBook
) -> None:
    """A group is made in each stream at the same target, and is gone from each."""
    await append_events(two, 3)
    await append_events(two, 2, partition=1)
    made = await book.create(GROUP, EARLIEST)
    assert made.lag_events == 5
    assert await groups_of(link, two) == [{GROUP}, {GROUP}]
    with pytest.raises(UsageError, match="there is a group analytics already"):
        await book.create(GROUP, EARLIEST)
    [row] = await book.rows()
    assert (row.lag_events, row.exists, row.missing_from) == (5, True, [])
    await book.delete(GROUP)
    assert await groups_of(link, two) == [set(), set()]
    assert await store_groups.registered(db) == set()


async def test_one_that_is_missing_from_a_stream(
    two: Settings, link: Link, keys: Keys, db: Database, book: GroupBook
) -> None:
    """It is told where a group is missing; making it again completes it, and moves nothing."""
    await append_events(two, 3)
    await append_events(two, 2, partition=1)
    await store_groups.register(db, GROUP)
    await ensure_group(link, keys, GROUP)
    reader = consumer(two, group=GROUP)
    await reader.ensure_group()
    await reader.read(1)
    await reader.close()
    rows = await book.rows()
    assert [(one.name, one.exists, one.missing_from) for one in rows] == [(GROUP, False, [1])]
    assert "analytics is missing from partition 1" in shown(group_table(rows))
    with pytest.raises(UsageError, match="the log has no group analytics in partition 1"):
        await execute(two, EARLIEST)
    found = await describe(two, GROUP)
    assert [one.exists for one in found.partitions] == [True, False]
    assert "missing from partition 1: nothing is trimmed there" in shown(description_view(found))
    assert (await book.create(GROUP, LATEST)).lag_events == 2
    assert [one.exists for one in (await describe(two, GROUP)).partitions] == [True, True]


async def test_another_programs_group_need_not_be_everywhere(
    two: Settings, link: Link, db: Database, book: GroupBook
) -> None:
    """A group that evp did not make is not missing where nobody made it."""
    await append_events(two, 1, partition=1)
    await link.call("XGROUP", "CREATE", Keys(two.stream, 1).stream, "theirs", "0")
    [row] = await book.rows()
    assert (row.registered, row.exists, row.missing_from, row.pins) == (False, True, [], True)


async def test_described(two: Settings, link: Link, db: Database, book: GroupBook) -> None:
    """Sums are told, the oldest entry that is not acked, and each stream by itself."""
    await append_events(two, 2)
    await append_events(two, 4, each=2, partition=1)
    await book.create(GROUP, EARLIEST)
    reader = consumer(two, group=GROUP, partition=1)
    await reader.read(1)
    await reader.close()
    found = await describe(two, GROUP)
    assert (found.lag_events, found.pending_entries, found.pending_events) == (4, 1, 2)
    assert found.first_unacked == found.partitions[0].first_unacked
    assert found.last_delivered == found.partitions[1].last_delivered
    rows = found.partitions
    assert [(one.lag_events, one.pending_events) for one in rows] == [(2, 0), (2, 2)]
    assert [(one.name, one.pending) for one in found.consumers] == [("c-1", 1)]
    assert rows[1].server in shown(description_view(found))


async def test_set_everywhere(two: Settings, link: Link, db: Database, book: GroupBook) -> None:
    """What a reset means is told for each stream and in sums, and it is done in all."""
    await append_events(two, 2)
    await append_events(two, 3, partition=1)
    await book.create(GROUP, EARLIEST)
    async with Resetter.opened(two, GROUP) as resetter:
        plan = await resetter.plan(LATEST, quietly)
    assert (plan.skipped_events, plan.waiting_events, plan.log.events) == (5, 0, 5)
    assert [one.skipped_events for one in plan.partitions] == [2, 3]
    assert plan.refused is not None
    text = shown(reset_view(plan))
    assert "partition from to again skipped waiting" in text
    assert (await execute(two, LATEST, force=True)).executed
    assert (await book.rows())[0].lag_events == 0
    assert (await execute(two, EARLIEST)).again_events == 5
    assert [one.lag_events for one in (await describe(two, GROUP)).partitions] == [2, 3]


async def test_nothing_is_done_where_one_stream_refuses(
    two: Settings, link: Link, db: Database, book: GroupBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader in one stream keeps the group in all of them, set and there."""
    await book.create(GROUP, EARLIEST)
    await append_events(two, 1)
    monkeypatch.setattr(book_module, "GROUP_READ_MS", 60_000)
    reader = consumer(two, "indexer", group=GROUP, partition=1)
    await append_events(two, 1, partition=1)
    await reader.read(1)
    await reader.close()
    with pytest.raises(UsageError, match="indexer read by group analytics"):
        await book.delete(GROUP)
    with pytest.raises(UsageError, match="indexer read by group analytics"):
        await execute(two, LATEST, force=True)
    found = await describe(two, GROUP)
    assert [one.lag_events for one in found.partitions] == [1, 0]


async def test_one_stream_is_away(
    two: Settings,
    link: Link,
    db: Database,
    book: GroupBook,
    own_log_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is changed without one of the streams; the others are described all the same."""
    move(monkeypatch, two, 1, own_log_server)
    await append_events(two, 2)
    await book.create(GROUP, EARLIEST)
    await asyncio.to_thread(own_log_server.kill)
    found = await describe(two, GROUP)
    assert (found.lag_events, found.partitions[0].away) == (2, None)
    assert "partition 1 is away: can't reach the log" in shown(description_view(found))
    for act in (book.delete(GROUP), book.delete(GROUP, force=True), execute(two, LATEST)):
        with pytest.raises(LogUnavailable, match="partition 1: can't reach the log"):
            await act
    assert await store_groups.registered(db) == {GROUP}
    assert (await describe(two, GROUP)).exists


async def test_one_stream_goes_away_meanwhile(
    two: Settings,
    link: Link,
    db: Database,
    book: GroupBook,
    own_log_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was done in some streams is told; once the others are back, it is done in all."""
    move(monkeypatch, two, 1, own_log_server)
    register = store_groups.register

    async def killing(*names: Any) -> None:
        await register(*names)
        await asyncio.to_thread(own_log_server.kill)

    monkeypatch.setattr(store_groups, "register", killing)
    told = r"group analytics is made in partition 0 and not in partition 1 \(.*\); do it again"
    with pytest.raises(LogUnavailable, match=told):
        await book.create(GROUP, EARLIEST)
    monkeypatch.undo()
    await asyncio.to_thread(own_log_server.start)
    move(monkeypatch, two, 1, own_log_server)
    await book.create(GROUP, EARLIEST)
    assert [one.exists for one in (await describe(two, GROUP)).partitions] == [True, True]
