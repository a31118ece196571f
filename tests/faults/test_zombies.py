"""Workers that stop for a minute and come back: whoever took over, every event is stored once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from tests.faults.kit.session import (
    complaints_of_verify,
    examine,
    loading,
    until_drained,
    until_ready,
)
from tests.faults.kit.system import running_system

PAUSE_S = float(os.environ.get("EVP_FAULTS_PAUSE_S", "60"))
WORKERS = 4

pytestmark = pytest.mark.timeout(PAUSE_S + 240)


async def test_worker_that_comes_back(tmp_path: Path) -> None:
    """One of four is paused in the middle of its work for a minute, then goes on: no doubles."""
    async with running_system(tmp_path, servers=1, workers=WORKERS) as system:
        await until_ready(system)
        zombie = system.named("worker")[0]
        async with loading(system, events_per_s=2_000) as load:
            await load.until_accepted(50)
            with zombie.paused():
                await asyncio.sleep(PAUSE_S)
            await load.until_accepted(50)
        assert await until_drained(system) is not None
        found = await examine(system, load.so_far())
        found.complaints += await asyncio.to_thread(complaints_of_verify, system)
        assert found.clean, (found.wrong, found.complaints)
        assert max(found.stale_s) < PAUSE_S / 2, "nobody took over what the paused one had"
        assert zombie.running


async def test_claim_stale_beside_workers(tmp_path: Path) -> None:
    """`evp claim-stale` again and again takes over from a paused worker: every event once."""
    async with running_system(tmp_path, servers=1, workers=WORKERS) as system:
        await until_ready(system)
        zombie = system.named("worker")[0]
        passes = claimed = 0
        async with loading(system, events_per_s=2_000) as load:
            await load.until_accepted(50)
            with zombie.paused():
                ends_at_s = asyncio.get_running_loop().time() + PAUSE_S
                while asyncio.get_running_loop().time() < ends_at_s:
                    done = await asyncio.to_thread(
                        system.evp, "claim-stale", "--min-idle", "2000", "--json"
                    )
                    # Events that conflict on purpose may be among those taken over.
                    assert done.returncode in {0, 1}, done.stderr
                    account = msgspec.json.decode(done.stdout)
                    assert done.returncode == 0 or account["dead"], account
                    passes += 1
                    claimed += account["frames"]
            await load.until_accepted(50)
        assert await until_drained(system) is not None
        found = await examine(system, load.so_far())
        found.complaints += await asyncio.to_thread(complaints_of_verify, system)
        assert found.clean, (found.wrong, found.complaints)
        assert passes > 1
        assert claimed > 0
