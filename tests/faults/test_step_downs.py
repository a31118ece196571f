"""A store whose primary steps down again and again while workers write to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from evp.settings import Settings
from evp.storage import schema
from evp.stream.client import Link
from tests.support.servers import Server, obedient_store
from tests.support.stores import MAY_LEAVE_SOCKETS, documents, store
from tests.support.streams import append_events
from tests.support.verifying import clean
from tests.support.workers import changed, heard, of_level, until_drained, working

pytestmark = [pytest.mark.timeout(180), MAY_LEAVE_SOCKETS]

FRAMES = 300
STEP_DOWNS = 8


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Server]:
    """A store that is a member of a replica set, and may be told to step down."""
    server = obedient_store(tmp_path)
    server.start()
    yield server
    server.kill()


async def test_primary_steps_down(link: Link, settings: Settings, member: Server) -> None:
    """Each event is stored once and none is given up, however often there is no primary."""
    settings = changed(settings, mongo_url=member.url, read_count=5)
    with heard() as lines:
        async with working(settings, in_flight=2), working(settings):
            stepping = asyncio.create_task(step_down(member.url))
            for first in range(0, FRAMES * 5, 50):
                await append_events(settings, 50, first=first, each=5)
                await asyncio.sleep(0.3)
            await stepping
            async with asyncio.timeout(60):
                await until_drained(settings)
    assert len(of_level(lines, "warning")) > 1
    async with store(member.url, settings.mongo_db) as db:
        found = await db[schema.EVENTS].find({}, {"id": 1}).to_list()
        assert Counter(one["id"] for one in found) == Counter(f"e{n}" for n in range(FRAMES * 5))
        assert sum(one["stored"] for one in await documents(db, schema.OUTCOMES)) == FRAMES * 5
        assert await documents(db, schema.DEAD_LETTERS) == []
        await clean(settings)


async def step_down(url: str) -> None:
    """Tell the primary to step down, for a second each time."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url)
    try:
        for _ in range(STEP_DOWNS):
            # It closes connections over it, this one as well.
            with contextlib.suppress(PyMongoError):
                await client.admin.command({"replSetStepDown": 1, "force": True})
            await asyncio.sleep(2.0)
    finally:
        await client.close()
