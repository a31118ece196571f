"""Disks that fill up: refused instead of lost, and well again once there is room."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.kit.checker import FIRST_OK_S_MAX
from tests.faults.kit.session import (
    complaints_of_verify,
    examine,
    loading,
    until_drained,
    until_ready,
)
from tests.faults.kit.system import running_system
from tests.support.servers import Server
from tests.support.wait import until

MIB = 1024 * 1024
DISK_BYTES = 512 * MIB
ROOM_BYTES = 8 * MIB
FULL_S = 10.0

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0,
        reason="a small disk needs tmpfs, and so Linux and root",
    ),
]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Give a folder on a disk of its own."""
    folder.mkdir(parents=True)
    options = f"size={DISK_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left_bytes: int) -> Path:
    """Leave so much room on a disk; return the file to remove again."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - left_bytes)
    return filler


@contextlib.asynccontextmanager
async def kept_running(server: Server) -> AsyncIterator[None]:
    """Start an engine again whenever it ended, as whoever runs it in production does."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(0.5)
            if not server.running:
                with contextlib.suppress(AssertionError):
                    await asyncio.to_thread(server.start)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


@pytest.mark.parametrize("engine", ["log", "store"])
async def test_disk_fills_up(tmp_path: Path, engine: str) -> None:
    """With no room on a disk nothing that was answered is lost; with room all goes on by itself."""
    with small_disk(tmp_path / engine) as disk:
        async with running_system(tmp_path, servers=1, workers=2) as system:
            await until_ready(system)
            victim = system.log if engine == "log" else system.store
            async with loading(system, events_per_s=3_000) as load:
                await load.until_accepted(30)
                async with kept_running(victim):
                    filler = await asyncio.to_thread(fill, disk, ROOM_BYTES)
                    await until(
                        lambda: is_full(disk) or not victim.running,
                        what="the disk is full",
                        within_s=60,
                    )
                    await asyncio.sleep(FULL_S)
                    filler.unlink()
                    if engine == "store":
                        # A mongod ends by itself; an embedded store panics and stays.
                        await asyncio.to_thread(victim.kill)
                    freed_at_s = time.monotonic()
                    await load.until_accepted(30, within_s=60)
            assert await until_drained(system) is not None
            sent = load.so_far()
            found = await examine(system, sent)
            found.complaints += await asyncio.to_thread(complaints_of_verify, system)
            assert found.clean, (found.wrong, found.complaints)
            first_s = min(at_s for at_s in sent.ok_at_s if at_s > freed_at_s) - freed_at_s
            assert first_s < FIRST_OK_S_MAX
            if engine == "log":
                assert sent.codes.keys() - {"ok 202"}, "the log's disk never was full"
            for process in system.named("server") + system.named("worker"):
                assert process.running


def is_full(disk: Path) -> bool:
    """Return True if there is no room left to speak of."""
    state = os.statvfs(disk)
    return state.f_bavail * state.f_frsize < 256 * 1024
