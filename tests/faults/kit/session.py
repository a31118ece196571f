"""What a run and the tests do with a system: load it, let it come to rest, look what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from evp.errors import LogUnavailable
from tests.faults.kit import history
from tests.faults.kit.checker import Findings, check, check_counters
from tests.faults.kit.found import Found
from tests.faults.kit.history import History
from tests.faults.kit.load import Plan
from tests.faults.kit.system import DATABASE, KEY, System

LOAD_OUTPUT = "load.out"
LOAD_PLAN = "load.json"
START_S_MAX = 30.0
DRAIN_S_MAX = 120.0
VERIFY_S_MAX = 300.0
VERIFY_EVENTS_PER_S_MIN = 2_000


async def until_ready(system: System) -> None:
    """Wait until every server serves and every worker works."""
    ends_at_s = time.monotonic() + START_S_MAX
    for process in system.named("server") + system.named("worker"):
        while not {"serving", "working"} & {line["event"] for line in process.lines}:
            if time.monotonic() > ends_at_s or not process.running:
                raise RuntimeError(f"{process.name} does not start: see {process.output}")
            await asyncio.sleep(0.1)


class Load:
    """The load while it runs; `path` is the clients' log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._follower = history.Follower(path)

    def so_far(self) -> History:
        """Return what the clients have written down so far."""
        return history.read(history.records(self.path))

    async def until_accepted(self, count: int, within_s: float = START_S_MAX) -> None:
        """Wait until so many more requests are accepted."""
        ends_at_s = time.monotonic() + within_s
        wanted = count + self._follower.accepted()
        while self._follower.accepted() < wanted:
            if time.monotonic() > ends_at_s:
                raise RuntimeError(f"not {count} requests accepted within {within_s} s")
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def loading(system: System, seed: int = 1, **plan: Any) -> AsyncIterator[Load]:
    """Send events in a process of its own; at the end what was begun is finished."""
    load = Load(system.folder / "clients.log")
    given = Plan(
        seed=seed,
        urls=system.urls,
        store_url=system.store.url,
        database=DATABASE,
        key=KEY,
        log_path=str(load.path),
        **plan,
    )
    async with load_running(system.folder, "tests.faults.kit.load", given):
        yield load


@contextlib.asynccontextmanager
async def load_running(
    folder: Path, module: str, plan: msgspec.Struct
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a module that sends events by a plan; at the end what was begun is finished."""
    process = _start(folder, module, plan)
    try:
        yield process
        process.terminate()
        # The proxies run in this loop: it must not wait.
        if await asyncio.to_thread(process.wait, START_S_MAX) != 0:
            raise RuntimeError(f"the load failed: see {folder / LOAD_OUTPUT}")
    finally:
        process.kill()
        process.wait()


def _start(folder: Path, module: str, plan: msgspec.Struct) -> subprocess.Popen[bytes]:
    """Start the load as a process that ends with this one."""
    plan_path = folder / LOAD_PLAN
    plan_path.write_bytes(msgspec.json.encode(plan))
    tether = ("evp.engines.tether", str(os.getpid()), str(int(signal.SIGKILL)))
    with (folder / LOAD_OUTPUT).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *tether, sys.executable, "-m", module, str(plan_path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def until_drained(system: System, within_s: float = DRAIN_S_MAX) -> float | None:
    """Return when everything was acked, on the monotonic clock; None if that takes too long."""
    ends_at_s = time.monotonic() + within_s
    while time.monotonic() < ends_at_s:
        with contextlib.suppress(LogUnavailable):
            if await system.is_drained():
                return time.monotonic()
        await asyncio.sleep(0.2)
    return None


def verify(system: System, events: int = 0, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `evp verify`; `events` that it has to look at give it time."""
    within_s = VERIFY_S_MAX + events / VERIFY_EVENTS_PER_S_MIN
    return system.evp("verify", "--json", *flags, within_s=within_s)


def complaints_of_verify(system: System, events: int = 0) -> list[str]:
    """Return what `evp verify` complains about."""
    done = verify(system, events)
    if done.returncode == 0:
        return []
    return [f"evp verify ended with {done.returncode}: {done.stdout}{done.stderr}"]


async def examine(system: System, sent: History, *, log_kept: bool = True) -> Findings:
    """Compare what was sent with what is there; `log_kept` is False if the log was emptied."""
    accepted = (await system.facts()).events_accepted if log_kept else None
    return await asyncio.to_thread(_examine, system, sent, accepted)


def _examine(system: System, sent: History, accepted: int | None) -> Findings:
    found = Found(system.store.url, DATABASE)
    try:
        letters = found.letters()
        findings = check(sent, found.documents(), [id_ for id_, _ in letters])
        odd = {reason for _, reason in letters} - {"id_conflict"}
        if odd:
            findings.complaints.append(f"dead letters because of {', '.join(sorted(odd))}")
        counters = found.counters(accepted)
        documents = findings.sizes["S stored"]
        findings.complaints += check_counters(counters, documents, len(letters))
    finally:
        found.close()
    return findings
