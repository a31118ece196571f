"""A soak: an hour of load with a fault each minute, and the question whether anything grows.

    python -m tests.faults.soak_run --seconds 3600 --events-per-s 5000 --seed 1

Every ten seconds it looks at memory, files, connections and threads of every process, at the
log and at the group. At the end it prints how much each of these grows and with what certainty
(`kit.slopes`, `kit.soak_table`), looks every event up, and runs `evp verify`. All samples are
in samples.ndjson in the run's folder, which stays: `--again FOLDER` prints the table of a run
once more, also of one that is under way.

Other work on the machine shows in backlog and pending: let it be quiet. An hour at 5,000/s
takes some 10 GB of disk, which are free again at the end, and a quarter of an hour more to
look everything up. That is with the compiled store (`make bench-store`): the embedded one
takes hours to look up 18 million events.

Exit 0 if nothing grows, nothing is lost or doubled and the load was the one that was wanted;
1 if something of this is wrong; 2 if the disk has no room; 3 if nothing is known to be wrong,
but of some row it can't be told whether it grows; 130 after Ctrl-C, which prints the table so
far. Everything it starts ends with it.
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
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from pymongo.errors import PyMongoError

from evp.errors import LogUnavailable
from tests.faults.kit.samples import MB, Marked, Sampler
from tests.faults.kit.session import (
    LOAD_OUTPUT,
    LOAD_PLAN,
    complaints_of_verify,
    load_running,
    until_drained,
    until_ready,
)
from tests.faults.kit.soak_check import Account, compare
from tests.faults.kit.soak_judge import SAMPLES, conclusion, judge
from tests.faults.kit.soak_load import Answers, SoakPlan
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
EXIT_UNTOLD = 3
_DATA = ("log", "store")


class Deed(NamedTuple):
    """What is done, to one of whom, and for how long at least and at most."""

    verb: str
    targets: tuple[str, ...]
    shortest_s: float
    longest_s: float


FAULTS = (
    # The last worker and the last server are spared: in a long life a leak shows.
    Deed("kill worker", WORKERS[:-1], 1.0, 5.0),
    Deed("kill server", SERVERS[:-1], 1.0, 5.0),
    Deed("kill log", ("log",), 1.0, 5.0),
    Deed("pause store", ("store",), 3.0, 10.0),
    # Others take its entries over after ten seconds (EVP_CLAIM_IDLE_MS).
    Deed("pause worker", WORKERS, 12.0, 20.0),
    Deed("log loses group", ("log settings",), 1.0, 1.0),
)
ROLLS = (
    Deed("term workers", ("worker",), 1.0, 2.0),
    Deed("term servers", ("server",), 1.0, 2.0),
)
ROLL_ONE_IN = 10
"""Of so many faults one is a roll, of workers and servers in turn.

