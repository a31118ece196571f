"""A fault run: load on a whole system, faults by a seed, and the proof that nothing was lost.

    python -m tests.faults.run --seed 1 --seconds 600

Prints what was done and found. Exit 0 if nothing is wrong, 1 if something is.
Everything it starts ends with it; the folder stays if something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Protocol

import msgspec
import uvloop

from tests.faults.kit.checker import Findings, check_liveness, quantile_s
from tests.faults.kit.history import History
from tests.faults.kit.schedule import carry_out, plan
from tests.faults.kit.session import (
    complaints_of_verify,
    examine,
    loading,
    until_drained,
    until_ready,
)
from tests.faults.kit.system import running_system
from tests.faults.kit.verbs import SERVERS, WORKERS

AFTER_S = 10.0
"""The load goes on so long after the last fault: somebody must be accepted."""
_SHOWN = 5


class Options(msgspec.Struct):
    """What the command line says."""

    seed: int
    seconds: float
    events_per_s: float
    folder: Path
    keep: bool


class Run:
    """One run: `go` returns what was found."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.done: Counter[str] = Counter()
        self._began_at_s = time.monotonic()
        self._trail = (options.folder / "faults.log").open("w")

    def say(self, text: str) -> None:
        """Write a line, with the seconds since the start, to the trail."""
        self._trail.write(f"{time.monotonic() - self._began_at_s:7.2f} {text}\n")
        self._trail.flush()

    async def go(self) -> Findings:
        """Run load and faults, wait until all has come to rest, check."""
        options = self.options
        async with running_system(
            options.folder,
            servers=len(SERVERS),
            workers=len(WORKERS),
            seed=options.seed,
            obedient=True,
            EVP_LOG_RETENTION_S="30",
            EVP_LOG_RETENTION_BYTES=str(32 * 1024 * 1024),
        ) as system:
            await until_ready(system)
            async with loading(system, options.seed, events_per_s=options.events_per_s) as load:
                faults = plan(options.seed, options.seconds)
                self.done = await carry_out(system, faults, options.seconds, self.say)
                healed_at_s = time.monotonic()
                self.say("healed")
                await asyncio.sleep(AFTER_S)
            self.say("load ended")
            drained_at_s = await until_drained(system)
            self.say("not drained" if drained_at_s is None else "drained")
            sent = await asyncio.to_thread(load.so_far)
            findings = await examine(system, sent)
            findings.complaints += [
                *system.complaints,
                *check_liveness(sent.ok_at_s, healed_at_s, drained_at_s),
                *await asyncio.to_thread(complaints_of_verify, system),
            ]
            lost = sum(proxy.lost for proxy in system.network.proxies.values())
            self._print(sent, findings, lost)
            return findings

    def _print(self, sent: History, findings: Findings, replies_lost: int) -> None:
        lines = [f"seed {self.options.seed}, {self.options.seconds:g} s, commit {commit()}"]
        lines.append(f"\nfaults: {self.done.total()}")
        lines += [f"  {verb:<24} {count:>5}" for verb, count in sorted(self.done.items())]
        lines.append(f"  {'(replies lost)':<24} {replies_lost:>5}")
        say("\n".join([*lines, *account(sent, findings)]))


def account(sent: History, findings: Findings, expected: Collection[str] = ()) -> list[str]:
    """Return what was sent, what is there and what is wrong, as lines to print.

    Of what is `expected`, by its name in `wrong`, it is said that it is.
    """
    lines = ["\nrequests"]
    lines += [f"  {told:<24} {count:>9,}" for told, count in sorted(sent.codes.items())]
    lines.append("\nevents")
    lines += [f"  {name:<24} {count:>9,}" for name, count in findings.sizes.items()]
    lines.append(f"  {'recovered':<24} {findings.recovered:>9,}")
    lines.append(f"  {'not recovered':<24} {findings.not_recovered:>9,}")
    for name, ids in findings.wrong.items():
        shown = f"  {', '.join(sorted(ids)[:_SHOWN])}" if ids else ""
        shown = "  as expected" if ids and name in expected else shown
        lines.append(f"  {name:<24} {len(ids):>9,}{shown}")
    stale = findings.stale_s
    p50, p99, longest = (quantile_s(stale, share) for share in (0.5, 0.99, 1.0))
    lines.append(
        f"\nfrom 202 until stored, {len(stale):,} events: "
        f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {longest:.2f} s"
    )
    lines += [f"WRONG: {complaint}" for complaint in findings.complaints]
    is_wrong = any(ids for name, ids in findings.wrong.items() if name not in expected)
    is_wrong = is_wrong or bool(findings.complaints)
    lines.append("\nSOMETHING IS WRONG" if is_wrong else "\nnothing is wrong")
    return lines


def say(text: str) -> None:
    """Print."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def commit() -> str:
    """Return which code this is."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=False,
        text=True,
    )
    return done.stdout.strip() or "unknown"


def parser_of(
    module: str, told: str | None, *, seconds: float, events_per_s: float
) -> argparse.ArgumentParser:
    """Return what reads the command line of a run, with its defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=told)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--events-per-s", type=float, default=events_per_s)
    parser.add_argument("--folder", type=Path, help="where all data goes (default: a new one)")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    return parser


def folder_of(given: argparse.Namespace, prefix: str) -> Path:
    """Return the folder for a run, which is there."""
    folder: Path = given.folder or Path(tempfile.mkdtemp(prefix=prefix))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Told(Protocol):
    """What a run found, whatever else it tells."""

    @property
    def clean(self) -> bool:
        """True if nothing is wrong."""


def to_its_end(run: Callable[[], Awaitable[Told]], seed: int, folder: Path, *, keep: bool) -> int:
    """Run; SIGTERM ends it as Ctrl-C does, with nothing left. Returns the exit code.

    The folder goes if nothing is wrong, unless it is to be kept.
    """

    async def until_told() -> Told:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await run()

    say(f"seed {seed}; everything is in {folder}")
    result: Told = uvloop.run(until_told())
    if result.clean and not keep:
        shutil.rmtree(folder)
    return 0 if result.clean else 1


def parse(arguments: list[str]) -> Options:
    """Return what the command line says."""
    parser = parser_of("tests.faults.run", __doc__, seconds=600.0, events_per_s=4_000.0)
    given = parser.parse_args(arguments)
    folder = folder_of(given, "evp-faults-")
    return Options(given.seed, given.seconds, given.events_per_s, folder, given.keep)


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    sys.exit(to_its_end(Run(chosen).go, chosen.seed, chosen.folder, keep=chosen.keep))
