"""An outage of the store, measured: how much waits at its end, and how long it takes to drain.

    python scripts/bench/outage.py --rounds 3

Runs `evp up` under a steady `evp loadtest`, takes from the first seconds what an event costs,
stops the store (SIGSTOP) for a while, and goes on until no more waits than comes in within a
second. `scripts/capacity.py` is told the costs of those first seconds, and what it expects is
printed beside what happened.

The store answers later by `--later-ms`, as one does that is far away and waits for replicas:
then its answers decide how fast the backlog drains, and not who else uses this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import msgspec

import systems
from contenders import prefer_built_store
from distance import distant
from engines import start_store
from evp.loadtest.report import Report
from evp.stream.client import Link
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys
from machine import machine
from processes import Failed, Processes, cpu_s, fresh_folder
from systems import System

PLAN = Path(__file__).parents[1] / "capacity.py"
WARM_S = 4.0
STEADY_S = 12.0
LOOK_S = 0.05
DRAIN_S_MAX = 300.0
DRAINED_S = 1.0
"""Drained: no more waits than comes in within this; the same in the simulation."""
_SAMPLE = re.compile(r"^(\w+)(?:\{.*\})? (\S+)$", re.MULTILINE)


class Found(NamedTuple):
    """What happened; `run` is what `--calibrate` takes."""

    run: dict[str, Any]
    backlog_events_max: int
    drain_s: float


class Watch:
    """Looks at a system: the log's facts, the server's metrics, processor time."""

    def __init__(self, system: System, link: Link) -> None:
        self.system = system
        self._link = link
        self._keys = Keys(system.stream)

    async def log(self) -> LogFacts:
        """Return how the log stands."""
        return await log_facts(self._link, self._keys)

    async def waiting(self) -> int:
        """Return how many events the workers have not settled."""
        return sum(group.waiting_events for group in (await self.log()).groups)

    async def trip_s(self, for_s: float) -> float:
        """Return how long a question to the log takes, the mean over a while."""
        took_s, ends_at_s = [], time.monotonic() + for_s
        while time.monotonic() < ends_at_s:
            began_s = time.monotonic()
            await self._link.call("PING")
            took_s.append(time.monotonic() - began_s)
            await asyncio.sleep(LOOK_S)
        return sum(took_s) / len(took_s)

    def metrics(self) -> dict[str, float]:
        """Return what all processes tell, summed up by name."""
        with urlopen(f"{self.system.url}/metrics") as answer:  # noqa: S310 - our own server
            text = answer.read().decode()
        found: dict[str, float] = {}
        for name, value in _SAMPLE.findall(text):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def cpu_s(self) -> dict[str, float]:
        """Return processor time by role, workers and servers together."""
        found: dict[str, float] = {}
        for name, used_s in cpu_s(self.system.pids).items():
            role = name.partition("-")[0]
            found[role] = found.get(role, 0.0) + used_s
        return found


async def steady(watch: Watch, request_events: int) -> dict[str, Any]:
    """Return what an event costs while all goes well."""
    metrics, spent_s, log = watch.metrics(), watch.cpu_s(), await watch.log()
    trip_s = await watch.trip_s(STEADY_S)
    now, now_s, later = watch.metrics(), watch.cpu_s(), await watch.log()
    events = later.events_accepted - log.events_accepted

    def mean(name: str) -> float:
        added = [now[f"{name}_{end}"] - metrics[f"{name}_{end}"] for end in ("sum", "count")]
        return added[0] / max(1.0, added[1])

    return {
        "document_bytes": (later.bytes_accepted - log.bytes_accepted) / events,
        "request_events": request_events,
        "frame_events": events / max(1, later.frames_accepted - log.frames_accepted),
        "batch_events": mean("evp_store_batch_events"),
        "cpu_us": {role: 1e6 * (now_s[role] - spent_s[role]) / events for role in now_s},
        "append_ms": 1000 * mean("evp_ingest_seconds"),
        "log_trip_ms": 1000 * trip_s,
        "write_ms": 1000 * mean("evp_store_batch_seconds"),
    }


async def outage(watch: Watch, eps: float, outage_s: float) -> tuple[int, float]:
    """Stop the store for so long; return how much waited at most, and how long it drained.

    Raises Failed if it does not drain.
    """
    store = watch.system.pids["store"]
    os.kill(store, signal.SIGSTOP)
    try:
        await asyncio.sleep(outage_s)
    finally:
        os.kill(store, signal.SIGCONT)
    back_at_s, most = time.monotonic(), 0
    while (waiting := await watch.waiting()) > eps * DRAINED_S:
        most = max(most, waiting)
        if time.monotonic() - back_at_s > DRAIN_S_MAX:
            raise Failed(f"{waiting:,} events still wait after {DRAIN_S_MAX:g} s")
        await asyncio.sleep(LOOK_S)
    return most, time.monotonic() - back_at_s


async def watched(system: System, flags: argparse.Namespace) -> Found:
    """Take the costs of a system under load, stop its store, and see it drain. Raises Failed."""
    async with Link.opened(system.redis_url) as link:
        watch = Watch(system, link)
        await asyncio.sleep(WARM_S)
        run = await steady(watch, flags.request)
        return Found(run, *await outage(watch, flags.eps, flags.outage))


def measure(system: System, flags: argparse.Namespace) -> Found:
    """Load a system, and see what an outage does to it. Raises Failed."""
    lasts_s = WARM_S + STEADY_S + flags.outage + DRAIN_S_MAX
    command = [sys.executable, "-m", "evp", "loadtest", "--url", system.url, "--key", system.key]
    command += ["--eps", str(flags.eps), "--batch", str(flags.request), "--accept-only", "--json"]
    command += ["--duration", f"{lasts_s:g}s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as generator:
        try:
            found = asyncio.run(watched(system, flags))
        finally:
            generator.send_signal(signal.SIGINT)
        report = msgspec.json.decode(generator.communicate()[0], type=Report)
    if report.retried or report.unanswered:
        raise Failed(f"not all was accepted at once: {report.retried}, {report.unanswered}")
    return found


def round_of(flags: argparse.Namespace) -> Found:
    """Measure once, on engines of its own. Raises Failed."""
    with fresh_folder() as folder, Processes(folder) as processes:
        url, pid = start_store(processes, folder)
        port = int(re.findall(r":(\d+)", url)[-1])
        with distant(port, flags.later_ms) as near:
            os.environ["EVP_MONGO_URL"] = url.replace(f":{port}", f":{near}")
            os.environ["EVP_WORKER_BATCH_SIZE"] = str(flags.batch)
            workers = ["--work-processes", str(flags.workers)]
            with systems.start_evp(folder, workers) as system:
                pids = system.pids | {"store": pid}
                return measure(system._replace(pids=pids), flags)


def expected(found: Found, flags: argparse.Namespace, file: Path) -> Mapping[str, Any]:
    """Return what the plan says of the same outage, by the costs that were measured."""
    file.write_text(json.dumps(found.run, indent=1) + "\n")
    given = {
        "--eps": flags.eps,
        "--request-events": flags.request,
        "--outage": f"{flags.outage:g}s",
        "--batch-events": flags.batch,
        "--workers": flags.workers,
        "--calibrate": file,
    }
    command = [sys.executable, str(PLAN), "--servers=1", "--partitions=1", "--shards=1", "--json"]
    command += [f"{name}={value}" for name, value in given.items()]
    done = subprocess.run(command, check=True, capture_output=True)
    outage: dict[str, Any] = json.loads(done.stdout)["outage"]
    return outage


def row(number: int, found: Found, plan: Mapping[str, Any]) -> str:
    """Return a round as a row of a table."""
    most, drain_s = plan["backlog_events_max"], plan["drain_s"]
    return (
        f"| {number} | {found.backlog_events_max:,} | {most:,} "
        f"| {most / found.backlog_events_max - 1:+.1%} "
        f"| {found.drain_s:.1f} | {drain_s:.1f} | {drain_s / found.drain_s - 1:+.1%} |"
    )


def main() -> None:
    """Measure and print; the table on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--eps", type=float, default=600, help="events a second")
    parser.add_argument("--request", type=int, default=100, help="events in a request")
    parser.add_argument("--batch", type=int, default=100, help="WORKER_BATCH_SIZE")
    parser.add_argument("--workers", type=int, default=8, help="worker processes")
    parser.add_argument("--outage", type=float, default=40.0, help="how long the store is away, s")
    parser.add_argument("--later-ms", type=float, default=250.0, help="how late the store answers")
    parser.add_argument("--rounds", type=int, default=1, help="how often it is measured")
    parser.add_argument("--write", type=Path, help="where the last round's costs go, as JSON")
    flags = parser.parse_args()
    prefer_built_store()
    print(f"{machine()}\n")
    print("| round | most that waited | expected | | drained within, s | expected | |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, flags.rounds + 1):
            found = round_of(flags)
            plan = expected(found, flags, flags.write or Path(folder) / "run.json")
            print(row(number, found, plan), flush=True)


if __name__ == "__main__":
    main()
