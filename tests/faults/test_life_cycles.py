"""Workers that come and go two hundred times leave nothing behind in log, store and system."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from evp.stream.client import Link
from tests.faults.kit.session import loading, until_ready
from tests.faults.kit.system import STREAM, EvpProcess, System, running_system
from tests.support.wait import until

CYCLES = 200
AT_ONCE = 4
KILLED_ONE_IN = 10
SLACK = 3
SEED = 8
SETTLE_S = 5.0
"""By then a worker has dialled everything that it needs."""
_STAYS = -1

pytestmark = pytest.mark.timeout(1800)


class Held(NamedTuple):
    """What somebody holds of the engines."""

    consumers: int
    log_clients: int
    log_files: int
    store_files: int
    log_keys: int
    children: int


async def held(system: System) -> Held:
    """Count consumers, connections, open files, keys, child processes."""
    link = await Link.open(system.log.url)
    try:
        consumers = await link.call("XINFO", "CONSUMERS", STREAM, system.group)
        clients = (await link.call("CLIENT", "LIST")).splitlines()
        keys = await link.call("KEYS", "*")
        left_s = await link.calls([("TTL", key) for key in keys])
    finally:
        await link.close()
    return Held(
        len(consumers),
        len(clients),
        psutil.Process(system.log.pid).num_fds(),
        psutil.Process(system.store.pid).num_fds(),
        # What expires by itself is not left behind.
        sum(one == _STAYS for one in left_s),
        len(psutil.Process(os.getpid()).children(recursive=True)),
    )


async def test_two_hundred_starts_and_stops(tmp_path: Path) -> None:
    """No consumer, connection, file or process is left; one in ten was killed and came back."""
    dice = random.Random(SEED)
    async with running_system(tmp_path, servers=1, workers=AT_ONCE) as system:
        await until_ready(system)
        workers = system.named("worker")
        async with loading(system, events_per_s=500, lanes=2, single_lanes=1) as load:
            await load.until_accepted(20)
            started = len(workers)
            await asyncio.sleep(SETTLE_S)
            before = await held(system)
            while started < CYCLES:
                await asyncio.gather(*(restart(one, dice) for one in workers))
                started += len(workers)
        await until(system.is_drained, what="all is acked", within_s=60)
        assert before.consumers == AT_ONCE

        last = before

        async def nothing_more() -> bool:
            nonlocal last
            last = await held(system)
            return all(one <= most + SLACK for one, most in zip(last, before, strict=True))

        try:
            await until(nothing_more, what="nothing is left of the others", within_s=60)
        except AssertionError as error:
            error.add_note(f"before {before}, last {last}")
            raise
        for worker in workers:
            assert await asyncio.to_thread(worker.stop) == 0

        async def nobody() -> bool:
            now = await held(system)
            return now.consumers == 0 and now.log_clients < before.log_clients

        await until(nobody, what="no consumer is left", within_s=30)


async def restart(worker: EvpProcess, dice: random.Random) -> None:
    """End a worker that works, most times well, and start it again."""
    said = sum(line["event"] == "working" for line in worker.lines)
    if dice.randrange(KILLED_ONE_IN):
        assert await asyncio.to_thread(worker.stop) == 0, worker.output
    else:
        await asyncio.to_thread(worker.kill)
    worker.start()
    await until(
        lambda: sum(line["event"] == "working" for line in worker.lines) > said,
        what=f"{worker.name} works again",
        within_s=30,
    )
