"""Simulated schedules by the thousand.

    python -m tests.simulation --schedules 20000 --seed 1
    python -m tests.simulation --replay 4711 --trace
    python -m tests.simulation --schedules 10000 --mutant ack-before-insert

Each schedule is a whole deployment for some ten simulated seconds, drawn from its seed: evp's
own servers and workers on a simulated log and store, with everything going wrong that
`tests/simulation/world.py` tells. Exit 0 if every promise was kept, 1 if one was broken, with
the seed and how to see it again. The same seed gives the same schedule, to the last call.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import msgspec

from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.pool import results
from tests.simulation.schedule import run
from tests.simulation.simulation import Result
from tests.simulation.world import Counts

_SAID_EVERY_S = 5.0
_SHOWN_MAX = 5


class Totals(msgspec.Struct):
    """What all schedules came to."""

    schedules: int = 0
    frames: int = 0
    accepted: int = 0
    lost: int = 0
    calls: int = 0
    faults: int = 0
    simulated_s: float = 0.0
    counts: Counts = msgspec.field(default_factory=Counts)

    def add(self, result: Result) -> None:
        """Add one schedule."""
        self.schedules += 1
        for name in ("frames", "accepted", "lost", "calls", "faults", "simulated_s"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        for name in Counts.__struct_fields__:
            value = getattr(self.counts, name) + getattr(result.counts, name)
            setattr(self.counts, name, value)

    def __str__(self) -> str:
        each = max(1, self.schedules)
        counts = self.counts
        return (
            f"{self.schedules:,} schedules: {self.frames:,} frames, {self.frames / each:.0f} each, "
            f"{self.accepted:,} events accepted, {self.calls:,} calls to log and store\n"
            f"{self.faults:,} faults of calls, {counts.late:,} calls arrived late, "
            f"{counts.crashes:,} processes killed, {counts.pauses:,} paused\n"
            f"{counts.failovers:,} failovers, {counts.flushes:,} flushes, "
            f"{counts.groups_destroyed:,} groups destroyed: {self.lost:,} frames forgotten by the "
            f"log\n{counts.erased:,} erasures, {counts.leaps:,} leaps of the clock, "
            f"{self.simulated_s / 3600:,.0f} h simulated"
        )


def main(arguments: list[str]) -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first one; then come the next")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run this schedule alone")
    parser.add_argument("--trace", action="store_true", help="with --replay: print what happens")
    parser.add_argument("--mutant", choices=MUTANTS, help="without this rule of evp's")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if given.replay is not None:
        return _replay(given.replay, given.mutant, trace=given.trace)
    return _run_all(given)


def _replay(seed: int, mutant: str | None, *, trace: bool) -> int:
    with mutated(mutant):
        result = run(seed, _print if trace else None)
    totals = Totals()
    totals.add(result)
    _say(f"{totals}\ndigest {result.digest:08x}")
    _show(result, mutant)
    return 1 if result.violations else 0


def _run_all(given: argparse.Namespace) -> int:
    began_at_s = said_at_s = time.monotonic()
    totals, bad, interrupted = Totals(), 0, False
    seeds = range(given.seed, given.seed + given.schedules)
    try:
        for result in results(seeds, given.mutant, given.processes):
            totals.add(result)
            if result.violations:
                bad += 1
                if bad <= _SHOWN_MAX:
                    _show(result, given.mutant)
                if given.mutant is not None:
                    break
            now_s = time.monotonic()
            if now_s - said_at_s >= _SAID_EVERY_S:
                said_at_s = now_s
                rate = totals.schedules / (now_s - began_at_s)
                _say(f"{totals.schedules:,} schedules, {rate:.0f}/s, {bad} with a violation")
    except KeyboardInterrupt:
        interrupted = True
    except BrokenProcessPool:
        _say("one of the processes of this run was killed: what comes after it was not run")
        interrupted = True
    took_s = time.monotonic() - began_at_s
    _say(f"\n{totals}\nin {took_s:.1f} s, {totals.schedules / took_s:.1f} schedules/s")
    if given.mutant is not None:
        found = f"found after {totals.schedules:,} schedules" if bad else "NOT FOUND"
        _say(f"the mutant {given.mutant} is {found}")
        return 0 if bad else 1
    so_far = "stopped before its end; so far " if interrupted else ""
    _say(so_far + (f"{bad} SCHEDULES WITH A VIOLATION" if bad else "every promise was kept"))
    if interrupted:
        return 130
    return 1 if bad else 0


def _show(result: Result, mutant: str | None) -> None:
    for one in result.violations[:_SHOWN_MAX]:
        _say(f"seed {result.seed}: {one.rule}: {one.facts}")
    if result.violations:
        option = f" --mutant {mutant}" if mutant else ""
        _say(f"  again: python -m tests.simulation --replay {result.seed} --trace{option}")


def _print(at_s: float, text: str) -> None:
    _say(f"{at_s:10.4f} {text}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _end_at(ending: int) -> None:
    """Have a signal end the run as Ctrl-C does: what was done so far is said."""
    mine = os.getpid()

    def end(*_: object) -> None:
        if os.getpid() != mine:
            os._exit(1)  # It was just forked, and has not begun.
        signal.signal(ending, signal.SIG_IGN)  # Once is enough.
        raise KeyboardInterrupt

    signal.signal(ending, end)


if __name__ == "__main__":
    _end_at(signal.SIGTERM)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
