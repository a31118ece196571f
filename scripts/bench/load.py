"""Load on a running contender: as much as it takes, and half of that at a steady pace."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis

from processes import Failed, busy_s, cpu_s
from systems import System

SCRIPT = Path(__file__).parent / "events.lua"
CONNECTIONS = {100: 32, 1: 128}
DRAIN_S_MAX = 300.0
TAIL_S = 0.5
PACED_BATCH_EVENTS = 100


class Load(NamedTuple):
    """What became of one run of the generator."""

    accepted: int
    """Events that the log took."""
    answered: int
    """Events of requests that wrk saw answered by 2xx; those under way at its end are not."""
    failed: int
    stored_per_s: float
    accepted_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    """Processor time of an event by role."""
    others_share: float
    """Of the machine's processor time, what anybody else used meanwhile; 0 to 1."""


def saturate(system: System, events: int, seconds: int) -> Load:
    """Run wrk, wait until all that was accepted is stored and acked, and return what it took.

    Raises Failed if that takes too long.
    """
    environ = {"EVENTS": str(events), "KEY": system.key, "RUN": secrets.token_hex(4)}
    command = ["wrk", "-t1", f"-c{CONNECTIONS[events]}", f"-d{seconds}s", "-s", str(SCRIPT)]
    with Redis.from_url(system.redis_url) as log:
        before, spent_s = system.accepted(log, events), cpu_s(system.pids)
        busy, started_at_s = busy_s() - time.process_time(), time.monotonic()
        done = subprocess.run(
            [*command, system.url], env=os.environ | environ, check=False, capture_output=True
        )
        accepting_s = time.monotonic() - started_at_s
        in_time = system.accepted(log, events) - before
        drain(system, log)
        took_s = time.monotonic() - started_at_s
        stored = system.accepted(log, events) - before
        # Requests that wrk has left may still be under way.
        time.sleep(TAIL_S)
        drain(system, log)
        accepted = system.accepted(log, events) - before
        now_s = cpu_s(system.pids)
        busy = busy_s() - time.process_time() - busy
        whole_s = (time.monotonic() - started_at_s) * (os.cpu_count() or 1)
    if done.returncode:
        raise Failed(f"wrk ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    result = json.loads(done.stdout.partition(b"RESULT ")[2])
    if not accepted:
        raise Failed(f"nothing was accepted; {result['failed']} requests failed")
    return Load(
        accepted,
        (result["requests"] - result["failed"]) * events,
        result["failed"],
        stored / took_s,
        in_time / accepting_s,
        result["p50_ms"],
        result["p99_ms"],
        {role: 1e6 * (now_s[role] - spent_s[role]) / accepted for role in now_s},
        max(0.0, busy - sum(now_s.values()) + sum(spent_s.values())) / whole_s,
    )


def drain(system: System, log: Any) -> None:
    """Wait until every group has read and acked all. Raises Failed if that takes too long."""

    def drained() -> bool:
        groups = log.xinfo_groups(system.stream)
        return not any(group["pending"] or group["lag"] for group in groups)

    system.processes.wait(drained, "storing what was accepted", DRAIN_S_MAX)


def accepting_ms(system: System, eps: float, seconds: int) -> dict[str, float]:
    """Return p50 and p99 of accepting at a steady pace. Raises Failed.

    Times count from the moment a request was due, so that a stall does not hide.
    """
    pace = ["--eps", str(round(eps)), "--batch", str(PACED_BATCH_EVENTS)]
    found = loadtest(system, [*pace, "--duration", f"{seconds}s", "--accept-only"])["accept_ms"]
    return {"p50_ms": found["p50"], "p99_ms": found["p99"]}


def loadtest(system: System, flags: Sequence[str]) -> dict[str, Any]:
    """Run `evp loadtest` against a system and return its report. Raises Failed."""
    command = [sys.executable, "-m", "evp", "loadtest", "--url", system.url, "--key", system.key]
    environ = {
        "EVP_REDIS_URL": system.redis_url,
        "EVP_MONGO_URL": system.mongo_url,
        "EVP_MONGO_DB": system.database,
    }
    done = subprocess.run(
        [*command, "--json", *flags],
        env=os.environ | environ,
        check=False,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout) if done.stdout else {}
    if not report.get("accept_ms"):
        raise Failed(f"evp loadtest ended with {done.returncode}: {done.stderr[-500:]}")
    return dict(report)
