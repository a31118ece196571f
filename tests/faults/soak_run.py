"""A soak: an hour of load with a fault each minute, and the question whether anything grows.

    python -m tests.faults.soak_run --seconds 3600 --events-per-s 5000 --seed 1

Every ten seconds it looks at memory, files, connections and threads of every process, at the
log and at the group. At the end it prints how much each of these grows and with what certainty
(`kit.slopes`, `kit.soak_table`), looks every event up, and runs `evp verify`. All samples are
in samples.ndjson in the run's folder.

Other work on the machine shows in backlog and pending: let it be quiet. An hour at 5,000/s
takes some 10 GB of disk, which are free again at the end, and a quarter of an hour more to
look everything up. That is with the compiled store (`make bench-store`): the embedded one
takes hours to look up 18 million events.

Exit 0 if nothing grows and nothing is lost or doubled, 1 if something is, 2 if the disk has
no room, 130 after Ctrl-C, which prints the table so far. Everything it starts ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
from pymongo.errors import PyMongoError

from evp.errors import LogUnavailable
from tests.faults.kit.samples import MB, Marked, Sampler
from tests.faults.kit.session import (
    LOAD_OUTPUT,
    complaints_of_verify,
    load_running,
    until_drained,
    until_ready,
)
from tests.faults.kit.soak_check import Account, compare
from tests.faults.kit.soak_load import SoakPlan, Told
from tests.faults.kit.soak_table import UNTOLD, rows, table
from tests.faults.kit.system import DATABASE, KEY, System, running_system
from tests.faults.kit.verbs import SERVERS, VERBS, WORKERS, Fault
from tests.faults.run import commit, folder_of, parser_of, say, to_its_end

SAMPLE_EVERY_S = 10.0
SAY_EVERY_S = 60.0
SETTLE_S = 15.0
"""After a fault this much passes before samples count again."""
AFTER_S = 10.0
"""The load goes on so long after the last fault."""
DRAIN_S_MAX = 300.0
DISK_EVENT_BYTES = 600
"""Room for an event in the store; it takes some 400 (measured)."""
DISK_LOG_BYTES = 3e9
"""What the log's file takes at most, while it is written anew."""
_DATA = ("log", "store")

Kind = tuple[str, tuple[str, ...], float, float]
"""What is done, to whom, and for how long at least and at most, seconds."""
FAULTS: tuple[Kind, ...] = (
    # The last worker and the last server are spared: in a long life a leak shows.
    ("kill worker", WORKERS[:-1], 1.0, 5.0),
    ("kill server", SERVERS[:-1], 1.0, 5.0),
    ("kill log", ("log",), 1.0, 5.0),
    ("pause store", ("store",), 3.0, 10.0),
    # Others take its entries over after ten seconds (EVP_CLAIM_IDLE_MS).
    ("pause worker", WORKERS, 12.0, 20.0),
    ("log loses group", ("log settings",), 1.0, 1.0),
)
ROLLS: tuple[Kind, ...] = (
    ("term workers", ("worker",), 1.0, 2.0),
    ("term servers", ("server",), 1.0, 2.0),
)
ROLL_ONE_IN = 10
"""Of so many faults one is a roll, of workers and servers in turn."""


class Options(msgspec.Struct):
    """What the command line says."""

    seed: int
    seconds: float
    events_per_s: float
    fault_every_s: float
    warm_up_s: float
    folder: Path
    keep: bool


class Result(msgspec.Struct):
    """What a soak found."""

    complaints: list[str]

    @property
    def clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.complaints


def plan(seed: int, seconds: float, every_s: float) -> Iterator[Fault]:
    """Give a fault for each `every_s`, somewhere in its first sixth; no kind is forgotten."""
    dice = random.Random(seed)
    rolls = itertools.cycle(ROLLS)
    kinds: list[Kind] = []
    for number in range(int(seconds / every_s)):
        kinds = kinds or dice.sample(FAULTS, len(FAULTS))
        is_roll = number % ROLL_ONE_IN == ROLL_ONE_IN - 1
        verb, targets, shortest_s, longest_s = next(rolls) if is_roll else kinds.pop()
        begins_s = number * every_s + dice.uniform(0, every_s / 6)
        for_s = dice.uniform(shortest_s, longest_s)
        yield Fault(verb, dice.choice(targets), begins_s, for_s, dice.getrandbits(32))


