"""A run on a cluster: primaries are killed in turn under load, and nothing may be lost.

    python -m tests.faults.cluster_run --seconds 300 --events-per-s 20000

Three primaries, each with a replica. Again and again the primary of one stream is
killed, once its replica has all that it had; the replica takes over by itself, the
one that was killed comes back as its replica, and when that has all, the next one is
killed. A 202 waits for the replica's disk (WAITAOF 1 1).

With --no-replicas a 202 waits for the primary's disk alone. The workers are suspended and
a replica is cut off, a moment before its primary dies: what is accepted in this moment is
on the disk of that primary and nowhere else, and is lost. That is the control run: events
must be lost that were answered with 202, and `evp verify` must name as many.

Prints what is done and, at the end, the account. Exit 0 if nothing is wrong (in the control
run: if events are lost, each loss is named, and nothing else is wrong), 1 if something is.
Everything it starts ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path

import msgspec

from tests.faults.kit.checker import Findings, check_liveness
from tests.faults.kit.history import History
from tests.faults.kit.on_cluster import OnCluster, running_on_cluster
from tests.faults.kit.session import examine, loading, until_drained, until_ready, verify
from tests.faults.run import account, commit, folder_of, parser_of, say, to_its_end
from tests.support.cluster import ask
from tests.support.servers import Server

BETWEEN_S = 2.0
"""Between two kills, with all nodes up and in step."""
AFTER_S = 5.0
"""The load goes on so long after the last one came back."""
DRAIN_S_MIN = 120.0
DRAIN_EVENTS_PER_S_MIN = 5_000
_CUT_S = 0.8
_LOST = ("lost", "conflict_not_kept")
"""How the checker calls what is lost; of two events with one id either may be."""
_LANE_EVENTS_PER_S = 1_250


class Options(msgspec.Struct):
    """What the command line says."""

    seed: int
    seconds: float
    events_per_s: float
    partitions: int
    servers: int
    workers: int
    replicas: bool
    folder: Path
    keep: bool


class Run:
    """One run: `go` returns what was found."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.kills = 0
        self._dice = random.Random(options.seed)
        self._began_at_s = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        say(f"{time.monotonic() - self._began_at_s:7.2f}  {text}")

    async def go(self) -> Findings:
        """Run load and kill primaries, wait until all has come to rest, check."""
        options = self.options
        async with running_on_cluster(
            options.folder,
            servers=options.servers,
            workers=options.workers,
            partitions=options.partitions,
            EVP_DURABILITY_REPLICAS=str(int(options.replicas)),
        ) as system:
            await until_ready(system)
            self.say(f"ready: {options.partitions} streams on 3 primaries with 3 replicas")
            lanes = max(8, round(options.events_per_s / _LANE_EVENTS_PER_S))
            rate = options.events_per_s
            async with loading(system, options.seed, events_per_s=rate, lanes=lanes) as load:
                await load.until_accepted(10)
                await self._kill_in_turn(system)
                healed_at_s = time.monotonic()
                await asyncio.sleep(AFTER_S)
            self.say("the load has ended")
            sent = await asyncio.to_thread(load.so_far)
            within_s = DRAIN_S_MIN + len(sent.ok) / DRAIN_EVENTS_PER_S_MIN
            drained_at_s = await until_drained(system, within_s)
            self.say("not drained" if drained_at_s is None else "drained; comparing")
            findings = await examine(system, sent, log_kept=options.replicas)
            self.say("compared; verifying")
            # How long the backlog takes depends on how much of it was made.
            findings.complaints += check_liveness(sent.ok_at_s, healed_at_s, healed_at_s)
            if drained_at_s is None:
                findings.complaints.append(f"the backlog was not empty within {within_s:.0f} s")
            findings.complaints += await asyncio.to_thread(self._verified, system, findings)
            if not options.replicas and not _lost_events(findings):
                findings.complaints.append("nothing is lost, so the run shows nothing")
            self._print(sent, findings)
            if not options.replicas:
                # Told, and not what the exit code is for.
                findings.wrong |= {name: set() for name in _LOST}
            return findings

    async def _kill_in_turn(self, system: OnCluster) -> None:
        ends_at_s = time.monotonic() + self.options.seconds
        streams: list[str] = []
        while time.monotonic() < ends_at_s or not self.kills:
            streams = streams or self._dice.sample(system.streams, len(system.streams))
            await self._kill(system, streams.pop())
            accepted = (await system.facts()).events_accepted
            self.say(f"  all in step; the log has counted {accepted:,} events")
            await asyncio.sleep(BETWEEN_S)

    async def _kill(self, system: OnCluster, stream: str) -> None:
        """Kill the primary of a stream, let its replica take over, and let it come back."""
        cluster = system.cluster
        primary = await cluster.owner(stream)
        replica = await cluster.replica_of(primary)
        await cluster.until_copied(primary)
        self.kills += 1
        if self.options.replicas:
            self.say(f"kill {self.kills}: primary of {stream} (port {primary.port}), in step")
            await cluster.kill(primary)
        else:
            await self._kill_alone(system, stream, primary, replica)
        killed_at_s = time.monotonic()
        await cluster.until_owned(stream, replica)
        self.say(f"  port {replica.port} took over after {time.monotonic() - killed_at_s:.1f} s")
        await cluster.revive(primary)
        await cluster.until_settled()

    async def _kill_alone(
        self, system: OnCluster, stream: str, primary: Server, replica: Server
    ) -> None:
        """Kill a primary that nobody has heard of for a while but clients that add to it."""
        with contextlib.ExitStack() as still:
            # Otherwise what is accepted meanwhile is stored before its log is gone.
            for worker in system.named("worker"):
                still.enter_context(worker.paused())
            with replica.paused():
                # What was sent is still read; what is written from now on is never sent.
                await ask(primary, "CLIENT", "KILL", "TYPE", "replica")
                await asyncio.sleep(_CUT_S)
                self.say(f"kill {self.kills}: primary of {stream}, replica cut off {_CUT_S} s")
                await system.cluster.kill(primary)

    def _verified(self, system: OnCluster, findings: Findings) -> list[str]:
        """Return what is wrong by `evp verify`, or with it."""
        done = verify(system, findings.sizes["A invoked"])
        lost = _lost_events(findings)
        try:
            report = json.loads(done.stdout)
        except ValueError:
            return [f"evp verify ended with {done.returncode}: {done.stdout}{done.stderr}"]
        named = report["counts"]["lost_events"]
        self.say(f"evp verify: exit {done.returncode}, names {named:,} events; lost are {lost:,}")
        complaints = []
        if done.returncode != (1 if lost else 0):
            complaints.append(f"{lost} events are lost and evp verify ended with {done.returncode}")
        # Of what is named clients may not have had the answer.
        if not lost <= named <= lost + findings.not_recovered:
            complaints.append(f"{lost} events are lost and evp verify names {named}")
        return complaints

    def _print(self, sent: History, findings: Findings) -> None:
        options = self.options
        waits = "WAITAOF 1 1" if options.replicas else "no replica is waited for"
        say(
            f"\nseed {options.seed}, {options.seconds:g} s, {options.events_per_s:,g} events/s, "
            f"{options.partitions} partitions, {waits}, commit {commit()}"
        )
        killed = f"\nprimaries killed: {self.kills}"
        expected = () if options.replicas else _LOST
        say("\n".join([killed, *account(sent, findings, expected)]))


def _lost_events(findings: Findings) -> int:
    """Return how many events were answered with 202 and are nowhere."""
    return sum(len(findings.wrong[name]) for name in _LOST)


def parse(arguments: list[str]) -> Options:
    """Return what the command line says."""
    parser = parser_of("tests.faults.cluster_run", __doc__, seconds=300.0, events_per_s=20_000.0)
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-replicas", action="store_true", help="a tail is lost, and named")
    given = parser.parse_args(arguments)
    return Options(
        seed=given.seed,
        seconds=given.seconds,
        events_per_s=given.events_per_s,
        partitions=given.partitions,
        servers=given.servers,
        workers=given.workers,
        replicas=not given.no_replicas,
        folder=folder_of(given, "evp-cluster-"),
        keep=given.keep,
    )


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    sys.exit(to_its_end(Run(chosen).go, chosen.seed, chosen.folder, keep=chosen.keep))
