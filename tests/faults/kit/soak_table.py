"""The table at the end of a soak: how much each series grows, how sure that is, and a verdict.

A slope is never known, only an interval that has it (`kit.slopes`). So two questions are asked
of each row: does it grow, and could it grow harmfully without being noticed? "flat" answers no
to both: 0 lies within the row's own 95 % interval, and the interval within the limit of the row
(LIMITS), a growth that would hurt within a week or so. That nothing is seen in noise is not
enough. The verdicts:

    flat            0 is in the interval, and all of it within the limit
    below limit     memory only: it grows, and all of the interval is within the limit
    can't tell      the interval reaches beyond the limit: a harmful growth could hide in it
    grows?          0 is outside its own interval, inside the one of all rows together
    GROWS, SHRINKS  0 is outside both; of memory: of its own, and the slope is not below the limit

A soak passes if every row does, each by its own interval. More rows make it stricter, as each
of them has to prove itself, so nothing has to be corrected for their number. To accuse a row is
the other way round: of twenty flat ones one has 0 outside its 95 % by chance. So GROWS needs the
wider interval that holds for all rows together (Bonferroni), and between the two lies "grows?":
not flat, and no proof. Another run, with another seed, tells.

What an engine takes for itself (its memory, its threads) is told and not judged, and neither is
how many entries the log has: it keeps so many bytes, and how many entries these are depends on
how busy the servers were. Their bytes are judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from tests.faults.kit.samples import Sample
from tests.faults.kit.slopes import Point, Slope, slope

RSS_MB_PER_MILLION_MAX = 1.0
WARM_UP_S = 60.0
CONFIDENCE = 0.95
PER_MILLION = "/1M"
PER_HOUR = "/h"
LIMITS = {
    "RSS": RSS_MB_PER_MILLION_MAX,
    # A process may have 1,024 files unless it is allowed more: 5 an hour are 840 in a week.
    "files": 5.0,
    "connections": 5.0,
    "clients": 5.0,
    "threads": 5.0,
    # The log keeps each of them, and each claim looks at all.
    "consumers": 1.0,
    # One for each fault of the default plan.
    "pending": 60.0,
    # One of a thousand events at 5,000 a second: the workers are too slow.
    "backlog": 18_000.0,
    # MB: 1.7 GB in a week.
    "used memory": 10.0,
    "stream memory": 10.0,
}
"""By the unit of the row: memory of a process by million events, all else by the hour."""
_TOLD_ONLY = {
    ("log", "RSS"),
    ("log", "threads"),
    ("log", "entries"),
    ("store", "RSS"),
    ("store", "threads"),
}
_OUTLIVES = {("log", "entries"), ("log", "stream memory")}
"""What is on disk is the same before and after a restart: one life, however often it is killed."""


class Verdict(StrEnum):
    """What is said of a row."""

    FLAT = "flat"
    BELOW = "below limit"
    UNTOLD = "can't tell"
    MAY_GROW = "grows?"
    MAY_SHRINK = "shrinks?"
    GROWS = "GROWS"
    SHRINKS = "SHRINKS"
    NOT_JUDGED = "(not judged)"


class Row(Struct):
    """One series: `found` is None where too little was seen, `limit` where it is not judged."""

    kind: str
    what: str
    unit: str
    found: Slope | None
    limit: float | None
    verdict: Verdict

    @property
    def bad(self) -> bool:
        """True if it is as good as certain that it is not flat."""
        return self.verdict in {Verdict.GROWS, Verdict.SHRINKS}

    @property
    def doubtful(self) -> bool:
        """True if neither that nor the contrary is known."""
        return self.verdict in {Verdict.UNTOLD, Verdict.MAY_GROW, Verdict.MAY_SHRINK}


def rows(samples: Iterable[Sample], warm_up_s: float) -> list[Row]:
    """Return a row for each series, of calm samples.

    Memory counts of lives that are older than `warm_up_s`: a process takes what its worst
    moments need, and has seen these only after a few faults. All else counts from
    WARM_UP_S on.
    """
    series: dict[tuple[str, str], list[Point]] = {}
    for one in samples:
        name = (one.kind, one.what)
        points = series.setdefault(name, [])
        from_s = warm_up_s if one.what == "RSS" else WARM_UP_S
        if one.calm and one.life_s >= from_s:
            at = one.events / 1e6 if one.what == "RSS" else one.at_s / 3600
            life = "all" if name in _OUTLIVES else one.life
            points.append(Point(life, one.block, at, one.value))
    found = {name: slope(points) for name, points in series.items()}
    # What never varies can't be off by chance.
    varying = sum(
        1
        for name, one in found.items()
        if one is not None and one.error and name[1] != "RSS" and name not in _TOLD_ONLY
    )
    together = 1 - (1 - CONFIDENCE) / max(1, varying)
    return [_row(*name, one, together) for name, one in sorted(found.items())]


def _row(kind: str, what: str, found: Slope | None, together: float) -> Row:
    unit = PER_MILLION if what == "RSS" else PER_HOUR
    if (kind, what) in _TOLD_ONLY:
        return Row(kind, what, unit, found, None, Verdict.NOT_JUDGED)
    limit = LIMITS[what]
    if found is None or math.isinf(found.interval()[0]):
        verdict = Verdict.UNTOLD
    elif what == "RSS":
        verdict = _of_memory(found, limit)
    else:
        verdict = _of_others(found, limit, together)
    return Row(kind, what, unit, found, limit, verdict)


def _of_memory(found: Slope, limit: float) -> Verdict:
    """Its slope must be below the limit, and known to be."""
    has_zero = found.is_flat(CONFIDENCE)
    if _is_within(found, limit):
        return Verdict.FLAT if has_zero else Verdict.BELOW
    if has_zero or abs(found.each) < limit:
        return Verdict.UNTOLD
    return Verdict.GROWS if found.each > 0 else Verdict.SHRINKS


def _of_others(found: Slope, limit: float, together: float) -> Verdict:
    """Its slope may be 0, and must be known to be below the limit."""
    if found.is_flat(CONFIDENCE):
        return Verdict.FLAT if _is_within(found, limit) else Verdict.UNTOLD
    if found.is_flat(together):
        return Verdict.MAY_GROW if found.each > 0 else Verdict.MAY_SHRINK
    return Verdict.GROWS if found.each > 0 else Verdict.SHRINKS


def _is_within(found: Slope, limit: float) -> bool:
    low, high = found.interval(CONFIDENCE)
    return -limit < low and high < limit


def table(all_rows: Sequence[Row]) -> list[str]:
    """Return the table as lines."""
    head = _line("", "mean", "slope", "95 % interval", "limit", "", "verdict")
    lines = [head, "-" * 79]
    for row in all_rows:
        name, found = f"{row.kind} {row.what}", row.found
        limit = "" if row.limit is None else f"{row.limit:,g}"
        if found is None:
            lines.append(_line(name, "", "", "", limit, row.unit, row.verdict))
            continue
        low, high = found.interval(CONFIDENCE)
        interval = "" if math.isinf(low) else f"{_signed(low)} to {_signed(high)}"
        mean, each = f"{found.mean:,.1f}", _signed(found.each)
        lines.append(_line(name, mean, each, interval, limit, row.unit, row.verdict))
    lines.append(f"slopes: {PER_MILLION} is MB by million events, {PER_HOUR} by the hour")
    if any(row.verdict is Verdict.UNTOLD for row in all_rows):
        lines.append("can't tell: a growth beyond the limit could hide in the interval")
    if any(row.verdict in {Verdict.MAY_GROW, Verdict.MAY_SHRINK} for row in all_rows):
        lines.append("?: 0 is outside the row's interval, inside the one for all rows together")
    return lines


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.2f}"


def _line(*cells: str) -> str:
    name, mean, each, interval, limit, unit, verdict = cells
    return f"{name:<18} {mean:>7} {each:>7} {interval:>18} {limit:>6} {unit:<3} {verdict}".rstrip()
