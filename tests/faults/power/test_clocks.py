"""Somebody sets the clock of a machine an hour ahead, and back: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pymongo import MongoClient

from evp.engines.engine import log_engine
from evp.engines.locate import find_log
from tests.faults.kit.session import (
    complaints_of_verify,
    examine,
    loading,
    until_drained,
    until_ready,
)
from tests.faults.kit.system import DATABASE, System, environ_of
from tests.faults.power.disk import CantCompile, Clock
from tests.support.proxy import Network
from tests.support.servers import ProcessServer, own_store

pytestmark = pytest.mark.timeout(300)

HOUR_S = 3_600.0
STEPS_S = (HOUR_S, -HOUR_S, 0.0)
WRITTEN_BY = {
    "server": ("events", "received_at"),
    "workers": ("outcomes", "settled_at"),
    "log": ("outcomes", "accepted_at"),
}
"""A time in the store by whose clock it is: that the clock was set at all is seen there."""
REQUESTS = 60
"""So many are accepted after each step."""


def log_by(environ: dict[str, str], folder: Path) -> ProcessServer:
    """Return a log that runs with this in its environment."""
    binary = find_log()
    command = ["env", *(f"{name}={value}" for name, value in environ.items()), *binary.command]
    return ProcessServer(log_engine(msgspec.structs.replace(binary, command=command), folder))


@contextlib.asynccontextmanager
async def with_clock(folder: Path, whose: str) -> AsyncIterator[tuple[System, Clock]]:
    """Run a system in which a server, the workers, or the log go by a clock that can be set."""
    clock = Clock(folder / "clock")
    try:
        environ = await asyncio.to_thread(lambda: clock.environ)
    except CantCompile as error:
        pytest.skip(str(error))
    log = await asyncio.to_thread(log_by, environ if whose == "log" else {}, folder / "log")
    store = await asyncio.to_thread(own_store, folder)
    system = System(folder, log, store, Network({}), environ_of(log.url, store.url, folder))
    try:
        await asyncio.to_thread(log.start)
        await asyncio.to_thread(store.start)
        plain = system.environ
        system.environ = plain | (environ if whose == "server" else {})
        await asyncio.to_thread(system.add_server)
        system.environ = plain | (environ if whose == "workers" else {})
        await asyncio.to_thread(system.add_all, 0, 2)
        system.environ = plain
        yield system, clock
    finally:
        await asyncio.to_thread(system.end)


@pytest.mark.parametrize("whose", ["server", "workers", "log"])
async def test_clock_is_set(tmp_path: Path, whose: str) -> None:
    """Set ahead, back and right again, workers killed meanwhile: all goes on, nothing is lost."""
    async with with_clock(tmp_path, whose) as (system, clock):
        await until_ready(system)
        worker = system.named("worker")[0]
        async with loading(system, events_per_s=1_000, batch_events=50) as load:
            for ahead_s in STEPS_S:
                await load.until_accepted(REQUESTS)
                clock.set(ahead_s)
                await load.until_accepted(REQUESTS)
                await asyncio.to_thread(worker.kill)
                await load.until_accepted(REQUESTS)
                await asyncio.to_thread(worker.start)
            await load.until_accepted(REQUESTS)
        assert await until_drained(system) is not None
        sent = load.so_far()
        found = await examine(system, sent)
        found.complaints += await asyncio.to_thread(complaints_of_verify, system)
        assert found.clean, (found.wrong, found.complaints)
        for process in system.named("server") + system.named("worker"):
            assert process.running
        assert await asyncio.to_thread(spread_s, system, *WRITTEN_BY[whose]) > HOUR_S


def spread_s(system: System, collection: str, field: str) -> float:
    """Return how far the times apart are that somebody wrote down by his clock."""
    with MongoClient[dict[str, Any]](system.store.url) as client:
        rows = client[DATABASE][collection].find({}, {field: 1})
        times = sorted(row[field] for row in rows)
    return float((times[-1] - times[0]).total_seconds())


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_workers_whose_clock_is_set_take_over(tmp_path: Path, ahead_s: float) -> None:
    """What a killed worker leaves is taken over by time that passes, not by the time of day."""
    async with with_clock(tmp_path, "workers") as (system, clock):
        await until_ready(system)
        async with loading(system, events_per_s=1_000, batch_events=50) as load:
            await load.until_accepted(REQUESTS)
            clock.set(ahead_s)
            worker = system.named("worker")[0]
            with system.store.paused():
                await asyncio.sleep(1.0)
                await asyncio.to_thread(worker.kill)
            await load.until_accepted(REQUESTS)
        assert await until_drained(system, within_s=60.0) is not None
        found = await examine(system, load.so_far())
        assert found.clean, (found.wrong, found.complaints)
