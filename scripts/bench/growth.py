"""What an event costs as things grow: what is stored, workers, payloads, connections, names.

    python scripts/bench/growth.py --write

Each point is one saturating `evp loadtest` on an `evp up` of its own, but for the events
stored, which grow in one. Costs are processor time of server, worker, log and store
together; only points of one run compare.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import report
import systems
from contenders import prefer_built_store
from load import loadtest
from machine import machine
from processes import cpu_s, fresh_folder, rss_mib
from systems import System

PAGE = Path(__file__).parents[2] / "docs" / "BENCHMARKS.md"
BEGIN = "<!-- growth: written by `make bench-growth`, from here -->"
END = "<!-- growth: to here -->"
ROLES = ("serve", "work", "log", "store")
BARS = 30
FILL_EPS = 30_000
LEVELS = (10_000, 100_000, 1_000_000, 2_000_000, 4_000_000, 7_000_000, 10_000_000)


class Point(NamedTuple):
    """What was measured at one size."""

    axis: str
    size: str
    stored_per_s: float
    accept_p99_ms: float
    cpu_us: dict[str, float]
    work_mib: float
    """What the workers held in memory at its end."""


#: By axis and size: flags of `evp up`, and of `evp loadtest`.
AXES: dict[str, dict[str, tuple[list[str], list[str]]]] = {
    "worker processes, batches of 100": {
        str(count): (["--work-processes", str(count)], []) for count in (1, 2, 4, 8)
    },
    "bytes of payload, batches of 100": {
        f"{size:,}": ([], ["--payload-bytes", str(size)]) for size in (100, 1_000, 10_000)
    },
    "events a request": {
        str(events): ([], ["--batch", str(events)]) for events in (1, 10, 100, 1_000)
    },
    "connections, single events (1: frames of one)": {
        f"{count:,}": ([], ["--batch", "1", "--connections", str(count)])
        for count in (1, 10, 100, 1_000)
    },
    "different types and users, batches of 100": {
        f"{types:,} and {users:,}": ([], ["--types", str(types), "--users", str(users)])
        for types, users in ((1, 1), (8, 1_000), (1_000, 20_000))
    },
}


@contextmanager
def evp(flags: Sequence[str]) -> Iterator[System]:
    """Run `evp up` with flags."""
    with fresh_folder() as folder, systems.start_evp(folder, flags) as system:
        yield system


def measure(system: System, axis: str, size: str, flags: Sequence[str], seconds: float) -> Point:
    """Return one point. Raises Failed."""
    before = cpu_s(system.pids)
    found = loadtest(system, ["--saturate", "--duration", f"{seconds:g}s", *flags])
    after = cpu_s(system.pids)
    events = max(1, found["accepted"])
    cpu_us = dict.fromkeys(ROLES, 0.0)
    for name, used_s in after.items():
        if (role := name.partition("-")[0]) in cpu_us:
            cpu_us[role] += 1e6 * (used_s - before[name]) / events
    held_mib = rss_mib({name: pid for name, pid in system.pids.items() if name.startswith("work")})
    point = Point(
        axis, size, found["storing"]["per_s"], found["accept_ms"]["p99"], cpu_us, held_mib
    )
    print(f"{axis}: {size}: {point.stored_per_s:,.0f}/s", file=sys.stderr, flush=True)
    return point


def stored(most: int, seconds: float) -> Iterator[Point]:
    """Give the cost of an event with ever more of them in the store."""
    axis = "events in the store, batches of 100"
    with evp([]) as system:
        for level in (one for one in LEVELS if one <= most):
            if (missing := level - system.stored()) > 0:
                eps = min(FILL_EPS, missing)
                loadtest(system, ["--eps", str(eps), "--duration", f"{missing / eps:.3f}s"])
            yield measure(system, axis, f"{system.stored():,}", [], seconds)


def table(points: Sequence[Point]) -> str:
    """Return the points as Markdown, each with a bar as long as its rate, within its axis."""
    parts, costs = [], " + ".join(ROLES)
    for axis in dict.fromkeys(one.axis for one in points):
        mine = [one for one in points if one.axis == axis]
        most = max(one.stored_per_s for one in mine) or 1.0
        rows = [
            f"| {axis} | stored/s | | accept p99, ms | {costs}, µs an event | work, MiB |",
            "| ---: | ---: | :--- | ---: | ---: | ---: |",
        ]
        for one in mine:
            bar = "█" * max(1, round(BARS * one.stored_per_s / most))
            spent = " + ".join(f"{one.cpu_us[role]:.1f}" for role in ROLES)
            total = sum(one.cpu_us.values())
            rows.append(
                f"| {one.size} | {one.stored_per_s:,.0f} | {bar} | {one.accept_p99_ms:,.1f} "
                f"| {spent} = {total:.1f} | {one.work_mib:.0f} |"
            )
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def main() -> None:
    """Measure and print; progress on stderr, tables on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each load lasts")
    parser.add_argument(
        "--stored-max", type=int, default=1_000_000, help="how many events to store at most"
    )
    parser.add_argument("--write", action="store_true", help=f"write the tables to {PAGE.name}")
    flags = parser.parse_args()
    prefer_built_store()
    points = list(stored(flags.stored_max, flags.seconds))
    for axis, sizes in AXES.items():
        for size, (up_flags, load_flags) in sizes.items():
            with evp(up_flags) as system:
                loadtest(system, ["--saturate", "--duration", "1s", *load_flags])
                points.append(measure(system, axis, size, load_flags, flags.seconds))
    how = f"`--seconds {flags.seconds:g} --stored-max {flags.stored_max}`"
    text = f"{report.today()}; {machine()}; {how}\n\n{table(points)}"
    print(text)
    if flags.write:
        report.write(PAGE, text, BEGIN, END)


if __name__ == "__main__":
    main()
