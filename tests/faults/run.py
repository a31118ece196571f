"""A fault run: load on a whole system, faults by a seed, and the proof that nothing was lost.

    python -m tests.faults.run --seed 1 --seconds 600

Prints what was done and found. Exit 0 if nothing is wrong, 1 if something is.
Everything it starts ends with it; the folder stays if something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop

from evp.errors import LogUnavailable
from tests.faults.kit import history
from tests.faults.kit.checker import (
    Findings,
    check,
    check_counters,
    check_liveness,
    quantile_s,
)
from tests.faults.kit.found import Found
from tests.faults.kit.load import Plan
from tests.faults.kit.schedule import carry_out, plan
from tests.faults.kit.system import DATABASE, KEY, System, running_system
from tests.faults.kit.verbs import SERVERS, WORKERS

WARM_UP_S_MAX = 30.0
AFTER_S = 10.0
"""The load goes on so long after the last fault: somebody must be accepted."""
DRAIN_S_MAX = 120.0
VERIFY_S_MAX = 300.0
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
        self.client_log = options.folder / "clients.log"
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
            await self._ready(system)
            with self._load(system):
                faults = plan(options.seed, options.seconds)
                self.done = await carry_out(system, faults, options.seconds, self.say)
                healed_at_s = time.monotonic()
                self.say("healed")
                await asyncio.sleep(AFTER_S)
            self.say("load ended")
            drained_at_s = await self._drained(system)
            self.say("drained" if drained_at_s else "not drained")
            sent = await asyncio.to_thread(lambda: history.read(history.records(self.client_log)))
            complaints = [
                *system.complaints,
                *check_liveness(sent.ok_at_s, healed_at_s, drained_at_s),
                *await asyncio.to_thread(self._verify, system),
            ]
            accepted = (await system.facts()).events_accepted
            findings = await asyncio.to_thread(self._check, system, sent, accepted)
            findings.complaints += complaints
            self._print(sent, findings)
            return findings

    async def _ready(self, system: System) -> None:
        ends_at_s = time.monotonic() + WARM_UP_S_MAX
        processes = system.named("server") + system.named("worker")
        for process in processes:
            while not {"serving", "working"} & {line["event"] for line in process.lines}:
                if time.monotonic() > ends_at_s or not process.running:
                    raise RuntimeError(f"{process.name} does not start: see {process.output}")
                await asyncio.sleep(0.1)

    @contextlib.contextmanager
    def _load(self, system: System) -> Iterator[None]:
        options = self.options
        plan_path = options.folder / "load.json"
        given = Plan(
            seed=options.seed,
            urls=system.urls,
            store_url=system.store.url,
            database=DATABASE,
            key=KEY,
            log_path=str(self.client_log),
            events_per_s=options.events_per_s,
        )
        plan_path.write_bytes(msgspec.json.encode(given))
        with (options.folder / "load.out").open("wb") as output:
            load = subprocess.Popen(
                [
                    *(sys.executable, "-m", "evp.engines.tether"),
                    *(str(os.getpid()), str(int(signal.SIGKILL))),
                    *(sys.executable, "-m", "tests.faults.kit.load", str(plan_path)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield
            load.terminate()
            if load.wait(WARM_UP_S_MAX) != 0:
                raise RuntimeError(f"the load failed: see {options.folder / 'load.out'}")
        finally:
            load.kill()
            load.wait()

    async def _drained(self, system: System) -> float | None:
        """Return when everything was acked; None if that takes too long."""
        ends_at_s = time.monotonic() + DRAIN_S_MAX
        while time.monotonic() < ends_at_s:
            with contextlib.suppress(LogUnavailable):
                if await system.is_drained():
                    return time.monotonic()
            await asyncio.sleep(0.2)
        return None

    def _verify(self, system: System) -> list[str]:
        """Return what `evp verify` complains about; it must be clean."""
        if system.evp("verify", "--help").returncode != 0:
            self.say("there is no `evp verify`")
            return []
        verified = system.evp("verify", "--json", within_s=VERIFY_S_MAX)
        self.say(f"verify: {verified.stdout.strip()}")
        if verified.returncode == 0:
            return []
        return [f"verify ended with {verified.returncode}: {verified.stdout}{verified.stderr}"]

    def _check(self, system: System, sent: history.History, accepted: int) -> Findings:
        found = Found(system.store.url, DATABASE)
        try:
            letters = found.letters()
            findings = check(sent, found.documents(), [id_ for id_, _ in letters])
            odd = {reason for _, reason in letters} - {"id_conflict"}
            if odd:
                findings.complaints.append(f"dead letters because of {', '.join(sorted(odd))}")
            counters = found.counters(accepted)
            documents = findings.sizes["S stored"]
            findings.complaints += check_counters(counters, documents, len(letters))
        finally:
            found.close()
        return findings

    def _print(self, sent: history.History, findings: Findings) -> None:
        lines = [f"seed {self.options.seed}, {self.options.seconds:g} s, commit {_commit()}"]
        lines.append(f"\nfaults: {self.done.total()}")
        lines += [f"  {verb:<24} {count:>5}" for verb, count in sorted(self.done.items())]
        lines.append("\nrequests")
        lines += [f"  {told:<24} {count:>9,}" for told, count in sorted(sent.codes.items())]
        lines.append("\nevents")
        lines += [f"  {name:<24} {count:>9,}" for name, count in findings.sizes.items()]
        lines.append(f"  {'recovered':<24} {findings.recovered:>9,}")
        lines.append(f"  {'not recovered':<24} {findings.not_recovered:>9,}")
        for name, ids in findings.wrong.items():
            shown = f"  {', '.join(sorted(ids)[:_SHOWN])}" if ids else ""
            lines.append(f"  {name:<24} {len(ids):>9,}{shown}")
        stale = findings.stale_s
        p50, p99, longest = (quantile_s(stale, share) for share in (0.5, 0.99, 1.0))
        lines.append(
            f"\nfrom 202 until stored, {len(stale):,} events: "
            f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {longest:.2f} s"
        )
        lines += [f"WRONG: {complaint}" for complaint in findings.complaints]
        lines.append("\nnothing is wrong" if findings.clean else "\nSOMETHING IS WRONG")
        say("\n".join(lines))


def say(text: str) -> None:
    """Print."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=False,
        text=True,
    )
    return done.stdout.strip() or "unknown"


async def main(options: Options) -> Findings:
    """Run; SIGTERM ends it as Ctrl-C does, with nothing left."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await Run(options).go()


def parse(arguments: list[str]) -> Options:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--events-per-s", type=float, default=5_000.0)
    parser.add_argument("--folder", type=Path, help="where all data goes (default: a new one)")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="evp-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    return Options(given.seed, given.seconds, given.events_per_s, folder, given.keep)


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    say(f"seed {chosen.seed}; everything is in {chosen.folder}")
    result = uvloop.run(main(chosen))
    if result.clean and not chosen.keep:
        shutil.rmtree(chosen.folder)
    sys.exit(0 if result.clean else 1)
