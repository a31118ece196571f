"""Compare this checkout with another one, in turns, to see whether a change cost speed.

    git worktree add ../before some-tag
    python scripts/bench/versions.py ../before --seconds 6 --rounds 5

Needs wrk. Both run with the same Python and libraries, each on fresh data.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from redis import Redis

HERE = Path(__file__).parent
STREAM = "evp:events"
CONNECTIONS = {100: 32, 1: 128}
WAIT_S_MAX = 120.0


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


def main() -> None:
    """Measure in turns; each round on stderr, medians and their ratios on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="the checkout to compare with")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each load lasts")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    flags = parser.parse_args()
    checkouts = {"this": HERE.parents[1], "other": flags.other}
    for events in (100, 1):
        ratios: dict[str, list[float]] = {}
        for number in range(flags.rounds):
            turns = list(checkouts) if number % 2 else list(checkouts)[::-1]
            found = {}
            for turn in turns:
                with up(checkouts[turn]) as running:
                    load(running, events, 1.0)
                    found[turn] = load(running, events, flags.seconds)
            print(events, json.dumps(found), file=sys.stderr, flush=True)
            for name, value in found["this"].items():
                ratios.setdefault(name, []).append(value / found["other"][name])
        for name, values in ratios.items():
            shown = ", ".join(f"{value:.2f}" for value in values)
            print(f"{events:>4} a request  {name:<16} {statistics.median(values):.3f}  ({shown})")


if __name__ == "__main__":
    main()
