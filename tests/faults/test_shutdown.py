"""A hundred stops under load: everything that was answered is stored, nobody is left hanging."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from pymongo import MongoClient

from tests.e2e.log import events_in_log
from tests.faults.kit.session import until_drained, until_ready
from tests.faults.kit.system import KEY, EvpProcess, System, running_system
from tests.support.server import Wire, request
from tests.support.wait import until

STOPS = 100
STOP_S_MAX = 5.0
LANES = 8
BATCH_EVENTS = 20
ANSWER_S_MAX = 15.0
PAUSE_S = 0.05
"""Between two requests of a client, where the load lasts for minutes."""
SEED = 54

pytestmark = pytest.mark.timeout(1200)


class Told(NamedTuple):
    """What clients saw of one server: ids by answer. `unanswered` got none."""

    accepted: list[str]
    refused: list[str]
    unanswered: list[str]


class Lanes:
    """Clients that send over kept connections until the server is gone."""

    def __init__(self, port: int, prefix: str, pause_s: float = 0.0) -> None:
        self.told = Told([], [], [])
        self._port = port
        self._prefix = prefix
        self._pause_s = pause_s
        self._number = 0

    async def run(self) -> None:
        """Send until nobody listens any more."""
        await asyncio.gather(*(self._lane() for _ in range(LANES)))

    async def _lane(self) -> None:
        while True:
            try:
                streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return
            wire = Wire(*streams)
            try:
                await self._talk(wire)
            finally:
                wire.abort()

    async def _talk(self, wire: Wire) -> None:
        headers = {"content-type": "application/json", "x-api-key": KEY}
        while True:
            ids = [f"{self._prefix}-{self._number + n}" for n in range(BATCH_EVENTS)]
            self._number += BATCH_EVENTS
            events = [{"id": id_, "type": "stop", "source": "stop"} for id_ in ids]
            body = msgspec.json.encode(events)
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    await wire.send(request(body, path="/events/batch", headers=headers))
                    reply = await wire.reply()
            except (OSError, EOFError):
                self.told.unanswered.extend(ids)
                return
            (self.told.accepted if reply.status == 202 else self.told.refused).extend(ids)
            if reply.headers.get("connection") == "close":
                return
            await asyncio.sleep(self._pause_s)


async def until_says(process: EvpProcess, event: str, count: int) -> None:
    """Wait until a process has said something so many times."""
    await until(
        lambda: sum(line["event"] == event for line in process.lines) >= count,
        what=f"{process.name} says {event} {count} times",
        within_s=30,
    )


async def test_stop_serve_a_hundred_times(tmp_path: Path) -> None:
    """Each ends with 0 within 5 s; what it answered is in the log, once, and nothing else is."""
    dice = random.Random(SEED)
    async with running_system(tmp_path, servers=1, workers=0) as system:
        [server], [port] = system.named("server"), system.ports
        stops: list[tuple[int, float]] = []
        tolds: list[Told] = []
        for number in range(STOPS):
            if number:
                server.start()
            await until_says(server, "serving", number + 1)
            lanes = Lanes(port, f"s{number}")
            sending = asyncio.create_task(lanes.run())
            await asyncio.sleep(dice.uniform(0.05, 0.5))
            began_at_s = time.monotonic()
            code = await asyncio.to_thread(server.stop)
            stops.append((code, time.monotonic() - began_at_s))
            await sending
            tolds.append(lanes.told)
        in_log = await asyncio.to_thread(
            events_in_log, system.environ | {"EVP_STREAM": "evp:events"}
        )
    accepted = Counter(id_ for told in tolds for id_ in told.accepted)
    unanswered = {id_ for told in tolds for id_ in told.unanswered}
    assert all(told.accepted for told in tolds)
    assert [code for code, _ in stops] == [0] * STOPS
    assert max(seconds for _, seconds in stops) <= STOP_S_MAX
    assert accepted - in_log == {}
    assert max(in_log.values()) == 1
    assert unanswered & in_log.keys() == set()
    assert "Traceback" not in server.output.read_text()


async def test_stop_work_a_hundred_times(tmp_path: Path) -> None:
    """Each ends with 0 within 5 s in the middle of its work; at last every event is stored once."""
    dice = random.Random(SEED)
    async with running_system(tmp_path, servers=1, workers=1) as system:
        await until_ready(system)
        [worker], [port] = system.named("worker"), system.ports
        lanes = Lanes(port, "w", PAUSE_S)
        sending = asyncio.create_task(lanes.run())
        stops: list[tuple[int, float]] = []
        try:
            for number in range(STOPS):
                if number:
                    worker.start()
                await until_says(worker, "working", number + 1)
                await asyncio.sleep(dice.uniform(0.0, 0.5))
                began_at_s = time.monotonic()
                code = await asyncio.to_thread(worker.stop)
                stops.append((code, time.monotonic() - began_at_s))
        finally:
            await asyncio.to_thread(system.named("server")[0].stop)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sending, ANSWER_S_MAX)
        worker.start()
        assert await until_drained(system, 300.0) is not None
        stored = await asyncio.to_thread(stored_ids, system)
    assert [code for code, _ in stops] == [0] * STOPS
    assert max(seconds for _, seconds in stops) <= STOP_S_MAX
    assert lanes.told.accepted
    assert set(lanes.told.accepted) - stored.keys() == set()
    assert max(stored.values()) == 1
    assert "Traceback" not in worker.output.read_text()


def stored_ids(system: System) -> Counter[str]:
    """Return in how many documents each id stands."""
    with MongoClient[dict[str, str]](system.store.url) as client:
        return Counter(one["id"] for one in client["faults"]["events"].find({}, {"id": 1}))
