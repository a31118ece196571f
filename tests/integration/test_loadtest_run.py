"""Load tests from plan to report: real generator processes against a server in this loop."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from evp.errors import LogUnavailable
from evp.loadtest import follow
from evp.loadtest.check import Check
from evp.loadtest.follow import Engines, Follower
from evp.loadtest.run import LoadTest
from evp.loadtest.thresholds import threshold_of
from evp.settings import Settings
from evp.storage.client import Database, close, connect, database
from tests.support.loads import plan_of
from tests.support.server import serving
from tests.support.servers import Server
from tests.support.wait import until
from tests.support.workers import changed, working

pytestmark = pytest.mark.usefixtures("link")


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: the server is not what is tested here."""


def engines_of(settings: Settings, db: Database) -> Engines:
    """Return where the events of a server end up."""
    return Engines(settings, db)


async def test_without_workers(
    settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing gets on, it is not waited for ever: all was accepted, and all is lost."""
    monkeypatch.setattr(follow, "LOADTEST_STORED_S_MAX", 0.3)
    async with serving(settings) as server:
        plan = plan_of(f"http://127.0.0.1:{server.port}")
        test = LoadTest(plan, "test-key", engines_of(settings, db))
        report = await test.run([threshold_of("lost==0")])
    assert (report.asked, report.accepted) == (300, 300)
    assert report.storing is not None
    assert not report.storing.drained
    assert report.storing.backlog_max == 300
    assert report.check is not None
    assert (report.check.lost, report.check.found) == (300, 0)
    assert report.exit_code == 99
    assert msgspec.structs.replace(report, thresholds=[]).exit_code == 1


async def test_store_that_ends_meanwhile(
    settings: Settings,
    own_store_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the store at the end all else is still told, and why nothing was looked up."""
    monkeypatch.setattr(follow, "LOADTEST_STORED_S_MAX", 0.3)
    monkeypatch.setattr("evp.storage.client.STORE_SELECT_MS_MAX", 300)
    client = connect(changed(settings, mongo_url=own_store_server.url))
    async with serving(settings) as server:
        plan = plan_of(f"http://127.0.0.1:{server.port}", duration_s=0.6)
        db = database(client, settings.mongo_db)
        test = LoadTest(plan, "test-key", engines_of(settings, db))
        running = asyncio.create_task(test.run([]))
        await until(lambda: test.look().counts.accepted > 0, what="it is under way")
        own_store_server.kill()
        report = await running
    await close(client)
    assert (report.asked, report.accepted, report.check) == (600, 600, None)
    assert report.unavailable.startswith("the store can't be used")
    assert report.exit_code == 3


async def test_stored_and_looked_up(settings: Settings, db: Database) -> None:
    """With a worker all is stored, watched and found; progress goes from stage to stage."""
    stages: list[str] = []
    async with serving(settings) as server, working(settings):
        plan = plan_of(f"http://127.0.0.1:{server.port}", processes=2, warmup_s=0.1)
        test = LoadTest(plan, "test-key", engines_of(settings, db))
        running = asyncio.create_task(test.run([threshold_of("max<9999s")]))
        while not running.done():
            stages.append(test.look().stage)
            await asyncio.sleep(0.005)
        report = running.result()
    assert list(dict.fromkeys(stages))[:3] == ["starting", "sending", "storing"]
    assert (report.asked, report.accepted, report.exit_code) == (300, 300, 0)
    assert report.check == Check(400, 400, 0, 0, [], [])
    storing = report.storing
    assert storing is not None
    assert (storing.drained, storing.unseen, storing.watched) == (True, 0, 30)
    assert report.accept_ms is not None
    assert storing.stored_ms is not None
    assert report.accept_ms.p50 < storing.stored_ms.p50


async def test_ctrl_c_while_it_waits(settings: Settings, db: Database) -> None:
    """Whoever doesn't want to wait for the store is told what is known until then."""
    async with serving(settings) as server:
        plan = plan_of(f"http://127.0.0.1:{server.port}", verify=False)
        test = LoadTest(plan, "test-key", engines_of(settings, db))
        running = asyncio.create_task(test.run([]))
        await until(lambda: test.look().stage == "storing", what="it waits for the store")
        test.interrupt()
        report = await running
    assert (report.accepted, report.interrupted, report.exit_code) == (300, True, 0)
    assert report.storing is not None
    assert not report.storing.drained


async def test_ctrl_c_while_it_looks_up(
    settings: Settings, db: Database, own_store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever doesn't want to wait for the check is told all else."""
    monkeypatch.setattr(follow, "LOADTEST_STORED_S_MAX", 0.1)
    client = connect(changed(settings, mongo_url=own_store_server.url))
    async with serving(settings) as server:
        plan = plan_of(f"http://127.0.0.1:{server.port}")
        engines = engines_of(settings, database(client, settings.mongo_db))
        test = LoadTest(plan, "test-key", engines)
        running = asyncio.create_task(test.run([]))
        await until(lambda: test.look().counts.accepted > 0, what="it is under way")
        with own_store_server.paused():
            await until(lambda: test.look().stage == "checking", what="it looks events up")
            test.interrupt()
            report = await running
    await close(client)
    assert (report.accepted, report.check, report.interrupted) == (300, None, True)
    assert report.unavailable == ""


async def test_follower_without_engines(settings: Settings, db: Database) -> None:
    """A log that is away is told at once, with what to do."""
    engines = engines_of(changed(settings, redis_url="redis://127.0.0.1:1"), db)
    follower = Follower(engines, "run")
    with pytest.raises(LogUnavailable, match=r"can't reach the log .*--accept-only"):
        await follower.open()
    await follower.close()