class Soak:
    """One soak: `go` returns what was found."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.done: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.untold: list[str] = []
        """Series of which too little was seen."""
        self._last = "none yet"

    async def go(self) -> Result:
        """Load, do faults and take samples; then compare, verify and print."""
        options = self.options
        async with running_system(
            options.folder,
            servers=len(SERVERS),
            workers=len(WORKERS),
            proxied=False,
            EVP_LOG_RETENTION_S="30",
            EVP_LOG_RETENTION_BYTES=str(32 * 1024 * 1024),
        ) as system:
            await until_ready(system)
            sampler = Sampler(system, options.folder / "samples.ndjson")
            try:
                await self._under_load(system, sampler)
                account = await self._compared(system, sampler)
            finally:
                # After Ctrl-C as well: the table so far.
                sampler.close()
                self._print_table(sampler)
            self._print(account)
            self.complaints += [*system.complaints, *account.complaints]
            if not account.clean:
                self.complaints.append("what was accepted is not what is stored")
        for complaint in self.complaints:
            say(f"WRONG: {complaint}")
        say(f"\n{self._conclusion()}")
        self._clear(keep=options.keep or not account.clean)
        return Result(self.complaints)

    def _conclusion(self) -> str:
        if self.complaints:
            return "SOMETHING IS WRONG"
        if self.untold:
            return f"nothing is wrong; too short to tell of {', '.join(self.untold)}"
        return "nothing grows, nothing is wrong"

    async def _under_load(self, system: System, sampler: Sampler) -> None:
        options = self.options
        requests_path = options.folder / "requests.ndjson"
        sent = SoakPlan(system.urls, KEY, str(requests_path), options.events_per_s)
        module = "tests.faults.kit.soak_load"
        async with (
            load_running(system.folder, module, sent) as load,
            self._watching(sampler, load),
        ):
            await self._do_faults(system, sampler)
            await asyncio.sleep(max(AFTER_S, options.seconds - sampler.now_s))

    async def _do_faults(self, system: System, sampler: Sampler) -> None:
        options = self.options
        for fault in plan(options.seed, options.seconds, options.fault_every_s):
            await asyncio.sleep(max(0.0, fault.at_s - sampler.now_s))
            began_s = sampler.now_s
            sampler.calm = False
            sampler.block += 1
            self._last = f"{fault.verb} ({fault.target}), {fault.for_s:.0f} s"
            try:
                await VERBS[fault.verb].run(system, fault)
                self.done[fault.verb] += 1
            except (LogUnavailable, PyMongoError) as error:
                self.complaints.append(f"{fault.verb} could not be done: {error}")
            ended_s = sampler.now_s
            await asyncio.sleep(SETTLE_S)
            sampler.calm = True
            mark = Marked(fault.verb, fault.target, began_s, ended_s, sampler.now_s)
            sampler.mark(mark)

    @contextlib.asynccontextmanager
    async def _watching(
        self, sampler: Sampler, load: subprocess.Popen[bytes]
    ) -> AsyncIterator[None]:
        """Take samples, and say a line now and then, meanwhile."""

        async def watch() -> None:
            next_s = say_s = 0.0
            while True:
                await asyncio.sleep(max(0.0, next_s - sampler.now_s))
                next_s += SAMPLE_EVERY_S
                await sampler.look()
                if load.poll() is not None:
                    raise RuntimeError(f"the load has ended: see {LOAD_OUTPUT}")
                if sampler.now_s >= say_s:
                    say_s += SAY_EVERY_S
                    say(self._line(sampler))

        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(watch())
            yield
            watcher.cancel()

    def _line(self, sampler: Sampler) -> str:
        def all_of(kind: str) -> str:
            return " ".join(f"{value:.0f}" for value in sampler.latest(kind, "RSS"))

        return (
            f"{sampler.now_s:6.0f} s  {sampler.events:>11,} accepted  backlog {sampler.backlog:>7,}"
            f"  RSS servers {all_of('server')}, workers {all_of('worker')} MB"
            f"  fault: {self._last}"
        )

    async def _compared(self, system: System, sampler: Sampler) -> Account:
        """Let all come to rest, and look every event up."""
        say(f"{sampler.now_s:6.0f} s  the load has ended")
        drained_at_s = await until_drained(system, DRAIN_S_MAX)
        if drained_at_s is None:
            self.complaints.append(f"the backlog was not empty within {DRAIN_S_MAX:.0f} s")
        accepted = (await system.facts()).events_accepted
        say(f"{sampler.now_s:6.0f} s  drained; looking {accepted:,} events up")
        said_at_s = time.monotonic()

        def progress(done: int) -> None:
            nonlocal said_at_s
            if time.monotonic() - said_at_s > SAY_EVERY_S:
                said_at_s = time.monotonic()
                say(f"{sampler.now_s:6.0f} s  {done:,} of {accepted:,} events looked up")

        path = self.options.folder / "requests.ndjson"
        account = await compare(system.store.url, DATABASE, path, accepted, progress)
        say(f"{sampler.now_s:6.0f} s  looked up; evp verify")
        self.complaints += await asyncio.to_thread(complaints_of_verify, system, accepted)
        say(f"{sampler.now_s:6.0f} s  verified")
        return account

    def _print_table(self, sampler: Sampler) -> None:
        options = self.options
        found = rows(sampler.samples, options.warm_up_s)
        say(
            f"\nseed {options.seed}, {sampler.now_s:.0f} s, {options.events_per_s:,g} events/s, "
            f"{sampler.events:,} events accepted, commit {commit()}\n"
        )
        say("\n".join(table(found)))
        self.complaints += [f"{one.kind} {one.what} {one.verdict}" for one in found if one.bad]
        self.untold += [f"{one.kind} {one.what}" for one in found if one.verdict == UNTOLD]
        lines = [f"\nfaults: {self.done.total()}"]
        lines += [f"  {verb:<24} {count:>5}" for verb, count in sorted(self.done.items())]
        say("\n".join(lines))

    def _print(self, account: Account) -> None:
        output = (self.options.folder / LOAD_OUTPUT).read_text().strip().splitlines()
        told = msgspec.json.decode(output[-1], type=Told)
        lines = ["\nanswers to requests"]
        lines += [f"  {code:<24} {count:>11,}" for code, count in sorted(told.codes.items())]
        lines.append("\nevents")
        for name in ("accepted", "unknown", "recovered", "refused", "documents", "compared"):
            lines.append(f"  {name:<24} {getattr(account, name):>11,}")
        for name in ("lost", "doubled", "altered", "refused_but_stored", "letters"):
            lines.append(f"  {name:<24} {getattr(account, name):>11,}")
        data = sum(_size(self.options.folder / name) for name in _DATA)
        lines += [f"  {one}" for one in account.wrong]
        lines.append(f"\nlog and store: {data / MB:,.0f} MB on disk")
        say("\n".join(lines))

    def _clear(self, *, keep: bool) -> None:
        """Remove what log and store hold; samples, requests and outputs stay."""
        if not keep:
            for name in _DATA:
                shutil.rmtree(self.options.folder / name, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def parse(arguments: list[str]) -> Options:
    """Return what the command line says."""
    parser = parser_of("tests.faults.soak_run", __doc__, seconds=3600.0, events_per_s=5_000.0)
    parser.add_argument("--fault-every-s", type=float, default=60.0)
    parser.add_argument(
        "--warm-up-s", type=float, default=300.0, help="memory of a younger process is not judged"
    )
    parser.add_argument("--store", type=Path, help="program of the store (default: as found)")
    given = parser.parse_args(arguments)
    folder = folder_of(given, "evp-soak-")
    needed = given.seconds * given.events_per_s * DISK_EVENT_BYTES + DISK_LOG_BYTES
    if shutil.disk_usage(folder).free < needed:
        parser.error(f"{folder} needs {needed / MB:,.0f} MB free: choose another --folder")
    if given.store is not None:
        os.environ["PATH"] = f"{given.store.resolve().parent}{os.pathsep}{os.environ['PATH']}"
    return Options(
        seed=given.seed,
        seconds=given.seconds,
        events_per_s=given.events_per_s,
        fault_every_s=given.fault_every_s,
        warm_up_s=given.warm_up_s,
        folder=folder,
        keep=given.keep,
    )


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    try:
        sys.exit(to_its_end(Soak(chosen).go, chosen.seed, chosen.folder, keep=True))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
