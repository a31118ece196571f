"""Little charts of block characters: what a number was within the last minute, how full it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from evp.history import Sample
from evp.limits import HISTORY_S

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def last_minute(
    samples: Sequence[Sample],
    value_of: Callable[[Sample], float | None],
    columns: int,
    until_s: float,
) -> list[float | None]:
    """Return the mean of a value for each of some columns, None where nobody knows it.

    Together they are the minute up to `until_s`. Each begins at a whole multiple of its
    time, so that what was drawn once only moves and keeps its shape.
    """
    column_s = HISTORY_S / columns
    first = math.ceil(until_s / column_s) - columns
    sums, weights_s = [0.0] * columns, [0.0] * columns
    for sample in samples:
        value = value_of(sample)
        if value is None:
            continue
        begins = max(0, math.floor(sample.since_s / column_s) - first)
        ends = min(columns, math.ceil(sample.until_s / column_s) - first)
        for column in range(begins, ends):
            start_s = (first + column) * column_s
            weight_s = min(sample.until_s, start_s + column_s) - max(sample.since_s, start_s)
            sums[column] += value * weight_s
            weights_s[column] += weight_s
    return [
        total / weight_s if weight_s > 0 else None
        for total, weight_s in zip(sums, weights_s, strict=True)
    ]


def sparkline(values: Sequence[float | None], rows: int = 1) -> list[str]:
    """Return a chart of non-negative values as lines of text, the highest value at its top.

    Zero is the lowest block, more than zero at least the second one, and unknown is none.
    """
    highest = max((value for value in values if value is not None), default=0.0)
    eighths = [_height(value, highest, 8 * rows) for value in values]
    return [
        "".join(_EIGHTHS[min(8, max(0, one - 8 * below))] for one in eighths)
        for below in reversed(range(rows))
    ]


def bar(share: float, columns: int) -> tuple[str, str]:
    """Return the full and the empty part of a bar; `share` is from 0 to 1, or beyond."""
    full = min(columns, max(0, round(share * columns)))
    if share > 0:
        full = max(1, full)
    return "█" * full, "░" * (columns - full)


def _height(value: float | None, highest: float, eighths: int) -> int:
    if value is None:
        return 0
    return max(2, round(value / highest * eighths)) if value > 0 else 1
