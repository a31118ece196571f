"""A load test from its plan to its report: send → wait until all is stored → look each event up."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.loadtest.check import Check
from evp.loadtest.counts import Counts, Sample
from evp.loadtest.fleet import Fleet
from evp.loadtest.follow import Engines, Follower
from evp.loadtest.histogram import Quantiles
from evp.loadtest.plan import Plan, check_size, shares
from evp.loadtest.process import Done
from evp.loadtest.report import Report, judged, report_of
from evp.loadtest.thresholds import Threshold
from evp.signals import end


class Look(Struct, frozen=True):
    """A test under way, for whoever watches: `counts` are requests, the rest is told as events."""

    stage: str
    elapsed_s: float
    counts: Counts
    accept_ms: Quantiles | None
    stored_ms: Quantiles | None
    settled: int | None
    backlog: int | None
    checked: int = 0


class LoadTest:
    """One load test. `engines` is None where only the accepting is measured.

    Raises UsageError if the plan makes no sense.
    """

    def __init__(self, plan: Plan, key: str, engines: Engines | None) -> None:
        check_size(plan)
        self._plan = plan
        self._run = secrets.token_hex(4)
        self._stage = "starting"
        self._begun_at_s = monotonic_s()
        self._follower = Follower(engines, self._run) if engines else None
        self._fleet = Fleet(shares(plan, self._run, key), self._sampled)
        self._checked = 0
        self._checking: asyncio.Task[Check] | None = None
        self._interrupted = False

    @property
    def has_begun(self) -> bool:
        """Whether anything was sent that could be told of."""
        return self._stage != "starting"

    async def run(self, thresholds: Sequence[Threshold]) -> Report:
        """Run the test, and judge it by the thresholds.

        Raises Unavailable where server, log or store can't be used, or a generator fails.
        """
        follower = self._follower
        try:
            if follower:
                await follower.open()
            await self._fleet.prepare()
            self._stage, self._begun_at_s = "sending", monotonic_s()
            start_s = self._fleet.begin() + self._plan.warmup_s
            done = await self._fleet.wait()
            report = self._report(start_s)
            if follower:
                report = await self._followed(follower, report, start_s, done)
        finally:
            await self._fleet.end()
            if follower:
                await follower.close()
        return msgspec.structs.replace(report, thresholds=judged(report, thresholds))

    def _report(self, start_s: float) -> Report:
        counts, latency = self._fleet.totals()
        quantiles = latency.quantiles()
        return report_of(
            self._run, self._plan, counts, quantiles, start_s, interrupted=self._interrupted
        )

    async def _followed(
        self, follower: Follower, report: Report, start_s: float, done: Sequence[Done]
    ) -> Report:
        """Return a report with what became of the events behind the server."""
        self._stage = "storing"
        storing = await follower.wait(report.accepted, start_s)
        check: Check | None = None
        unavailable = ""
        if self._plan.verify:
            self._stage = "checking"
            looking = follower.check(done, self._plan.batch, self._have_checked)
            self._checking = asyncio.create_task(looking)
            try:
                await asyncio.wait({self._checking})
                check = None if self._checking.cancelled() else self._checking.result()
            except StoreUnavailable as error:
                # The client may make this of a cancellation.
                unavailable = "" if self._checking.cancelling() else str(error)
            finally:
                await end(self._checking)
        return msgspec.structs.replace(
            report,
            storing=storing,
            check=check,
            interrupted=self._interrupted,
            unavailable=unavailable,
        )

    def interrupt(self) -> None:
        """End what is under way, load, wait or check; what is known by then is still told."""
        self._interrupted = True
        if self._checking:
            self._checking.cancel()
        if self._stage == "sending":
            self._stage = "ending"
            self._fleet.stop()
        elif self._follower:
            self._follower.give_up()

    def look(self) -> Look:
        """Return how things stand."""
        counts, latency = self._fleet.totals()
        follower = self._follower
        return Look(
            stage=self._stage,
            elapsed_s=monotonic_s() - self._begun_at_s,
            counts=counts,
            accept_ms=latency.quantiles(),
            stored_ms=follower.stored.latency.quantiles() if follower else None,
            settled=follower.log.settled if follower else None,
            backlog=follower.log.now.waiting if follower and follower.log.now else None,
            checked=self._checked,
        )

    def _sampled(self, sample: Sample) -> None:
        if self._follower:
            self._follower.stored.add(sample)

    def _have_checked(self, found: int) -> None:
        self._checked = found
