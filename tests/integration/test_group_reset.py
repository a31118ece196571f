"""Making a group and setting it elsewhere: told before it is done, and no event is lost by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from evp.errors import UsageError
from evp.frame import entry_ms
from evp.groups.book import GroupBook
from evp.groups.reset import Reset, Resetter
from evp.limits import GROUP_RESET_TRIES_MAX
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage.client import Database
from evp.stream.client import Link, pairs
from evp.stream.groups import existing_groups, registered_groups
from evp.stream.headers import Header, headers
from evp.stream.keys import Keys
from evp.stream.positions import EARLIEST, LATEST, Standing, moment, standing
from evp.stream.slots import Slot
from evp.stream.trim import Retention, trim
from evp.verify.report import Kind, Scope
from tests.support.make import event
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import append_events, consumer
from tests.support.verifying import Accepting, accepting, clean, look
from tests.support.wait import until
from tests.support.workers import changed, drain

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

GROUP = "analytics"
NOW = Retention(0, 0)


@pytest.fixture(autouse=True)
def _readers_leave_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has read counts as gone at once: tests don't wait ten seconds."""
    monkeypatch.setattr("evp.groups.book.GROUP_READ_MS", 0)


@pytest.fixture
async def server(db: Database, link: Link, settings: Settings) -> AsyncIterator[Accepting]:
    """A server process."""
    async with accepting(settings) as server:
        yield server


def quietly(_done: int, _total: int) -> None:
    """Tell nobody how far it is."""


async def plan(settings: Settings, target: str, group: str | None = None) -> Reset:
    """Tell what setting a group elsewhere means."""
    async with Resetter.opened(settings, group or settings.consumer_group) as resetter:
        return await resetter.plan(target, quietly)


async def execute(
    settings: Settings, target: str, group: str | None = None, *, force: bool = False
) -> Reset:
    """Set a group elsewhere."""
    async with Resetter.opened(settings, group or settings.consumer_group) as resetter:
        return await resetter.execute(target, quietly, force=force)


async def group_facts(link: Link, keys: Keys) -> dict[str, Any]:
    """Return what XINFO tells of the only group."""
    [row] = await link.call("XINFO", "GROUPS", keys.stream)
    return {name.decode(): value for name, value in pairs(row)}


async def entry_ids(link: Link, keys: Keys) -> list[str]:
    """Return the ids of all entries."""
    return [entry.decode() for entry, _ in await link.call("XRANGE", keys.stream, "-", "+")]


async def test_nothing_is_done_unless_it_is_executed(
    settings: Settings, keys: Keys, link: Link, db: Database
) -> None:
    """A plan tells both places, what comes again and what the log has, and changes nothing."""
    await append_events(settings, 9, each=3)
    await drain(settings)
    before = await group_facts(link, keys)
    first, _, last = await entry_ids(link, keys)
    found = await plan(settings, EARLIEST)
    assert found.before.last is not None
    assert found.after.next is not None
    assert (found.before.last.entry_id, found.before.next) == (last, None)
    assert (found.after.last, found.after.next.entry_id) == (None, first)
    assert (found.again_events, found.skipped_events, found.missing_events) == (9, 0, 0)
    assert (found.log.events, found.log.trimmed_events, found.waiting_events) == (9, 0, 9)
    assert (found.writes, found.refused, found.executed) == (True, None, False)
    assert await group_facts(link, keys) == before


async def test_going_back_delivers_again_and_doubles_nothing(
    settings: Settings, keys: Keys, link: Link, db: Database
) -> None:
    """What is delivered once more is recognised; what the store had lost is there again."""
    await append_events(settings, 6, each=2)
    await drain(settings)
    for name in ("frames", "outcomes", "events"):
        await db[name].delete_many({})
    done = await execute(settings, EARLIEST)
    assert (done.executed, done.again_events) == (True, 6)
    await drain(settings)
    assert await db["events"].count_documents({}) == 6
    await execute(settings, EARLIEST)
    await drain(settings)
    assert await db["events"].count_documents({}) == 6
    assert (await group_facts(link, keys))["lag"] == 0


