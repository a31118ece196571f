"""Load tests, the arithmetic: what is due when, what a report says, what a threshold is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.cli import loading
from evp.errors import UsageError
from evp.loadtest.check import Check
from evp.loadtest.counts import Counts
from evp.loadtest.histogram import Histogram, Quantiles
from evp.loadtest.plan import check_size, shares
from evp.loadtest.report import Report, Storing, figures, judged, report_of
from evp.loadtest.schedule import Schedule
from evp.loadtest.thresholds import NAMES, threshold_of
from tests.support.loads import plan_of, share_of

START_S = 1_000.0


def report(**changes: Any) -> Report:
    """Return the report of a good run of 100 requests."""
    counts = Counts(asked=100, sent=100, accepted=100, finished_s=START_S + 0.9)
    latency = Histogram()
    latency.record_s(0.01)
    plan = plan_of(duration_s=1.0)
    made = report_of("run", plan, counts, latency.quantiles(), START_S, interrupted=False)
    return msgspec.structs.replace(made, **changes)


@given(
    st.floats(0.01, 1e6),
    st.floats(0.1, 100),
    st.floats(0, 10),
    st.integers(1, 7),
    st.integers(1, 1_000),
)
def test_processes_share_all_that_is_due(
    eps: float, duration_s: float, warmup_s: float, processes: int, batch: int
) -> None:
    """Together they have every request of the rate once, none more, and the same warm-up."""
    plan = plan_of(
        eps=eps,
        duration_s=duration_s,
        warmup_s=warmup_s,
        batch=batch,
        processes=processes,
        connections=processes,
    )
    schedules = [Schedule(share, START_S) for share in shares(plan, "run", "key")]
    end_s = START_S + warmup_s + duration_s
    due = sum(one.due_by(end_s + 1) or 0 for one in schedules)
    measured = sum(one.measured_by(end_s + 1) or 0 for one in schedules)
    assert due == pytest.approx((warmup_s + duration_s) * eps / batch, abs=1)
    assert due >= 1
    assert due - measured == pytest.approx(warmup_s * eps / batch, abs=1)
    for one in schedules:
        last = (one.due_by(end_s + 1) or 0) - 1
        assert last < 0 or one.due_at_s(last, 0.0) < end_s


def test_exact_totals() -> None:
    """A rate that fits the span gives exactly so many requests, evenly, from the start on."""
    share = share_of(eps=30.0, batch=10, duration_s=10.0, warmup_s=2.0)
    schedule = Schedule(share, START_S)
    assert [schedule.due_by(START_S + seconds) for seconds in (-0.1, 0, 0.3, 0.4, 99)] == [
        0, 1, 1, 2, 36,
    ]  # fmt: skip
    assert schedule.due_at_s(3, 0.0) == START_S + 1
    assert [schedule.is_measured(number, 0.0) for number in (5, 6)] == [False, True]
    assert schedule.measured_by(START_S + 99) == 30


def test_processes_take_turns() -> None:
    """Requests of several processes are not due together, but one after the other."""
    plan = plan_of(eps=40.0, batch=10, duration_s=1.0, processes=2)
    schedules = [Schedule(share, START_S) for share in shares(plan, "run", "key")]
    due = sorted(one.due_at_s(number, 0.0) for one in schedules for number in range(2))
    assert due == [START_S, START_S + 0.25, START_S + 0.5, START_S + 0.75]


def test_saturating() -> None:
    """Without a rate all that can be sent is due until the end; it is due when it is sent."""
    schedule = Schedule(share_of(eps=None, duration_s=1.0, warmup_s=0.5), START_S)
    assert [schedule.due_by(START_S + seconds) for seconds in (-0.1, 0, 1.4, 1.5)] == [
        0, None, None, 0,
    ]  # fmt: skip
    now_s = START_S + 0.5
    assert schedule.due_at_s(7, now_s) == now_s
    assert schedule.is_measured(7, now_s)
    assert not schedule.is_measured(8, now_s - 0.01)
    assert schedule.measured_by(now_s) is None
    assert not schedule.is_late(START_S, now_s)


def test_connections_are_shared() -> None:
    """Each process has its part of the connections, and all parts are all."""
    found = shares(plan_of(connections=7, processes=3), "run", "key")
    assert [one.connections for one in found] == [3, 2, 2]
    assert [one.process for one in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1/", ("h", 1, False, "/events/batch")),
        ("https://h", ("h", 443, True, "/events/batch")),
        ("http://[::1]/in", ("::1", 80, False, "/in/events/batch")),
    ],
)
def test_addresses(url: str, expected: tuple[str, int, bool, str]) -> None:
    """Scheme, host, port and path of an address are used."""
    share = share_of(url=url)
    assert (share.host, share.port, share.tls, share.target) == expected


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "http://", "http://h:x", "http://h/a b"])
def test_wrong_addresses(url: str) -> None:
    """What is no address is told."""
    with pytest.raises(UsageError, match="--url"):
        share_of(url=url)


@pytest.mark.parametrize("key", ["a\r\nb: c", "ü", "a b"])
def test_wrong_keys(key: str) -> None:
    """A key can't smuggle anything into the request."""
    with pytest.raises(UsageError, match="API key"):
        shares(plan_of(), "run", key)


