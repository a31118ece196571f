"""The store away for half an hour under load: accepted on or refused, nothing lost, drained."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from tests.faults.kit.session import (
    complaints_of_verify,
    examine,
    loading,
    until_drained,
    until_ready,
)
from tests.faults.kit.system import running_system

OUTAGE_S = float(os.environ.get("EVP_FAULTS_OUTAGE_S", "1800"))
EVENTS_PER_S = 2_000
DRAIN_S_MAX = max(120.0, OUTAGE_S)
WORKERS = 2
GROWTH_BYTES_MAX = 32 * 1024 * 1024

pytestmark = pytest.mark.timeout(4 * OUTAGE_S + 600)


async def test_store_away(tmp_path: Path) -> None:
    """No event is lost or given up, workers don't grow, what was not taken was refused."""
    async with running_system(tmp_path, servers=1, workers=WORKERS) as system:
        await until_ready(system)
        async with loading(system, events_per_s=EVENTS_PER_S) as load:
            await load.until_accepted(50)
            workers = [
                psutil.Process(one.process.pid) for one in system.named("worker") if one.process
            ]
            await asyncio.to_thread(system.store.kill)
            await asyncio.sleep(min(10.0, OUTAGE_S / 4))
            before = [one.memory_info().rss for one in workers]
            await asyncio.sleep(OUTAGE_S - min(10.0, OUTAGE_S / 4))
            after = [one.memory_info().rss for one in workers]
            await asyncio.to_thread(system.store.start)
        assert await until_drained(system, DRAIN_S_MAX) is not None
        sent = load.so_far()
        found = await examine(system, sent)
        found.complaints += await asyncio.to_thread(complaints_of_verify, system, len(sent.ok))
        assert found.clean, (found.wrong, found.complaints)
        refused = {told for told in sent.codes if not told.startswith("ok")}
        assert refused <= {"fail backlog_full", "fail invalid_timestamp"}
        assert len(sent.ok) > EVENTS_PER_S * OUTAGE_S / 2 or "fail backlog_full" in refused
        growth = [later - earlier for earlier, later in zip(before, after, strict=True)]
        assert max(growth) < GROWTH_BYTES_MAX
        assert all(one.is_running() for one in workers)
