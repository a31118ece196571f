"""GET /analytics/metrics: which span is asked for, and how its sums are told."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from msgspec import UNSET, Struct, UnsetType, field

from evp.batch.tally import bounded, quantiles_ms
from evp.clock import MS_MAX, from_ms
from evp.frame import SOURCE_OTHER
from evp.server.limits import (
    METRICS_NAMES_MAX,
    SERIES_NAMES_MAX,
    SERIES_POINTS_MAX,
    SERIES_POINTS_USUAL,
)
from evp.server.queries import invalid, moment_ms
from evp.storage.metrics import Metrics, Point

INTERVALS_MS = {"1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}
"""The widths of a step, from fine to coarse."""


class Span(Struct, frozen=True):
    """Whole steps of one interval, counted from 1970."""

    first_ms: int
    end_ms: int
    interval: str

    @property
    def step_ms(self) -> int:
        """How wide a step is."""
        return INTERVALS_MS[self.interval]


class LatencyMs(Struct):
    """From the append to the log until the event was stored, milliseconds.

    Each is too large by a fifth at most, and never too small.
    """

    p50: int
    p90: int
    p99: int
    p999: int


class Accepted(Struct):
    """What became of what was accepted within the span, by the log's clock.

    `missing` are events that the log lost before they were stored; `latency_ms` is null
    where nothing was stored.
    """

    stored: int
    duplicates: int
    dead_letters: int
    missing: int
    latency_ms: LatencyMs | None


class Step(Struct):
    """Events whose own time lies within one interval, which begins at `start`.

    `groups` is there with `group_by`: the most frequent names of the whole span, and "other".
    """

    start: datetime
    events: int
    groups: dict[str, int] | UnsetType = UNSET


class AnalyticsMetrics(Struct):
    """Sums of the events stored whose own time lies from `from` to before `to`.

    Both are rounded to whole intervals. `as_of` is when the newest events were counted.
    Names are in order of their numbers, the most frequent hundred; the rest is "other".
    """

    from_: datetime = field(name="from")
    to: datetime
    interval: str
    as_of: datetime
    events: int
    by_type: dict[str, int]
    by_source: dict[str, int]
    accepted: Accepted
    series: list[Step]


def span_of(from_: str, to: str, interval: str | None, now_ms: int) -> Span:
    """Return the span that is asked for; without an interval one that gives a few hundred steps.

    Raises Refusal `invalid_query`.
    """
    first_ms, end_ms = moment_ms("from", from_, now_ms), moment_ms("to", to, now_ms)
    if first_ms >= end_ms:
        raise invalid("from must be before to")
    if interval is None:
        fits = [
            name
            for name, step_ms in INTERVALS_MS.items()
            if end_ms - first_ms <= SERIES_POINTS_USUAL * step_ms
        ]
        interval = fits[0] if fits else list(INTERVALS_MS)[-1]
    step_ms = INTERVALS_MS[interval]
    first_ms, end_ms = first_ms // step_ms * step_ms, -(-end_ms // step_ms) * step_ms
    steps = (end_ms - first_ms) // step_ms
    if steps > SERIES_POINTS_MAX:
        raise invalid(
            f"this range has {steps} steps of {interval}, and {SERIES_POINTS_MAX} are allowed: "
            "take a larger interval or a shorter range"
        )
    if end_ms > MS_MAX:
        raise invalid("to lies after the year 9999")
    return Span(first_ms, end_ms, interval)


def answer_of(span: Span, found: Metrics, group_by: str | None) -> AnalyticsMetrics:
    """Return sums as they are answered, with every step of the span."""
    by_source = found.sources
    if (unnamed := found.stored - by_source.total()) > 0:
        # An older evp did not count sources by time.
        by_source = by_source + Counter({SOURCE_OTHER: unnamed})
    counts = {"type": found.types, "source": by_source}.get(group_by or "")
    names = None if counts is None else [name for name, _ in counts.most_common(SERIES_NAMES_MAX)]
    points = {point.start_ms: point for point in found.series}
    return AnalyticsMetrics(
        from_=from_ms(span.first_ms),
        to=from_ms(span.end_ms),
        interval=span.interval,
        as_of=found.at,
        events=found.stored,
        by_type=_most_first(found.types),
        by_source=_most_first(by_source),
        accepted=_accepted(found),
        series=[
            _step(points.get(start_ms) or Point(start_ms), group_by, names)
            for start_ms in range(span.first_ms, span.end_ms, span.step_ms)
        ],
    )


def _accepted(found: Metrics) -> Accepted:
    sums = found.accepted
    latency = quantiles_ms(sums.took, (0.5, 0.9, 0.99, 0.999))
    return Accepted(
        stored=sums.stored,
        duplicates=sums.duplicate,
        dead_letters=sums.dead,
        missing=sums.missing,
        latency_ms=LatencyMs(*latency) if latency else None,
    )


def _step(point: Point, group_by: str | None, names: list[str] | None) -> Step:
    step = Step(from_ms(point.start_ms), point.stored)
    if names is not None:
        counts = point.types if group_by == "type" else point.sources
        groups = {name: counts[name] for name in names if counts[name]}
        if (rest := point.stored - sum(groups.values())) > 0:
            groups[SOURCE_OTHER] = groups.get(SOURCE_OTHER, 0) + rest
        step.groups = groups
    return step


def _most_first(counts: Counter[str]) -> dict[str, int]:
    kept = bounded(counts, METRICS_NAMES_MAX)
    return dict(sorted(kept.items(), key=lambda pair: (-pair[1], pair[0])))
