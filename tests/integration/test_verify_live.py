"""`verify` beside everything that runs: what is on its way is never taken for lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from evp.clock import now
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.scripts import Script
from evp.verify import run
from evp.verify.report import Scope
from tests.support.make import event, ndjson
from tests.support.server import NDJSON, InProcess, request, serving
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.verifying import clean
from tests.support.wait import until
from tests.support.workers import until_drained, working

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.timeout(120)]

RUNS = 24
EACH = 5
PAUSE_S = 0.02

TRIM_ALL_ACKED = Script("""
-- Cut away whatever one group has done with, at once: no retention.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local group = redis.call('XINFO', 'GROUPS', KEYS[1])[1]
if not group then return 0 end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > 0 then return redis.call('XTRIM', KEYS[1], 'MINID', pending[2]) end
for i = 1, #group, 2 do
  if group[i] == 'last-delivered-id' then
    return redis.call('XTRIM', KEYS[1], 'MINID', group[i + 1])
  end
end
""")


@contextlib.asynccontextmanager
async def trimming(settings: Settings) -> AsyncIterator[None]:
    """Cut acked entries away all the time, so that they leave as soon as they may."""

    async def trim() -> None:
        link = await Link.open(settings.redis_url)
        try:
            while True:
                await link.script(TRIM_ALL_ACKED, (settings.stream,), (settings.consumer_group,))
                await asyncio.sleep(0.002)
        finally:
            await link.close()

    task = asyncio.create_task(trim())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def feed(server: InProcess, stop: asyncio.Event) -> int:
    """Send events, one in ten of them a second time; return how many requests were accepted."""
    accepted = 0
    async with server.wire() as wire:
        for number in itertools.count(0, EACH):
            if stop.is_set():
                break
            again = max(0, number - 7 * EACH)
            events = [event(number + n) for n in range(EACH - 2)]
            events += [event(again), event(again + 1)] if again else []
            await wire.send(request(ndjson(*events), path="/events/batch", headers=NDJSON))
            reply = await wire.reply()
            assert reply.status == 202, reply.body
            accepted += len(events)
            await asyncio.sleep(PAUSE_S)
    return accepted


@pytest.mark.slow
async def test_clean_under_load(
    db: Database, link: Link, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While events are accepted, stored, acked and trimmed, every first look finds all of them."""

    async def fail(*_args: object) -> None:
        raise AssertionError("a frame was missing at the first look")

    monkeypatch.setattr(run._Verification, "_look_for", fail)
    monkeypatch.setattr(run, "VERIFY_AGAIN_S", 0.2)
    recently = Scope(since=now() - timedelta(minutes=1))
    scopes = itertools.cycle([Scope(), Scope(every_document=True), recently, Scope(sample=20)])
    stop = asyncio.Event()
    async with serving(settings) as server, working(settings), working(settings):
        await until(server.is_ready, what="the server accepts")
        feeding = [asyncio.create_task(feed(server, stop)) for _ in range(2)]
        async with trimming(settings):
            reports = [await clean(settings, next(scopes)) for _ in range(RUNS)]
            stop.set()
            accepted = sum(await asyncio.gather(*feeding))
            await until_drained(settings)
            counts = (await clean(settings)).counts
    seen = [report.counts.frames for report in reports]
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] > RUNS, "something went on meanwhile"
    assert counts.events == counts.stored + counts.duplicate == accepted
    counts = (await clean(settings)).counts
    assert (counts.recorded_events, counts.dead, counts.in_log_events) == (accepted, 0, 0)
