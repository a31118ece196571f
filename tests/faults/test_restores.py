"""Older copies put back under load: what is lost by it is named frame by frame, the rest is there.

What a log had that is gone is read from its files.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from tests.faults.kit.checker import DRAINED_S_MAX
from tests.faults.kit.session import (
    START_S_MAX,
    examine,
    loading,
    until_drained,
    until_ready,
    verify,
)
from tests.faults.kit.system import DATABASE, STREAM, EvpProcess, System, running_system
from tests.support.backup import (
    FILES,
    Number,
    back_up_log,
    exchange,
    frames_in_log,
    frames_in_store,
)
from tests.support.servers import ProcessServer, program_log
from tests.support.wait import until

pytestmark = pytest.mark.timeout(240)

REPAIRED_S_MAX = 60.0
KEPT_S = "3600"
KEPT_BYTES = str(1024**3)
"""So the log holds all that came since the copies, as the documentation has it."""


class Site:
    """A system whose log and store can be put back, with copies of both."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._folder = system.folder
        self._copies = system.folder / "copies"

    async def stop_workers(self) -> None:
        """Have all workers end well."""
        for worker in self.system.named("worker"):
            assert await asyncio.to_thread(worker.stop) == 0

    async def start_workers(self) -> None:
        """Start them again, and wait until they work."""
        for worker in self.system.named("worker"):
            before = _times_working(worker)
            worker.start()
            works = partial(_works_again, worker, before)
            await until(works, what=f"{worker.name} works", within_s=START_S_MAX)

    async def back_up(self) -> None:
        """Copy the log while it runs, then the store, to which nobody writes meanwhile."""
        home, copy = self._folder / "log", self._copies / "log"
        await asyncio.to_thread(back_up_log, self.system.log.url, home, copy)
        await self.stop_workers()
        await asyncio.to_thread(self.system.store.stop)
        await asyncio.to_thread(shutil.copytree, self._folder / "store", self._copies / "store")
        await asyncio.to_thread(self.system.store.start)
        await self.start_workers()

    async def put_back(self, *engines: str) -> None:
        """Put copies back; what was in the log is kept aside."""
        for name in engines:
            engine, files = self.system.victims[name], self._folder / name
            assert isinstance(engine, ProcessServer)
            copy = self._copies / name
            if name == "log":
                engine.kill()
                files, copy = files / FILES, copy / FILES
                await asyncio.to_thread(shutil.copytree, files, self._folder / "lost" / FILES)
            await asyncio.to_thread(exchange, engine, files, copy)

    async def frames_that_were_there(self) -> dict[Number, int]:
        """Return the frames of the log that was lost, or of the one there is."""
        lost = self._folder / "lost"
        if not lost.exists():
            return await frames_in_log(self.system.log.url, STREAM)
        log = await asyncio.to_thread(program_log, lost)
        await asyncio.to_thread(log.start)
        try:
            return await frames_in_log(log.url, STREAM)
        finally:
            await asyncio.to_thread(log.kill)

    async def frames_that_are_missing(self) -> dict[Number, int]:
        """Return those of them that were acknowledged, and are not in the store."""
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self.system.store.url)
        try:
            db = client[DATABASE]
            stored = await frames_in_store(db)
            upto = {bytes(row["_id"]): row["seq"] async for row in db["servers"].find()}
        finally:
            await client.close()
        had = await self.frames_that_were_there()
        return {
            (srv, seq): count
            for (srv, seq), count in had.items()
            if seq <= upto.get(srv, 0) and (srv, seq) not in stored
        }

    async def verified(self, *flags: str) -> tuple[int, dict[str, Any]]:
        """Return exit code and report of `evp verify`."""
        done = await asyncio.to_thread(verify, self.system, 0, *flags)
        report: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, report


def _times_working(worker: EvpProcess) -> int:
    return sum(line["event"] == "working" for line in worker.lines)


def _works_again(worker: EvpProcess, before: int) -> bool:
    return _times_working(worker) > before


def named(report: dict[str, Any], kind: str) -> set[Number]:
    """Return epoch and number of each frame that a report tells of as one kind."""
    return {
        (bytes.fromhex(one["srv"]), seq)
        for one in report["findings"]
        if one["kind"] == kind
        for seq in range(one["first_seq"], one["last_seq"] + 1)
    }


@pytest.mark.parametrize("engines", [("log",), ("store",), ("log", "store")], ids=" and ".join)
async def test_put_back_under_load(tmp_path: Path, engines: tuple[str, ...]) -> None:
    """Servers go on meanwhile; what nobody can have any more is named, and nothing is doubled."""
    async with running_system(
        tmp_path,
        servers=2,
        workers=2,
        EVP_LOG_RETENTION_S=KEPT_S,
        EVP_LOG_RETENTION_BYTES=KEPT_BYTES,
    ) as system:
        if not isinstance(system.log, ProcessServer) or not isinstance(system.store, ProcessServer):
            pytest.skip("files in a container are not at hand")
        site = Site(system)
        await until_ready(system)
        async with loading(system, events_per_s=2_000) as load:
            await load.until_accepted(50)
            await site.back_up()
            await load.until_accepted(50)
            await site.stop_workers()
            # What waits in the log now is nowhere else.
            await load.until_accepted(20)
            await site.put_back(*engines)
            await site.start_workers()
            await load.until_accepted(50)
        assert await until_drained(system, DRAINED_S_MAX) is not None
        missing = await site.frames_that_are_missing()
        code, report = await site.verified()
        kind = "hole" if "log" in engines else "acked_not_stored"
        assert (code, set(report["findings_by_kind"])) == (1, {kind})
        assert named(report, kind) == missing.keys()
        if "log" not in engines:
            assert sum(one["events"] for one in report["findings"]) == sum(missing.values())
            await site.verified("--repair")

            async def is_clean() -> bool:
                return (await site.verified())[0] == 0

            await until(is_clean, what="all is written again", within_s=REPAIRED_S_MAX)
        found = await examine(system, load.so_far(), log_kept="log" not in engines)
        lost = found.wrong.pop("lost")
        assert bool(lost) is ("log" in engines)
        if lost:
            # Of two events with one id one may be among them.
            found.wrong.pop("conflict_not_kept")
            assert found.wrong.pop("seen_and_gone") <= lost
            assert len(lost) <= report["counts"]["lost_events"] == sum(missing.values())
        assert not any(found.wrong.values()), {name: len(ids) for name, ids in found.wrong.items()}
        assert not found.complaints
