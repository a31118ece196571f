"""A load test under way, and its report."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evp.loadtest.check import Check
from evp.loadtest.histogram import Quantiles
from evp.loadtest.plan import Plan
from evp.loadtest.report import Report, Storing
from evp.loadtest.run import Look
from evp.loadtest.thresholds import Verdict
from evp.views.facts import Fact, fact_table

_STAGES = {
    "starting": "starting the generators",
    "sending": "sending",
    "ending": "waiting for the last answers",
    "storing": "waiting until all is stored",
    "checking": "looking every event up",
}


def live(look: Look, plan: Plan) -> RenderableType:
    """Return how a test stands."""
    counts = look.counts
    lasts_s = plan.warmup_s + plan.duration_s
    warming = look.stage == "sending" and look.elapsed_s < plan.warmup_s
    stage = "warming up" if warming else _STAGES[look.stage]
    rows: list[Fact] = [(stage, f"{min(look.elapsed_s, lasts_s):,.0f} of {lasts_s:,.0f} s", "bold")]
    rows += [
        ("asked", _count(counts.asked * plan.batch), None),
        ("sent", _count(counts.sent * plan.batch), None),
        ("accepted", _count(counts.accepted * plan.batch), None),
    ]
    if look.settled is not None:
        rows.append(("through the log", _count(look.settled), None))
    if look.backlog is not None:
        rows.append(("waiting in the log", _count(look.backlog), None))
    rows += [
        (f"refused, {code}", _count(n * plan.batch), "red") for code, n in counts.rejected.items()
    ]
    rows += [(f"requests again, {code}", _count(n), "yellow") for code, n in counts.retried.items()]
    if counts.late:
        rows.append(("late", _count(counts.late * plan.batch), "yellow"))
    if look.checked:
        rows.append(("looked up", _count(look.checked), None))
    return Group(fact_table(rows), *_latencies(look.accept_ms, look.stored_ms))


def render(report: Report) -> RenderableType:
    """Return a report."""
    rows: list[Fact] = [
        ("asked", _count(report.asked), None),
        ("accepted", _count(report.accepted), None),
    ]
    rows += [(f"refused, {code}", _count(n), "red") for code, n in report.rejected.items()]
    rows += [
        ("unanswered", _count(report.unanswered), "red" if report.unanswered else None),
        ("unsent", _count(report.unsent), "red" if report.unsent else None),
    ]
    if report.late:
        most = f"{_count(report.late)} (at most {_ms(report.late_ms_max)} ms)"
        rows.append(("late", most, "yellow"))
    rows += [(f"requests again, {code}", _count(n), "yellow") for code, n in report.retried.items()]
    rows.append(("events/s accepted", _count(report.accepted_per_s), None))
    if report.storing is not None:
        rows += _storing_rows(report.storing)
    if report.check is not None:
        rows += _check_rows(report.check)
    stored_ms = report.storing.stored_ms if report.storing else None
    parts: list[RenderableType] = [fact_table(rows), *_latencies(report.accept_ms, stored_ms)]
    if report.thresholds:
        parts += [Text(), fact_table([_verdict_row(one) for one in report.thresholds])]
    if notes := _notes(report):
        parts += [Text(), *(Text(note, style="red") for note in notes)]
    return Group(*parts)


def _storing_rows(storing: Storing) -> list[Fact]:
    rate = _count(storing.per_s) if storing.drained else "not all in time"
    rows: list[Fact] = [
        ("events/s stored", rate, None if storing.drained else "red"),
        ("waiting in the log, at most", _count(storing.backlog_max), None),
    ]
    if storing.unseen:
        shown = f"{_count(storing.unseen)} of {_count(storing.watched + storing.unseen)}"
        rows.append(("watched and not seen in the store", shown, "red"))
    return rows


def _check_rows(check: Check) -> list[Fact]:
    return [
        ("found in the store", f"{_count(check.found)} of {_count(check.checked)}", None),
        ("lost", _count(check.lost), "red" if check.lost else None),
        ("doubled", _count(check.doubled), "red" if check.doubled else None),
    ]


def _latencies(accept_ms: Quantiles | None, stored_ms: Quantiles | None) -> list[RenderableType]:
    """Return a table of how long it took since the requests were due; none if nothing is known."""
    if accept_ms is None:
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left")
    for _ in range(5):
        table.add_column(justify="right")
    table.add_row("since due, ms", "p50", "p90", "p99", "p99.9", "max", style="dim")
    for name, found in (("accepted", accept_ms), ("stored", stored_ms)):
        if found is not None:
            times = (found.p50, found.p90, found.p99, found.p999, found.max)
            table.add_row(name, *(_ms(one) for one in times))
    return [Text(), table]


def _verdict_row(verdict: Verdict) -> Fact:
    value = "not measured" if verdict.value is None else f"{verdict.value:,.2f}"
    shown = f"{value}, {'met' if verdict.met else 'missed'}"
    return f"threshold {verdict.threshold}", shown, "green" if verdict.met else "red"


def _notes(report: Report) -> list[str]:
    notes = []
    if report.gave_up:
        notes.append(f"nothing was accepted, so the load ended early: {report.gave_up}")
    elif report.interrupted:
        notes.append("ended before its time")
    storing, check = report.storing, report.check
    if report.accepted and (
        (storing and storing.unseen and not storing.watched) or (check and not check.found)
    ):
        notes.append(
            "none of the events is in this store: is it the one of the server that was loaded? "
            "--accept-only leaves the store out"
        )
    if report.unavailable:
        notes.append(f"the events could not be looked up: {report.unavailable}")
    return notes + (_check_notes(check, report.source) if check else [])


def _check_notes(check: Check, source: str) -> list[str]:
    notes = [f"ids of the source {source}:"] if check.lost or check.doubled else []
    for what, count, ids in (
        ("lost", check.lost, check.lost_ids),
        ("doubled", check.doubled, check.doubled_ids),
    ):
        if ids:
            more = f" and {count - len(ids):,} more" if count > len(ids) else ""
            notes.append(f"{what}: {', '.join(ids)}{more}")
    if check.lost:
        notes.append("`evp verify` says what became of them; `evp dlq list` what can't be stored")
    return notes


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _ms(ms: float) -> str:
    return f"{ms:,.1f}" if ms < 100 else f"{ms:,.0f}"
