"""A drill on one page: load, the faults in turn, rest, and every event looked up.

    load → (fault → 202 again → drained → wait)* → all drained → look up → verify

The load goes on all the time, so each fault meets events at every stage of their way.
The next fault comes only when what was accepted before the last one was over is settled,
and the process to be hit has run long enough for its death to be no failed start.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from evp.clock import monotonic_s, now
from evp.drill.backlog import Backlog
from evp.drill.check import Sent, check
from evp.drill.faults import KILLS, VICTIM, Fault
from evp.drill.limits import (
    DRILL_BACK_S_MAX,
    DRILL_DRAINED_S_MAX,
    DRILL_LOOK_S,
    DRILL_START_S_MAX,
    DRILL_WAKE_MARGIN_S,
)
from evp.drill.load import Load, source_of
from evp.drill.plan import Plan
from evp.drill.processes import Processes
from evp.drill.report import Report, Turn
from evp.drill.sums import Span, count_found, count_outcomes, p99_ms
from evp.drill.target import Target, require, require_group
from evp.errors import EngineFailed, ServerUnavailable, Unavailable
from evp.signals import end
from evp.storage.client import Database
from evp.verify.report import Scope
from evp.verify.run import verify


class Drill:
    """One drill. What it did can be asked for at any time (`report`), also once it was cancelled.

    Raises UsageError if something of the plan can't be done to this target, or is too much.
    """

    def __init__(self, target: Target, plan: Plan, key: str, db: Database) -> None:
        plan.require_bounded(target.claim_idle_ms)
        require(target, plan.faults)
        run = secrets.token_hex(4)
        self.stage = "starting"
        self._target = target
        self._plan = plan
        self._db = db
        self._load = Load(target.url, key, run, plan.eps)
        self._backlog = Backlog(target.settings)
        self._began_at_s = monotonic_s()
        self._spans: list[Span | None] = []
        self._report = Report(
            run=run,
            source=source_of(run),
            url=target.url,
            eps=plan.eps,
            batch=self._load.batch,
            duration_s=plan.duration_s,
            times=plan.times,
            workers=None if target.processes is None else len(target.processes.names("work")),
            began_at=now(),
        )

    @property
    def accepted(self) -> int:
        """How many events are accepted so far."""
        return self._load.accepted

    async def run(self) -> None:
        """Do it all.

        Raises UsageError and Unavailable before anything is hurt; what is not there any
        more later is told in the report. Cancelled, it undoes the fault that is under way.
        """
        await require_group(self._target, self._db)
        sending = asyncio.create_task(self._load.run())
        try:
            await self._begin(sending)
            await self._take_turns(sending)
            self._load.stop()
            self.stage = "waiting for the last answers"
            await sending
            await self._prove()
        finally:
            await end(sending)
            await self._backlog.close()

    def report(self) -> Report:
        """Return what was done and found so far."""
        report = self._report
        report.took_s = _rounded(monotonic_s() - self._began_at_s)
        for turn, span in zip(report.turns, self._spans, strict=True):
            turn.accept_ms_p99 = span and p99_ms(self._load.requests, span)
        count_outcomes(report, self._load.requests, self._load.batch)
        return report

    async def _begin(self, sending: asyncio.Task[None]) -> None:
        """Wait until the first events are accepted."""
        if not await self._within(DRILL_START_S_MAX, lambda: self._load.accepted > 0, sending):
            refusal = self._load.last_refusal
            raise ServerUnavailable(f"no event is accepted, so nothing was broken: {refusal}")

    async def _take_turns(self, sending: asyncio.Task[None]) -> None:
        """Make one fault after the other, until one of them is not overcome."""
        for number in range(self._plan.times):
            for fault in self._plan.faults:
                turn = Turn(fault=fault, round=number + 1)
                self._load.turn = len(self._report.turns)
                self._report.turns.append(turn)
                self._spans.append(None)
                try:
                    await self._take(turn, sending)
                except Unavailable as error:
                    turn.failure = str(error)
                if turn.failure:
                    return

    async def _take(self, turn: Turn, sending: asyncio.Task[None]) -> None:
        """Make one fault, undo it, and wait until nothing is left of it."""
        turn.victim = self._victim(turn)
        await self._until_steady(turn)
        _require_load(sending)
        fault_at_s = monotonic_s()
        turn.at_s = _rounded(fault_at_s - self._began_at_s)
        self._say(turn, "under way")
        is_back = await self._hurt(turn)
        healed_at_s = monotonic_s()
        self._say(turn, "until answers are 202 again")
        if not await self._within(
            DRILL_BACK_S_MAX,
            lambda: self._load.ok_sent_at_s > healed_at_s and is_back(),
            sending,
        ):
            turn.failure = f"not back within {DRILL_BACK_S_MAX:g} s: {self._load.last_refusal}"
            return
        self._say(turn, "until all is stored")
        if not await self._drained(healed_at_s):
            turn.failure = f"not drained within {DRILL_DRAINED_S_MAX:g} s"
            return
        drained_at_s = monotonic_s()
        turn.drained_s = _rounded(drained_at_s - fault_at_s)
        self._spans[-1] = Span(fault_at_s, drained_at_s)
        self._say(turn, "over; a pause")
        await self._rest(fault_at_s + self._plan.duration_s)
        turn.away_s = await self._away_s(fault_at_s, sending)
        if turn.away_s is None:
            turn.failure = f"answers did not stay 202: {self._load.last_refusal}"

    async def _away_s(self, fault_at_s: float, sending: asyncio.Task[None]) -> float | None:
        """Return for how long answers were not all 202 after a fault; None if they still aren't.

        Something that is sent from now on must be accepted: who gives no answer refuses nothing.
        """
        load, now_s = self._load, monotonic_s()
        stays = await self._within(
            DRILL_BACK_S_MAX,
            lambda: load.ok_sent_at_s > now_s and load.failing.again_at_s is not None,
            sending,
        )
        last_at_s, again_at_s = load.failing
        if not stays or again_at_s is None:
            return None
        return _rounded(again_at_s - fault_at_s) if last_at_s >= fault_at_s else 0.0

    async def _hurt(self, turn: Turn) -> Callable[[], bool]:
        """Do what the fault is; return what tells whether the process it ended is back."""
        if turn.fault is Fault.DROP_GROUP:
            await self._backlog.drop_group()
            return lambda: True
        processes = self._processes()
        if turn.fault in KILLS:
            old = processes.kill(turn.victim)

            def is_back() -> bool:
                found = processes.find(turn.victim)
                return found is not None and found != old

            return is_back
        hold_s = self._plan.hold_s(turn.fault, self._target.claim_idle_ms)
        # If the drill itself stands still meanwhile, somebody else ends the pause after this.
        hold_s_max = hold_s + DRILL_WAKE_MARGIN_S
        async with processes.paused(turn.victim, hold_s_max):
            paused_at_s = monotonic_s()
            try:
                await self._rest(paused_at_s + hold_s)
            finally:
                turn.held_s = _rounded(min(monotonic_s() - paused_at_s, hold_s_max))
        return lambda: True

    def _victim(self, turn: Turn) -> str:
        """Return whom a fault hits: of several processes another one in each round."""
        if turn.fault not in VICTIM:
            return self._target.settings.consumer_group
        names = self._processes().names(VICTIM[turn.fault])
        return names[(turn.round - 1) % len(names)] if names else VICTIM[turn.fault]

    def _processes(self) -> Processes:
        if self._target.processes is None:
            raise EngineFailed("no process is known here")
        return self._target.processes

    async def _until_steady(self, turn: Turn) -> None:
        """Wait until a process was not started just now."""
        if turn.fault in VICTIM:
            self._say(turn, "until it has run for some seconds")
            processes = self._processes()
            if not await self._within(DRILL_BACK_S_MAX, lambda: processes.is_steady(turn.victim)):
                raise EngineFailed(f"{turn.victim} did not run for some seconds")

    async def _drained(self, upto_s: float) -> bool:
        gives_up_at_s = monotonic_s() + DRILL_DRAINED_S_MAX
        while not await self._backlog.is_settled(upto_s):
            if monotonic_s() > gives_up_at_s:
                return False
            await self._pause()
        return True

    async def _rest(self, until_s: float) -> None:
        while monotonic_s() < until_s:
            await self._pause()

    async def _pause(self) -> None:
        """Wait a moment. Raises EngineFailed if the `evp up` has ended: waiting is in vain then."""
        await asyncio.sleep(DRILL_LOOK_S)
        if self._target.processes is not None:
            self._target.processes.require()

    async def _prove(self) -> None:
        """Account for every event of the load."""
        self.stage = "until all is stored"
        report = self._report
        try:
            if not await self._drained(monotonic_s()):
                report.error = f"not all was stored within {DRILL_DRAINED_S_MAX:g} s"
            self.stage = "looking every event up"
            load, settings = self._load, self._target.settings
            sent = Sent(report.run, load.batch, load.requests, time_in_id=settings.time_in_id)
            count_found(report, await check(self._db, sent, len(report.turns)))
            self.stage = "verifying"
            report.verification = await verify(
                settings, Scope(since=report.began_at), lambda what, _, __: self._verifies(what)
            )
        except Unavailable as error:
            report.error = "; ".join(filter(None, (report.error, str(error))))

    def _verifies(self, what: str) -> None:
        self.stage = f"verifying: {what}"

    async def _within(
        self,
        limit_s: float,
        holds: Callable[[], bool],
        sending: asyncio.Task[None] | None = None,
    ) -> bool:
        """Wait until something holds; False if it takes too long. Raises as `_require_load`."""
        gives_up_at_s = monotonic_s() + limit_s
        while not holds():
            if sending is not None:
                _require_load(sending)
            if monotonic_s() > gives_up_at_s:
                return False
            await self._pause()
        return True

    def _say(self, turn: Turn, what: str) -> None:
        self.stage = f"{len(self._report.turns)} of {self._plan.turns}, {turn.fault}: {what}"


def _require_load(sending: asyncio.Task[None]) -> None:
    """Raise what ended the load, if it has ended; EngineFailed if it has sent all that it may."""
    if sending.done():
        sending.result()
        raise EngineFailed("it has sent as much as a drill can remember: give a lower --eps")


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
