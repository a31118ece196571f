"""The log emptied under load: only what was in it is lost, it is told, and all goes on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from evp.stream.client import Link
from tests.faults.kit import history
from tests.faults.kit.checker import DRAINED_S_MAX, FIRST_OK_S_MAX
from tests.faults.kit.history import Answer, Invoke
from tests.faults.kit.session import (
    examine,
    loading,
    until_drained,
    until_ready,
    verify,
)
from tests.faults.kit.system import STREAM, EvpProcess, System, running_system

LINES_A_SECOND_MAX = 5

pytestmark = pytest.mark.timeout(240)


async def in_log(system: System, *command: str) -> None:
    """Do something to the log, directly."""
    link = await Link.open(system.log.url)
    try:
        await link.call(*command)
    finally:
        await link.close()


def troubles_a_second(process: EvpProcess) -> int:
    """Return how many warnings and errors a process wrote in its worst second."""
    seconds = Counter(
        line["ts"][:19] for line in process.lines if line["level"] in {"warning", "error"}
    )
    return max(seconds.values(), default=0)


def accepted_since(path: Path, since_s: float) -> set[str]:
    """Return the ids of the events whose 202 came after a moment, and were sent after it."""
    open_, found = {}, set()
    for record in history.records(path):
        if isinstance(record, Invoke):
            open_[record.request] = record
        elif isinstance(record, Answer):
            invoke = open_.pop(record.request)
            if record.verdict == "ok" and invoke.at_s > since_s:
                found |= {id_ for id_, _ in invoke.events}
    return found


@pytest.mark.parametrize(
    ("command", "loses"),
    [
        (("FLUSHALL",), True),
        (("DEL", STREAM), True),
        (("XGROUP", "DESTROY", STREAM, "evp-workers-group"), False),
    ],
    ids=["flush", "stream deleted", "group destroyed"],
)
async def test_log_emptied_under_load(
    tmp_path: Path, command: tuple[str, ...], *, loses: bool
) -> None:
    """At most what was in the log is lost, what comes after it is stored, few lines are logged."""
    async with running_system(tmp_path, servers=1, workers=2) as system:
        await until_ready(system)
        workers = system.named("worker")
        async with loading(system, events_per_s=2_000) as load:
            await load.until_accepted(50)
            with workers[0].paused(), workers[1].paused():
                # What waits in the log now is what can be lost.
                await load.until_accepted(20)
                await in_log(system, *command)
            await asyncio.sleep(3.0)
            await in_log(system, *command)
            again_at_s = time.monotonic()
            await load.until_accepted(50)
        assert await until_drained(system, DRAINED_S_MAX) is not None
        sent = load.so_far()
        assert min(at_s for at_s in sent.ok_at_s if at_s > again_at_s) < again_at_s + FIRST_OK_S_MAX
        found = await examine(system, sent, log_kept=False)
        lost = found.wrong.pop("lost") | found.wrong.pop("conflict_not_kept")
        verified = await asyncio.to_thread(verify, system)
        assert not any(found.wrong.values()), found.wrong
        assert not found.complaints
        assert bool(lost) is loses
        assert not lost & accepted_since(load.path, again_at_s)
        if verified is not None:
            assert verified.returncode == (1 if loses else 0), verified.stdout
        for process in [*system.named("server"), *workers]:
            assert process.running
            assert troubles_a_second(process) < LINES_A_SECOND_MAX, process.output
            assert "Traceback" not in process.output.read_text()


async def test_accepted_before_the_group_is_back(tmp_path: Path) -> None:
    """What is accepted between a flush and the group's return is read: the group begins at 0."""
    async with running_system(tmp_path, servers=1, workers=1) as system:
        await until_ready(system)
        [worker] = system.named("worker")
        await asyncio.to_thread(worker.kill)
        await in_log(system, "FLUSHALL")
        async with loading(system, events_per_s=2_000) as load:
            await load.until_accepted(50)
        worker.start()
        assert await until_drained(system, DRAINED_S_MAX) is not None
        found = await examine(system, load.so_far())
        assert found.clean, (found.wrong, found.complaints)
