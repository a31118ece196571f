"""From requests and what was found of them to the sums of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evp.drill.check import Check
from evp.drill.load import Outcome, Request
from evp.drill.report import Report, Turn
from evp.errors import EXIT_OK
from evp.loadtest.histogram import Histogram


class Span(NamedTuple):
    """From when until when, by the monotonic clock."""

    from_s: float
    until_s: float


def count_outcomes(report: Report, requests: Sequence[Request], batch: int) -> None:
    """Count what became of the events of these requests, and judge each turn and all of it."""
    sums: list[Report | Turn] = [report, *report.turns]
    for one in sums:
        one.accepted = one.refused = one.unknown = 0
    for request in requests:
        _count(report, request.outcome, batch)
        # Before the first turn there is a moment in which none has begun.
        for turn in report.turns[request.turn : request.turn + 1]:
            _count(turn, request.outcome, batch)
    report.sent = batch * len(requests)
    for turn in report.turns:
        turn.judge()
    report.clean = report.exit_code == EXIT_OK


def _count(sums: Report | Turn, outcome: Outcome, events: int) -> None:
    if outcome is Outcome.ACCEPTED:
        sums.accepted += events
    elif outcome is Outcome.REFUSED:
        sums.refused += events
    else:
        sums.unknown += events


def count_found(report: Report, found: Check) -> None:
    """Take over what was found of each turn."""
    for turn, one in zip(report.turns, found.turns, strict=True):
        turn.lost, turn.doubled, turn.refused_stored = one.lost, one.doubled, one.refused_stored
    report.lost = sum(one.lost for one in found.turns)
    report.doubled = sum(one.doubled for one in found.turns)
    report.refused_stored = sum(one.refused_stored for one in found.turns)
    report.recovered = sum(one.recovered for one in found.turns)
    report.unexpected = found.unexpected
    report.lost_ids, report.doubled_ids = found.lost_ids, found.doubled_ids
    report.refused_stored_ids = found.refused_stored_ids


def p99_ms(requests: Sequence[Request], span: Span) -> float | None:
    """Return within how many milliseconds 99 of 100 were accepted, of a span's requests.

    Of those that were accepted at all; who gave up is counted apart. Those that were under
    way when the span began are among them; None if none was accepted.
    """
    took = Histogram()
    for one in requests:
        if one.took_s is None or one.due_at_s > span.until_s:
            continue
        if one.due_at_s + one.took_s >= span.from_s:
            took.record_s(one.took_s)
    found = took.quantiles()
    return None if found is None else round(found.p99, 1)