@pytest.mark.parametrize("shift_ms", [0, 1])
async def test_a_moment_is_the_first_entry_of_then_or_later(
    settings: Settings, keys: Keys, link: Link, db: Database, shift_ms: int
) -> None:
    """The entry of that very millisecond is delivered again, those before it are not."""
    for at_ms in (1_000, 2_000, 3_000):
        await link.call("XADD", keys.stream, f"{at_ms}-5", "event", '{"type":"t","source":"s"}')
    await link.call("XGROUP", "CREATE", keys.stream, GROUP, "$")
    done = await execute(settings, moment(2_000 + shift_ms), GROUP)
    assert done.after.next is not None
    assert done.after.next.entry_id == ("3000-5" if shift_ms else "2000-5")
    facts = await group_facts(link, keys)
    assert facts["last-delivered-id"] == (b"2000-5" if shift_ms else b"1000-5")


async def test_the_future_is_the_end(
    settings: Settings, keys: Keys, link: Link, db: Database
) -> None:
    """A moment that the log's clock has not reached skips nothing that is still to come."""
    await append_events(settings, 2)
    await link.call("XGROUP", "CREATE", keys.stream, GROUP, "0")
    await execute(settings, moment(10**14), GROUP, force=True)
    await append_events(settings, 1, first=2)
    assert (await plan(settings, EARLIEST, GROUP)).before.next is not None


