"""How a server keeps what no sums have at hand, for as long as somebody asks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from evp.clock import now_ms
from evp.frame import MINUTE_MS
from evp.server import reading
from evp.server.reading import Reading
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS
from tests.support.wait import until

pytestmark = MAY_LEAVE_SOCKETS

DAY_MS = 24 * 60 * MINUTE_MS


@pytest.fixture
async def reader(
    settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Reading]:
    """A reading of the test's database that keeps no answer and never waits for the tail."""
    assert db.name == settings.mongo_db
    monkeypatch.setattr(reading, "ANSWER_KEEP_S", 0.0)
    monkeypatch.setattr(reading, "TAIL_FRESH_S", 0.02)
    monkeypatch.setattr(reading, "TAIL_STALE_S_MAX", 1_000.0)
    one = Reading(settings)
    yield one
    await one.close()


async def stored(reader: Reading) -> int:
    """Return how many events there are by the sums."""
    return (await reader.metrics(0, now_ms() + DAY_MS, DAY_MS)).stored


async def test_what_is_new_is_counted_soon(reader: Reading, db: Database) -> None:
    """The tail is read again and again beside the answers, which never wait for it."""
    writer = Writer(db, WRITE_MS)
    await writer.write([frame_of(event(0), entry_id=f"{now_ms()}-0")])
    assert await stored(reader) == 1
    before = await reader.metrics(0, now_ms() + DAY_MS, DAY_MS)
    await writer.write([frame_of(event(1), entry_id=f"{now_ms()}-1")])

    async def is_counted() -> bool:
        return await stored(reader) == 2

    await until(is_counted, what="the new event is counted")
    assert (await reader.metrics(0, now_ms() + DAY_MS, DAY_MS)).at > before.at


async def test_nobody_asks_nothing_is_read(
    reader: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is left alone a while after the last question, until the next one."""
    monkeypatch.setattr(reading, "TAIL_KEPT_S", 0.1)
    assert await stored(reader) == 0
    keeping = reader._keeping
    assert keeping is not None
    await until(keeping.done, what="nothing is read any more")
    assert await stored(reader) == 0
    assert reader._keeping is not keeping
