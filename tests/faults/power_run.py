"""Power cuts under load: what was answered with 202 must be there, and a control must lose.

    python -m tests.faults.power_run --cuts 50 --policy always --policy waitaof

The power of a machine with log, store, server and worker is cut again and again
(`tests/faults/power`); clients are elsewhere. What was not synced is gone, or, by chance, a
part of it. Before some cuts the worker stands still, so that events are in the log alone;
before some the log rewrites its file. At the end all that was sent is looked for.

| policy | log | evp |
|---|---|---|
| `always` | `appendfsync always` | as it is set by default |
| `waitaof` | `appendfsync everysec` | the same: each append waits for WAITAOF |
| `everysec` | `appendfsync everysec` | `EVP_DURABILITY=declared`: vouched for, and wrongly |
| `memory` | `appendonly no` | `EVP_DURABILITY=memory` |

The last two are controls. One that loses nothing shows that these cuts can't tell, and is
as wrong as a loss under the first two. Without --policy all four are run. A log whose
WAITAOF does not wait (Valkey's, for one) is refused by evp under `waitaof`, and that is told.

Prints what is done and the account. Exit 0 if all is as it must be, 1 if not, 2 if nothing
can be loaded into the engines here. Everything it starts ends with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from evp.errors import LogNotDurable
from evp.stream.client import Link, LogRefused
from evp.stream.durability import examine as examine_log
from evp.stream.durability import require_waiting
from evp.stream.keys import Keys
from evp.stream.memory import info_fields
from evp.verify.report import Kind
from tests.faults.kit.checker import Findings
from tests.faults.kit.history import History
from tests.faults.kit.session import (
    Load,
    examine,
    loading,
    until_drained,
    until_ready,
    verify,
)
from tests.faults.power.disk import CantCompile, Cut
from tests.faults.power.machine import Machine, running_machine
from tests.faults.run import account, commit, folder_of, say, to_its_end

BETWEEN_S = (0.2, 1.5)
"""The load goes on so long between a start and the next cut."""
STILL_S = (0.1, 1.2)
"""The worker stands still so long before a cut, if it does."""
ACCEPTED = 5
"""So many requests are accepted after each start, at least."""
ACCEPTED_S_MAX = 60.0
DRAIN_S_MAX = 180.0
_STILL_SHARE = 0.6
_REWRITE_SHARE = 0.25
_TORN_SHARE = 0.5


@dataclass(frozen=True)
class Policy:
    """How the log is set and what evp makes of it; a control `loses`."""

    log: tuple[str, ...]
    durability: str
    loses: bool = False
    tail_lost: bool = True
    """Workers may have been given what the log then lost, and its counts with it."""


POLICIES = {
    "always": Policy(("--appendfsync", "always"), "auto", tail_lost=False),
    "waitaof": Policy(("--appendfsync", "everysec"), "auto"),
    "everysec": Policy(("--appendfsync", "everysec"), "declared", loses=True),
    "memory": Policy(("--appendonly", "no"), "memory", loses=True),
}


class Options(msgspec.Struct):
    """What the command line says."""

    seed: int
    cuts: int
    policies: list[str]
    named: bool
    """They were asked for by name, so one that evp refuses here is not passed over."""
    events_per_s: float
    folder: Path
    keep: bool


@dataclass
class Told:
    """What the cuts under one policy did."""

    cuts: int = 0
    accepted: int = 0
    lost: int = 0
    doubled: int = 0
    named: int = 0
    """Of how many lost events `evp verify` told."""
    log: str = ""
    """Which server the log was."""
    refused: str = ""
    """Why evp accepted nothing here."""
    bytes_lost: Counter[str] = field(default_factory=Counter)
    bytes_torn: int = 0
    starts_in_vain: int = 0
    took_s: float = 0.0


class Run:
    """Cuts under one policy: `go` returns what was found."""

    def __init__(self, name: str, options: Options) -> None:
        self.told = Told()
        self._name = name
        self._policy = POLICIES[name]
        self._options = options
        self._dice = random.Random(f"{options.seed} {name}")
        self._began_at_s = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        say(f"{time.monotonic() - self._began_at_s:7.2f}  {self._name}: {text}")

    async def go(self) -> Findings:
        """Run load and cut the power, wait until all has come to rest, check."""
        folder = self._options.folder / self._name
        folder.mkdir()
        async with running_machine(
            folder,
            *self._policy.log,
            EVP_DURABILITY=self._policy.durability,
            EVP_LOG_RETENTION_S="30",
            EVP_LOG_RETENTION_BYTES=str(32 * 1024 * 1024),
        ) as machine:
            await until_ready(machine)
            self.told.log = await version_of(machine)
            if not self._policy.loses:
                self.told.refused = await self._refused(machine)
            if self.told.refused:
                self.say(self.told.refused)
                return Findings(wrong={}, sizes={}, recovered=0, not_recovered=0)
            rate = self._options.events_per_s
            async with loading(
                machine, self._options.seed, events_per_s=rate, lanes=16, batch_events=20
            ) as load:
                await load.until_accepted(ACCEPTED, ACCEPTED_S_MAX)
                for _ in range(self._options.cuts):
                    await self._cut(machine)
                    await load.until_accepted(ACCEPTED, ACCEPTED_S_MAX)
            findings = await self._examined(machine, load)
        self.told.took_s = time.monotonic() - self._began_at_s
        return findings

    async def _refused(self, machine: Machine) -> str:
        """Return why evp accepts nothing on this log; empty if it does."""
        try:
            async with Link.opened(machine.log.url) as link:
                if (await examine_log(link, self._policy.durability, 0)).by_word:
                    await require_waiting(link, Keys("power_run"))
        except LogNotDurable as error:
            return f"refused: {error}"
        return ""

    async def _cut(self, machine: Machine) -> None:
        dice = self._dice
        await asyncio.sleep(dice.uniform(*BETWEEN_S))
        if dice.random() < _REWRITE_SHARE:
            await rewrite(machine)
        if dice.random() < _STILL_SHARE:
            [worker] = machine.named("worker")
            with worker.paused():
                await asyncio.sleep(dice.uniform(*STILL_S))
                cuts = await asyncio.to_thread(machine.cut_power, self._torn())
        else:
            cuts = await asyncio.to_thread(machine.cut_power, self._torn())
        self.told.cuts += 1
        self._add(cuts)
        in_vain = await asyncio.to_thread(machine.power_up)
        self.told.starts_in_vain += in_vain
        if in_vain:
            self.say(f"  an engine had to be started {in_vain + 1} times")

    def _torn(self) -> random.Random | None:
        return self._dice if self._dice.random() < _TORN_SHARE else None

    def _add(self, cuts: dict[str, Cut]) -> None:
        shown = []
        for name, cut in cuts.items():
            lost = sum(cut.lost_bytes.values())
            self.told.bytes_lost[name] += lost
            self.told.bytes_torn += cut.torn_bytes
            shown.append(f"{lost:,} bytes of the {name}")
        self.say(f"cut {self.told.cuts}: {', '.join(shown)} were not on the disk")

    async def _examined(self, machine: Machine, load: Load) -> Findings:
        policy, told = self._policy, self.told
        complaints = [
            f"{name}: {line}" for name, disk in machine.disks.items() for line in disk.blind
        ]
        if await until_drained(machine, DRAIN_S_MAX) is None:
            complaints.append(f"the backlog was not empty within {DRAIN_S_MAX:.0f} s")
        sent = await asyncio.to_thread(load.so_far)
        findings = await examine(machine, sent, log_kept=not policy.tail_lost)
        told.accepted, told.lost = len(sent.ok), len(findings.wrong["lost"])
        told.doubled = len(findings.wrong["duplicated"])
        complaints += await asyncio.to_thread(self._verified, machine)
        if policy.tail_lost:
            # A frame that a worker had begun with, and the log lost, has no outcome yet.
            findings.complaints = [
                one for one in findings.complaints if not one.startswith("outcomes add up to")
            ]
        if policy.loses:
            # What is lost is in no account either, and an event of two contents may be among it.
            findings.wrong["lost"] = findings.wrong["conflict_not_kept"] = set()
            findings.complaints.clear()
            if not told.lost:
                complaints.append("a control lost nothing: these cuts can't tell")
        findings.complaints += complaints
        self._print(sent, findings)
        return findings

    def _verified(self, machine: Machine) -> list[str]:
        """Return what is wrong by `evp verify`, or with it."""
        done = verify(machine)
        try:
            report = json.loads(done.stdout)
        except ValueError:
            return [f"evp verify ended with {done.returncode}: {done.stdout}{done.stderr}"]
        self.told.named = sum(one["events"] or 0 for one in report["findings"])
        kinds = {one["kind"] for one in report["findings"]}
        if self._policy.loses or (self._policy.tail_lost and kinds <= {Kind.ENTRY_LOST}):
            # Workers may have begun with what nobody was promised yet, and the log then lost.
            return []
        return [f"evp verify: {done.stdout}"] if done.returncode else []

    def _print(self, sent: History, findings: Findings) -> None:
        said = (
            f"\n{self._name}, seed {self._options.seed}, {self.told.cuts} cuts, commit {commit()}"
        )
        say("\n".join([said, *account(sent, findings)]))
        if self._policy.loses:
            say(f"lost, as a control must: {self.told.lost:,}")


async def rewrite(machine: Machine) -> None:
    """Let the log begin to rewrite its file, if it has one."""
    async with Link.opened(machine.log.url) as link:
        # The last one may not be done yet.
        with contextlib.suppress(LogRefused):
            await link.call("BGREWRITEAOF")


async def version_of(machine: Machine) -> str:
    """Return what the log says that it is."""
    async with Link.opened(machine.log.url) as link:
        fields = info_fields(await link.call("INFO", "server"))
    if "valkey_version" in fields:
        return f"Valkey {fields['valkey_version']}"
    return f"Redis {fields['redis_version']}"


async def run_all(options: Options) -> Findings:
    """Run each policy; return the complaints of all."""
    together = Findings(wrong={}, sizes={}, recovered=0, not_recovered=0)
    rows = {}
    for name in options.policies:
        run = Run(name, options)
        findings = await run.go()
        rows[name] = run.told
        if not findings.clean or (run.told.refused and options.named):
            together.complaints.append(name)
    say("\n".join(["", *table(rows.items())]))
    if together.complaints:
        say(f"\nNOT AS IT MUST BE: {', '.join(together.complaints)}")
    return together


def table(rows: Iterable[tuple[str, Told]]) -> list[str]:
    """Return the figures as a table for docs/GUARANTEES.md."""
    names = ["policy", "cuts", "accepted", "lost", "stored twice", "named by `evp verify`"]
    names += ["MB of the log that were not synced", "s"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, told in rows:
        if told.refused:
            lines.append(f"| `{name}` | {told.refused} |")
            continue
        unsynced_mb = told.bytes_lost["log"] / 1e6
        figures = (told.cuts, told.accepted, told.lost, told.doubled, told.named)
        shown = " | ".join(f"{one:,}" for one in figures)
        lines.append(f"| `{name}`, {told.log} | {shown} | {unsynced_mb:.1f} | {told.took_s:.0f} |")
    return lines


def parse(arguments: list[str]) -> Options:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.power_run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cuts", type=int, default=50, help="for each policy")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="again for more")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--events-per-s", type=float, default=1_000.0)
    parser.add_argument("--folder", type=Path, help="where all data goes (default: a new one)")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    given = parser.parse_args(arguments)
    return Options(
        seed=given.seed,
        cuts=given.cuts,
        policies=given.policy or list(POLICIES),
        named=bool(given.policy),
        events_per_s=given.events_per_s,
        folder=folder_of(given, "evp-power-"),
        keep=given.keep,
    )


def main(arguments: list[str]) -> int:
    """Run; return the exit code."""
    chosen = parse(arguments)
    try:
        return to_its_end(lambda: run_all(chosen), chosen.seed, chosen.folder, keep=chosen.keep)
    except CantCompile as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