So with a fault each minute nobody lives longer than 20 minutes.
"""


class Options(msgspec.Struct):
    """What the command line says."""

    seed: int
    seconds: float
    events_per_s: float
    fault_every_s: float
    warm_up_s: float
    folder: Path
    keep: bool
    again: bool


class Result(msgspec.Struct):
    """What a soak found."""

    complaints: list[str]
    doubts: list[str]

    @property
    def clean(self) -> bool:
        """True if nothing is wrong, as far as it is known."""
        return not self.complaints


def plan(seed: int, seconds: float, every_s: float) -> Iterator[Fault]:
    """Give a fault for each `every_s`, somewhere in its first sixth; no kind is forgotten."""
    dice = random.Random(seed)
    rolls = itertools.cycle(ROLLS)
    deeds: list[Deed] = []
    for number in range(int(seconds / every_s)):
        deeds = deeds or dice.sample(FAULTS, len(FAULTS))
        is_roll = number % ROLL_ONE_IN == ROLL_ONE_IN - 1
        deed = next(rolls) if is_roll else deeds.pop()
        begins_s = number * every_s + dice.uniform(0, every_s / 6)
        for_s = dice.uniform(deed.shortest_s, deed.longest_s)
        yield Fault(deed.verb, dice.choice(deed.targets), begins_s, for_s, dice.getrandbits(32))


class Soak:
    """One soak: `go` returns what was found."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.complaints: list[str] = []
        self.doubts: list[str] = []
        self._last = "none yet"
        self._said = 0.0, 0
        """When a line was printed last, and how many events were accepted by then."""

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
            sampler = Sampler(system, options.folder / SAMPLES)
            try:
                await self._under_load(system, sampler)
                account = await self._compared(system, sampler)
            finally:
                # After Ctrl-C as well: the table so far.
                sampler.close()
                self._judge()
            self._print(account)
            self.complaints += [*system.complaints, *account.complaints]
            if not account.clean:
                self.complaints.append("what was accepted is not what is stored")
        say(f"\n{conclusion(self.complaints, self.doubts)}")
        self._clear(keep=options.keep or not account.clean)
        return Result(self.complaints, self.doubts)

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
            is_done = await self._do(system, fault)
            ended_s = sampler.now_s
            await asyncio.sleep(SETTLE_S)
            sampler.calm = True
            if is_done:
                calm_s = sampler.now_s
                sampler.mark(Marked(fault.verb, fault.target, began_s, ended_s, calm_s))

    async def _do(self, system: System, fault: Fault) -> bool:
        """Do a fault; return whether it could be done."""
        try:
            await VERBS[fault.verb].run(system, fault)
        except (LogUnavailable, PyMongoError) as error:
            self.complaints.append(f"{fault.verb} could not be done: {error}")
            return False
        return True

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

        said_at_s, said_events = self._said
        self._said = now_s, events = sampler.now_s, sampler.events
        per_s = (events - said_events) / max(1.0, now_s - said_at_s)
        return (
            f"{now_s:6.0f} s  {events:>11,} accepted, {per_s:>6,.0f}/s"
            f"  backlog {sampler.backlog:>7,}"
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

    def _judge(self) -> None:
        """Print the table, and take note of what it says."""
        if not (self.options.folder / LOAD_PLAN).exists():
            return  # The load has not even begun.
        judged = judge(self.options.folder, self.options.warm_up_s)
        say("\n".join([f"\nseed {self.options.seed}, commit {commit()}", *judged.lines()]))
        self.complaints += judged.complaints
        self.doubts += judged.doubts

    def _print(self, account: Account) -> None:
        output = (self.options.folder / LOAD_OUTPUT).read_text().strip().splitlines()
        answers = msgspec.json.decode(output[-1], type=Answers)
        lines = ["\nanswers to requests"]
        lines += [f"  {code:<24} {count:>11,}" for code, count in sorted(answers.codes.items())]
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
    parser.add_argument(
        "--again", type=Path, metavar="FOLDER", help="only judge what a run has left there"
    )
    given = parser.parse_args(arguments)
    if given.again is not None:
        if not (given.again / SAMPLES).exists():
            parser.error(f"no soak has left {SAMPLES} in {given.again}")
        given.folder = given.again
    folder = folder_of(given, "evp-soak-")
    if given.again is None and (folder / SAMPLES).exists():
        parser.error(f"{folder} has a soak already: choose another --folder, or see --again")
    needed = given.seconds * given.events_per_s * DISK_EVENT_BYTES + DISK_LOG_BYTES
    if given.again is None and shutil.disk_usage(folder).free < needed:
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
        again=given.again is not None,
    )


def judge_again(options: Options) -> int:
    """Print the table of a run once more; return the exit code."""
    judged = judge(options.folder, options.warm_up_s)
    say("\n".join([*judged.lines(), "", conclusion(judged.complaints, judged.doubts)]))
    say("(by the samples alone: whether all events are there is told by the run itself)")
    return exit_code(judged.complaints, judged.doubts)


def exit_code(complaints: list[str], doubts: list[str]) -> int:
    """Return what the shell is told."""
    return 1 if complaints else EXIT_UNTOLD if doubts else 0


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    if chosen.again:
        sys.exit(judge_again(chosen))
    soak = Soak(chosen)
    try:
        to_its_end(soak.go, chosen.seed, chosen.folder, keep=True)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    sys.exit(exit_code(soak.complaints, soak.doubts))
