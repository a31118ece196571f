"""The store away for a minute under load: accepted on, nothing acked, drained afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from evp.stream.client import Link
from evp.stream.info import GroupFacts, log_facts
from evp.stream.keys import Keys
from tests.e2e.commands import Background, background
from tests.e2e.feed import Pace, feeding
from tests.support.servers import Server
from tests.support.up import clean_environ
from tests.support.wait import until_now

OUTAGE_S = 60.0
SOURCE = "outage"
WORKERS = 2
KEY = "test-key"

pytestmark = pytest.mark.timeout(300)


def group_of(log: Server) -> GroupFacts:
    """Return how the workers' group stands."""

    async def look() -> GroupFacts:
        link = await Link.open(log.url)
        try:
            [group] = (await log_facts(link, Keys("evp:events"))).groups
        finally:
            await link.close()
        return group

    return asyncio.run(look())


@contextlib.contextmanager
def stopped(store: Server) -> Iterator[None]:
    """Nobody listens."""
    store.kill()
    yield
    store.start()


def hanging(store: Server) -> contextlib.AbstractContextManager[None]:
    """Connections stay open and are never answered."""
    return store.paused()


@pytest.mark.parametrize("away", [stopped, hanging])
def test_store_away_under_load(
    tmp_path: Path,
    own_log_server: Server,
    own_store_server: Server,
    away: Callable[[Server], contextlib.AbstractContextManager[None]],
) -> None:
    """No worker dies, nothing is acked, ingest goes on, the backlog drains; few log lines."""
    environ = clean_environ(
        EVP_REDIS_URL=own_log_server.url, EVP_MONGO_URL=own_store_server.url, EVP_API_KEYS=KEY
    )
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> Background:
            return stack.enter_context(
                background(*arguments, environ=environ, cwd=tmp_path, name=name)
            )

        server = start("serve", "serve", "--port", "0")
        workers = [start(f"work-{number}", "work") for number in range(WORKERS)]
        server.wait_says("serving")
        port = next(json.loads(line)["port"] for line in server.text.splitlines() if "port" in line)
        until_now(lambda: all("working" in one.text for one in workers), what="workers work")
        feed = stack.enter_context(
            feeding(f"http://127.0.0.1:{port}", KEY, SOURCE, Pace(10**6, pause_s=0.02))
        )
        feed.wait_more(1000)
        with away(own_store_server):
            time.sleep(1.0)
            before, accepted = group_of(own_log_server), feed.accepted
            said = [len(one.text.splitlines()) for one in workers]
            time.sleep(OUTAGE_S)
            after = group_of(own_log_server)
            unacked = before.pending_events + before.lag_events
            grown = feed.accepted - accepted
            assert grown > 100 * OUTAGE_S / 10
            assert after.pending_events + after.lag_events >= unacked + grown - 100
            assert after.pending == before.pending
            assert all(one.runs for one in workers)
            for one, before_lines in zip(workers, said, strict=True):
                assert len(one.text.splitlines()) - before_lines <= OUTAGE_S + 1
        accepted_ids = feed.finish()
        until_now(
            lambda: (left := group_of(own_log_server)).pending + left.lag_events == 0,
            what="the backlog drains",
            within_s=120,
        )
        assert all(one.runs for one in workers)
        assert stored(own_store_server) == accepted_ids


def stored(store: Server) -> Counter[str]:
    """Return in how many documents each id stands."""
    with MongoClient[dict[str, str]](store.url) as client:
        return Counter(one["id"] for one in client["evp"]["events"].find({"source": SOURCE}))
