"""What a load test shows, under way and at its end, in 80 columns and in few."""

from __future__ import annotations

import msgspec
import pytest

from evp.loadtest.check import Check
from evp.loadtest.counts import Counts
from evp.loadtest.histogram import Quantiles
from evp.loadtest.report import Report, Storing, judged, report_of
from evp.loadtest.run import Look
from evp.loadtest.thresholds import threshold_of
from evp.views.loadtest import live, render
from tests.support.loads import plan_of
from tests.unit.test_views import text

PLAN = plan_of(eps=20_000.0, duration_s=30.0, warmup_s=5.0, batch=100)
COUNTS = Counts(
    asked=6_000,
    sent=5_990,
    accepted=5_900,
    unanswered=60,
    late=7,
    late_s_max=1.5,
    rejected={"unauthenticated": 30},
    retried={"backlog_full": 12, "connection_lost": 3},
    finished_s=30.0,
)
ACCEPT = Quantiles(1.234, 20.5, 30.0, 99.95, 1234.0, 60_000.0)
STORED = Quantiles(10.0, 200.0, 300.0, 400.0, 500.0, 65_000.0)
STORING = Storing(19_876.5, 31.0, True, 12_345, STORED, 6_000, 0)
CHECK = Check(590_000, 589_975, 25, 1, [f"0.{number}-99" for number in range(20)], ["0.7-3"])


def made() -> Report:
    """Return a report with everything in it."""
    report = report_of("run", PLAN, COUNTS, ACCEPT, 0.0, interrupted=True)
    report = msgspec.structs.replace(report, storing=STORING, check=CHECK)
    bounds = [threshold_of(one) for one in ("p99<50ms", "doubled<=1")]
    return msgspec.structs.replace(report, thresholds=judged(report, bounds))


def fits(shown: str, width: int, *parts: str) -> None:
    """Fail if a line is too long, something is missing, or there are escape codes."""
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b" not in shown
    told = " ".join(shown.split())
    for part in parts:
        assert part in told, f"{part}\n{shown}"


@pytest.mark.parametrize("width", [80, 60])
def test_report(width: int) -> None:
    """Every figure is there, what is lost by name, and each threshold with its verdict."""
    shown = text(render(made()), width)
    fits(
        shown,
        width,
        "asked 600,000",
        "accepted 590,000",
        "refused, unauthenticated 3,000",
        "unanswered 6,000",
        "unsent 1,000",
        "late 700 (at most 1,500 ms)",
        "requests again, backlog_full 12",
        "requests again, connection_lost 3",
        "events/s accepted 19,667",
        "events/s stored 19,876",
        "waiting in the log, at most 12,345",
        "found in the store 589,975 of 590,000",
        "lost 25",
        "doubled 1",
        "accepted 1.2 20.5 100.0 1,234 60,000",
        "stored 10.0 200 400 500 65,000",
        "threshold p99<50ms 99.95, missed",
        "threshold doubled<=1 1.00, met",
        "ended before its time",
        "ids of the source evp-loadtest-run",
        "lost: 0.0-99, 0.1-99,",
        "0.19-99 and 5 more",
        "doubled: 0.7-3",
        "`evp verify` says what became of them",
    )


def test_good_report() -> None:
    """A good run has no line about what didn't happen, and nothing to be done."""
    counts = Counts(asked=10, sent=10, accepted=10, finished_s=1.0)
    shown = text(render(report_of("run", PLAN, counts, ACCEPT, 0.0, interrupted=False)))
    fits(shown, 80, "asked 1,000", "accepted 1,000", "unanswered 0", "unsent 0")
    for word in ("late", "refused", "again", "lost", "stored", "threshold", "ended"):
        assert word not in shown


def test_notes() -> None:
    """What went wrong as a whole is told with what to do."""
    report = msgspec.structs.replace(made(), check=None, gave_up="401 unauthenticated: send a key")
    fits(text(render(report)), 80, "nothing was accepted, so the load ended early: 401")
    report = msgspec.structs.replace(report, unavailable="the store is away")
    fits(text(render(report)), 80, "the events could not be looked up: the store is away")
    elsewhere = msgspec.structs.replace(STORING, watched=0, unseen=9, drained=False)
    report = msgspec.structs.replace(report, storing=elsewhere)
    fits(text(render(report)), 80, "not all in time", "is it the one of the server that was loaded")


@pytest.mark.parametrize("width", [80, 60])
def test_live(width: int) -> None:
    """Under way it shows the stage, what was asked and came of it, latencies, what waits."""
    look = Look("sending", 12.3, COUNTS, ACCEPT, STORED, 580_000, 10_000)
    shown = text(live(look, PLAN), width)
    fits(
        shown,
        width,
        "sending 12 of 35 s",
        "asked 600,000",
        "sent 599,000",
        "accepted 590,000",
        "through the log 580,000",
        "waiting in the log 10,000",
        "refused, unauthenticated 3,000",
        "requests again, backlog_full 12",
        "late 700",
        "accepted 1.2 20.5",
        "stored 10.0 200",
    )


@pytest.mark.parametrize(
    ("stage", "elapsed_s", "told"),
    [
        ("starting", 0.0, "starting the generators"),
        ("sending", 1.0, "warming up"),
        ("ending", 10.0, "waiting for the last answers"),
        ("storing", 40.0, "waiting until all is stored"),
        ("checking", 40.0, "looking every event up"),
    ],
)
def test_stages(stage: str, elapsed_s: float, told: str) -> None:
    """Each stage is told in words, also before anything is known."""
    look = Look(stage, elapsed_s, Counts(), None, None, None, None, checked=5)
    shown = text(live(look, PLAN))
    fits(shown, 80, told, "accepted 0", "looked up 5")
    assert "log" not in shown.replace("looked", "")