async def test_lag_in_entries_stays_known(
    settings: Settings, keys: Keys, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a group is set XINFO can tell its lag, or says nothing; never a wrong number."""

    async def lag_at(target: str) -> int | None:
        await execute(settings, target, GROUP, force=True)
        lag: int | None = (await group_facts(link, keys))["lag"]
        return lag

    for number in range(8):
        at = f"{1 + number}-0"
        await link.call("XADD", keys.stream, at, "type", "t")
        await link.call("XADD", keys.index, at, "events", number, "bytes", number)
    await link.call("XGROUP", "CREATE", keys.stream, GROUP, "$")
    for name in (keys.stream, keys.index):
        await link.call("XTRIM", name, "MINID", "3-0")
    assert [await lag_at(moment(at_ms)) for at_ms in range(1, 10)] == [6, 6, 6, 5, 4, 3, 2, 1, 0]
    monkeypatch.setattr("evp.stream.positions.POSITION_ENTRIES_COUNTED_MAX", 2)
    assert [await lag_at(moment(at_ms)) for at_ms in (6, 7)] == [None, 2]
    # An entry that the index does not have, and then one that was deleted.
    await link.call("XADD", keys.stream, "9-0", "type", "t")
    assert [await lag_at(target) for target in (EARLIEST, moment(8), LATEST)] == [7, None, 0]
    await link.call("XDEL", keys.stream, "8-0")
    assert [await lag_at(target) for target in (LATEST, EARLIEST)] == [0, None]
    assert (await group_facts(link, keys))["entries-read"] is None


async def test_a_trim_stops_where_the_group_was_set(
    settings: Settings, keys: Keys, link: Link, db: Database
) -> None:
    """From the moment a group is set back, nothing that it is to be given again is trimmed."""
    await append_events(settings, 5)
    await drain(settings)
    await execute(settings, EARLIEST)
    assert (await trim(link, keys, [settings.consumer_group], NOW)).removed == 0
    await drain(settings)
    assert (await trim(link, keys, [settings.consumer_group], NOW)).removed == 5


async def test_trimmed_meanwhile(
    settings: Settings, keys: Keys, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trimmed between the look and the deed is not promised: it is looked again."""
    await append_events(settings, 5)
    await drain(settings)
    looks: list[Standing | None] = []

    async def trimmed_after(*arguments: Any) -> Any:
        seen = await standing(*arguments)
        if not looks:
            await link.call("XTRIM", keys.stream, "MAXLEN", 2)
        looks.append(seen)
        return seen

    monkeypatch.setattr("evp.groups.reset.standing", trimmed_after)
    done = await execute(settings, EARLIEST)
    assert (len(looks), done.again_events, done.log.trimmed_events) == (2, 2, 3)


async def test_read_by_meanwhile(
    settings: Settings, keys: Keys, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that is given something between look and deed, each time, is left alone."""
    await append_events(settings, 9)
    await link.call("XGROUP", "CREATE", keys.stream, GROUP, "0")

    async def read_after(*arguments: Any) -> Any:
        seen = await standing(*arguments)
        head = ("XREADGROUP", "GROUP", GROUP, "one", "COUNT", 1)
        await link.call(*head, "STREAMS", keys.stream, ">")
        return seen

    monkeypatch.setattr("evp.groups.reset.standing", read_after)
    with pytest.raises(UsageError, match="all the time"):
        await execute(settings, LATEST, GROUP, force=True)
    assert (await group_facts(link, keys))["pending"] == GROUP_RESET_TRIES_MAX


async def test_a_group_that_is_read_by_is_not_set(
    settings: Settings, keys: Keys, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a worker holds a name, or anyone has just read, it is refused, --force or not."""
    await append_events(settings, 2)
    slot = await Slot.take(settings.redis_url, keys, GROUP, "worker")
    reader = consumer(settings, slot.name, group=GROUP)
    await reader.ensure_group()
    await reader.read(1)
    await reader.close()
    with pytest.raises(UsageError, match="worker-1 reads by group analytics; stop it first"):
        await execute(settings, EARLIEST, GROUP, force=True)
    assert "worker-1" in str((await plan(settings, EARLIEST, GROUP)).refused)
    await slot.release()
    monkeypatch.setattr("evp.groups.book.GROUP_READ_MS", 60_000)
    with pytest.raises(UsageError, match=r"worker-1 read by group analytics \d+\.\d s ago"):
        await execute(settings, EARLIEST, GROUP)


async def test_the_writing_group_skips_nothing_that_is_not_stored(
    server: Accepting, settings: Settings, db: Database
) -> None:
    """It is refused with the number; forced, verify names just those, and --repair saves them."""
    await server.singles(2)
    await drain(settings)
    await server.frames([event(2), event(3)], [event(4)])
    await server.record_in_store(db)
    found = await plan(settings, LATEST)
    assert (found.skipped_events, found.missing_events) == (3, 3)
    with pytest.raises(UsageError, match="lacks 3 of the events it would pass over"):
        await execute(settings, LATEST)
    await clean(settings)
    done = await execute(settings, LATEST, force=True)
    assert (done.executed, done.missing_events) == (True, 3)
    await drain(settings)
    report = await look(settings, Scope(every_document=True, repair=True))
    assert [(one.kind, one.events) for one in report.findings] == [(Kind.ACKED_NOT_STORED, 3)]
    await drain(settings)
    assert (await clean(settings)).counts.stored == 5


async def test_undoing_a_step_back_loses_nothing(
    settings: Settings, keys: Keys, link: Link, db: Database
) -> None:
    """Events that the store has may be skipped, unforced; a plain entry is not among them."""
    await append_events(settings, 4, each=2)
    await drain(settings)
    await execute(settings, EARLIEST)
    done = await execute(settings, LATEST)
    assert (done.skipped_events, done.missing_events, done.executed) == (4, 0, True)
    await link.call("XADD", keys.stream, "*", "event", '{"type":"t","source":"s"}')
    with pytest.raises(UsageError, match="lacks 1 of the events"):
        await execute(settings, LATEST)


async def test_too_many_to_look_up_count_as_missing(
    settings: Settings, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a bound events are not looked up; they count as missing, which is the safe side."""
    await append_events(settings, 6)
    await drain(settings)
    await execute(settings, EARLIEST)

    async def two(link: Link, keys: Keys, after: str) -> list[Header]:
        return await headers(link, keys, after, 2)

    monkeypatch.setattr("evp.groups.reset.headers", two)
    monkeypatch.setattr("evp.groups.reset.GROUP_SKIPPED_FRAMES_MAX", 2)
    assert (await plan(settings, LATEST)).missing_events == 4


async def test_what_writes_elsewhere_skips_only_by_force(
    settings: Settings, keys: Keys, link: Link, db: Database
) -> None:
    """What a group that writes elsewhere has nobody can tell; one that is not there is refused."""
    await append_events(settings, 3)
    await link.call("XGROUP", "CREATE", keys.stream, GROUP, "0")
    with pytest.raises(UsageError, match="the 3 events it would pass over"):
        await execute(settings, LATEST, GROUP)
    assert (await plan(settings, EARLIEST, GROUP)).refused is None
    done = await execute(settings, LATEST, GROUP, force=True)
    assert (done.writes, done.skipped_events, done.executed) == (False, 3, True)
    with pytest.raises(UsageError, match="the log has no group nobody"):
        await plan(settings, LATEST, "nobody")


async def test_a_full_backlog_is_foretold(settings: Settings, link: Link, db: Database) -> None:
    """Where servers would refuse events while the group catches up, the plan has the numbers."""
    await append_events(settings, 3)
    await drain(settings)
    found = await plan(changed(settings, backlog_max=2), EARLIEST)
    assert (found.waiting_events, found.backlog_max) == (3, 2)


@pytest.fixture
async def book(settings: Settings) -> AsyncIterator[GroupBook]:
    """The groups of the test's stream."""
    async with GroupBook.opened(settings) as book:
        yield book


async def test_a_group_is_made_where_it_is_wanted(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """It is registered in store and log, holds the log from there on, and is made only once."""
    await append_events(settings, 4, each=2)
    ids = await entry_ids(link, keys)
    assert (await book.create("all", EARLIEST)).lag_events == 4
    made = await book.create("new", LATEST)
    assert (made.last_id, made.lag_events) == (ids[-1], 0)
    made = await book.create("old", moment(entry_ms(ids[0]) - 1))
    assert (made.last_id, made.lag_events) == ("0-0", 4)
    names = {"all", "new", "old"}
    assert await existing_groups(link, keys) == names
    assert await registered_groups(link, keys) == await store_groups.registered(db) == names
    assert (await trim(link, keys, names, NOW)).removed == 0
    with pytest.raises(UsageError, match="there is a group all already"):
        await book.create("all", LATEST)


async def test_a_group_is_made_before_the_first_event(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """Without a stream it is made as well, at its beginning, wherever it was wanted."""
    assert (await book.create(GROUP, LATEST)).lag_events == 0
    await append_events(settings, 1)
    assert (await group_facts(link, keys))["lag"] == 1


async def test_the_writing_group_is_made_at_the_beginning(
    settings: Settings, keys: Keys, link: Link, db: Database, book: GroupBook
) -> None:
    """What the log has accepted is not passed over by making its group anew."""
    await append_events(settings, 2)
    with pytest.raises(UsageError, match="begins at the earliest"):
        await book.create(settings.consumer_group, LATEST)
    assert await registered_groups(link, keys) == set()
    await drain(settings)
    await link.call("XGROUP", "DESTROY", keys.stream, settings.consumer_group)
    with pytest.raises(UsageError, match="begins at the earliest"):
        await book.create(settings.consumer_group, LATEST)
    assert (await book.create(settings.consumer_group, EARLIEST)).lag_events == 2


@pytest.mark.slow
@hypothesis.settings(
    max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    counts=st.tuples(*[st.integers(0, 3)] * 3),
    at=st.sampled_from([EARLIEST, LATEST, "first", "middle", "last"]),
    shift_ms=st.integers(-1, 1),
    is_trimmed=st.booleans(),
)
async def test_set_anywhere_each_event_is_stored_once(
    settings: Settings,
    keys: Keys,
    link: Link,
    db: Database,
    counts: tuple[int, int, int],
    at: str,
    shift_ms: int,
    *,
    is_trimmed: bool,
) -> None:
    """Some done, some pending, some new: set to any moment, and drained, each is there once."""
    settings = changed(settings, claim_idle_ms=1)
    await link.call("DEL", *keys.all())
    for name in await db.list_collection_names():
        await db[name].delete_many({})
    done, pending, new = counts
    await append_events(settings, done)
    await drain(settings)
    await append_events(settings, pending, first=done)
    dead = consumer(settings, "dead")
    await dead.read(10)
    await dead.close()
    await append_events(settings, new, first=done + pending)
    if is_trimmed:
        await trim(link, keys, [settings.consumer_group], NOW)

    async def is_set() -> bool:
        try:
            await execute(settings, await target_at(link, keys, at, shift_ms))
        except UsageError as error:
            if "stop it first" in str(error):
                return False  # On a busy machine the name of the worker before can outlive it.
            raise
        return True

    try:
        await until(is_set, what="nobody reads by the group, and it is set")
    except UsageError as error:
        assert new
        assert "of the events it would pass over" in str(error)
    await drain(settings)
    stored = [row["id"] async for row in db["events"].find({}, {"id": 1})]
    assert sorted(stored) == [f"e{number}" for number in range(sum(counts))]
    assert (await clean(settings)).counts.in_log_events == 0


async def target_at(link: Link, keys: Keys, at: str, shift_ms: int) -> str:
    """Return the target at, just before or just after one of the entries."""
    ids = await entry_ids(link, keys)
    places = {"first": 0, "middle": len(ids) // 2, "last": -1}
    if at not in places:
        return at
    return moment(entry_ms(ids[places[at]]) + shift_ms) if ids else EARLIEST