def test_more_than_can_be_verified() -> None:
    """A plan whose ledger would not fit into memory is refused, unless nothing is looked up."""
    check_size(plan_of(eps=100_000.0, duration_s=1_000.0))
    check_size(plan_of(eps=100_000.0, duration_s=10_000.0, verify=False))
    for changes in ({"duration_s": 3_000.0}, {"batch": 1}, {"eps": None}):
        with pytest.raises(UsageError, match="shorter --duration"):
            check_size(plan_of(**{"eps": 100_000.0, "duration_s": 1_000.0} | changes))


@pytest.mark.parametrize(
    ("text", "name", "operator", "bound"),
    [
        ("p99<50ms", "p99", "<", 50.0),
        (" p99.9 <= 1.5s ", "p99.9", "<=", 1500.0),
        ("stored_p50<800us", "stored_p50", "<", 0.8),
        ("max<20", "max", "<", 20.0),
        ("lost==0", "lost", "==", 0.0),
        ("accepted_per_s>=1000", "accepted_per_s", ">=", 1000.0),
        ("late!=0", "late", "!=", 0.0),
    ],
)
def test_thresholds(text: str, name: str, operator: str, bound: float) -> None:
    """A name, an operator, a number, and a unit where it is a time."""
    found = threshold_of(text)
    assert (found.text, found.name, found.operator, found.bound) == (text, name, operator, bound)


@pytest.mark.parametrize(
    "text", ["", "p99", "p98<1", "p99<", "p99=1", "p99<-1", "p99<1h", "lost==0ms", "lost<0<1", "<1"]
)
def test_wrong_thresholds(text: str) -> None:
    """What is none says what is wanted."""
    with pytest.raises(UsageError, match=r"names: p50, .*lost.*operators: < <="):
        threshold_of(text)


def test_every_name_has_a_figure() -> None:
    """What can be bounded is what a report knows."""
    assert tuple(sorted(figures(report()))) == tuple(sorted(NAMES))


def test_verdicts() -> None:
    """A bound is met by a figure within it; one whose figure is not known is missed."""
    bounds = [threshold_of(text) for text in ("p99<50ms", "p99<1ms", "lost==0", "asked==1000")]
    assert [(one.met, one.value) for one in judged(report(), bounds)] == [
        (True, pytest.approx(10, rel=0.01)),
        (False, pytest.approx(10, rel=0.01)),
        (False, None),
        (True, 1000),
    ]


@pytest.mark.parametrize("text", ["lost==0", "doubled<1"])
def test_bounds_that_want_a_look(text: str) -> None:
    """A bound on what is lost has every event looked up; without the store it makes no sense."""
    assert loading.bounds([text], accept_only=False, verify=False)[1]
    assert not loading.bounds(["p99<1s", "stored_p99<1s"], accept_only=False, verify=False)[1]
    for texts, verify in (([text], False), (["stored_p99<1s"], False), ([], True)):
        with pytest.raises(UsageError, match="--accept-only"):
            loading.bounds(texts, accept_only=True, verify=verify)


