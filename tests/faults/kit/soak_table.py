"""The table at the end of a soak: how much each series grows, how sure that is, and a verdict.

Memory is judged by the slope itself: below RSS_MB_PER_MILLION_MAX. Everything else must have 0
within its interval, the one that holds for all of these rows together (`kit.slopes`); a row
whose own 95 % leaves 0 out is marked. What an engine takes for itself (its memory, its
threads) is told and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tests.faults.kit.samples import Sample
from tests.faults.kit.slopes import Point, Slope, slope

RSS_MB_PER_MILLION_MAX = 1.0
WARM_UP_S = 60.0
CONFIDENCE = 0.95
UNTOLD = "too short to tell"
PER_MILLION = "/1M"
PER_HOUR = "/h"
_TOLD_ONLY = {("log", "RSS"), ("log", "threads"), ("store", "RSS"), ("store", "threads")}


class Row(Struct):
    """One series: `found` is None where too little was seen. `unit` is what its slope is by."""

    kind: str
    what: str
    unit: str
    found: Slope | None
    verdict: str
    bad: bool


def rows(samples: Iterable[Sample], warm_up_s: float) -> list[Row]:
    """Return a row for each series, of calm samples.

    Memory counts of lives that are older than `warm_up_s`: a process takes what its worst
    moments need, and has seen these only after a few faults. All else counts from
    WARM_UP_S on.
    """
    series: dict[tuple[str, str], list[Point]] = {}
    for one in samples:
        points = series.setdefault((one.kind, one.what), [])
        from_s = warm_up_s if one.what == "RSS" else WARM_UP_S
        if one.calm and one.life_s >= from_s:
            at = one.events / 1e6 if one.what == "RSS" else one.at_s / 3600
            points.append(Point(one.life, one.block, at, one.value))
    found = {name: slope(points) for name, points in series.items()}
    # What never varies can't be off by chance.
    doubtful = sum(
        1
        for name, one in found.items()
        if one is not None and one.error and name[1] != "RSS" and name not in _TOLD_ONLY
    )
    together = 1 - (1 - CONFIDENCE) / max(1, doubtful)
    return [_row(*name, one, together) for name, one in sorted(found.items())]


def _row(kind: str, what: str, found: Slope | None, together: float) -> Row:
    unit = PER_MILLION if what == "RSS" else PER_HOUR
    verdict, bad = _verdict(kind, what, found, together)
    return Row(kind, what, unit, found, verdict, bad)


def _verdict(kind: str, what: str, found: Slope | None, together: float) -> tuple[str, bool]:
    """Return what is said of a row, and whether that is bad."""
    if (kind, what) in _TOLD_ONLY:
        return "(engine's own)", False
    if found is None or math.isinf(found.interval()[0]):
        return UNTOLD, False
    if what == "RSS":
        grows = abs(found.each) >= RSS_MB_PER_MILLION_MAX
        return ("GROWS" if found.each > 0 else "SHRINKS") if grows else "flat", grows
    if found.is_flat(CONFIDENCE):
        return "flat", False
    if found.is_flat(together):
        return "flat *", False
    return "GROWS" if found.each > 0 else "SHRINKS", True


def table(all_rows: Sequence[Row]) -> list[str]:
    """Return the table as lines."""
    head = _line("", "mean", "slope", "95 % interval", "", "verdict")
    lines = [head, "-" * 79]
    for row in all_rows:
        name, found = f"{row.kind} {row.what}", row.found
        if found is None:
            lines.append(_line(name, "", "", "", "", row.verdict))
            continue
        low, high = found.interval(CONFIDENCE)
        interval = "" if math.isinf(low) else f"{low:+.2f} to {high:+.2f}"
        mean, each = f"{found.mean:.1f}", f"{found.each:+.2f}"
        lines.append(_line(name, mean, each, interval, row.unit, row.verdict))
    lines.append(f"slopes: {PER_MILLION} is MB by million events, {PER_HOUR} by the hour")
    if any(row.verdict == "flat *" for row in all_rows):
        lines.append("* 0 is not within its own interval, but within the one for all rows together")
    return lines


def _line(*cells: str) -> str:
    name, mean, each, interval, unit, verdict = cells
    return f"{name:<18} {mean:>7} {each:>9} {interval:>20} {unit:<3} {verdict}"
