"""Compare this checkout with another one, in turns, to see whether a change cost speed.

    git worktree add ../before some-tag
    python scripts/bench/versions.py ../before --seconds 2 --rounds 20

Needs wrk. Both run at the same time, with the same Python and libraries, each on data
of its own, and are loaded in turns: on a shared machine two runs of the same code
differ by more than most changes cost. The cost of an event, in processor time of all
parts, is the steadier figure.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
from redis import Redis

HERE = Path(__file__).parent
STREAM = "evp:events"
CONNECTIONS = {100: 32, 1: 128}
WAIT_S_MAX = 120.0
AFTERWARDS_S = 35.0


@contextmanager
def up(checkout: Path) -> Iterator[dict[str, Any]]:
    """Run `evp up` of a checkout in a folder of its own; gives what its `up.json` tells."""
    with tempfile.TemporaryDirectory(prefix="evp-bench-") as name:
        command = [sys.executable, "-m", "evp", "up", "--port", "0", "--data-dir", name]
        environ = os.environ | {"PYTHONPATH": str(checkout.resolve())}
        process = subprocess.Popen(
            command, cwd=name, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            facts = Path(name) / "up.json"
            wait(facts.exists)
            yield msgspec.json.decode(facts.read_bytes())
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def load(running: dict[str, Any], events: int, seconds: float) -> dict[str, float]:
    """Run wrk until its time is up, then until all is stored; return rates and latencies."""
    environ = {"EVENTS": str(events), "KEY": running["api_key"], "RUN": secrets.token_hex(4)}
    command = ["wrk", "-t1", f"-c{CONNECTIONS[events]}", f"-d{seconds:g}s"]
    with Redis.from_url(running["redis_url"]) as log:
        before, started_at_s = accepted(log), time.monotonic()
        output = subprocess.run(
            [*command, "-s", HERE / "events.lua", running["http_url"]],
            env=os.environ | environ,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        count, accepting_s = accepted(log) - before, time.monotonic() - started_at_s
        wait(lambda: drained(log))
        took_s = time.monotonic() - started_at_s
    result = json.loads(output.partition("RESULT ")[2])
    return {
        "events": count,
        "stored_per_s": count / took_s,
        "accepted_per_s": count / accepting_s,
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
    }


def accepted(log: Any) -> int:
    """Return how many events the log has ever taken."""
    return int(log.hget(f"{{{STREAM}}}:counters", "events") or 0)


def drained(log: Any) -> bool:
    """Return True if every group has acked everything."""
    return not any(group["pending"] or group["lag"] for group in log.xinfo_groups(STREAM))


def wait(holds: Any) -> None:
    """Wait until something is true."""
    ends_at_s = time.monotonic() + WAIT_S_MAX
    while not holds():
        if time.monotonic() > ends_at_s:
            raise SystemExit(f"not within {WAIT_S_MAX:g} s")
        time.sleep(0.02)


def cpu_s(running: dict[str, Any]) -> dict[str, float]:
    """Return the processor time so far of each part, children included."""
    found = {}
    for name, pid in running["children"].items():
        top = psutil.Process(pid)
        times = [one.cpu_times() for one in (top, *top.children(recursive=True))]
        found[name] = sum(one.user + one.system for one in times)
    return found


def compare(checkouts: dict[str, Path], events: int, seconds: float, rounds: int) -> None:
    """Load two checkouts in short turns, and print what they did and what that cost."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(up(path)) for name, path in checkouts.items()}
        for one in running.values():
            load(one, events, 1.0)
        spent_s = {name: cpu_s(one) for name, one in running.items()}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in running}
        for number in range(rounds):
            for name in list(running) if number % 2 else list(running)[::-1]:
                found[name].append(load(running[name], events, seconds))
        # What was accepted last is summed up after half a minute; that work counts as well.
        time.sleep(AFTERWARDS_S)
        for name, one in running.items():
            count = sum(turn["events"] for turn in found[name])
            parts = {
                part: 1e6 * (now_s - spent_s[name][part]) / count
                for part, now_s in cpu_s(one).items()
            }
            shown = ", ".join(f"{part} {cost:.1f}" for part, cost in parts.items())
            cost = sum(parts.values())
            print(f"{events:>4} a request  {name:<6} {cost:6.1f} µs an event  ({shown})")
    for what in ("stored_per_s", "accepted_per_s", "p50_ms", "p99_ms"):
        pairs = zip(found["this"], found["other"], strict=True)
        ratios = sorted(this[what] / other[what] for this, other in pairs)
        quarters = statistics.quantiles(ratios, n=4)
        print(
            f"{events:>4} a request  {what:<16} {quarters[1]:.3f}"
            f"  (half of the turns between {quarters[0]:.2f} and {quarters[2]:.2f})"
        )


def main() -> None:
    """Compare batches, then single events."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="the checkout to compare with")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each load lasts")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is measured")
    flags = parser.parse_args()
    checkouts = {"this": HERE.parents[1], "other": flags.other}
    for events in CONNECTIONS:
        compare(checkouts, events, flags.seconds, flags.rounds)


if __name__ == "__main__":
    main()