def test_the_sum() -> None:
    """All that was asked is one of four, in events; rates count over the whole time."""
    counts = Counts(
        asked=100,
        sent=90,
        accepted=70,
        unanswered=5,
        late=3,
        late_s_max=0.5,
        rejected={"unauthenticated": 10, "http_500": 5},
        retried={"backlog_full": 2},
        finished_s=START_S + 2,
    )
    found = report_of("run", plan_of(duration_s=1.0), counts, None, START_S, interrupted=False)
    assert (found.requests, found.asked, found.accepted) == (90, 1_000, 700)
    assert found.rejected == {"unauthenticated": 100, "http_500": 50}
    assert (found.unanswered, found.unsent, found.late, found.late_ms_max) == (50, 100, 30, 500)
    total = found.accepted + sum(found.rejected.values()) + found.unanswered + found.unsent
    assert total == found.asked
    assert found.retried == {"backlog_full": 2}
    assert found.accepted_per_s == 350


def test_rate_over_the_whole_time() -> None:
    """The last request is due before the time is up: the rate is not told too high."""
    assert report().accepted_per_s == 1_000


def test_counts_of_processes_add_up() -> None:
    """What several processes have counted becomes one."""
    total = Counts()
    for late_s, code in ((0.1, "a"), (0.3, "a"), (0.2, "b")):
        total.add(Counts(10, 9, 7, 1, 2, late_s, {code: 1}, {"x": 2}, late_s))
    assert total == Counts(30, 27, 21, 3, 6, 0.3, {"a": 2, "b": 1}, {"x": 6}, 0.3)


STORING = Storing(1.0, 1.0, True, 0, None, 0, 0)
CHECK = Check(1_000, 1_000, 0, 0, [], [])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"storing": STORING, "check": CHECK}, 0),
        ({"late": 10, "retried": {"backlog_full": 3}}, 0),
        ({"unsent": 10}, 1),
        ({"storing": msgspec.structs.replace(STORING, unseen=1)}, 1),
        ({"rejected": {"unauthenticated": 10}}, 1),
        ({"unanswered": 10}, 1),
        ({"gave_up": "401"}, 1),
        ({"check": msgspec.structs.replace(CHECK, lost=1)}, 1),
        ({"check": msgspec.structs.replace(CHECK, doubled=1)}, 1),
        ({"storing": msgspec.structs.replace(STORING, drained=False)}, 1),
        ({"storing": msgspec.structs.replace(STORING, drained=False), "interrupted": True}, 0),
        ({"unavailable": "away"}, 3),
    ],
)
def test_exit_codes(changes: dict[str, Any], code: int) -> None:
    """What is refused, lost or doubled is 1, a store that is away 3; a missed threshold is 99."""
    found = report(**changes)
    assert found.exit_code == code
    missed = judged(found, [threshold_of("p50<1us")])
    assert msgspec.structs.replace(found, thresholds=missed).exit_code == 99


def test_histograms_add_up() -> None:
    """Histograms of processes, as they go over a pipe, make the quantiles of all."""
    total = Histogram()
    for first in (0, 1):
        one = Histogram()
        for number in range(first, 1_000, 2):
            one.record_s((number + 1) / 1_000)
        total.add(one.encode())
    assert total.count == 1_000
    found = total.quantiles()
    assert found is not None
    for value, expected in zip(
        msgspec.structs.astuple(found), (500, 900, 950, 990, 999, 1_000), strict=True
    ):
        assert value == pytest.approx(expected, rel=0.002)


def test_histogram_bounds() -> None:
    """Nothing has no quantiles; less than a microsecond is one, more than an hour is an hour."""
    histogram = Histogram()
    assert histogram.quantiles() is None
    histogram.record_s(-1)
    assert histogram.quantiles() == Quantiles(*[0.001] * 6)
    histogram.record_s(1e6)
    found = histogram.quantiles()
    assert found is not None
    assert found.max == pytest.approx(3_600_000, rel=0.002)
