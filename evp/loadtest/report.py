"""The report of a load test. Counts are events, but for `requests` and what says so."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from evp.errors import EXIT_FINDING, EXIT_OK, EXIT_THRESHOLD, EXIT_UNAVAILABLE, redact_url
from evp.loadtest.check import Check
from evp.loadtest.counts import Counts
from evp.loadtest.events import source_of
from evp.loadtest.histogram import Quantiles
from evp.loadtest.plan import Plan
from evp.loadtest.thresholds import Threshold, Verdict, judge


class Storing(Struct, frozen=True):
    """What happened behind the server.

    `stored_ms` counts from when a request was due until a watched event of it is in
    the store. `drained` is false if the group did not get through all, or none of the
    watched events is there; `seconds` is from the first request until then, and `per_s`
    the rate over it. Of the watched events `unseen` were not found in time.
    """

    per_s: float
    seconds: float
    drained: bool
    backlog_max: int
    stored_ms: Quantiles | None
    watched: int
    unseen: int

    @property
    def complete(self) -> bool:
        """Whether all is stored, as far as was looked."""
        return self.drained and not self.unseen


class Report(Struct, frozen=True):
    """What was asked of evp, and what it did.

    `asked = accepted + rejected + unanswered + unsent`, without the warm-up. What was
    refused for the moment until the time was up is unanswered as well. `late` events
    started more than 10 ms after they were due. `retried` counts requests that were
    refused for the moment, by code. `storing` and `check` are None where the
    store was not looked at. `gave_up` says why the load ended early, `unavailable` why
    there is no check though there should be one.
    """

    run: str
    url: str
    eps: float | None
    duration_s: float
    batch: int
    connections: int
    processes: int
    requests: int
    asked: int
    accepted: int
    rejected: dict[str, int]
    unanswered: int
    unsent: int
    late: int
    late_ms_max: float
    retried: dict[str, int]
    accepted_per_s: float
    accept_ms: Quantiles | None
    storing: Storing | None = None
    check: Check | None = None
    thresholds: list[Verdict] = []
    interrupted: bool = False
    gave_up: str = ""
    unavailable: str = ""

    @property
    def source(self) -> str:
        """The `source` of its events."""
        return source_of(self.run)

    @property
    def exit_code(self) -> int:
        """99 if a threshold was missed, 3 if the store is away, 1 if anything was not stored once.

        Late events are no finding, unsent ones are: what was asked for was not done.
        """
        if not all(one.met for one in self.thresholds):
            return EXIT_THRESHOLD
        if self.unavailable:
            return EXIT_UNAVAILABLE
        refused = bool(self.rejected or self.unanswered or self.unsent or self.gave_up)
        waits = self.storing is not None and not self.interrupted and not self.storing.complete
        wrong = self.check is not None and bool(self.check.lost or self.check.doubled)
        return EXIT_FINDING if refused or waits or wrong else EXIT_OK


def report_of(
    run: str,
    plan: Plan,
    counts: Counts,
    accept_ms: Quantiles | None,
    start_s: float,
    *,
    interrupted: bool,
) -> Report:
    """Return the report of what was sent; `start_s` is when the first measured request was due."""
    # The last request is due before the time is up; a rate is told over all of it.
    took_s = max(counts.finished_s - start_s, 1e-9 if interrupted else plan.duration_s)
    accepted = counts.accepted * plan.batch
    return Report(
        run=run,
        url=redact_url(plan.url),
        eps=plan.eps,
        duration_s=plan.duration_s,
        batch=plan.batch,
        connections=plan.connections,
        processes=plan.processes,
        requests=counts.sent,
        asked=counts.asked * plan.batch,
        accepted=accepted,
        rejected={code: count * plan.batch for code, count in counts.rejected.items()},
        unanswered=counts.unanswered * plan.batch,
        unsent=(counts.asked - counts.sent) * plan.batch,
        late=counts.late * plan.batch,
        late_ms_max=counts.late_s_max * 1000,
        retried=counts.retried,
        accepted_per_s=accepted / took_s if accepted else 0.0,
        accept_ms=accept_ms,
        interrupted=interrupted,
        gave_up=counts.gave_up,
    )


def figures(report: Report) -> dict[str, float | None]:
    """Return what thresholds can bound, by name; None for what was not measured."""
    storing, check = report.storing, report.check
    return {
        **_latencies("", report.accept_ms),
        **_latencies("stored_", storing.stored_ms if storing else None),
        "lost": check.lost if check else None,
        "doubled": check.doubled if check else None,
        "asked": report.asked,
        "accepted": report.accepted,
        "rejected": sum(report.rejected.values()),
        "unanswered": report.unanswered,
        "unsent": report.unsent,
        "late": report.late,
        "retried": sum(report.retried.values()),
        "accepted_per_s": report.accepted_per_s,
        "stored_per_s": storing.per_s if storing else None,
    }


def judged(report: Report, thresholds: Sequence[Threshold]) -> list[Verdict]:
    """Return what became of each threshold."""
    found = figures(report)
    return [judge(one, found) for one in thresholds]


def _latencies(prefix: str, found: Quantiles | None) -> dict[str, float | None]:
    names = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p99.9": "p999", "max": "max"}
    return {
        prefix + name: None if found is None else float(getattr(found, field))
        for name, field in names.items()
    }
