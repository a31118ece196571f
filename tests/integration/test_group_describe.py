"""`evp groups describe`: where a group stands, and who of its consumers is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from evp.clock import from_ms, now
from evp.errors import LogUnavailable, StoreUnavailable, UsageError
from evp.frame import entry_ms
from evp.groups.describe import Described, State, describe
from evp.settings import Settings
from evp.storage import groups as store_groups
from evp.storage.client import Database
from evp.storage.ledger import record_worker
from evp.stream.client import Link
from evp.stream.groups import ensure_group
from evp.stream.keys import Keys
from evp.stream.slots import Slot
from evp.views.groups import description_view
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.streams import append_events, consumer
from tests.support.workers import changed, drain
from tests.unit.test_views import text

pytestmark = MAY_LEAVE_SOCKETS

TOLD = {"host": "box", "pid": 7, "stored_per_s": 12.5}
AWAY = "mongodb://127.0.0.1:1"


@pytest.fixture
async def slot(settings: Settings, keys: Keys, db: Database) -> AsyncIterator[Slot]:
    """A name that a live worker holds; it has told the store of itself."""
    group = settings.consumer_group
    await store_groups.become_writer(db, settings.stream, group)
    slot = await Slot.take(settings.redis_url, keys, group, "worker")
    await record_worker(db, group, slot.name, TOLD, within_s=5)
    yield slot
    await slot.release()


async def read(settings: Settings, name: str, count: int) -> None:
    """Read as a consumer, and go without an ack."""
    reader = consumer(settings, name)
    await reader.ensure_group()
    for _ in range(count):
        await reader.read(1)
    await reader.close()


async def described(settings: Settings) -> Described:
    """Describe the group that is set."""
    return await describe(settings, settings.consumer_group)


def told(found: Described) -> list[Any]:
    """Return name, state, pending entries and host of each consumer."""
    return [(one.name, one.state, one.pending, one.host) for one in found.consumers]


async def test_position_and_consumers(
    settings: Settings,
    keys: Keys,
    link: Link,
    db: Database,
    slot: Slot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is delivered, acked and waiting is told by entry and time; so is who is dead."""
    await append_events(settings, 10, each=2)
    ids = [entry.decode() for entry, _ in await link.call("XRANGE", keys.stream, "-", "+")]
    await read(settings, slot.name, 1)
    await read(settings, "dead", 2)
    await link.call("XACK", keys.stream, settings.consumer_group, ids[0])
    found = await described(settings)
    assert found.last_delivered is not None
    assert found.first_unacked is not None
    assert (found.last_delivered.entry_id, found.first_unacked.entry_id) == (ids[2], ids[1])
    assert found.first_unacked.at == from_ms(entry_ms(ids[1]))
    assert (found.lag_events, found.pending_events, found.pending_entries) == (4, 4, 2)
    assert found.lag_s > 0
    assert (found.writes, found.registered, found.store_error) == (True, True, None)
    assert told(found) == [
        ("dead", State.READS, 2, None),
        ("worker-1", State.WORKS, 0, "box"),
    ]
    assert found.consumers[1].heard_at is not None
    monkeypatch.setattr("evp.groups.describe.GROUP_READ_MS", 0)
    monkeypatch.setattr("evp.groups.describe.GROUP_CONSUMERS_NAMED_MAX", 1)
    found = await described(settings)
    assert (told(found), found.consumers_total) == ([("dead", State.GONE, 2, None)], 2)
    assert "and 1 more" in text(description_view(found))


async def test_a_group_that_has_done_all(settings: Settings, link: Link, db: Database) -> None:
    """Where nothing waits, nothing is unacked, and behind is zero."""
    await append_events(settings, 2)
    await drain(settings)
    found = await described(settings)
    assert (found.first_unacked, found.lag_events, found.lag_s) == (None, 0, 0)
    assert "none, all is done" in text(description_view(found))


async def test_a_worker_whose_group_is_lost(
    settings: Settings, keys: Keys, link: Link, db: Database, slot: Slot
) -> None:
    """A group that the log lost is told as missing, with the worker that will make it again."""
    await append_events(settings, 4)
    for name in (keys.stream, keys.index):
        await link.call("XTRIM", name, "MAXLEN", 3)
    found = await described(settings)
    assert (found.exists, found.lag_events) == (False, 3)
    assert told(found) == [("worker-1", State.LOST, 0, "box")]
    assert "missing from the log" in text(description_view(found))


async def test_long_silent_workers_are_remembered(
    settings: Settings, link: Link, db: Database
) -> None:
    """What a worker told last is shown however long ago that was, as long as it is a consumer."""
    await read(settings, "worker-9", 0)
    await link.call(
        "XGROUP", "CREATECONSUMER", settings.stream, settings.consumer_group, "worker-9"
    )
    await record_worker(db, settings.consumer_group, "worker-9", TOLD, within_s=5)
    long_ago = now() - timedelta(days=2)
    await db["workers"].update_one({}, {"$set": {"seen_at": long_ago}})
    [one] = (await described(settings)).consumers
    assert (one.host, one.pid) == ("box", 7)


async def test_store_away(
    settings: Settings, keys: Keys, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the store all that the log knows is told, and what it does not know is null."""
    monkeypatch.setattr("evp.groups.describe.GROUP_STORE_S_MAX", 0.2)
    away = changed(settings, mongo_url=AWAY)
    await append_events(settings, 3)
    await ensure_group(link, keys, settings.consumer_group)
    found = await described(away)
    assert (found.lag_events, found.exists, found.registered, found.writes) == (3, True, True, None)
    shown = text(description_view(found))
    assert "without the store: the store can't be used now" in " ".join(shown.split())
    with pytest.raises(StoreUnavailable, match="the log has no group nobody, and the store"):
        await describe(away, "nobody")


async def test_who_does_not_exist(settings: Settings, link: Link, db: Database) -> None:
    """A group that neither side knows is a mistake; without a log there is nothing to tell."""
    with pytest.raises(UsageError, match="there is no group nobody"):
        await describe(settings, "nobody")
    with pytest.raises(LogUnavailable):
        await describe(changed(settings, redis_url="redis://127.0.0.1:1"), "nobody")


def test_nothing_commands_the_terminal() -> None:
    """Names that other programs chose are neither escape codes nor markup."""
    found = Described(
        name="a\x1b[2J",
        stream="s",
        database="d",
        at=now(),
        exists=True,
        writes=False,
        registered=False,
        last_delivered=None,
        first_unacked=None,
        lag_events=0,
        lag_s=0.0,
        pending_entries=0,
        pending_events=0,
        consumers_total=1,
        consumers=[],
    )
    shown = text(description_view(found))
    assert "\x1b" not in shown
    assert "not made by evp" in shown
