"""A simulation: one world on its machine, from the first process to the last check.

what befalls it (a schedule, or a test)
calm: engines and processes stay up, until everything is written and acked
quiet: nothing runs; sweeps and folds, as workers would do them in the next days
checks: `check`, and `evp verify`
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
import zlib
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self

import structlog
from msgspec import Struct

import evp.stream.client
import evp.verify.run
import evp.worker.run
from evp.errors import LogUnavailable, StoreUnavailable
from evp.storage.rollups import fold
from evp.storage.sweep import sweep
from evp.verify.report import Report, Scope
from evp.verify.run import verify
from evp.worker.streams import Streams
from tests.simulation import knobs
from tests.simulation.book import Violation
from tests.simulation.check import Check
from tests.simulation.faults import Chances, Weather
from tests.simulation.loop import PROCESS, SimulatedLoop, Stuck
from tests.simulation.machine import Machine
from tests.simulation.world import Counts, Running, World, until

Trace = Callable[[float, str], None]
"""Told what happens, and when, in seconds of the simulation."""

_TURNS_MAX = 1_000_000
_CALM_S_MAX = 900.0
"""Where calls are slow, events that kill are found by dozens of deaths, 10 s and more each."""
_ROUNDS_MAX = 12
_DAY_S = 26 * 3600.0


class Result(Struct):
    """What came of a simulation. `digest` stands for all that happened in it, in its order."""

    seed: int
    digest: int
    violations: list[Violation]
    counts: Counts
    frames: int
    accepted: int
    lost: int
    calls: int
    faults: int
    simulated_s: float


class Simulation:
    """One world while it lives: all of evp that runs within the `with` runs in it."""

    def __init__(
        self,
        seed: int,
        chance: Random,
        chances: Chances,
        kinds: list[str],
        *,
        forgets: bool,
        trace: Trace | None = None,
    ) -> None:
        self._seed = seed
        self._trace = trace
        self._digest = 0
        self._undo = contextlib.ExitStack()
        self._loop = SimulatedLoop(chance, _TURNS_MAX)
        self._machine = Machine(self._loop, chance)
        self._weather = Weather(chance, chances, self._note, self._loop.wait)
        self.chance = chance
        self.world = World(
            self._loop,
            self._machine,
            self._weather,
            knobs.settings(chance),
            kinds=kinds,
            step_ms=chance.choice((1, 400, 2_000)),
            remembers=forgets,
        )
        self._loop.set_exception_handler(self._unexpected)

    def __enter__(self) -> Self:
        self._undo.enter_context(self._installed())
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        with self._undo:
            self._end()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Let everything run until some work is done. That it can't be is a violation."""
        try:
            self._loop.run_until_complete(work)
        except Stuck as error:
            self.world.book.broken("stuck", error)

    def act(self, act: Callable[[], object]) -> None:
        """Do something in the world, at once."""

        async def do() -> None:
            act()

        self.run(do())

    def pass_time(self, wait_s: float) -> None:
        """Let everybody go on for so long."""
        self.run(asyncio.sleep(wait_s))

    def result(self) -> Result:
        """Return what came of it so far."""
        book = self.world.book
        return Result(
            seed=self._seed,
            digest=self._digest,
            violations=book.violations,
            counts=self.world.counts,
            frames=len(book.entries),
            accepted=len(book.accepted),
            lost=sum(one.is_lost for one in book.entries),
            calls=self._weather.calls,
            faults=self._weather.faults,
            simulated_s=self._loop.now_s,
        )

    async def verify_meanwhile(self) -> None:
        """Verify while everything is under way: what is found must be so."""
        self.world.counts.verified += 1
        with contextlib.suppress(LogUnavailable, StoreUnavailable):
            report = await self._verify()
            Check(self.world).findings(report, at_rest=False)

    async def _verify(self, *, repair: bool = False) -> Report:
        scope = Scope(every_document=True, repair=repair)
        return await verify(self.world.settings, scope, lambda *_: None)

    async def finish(self) -> None:
        """Come to rest, and check everything."""
        if await self._come_to_rest():
            await self._judge()

    async def _come_to_rest(self) -> bool:
        """Let everything be written; True if it was."""
        world, weather = self.world, self._weather
        weather.chances.log_fault = weather.chances.store_fault = 0.0
        self._note("calm")
        while weather.late:
            world.arrive()
        for one in list(world.running):
            if one.process.paused and self.chance.random() < 0.5:
                world.kill(one)
        # Servers end first: what they have taken must be written as well.
        for kinds in (("server",), ("worker", "reader")):
            if not await until(partial(self._is_at_rest, kinds[0]), _CALM_S_MAX):
                world.book.broken("not drained", self._log_state())
                return False
            if not await self._stop([one for kind in kinds for one in self._of(kind)]):
                return False
        return True

    async def _stop(self, running: list[Running]) -> bool:
        """Stop processes; True if they end."""
        for one in running:
            one.stop.set()
        await asyncio.wait([one.main for one in running], timeout=60.0)
        for one in running:
            if not one.main.done():
                self.world.book.broken("did not stop", one.process.name)
        return all(one.main.done() for one in running)

    def _of(self, kind: str) -> list[Running]:
        return [one for one in self.world.running if one.process.name.startswith(kind)]

    def _is_at_rest(self, needed: str) -> bool:
        """Return whether processes run and every entry is acked; then they may stop."""
        world = self.world
        if world.waits or not self._of(needed) or not self._of("worker"):
            return False
        if any(one.acceptor and one.acceptor.refusal for one in world.running):
            return False
        for key, stream in world.log.memory.streams.items():
            if key.startswith(b"{"):
                continue
            group = stream.groups.get(knobs.GROUP.encode())
            if stream.entries and (group is None or group.pending or group.last < stream.last):
                return False
        return True

    def _log_state(self) -> str:
        told = []
        for key, stream in self.world.log.memory.streams.items():
            for name, group in stream.groups.items():
                told.append(f"{key!r} {name!r} {len(group.pending)} pending, at {group.last}")
        return f"{told}, waits {self.world.waits}, {[o.process.name for o in self.world.running]}"

    async def _judge(self) -> None:
        """Do what a worker does in the days after, then check everything."""
        world, check = self.world, Check(self.world)
        self._weather.calm = True
        await self._keep_up(10.0)
        reached = world.book.reached()
        report = await self._verify(repair=True)
        check.findings(report, at_rest=True)
        check.nothing_missed(report, reached)
        await self._keep_up(_DAY_S)
        Check(world).all()

    async def _keep_up(self, step_s: float) -> None:
        """Sweep and fold until nothing changes any more, with time between."""
        world, streams = self.world, Streams(self.world.settings)
        for _ in range(_ROUNDS_MAX):
            self._loop.now_s += step_s
            swept = await sweep(world.db, streams.still_have)
            folded = await fold(world.db, self._machine.now_ms())
            if not (swept.changed or swept.more or folded.folded or folded.waiting or folded.more):
                break
        await streams.close()

    def _end(self) -> None:
        """End what still runs: no call reaches an engine any more."""
        processes = [one.process for one in self.world.running]
        for process in processes:
            process.alive = False
            self._loop.resume(process)
        self._weather.calm = True
        for _ in range(20):
            tasks = asyncio.all_tasks(self._loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Stuck):
                self._loop.run_until_complete(_wait_for(tasks))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    # What stands between evp and the world.

    @contextlib.contextmanager
    def _installed(self) -> Iterator[None]:
        """Have evp run in this world: on its machine, with its engines."""
        before = structlog.get_config()
        structlog.configure(
            processors=[self._said],
            wrapper_class=structlog.make_filtering_bound_logger(40),
            cache_logger_on_first_use=False,
        )
        stand_ins: tuple[tuple[Any, str, Any], ...] = (
            (evp.stream.client, "dial", self.world.log.dial),
            (evp.verify.run, "connect", lambda _settings: None),
            (
                evp.verify.run,
                "database",
                lambda _client, _name: self.world.db,
            ),
            (evp.verify.run, "close", _nothing),
            (evp.worker.run, "settle_memory", lambda: None),
        )
        kept = [(where, name, getattr(where, name)) for where, name, _ in stand_ins]
        try:
            for where, name, stand_in in stand_ins:
                setattr(where, name, stand_in)
            with warnings.catch_warnings(), knobs.limits(), self._machine.running():
                # Of a task that is cancelled before its first turn, as one of a dead process is.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited")
                yield
        finally:
            for where, name, value in kept:
                setattr(where, name, value)
            structlog.configure(**before)

    def _said(self, _logger: Any, _method: str, event: Any) -> Any:
        """Take what evp says that it did not expect for what it is: a fault."""
        text = str(event.get("event"))
        if text.startswith(("unexpected", "data loss")):
            self.world.book.broken("said", text, repr(event.get("exc_info")), event.get("chore"))
        raise structlog.DropEvent

    def _unexpected(self, _loop: Any, context: dict[str, Any]) -> None:
        process = PROCESS.get()
        if process is None or process.alive:
            error = context.get("exception")
            self.world.book.broken("unhandled", context["message"], repr(error))

    def _note(self, text: str) -> None:
        self._digest = zlib.crc32(f"{self._loop.now_s:.6f} {text}".encode(), self._digest)
        if self._trace is not None:
            self._trace(self._loop.now_s, text)


async def _wait_for(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, timeout=10.0)


async def _nothing(_client: Any) -> None:
    """Close what is none."""
