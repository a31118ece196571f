"""Does something grow? A slope with an interval that is honest, for samples that are not.

Samples that are taken one after the other resemble each other, and a process that was
started again begins anew. So:

1. Of all samples of one life in one block (the quiet time between two faults) only the
   means count. What varies from second to second is gone with that.
2. One slope is fitted to all lives by least squares, and each life has an intercept of its
   own: a restart neither hides a leak nor looks like one. A life with one block tells nothing.
3. Neighbouring blocks may still resemble each other. The correlation of neighbouring
   residuals, r, is estimated (and corrected for being estimated too small in short series);
   n blocks then count as n (1 - r) / (1 + r), in the variance and in the degrees of freedom
   of Student's t. A negative r is taken as 0, and one above 0.9 as 0.9.

Out of 20 such intervals of 95 % one misses the truth by chance. `Slope.interval` of
1 - 0.05 / rows (Bonferroni) is so wide that those of all rows hold together with 95 %: for an
accusation, not for an acquittal (`kit.soak_table`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean
from typing import NamedTuple

FREEDOM_MIN = 3.0
"""With fewer degrees of freedom there is no interval worth telling."""
_CORRELATION_MAX = 0.9
_ROUNDING = 1e-9


class Point(NamedTuple):
    """One sample: `at` is time, or events, whatever the slope is to be by."""

    life: str
    block: int
    at: float
    value: float


@dataclass(frozen=True)
class Slope:
    """How much a value grows for each unit of `at`; `error` is the standard error of that.

    `freedom` counts degrees of freedom after what correlation takes from them, and there are
    FREEDOM_MIN at least unless there never were as many.
    """

    each: float
    error: float
    freedom: float
    blocks: int
    lives: int
    mean: float

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval that has the true slope with this probability."""
        if self.freedom < FREEDOM_MIN:
            return -math.inf, math.inf
        half = student_t(0.5 + confidence / 2, self.freedom) * self.error
        return self.each - half, self.each + half

    def is_flat(self, confidence: float = 0.95) -> bool:
        """Return True if nothing speaks against a slope of 0."""
        low, high = self.interval(confidence)
        # What never changed has an interval of no length, and the sums round.
        tiny = _ROUNDING * max(1.0, abs(self.mean))
        return low <= tiny and high >= -tiny


def slope(points: Iterable[Point]) -> Slope | None:
    """Return the slope that is common to all lives; None if no life has two blocks."""
    lives = [one for one in _block_means(points) if len(one) > 1]
    blocks = sum(map(len, lives))
    if not lives:
        return None
    centred = [_centred(one) for one in lives]
    spread = sum(at * at for life in centred for at, _ in life)
    if not spread:
        return None
    each = sum(at * value for life in centred for at, value in life) / spread
    residuals = [[value - each * at for at, value in life] for life in centred]
    freedom = blocks - len(lives) - 1
    squares = sum(one * one for life in residuals for one in life)
    mean = fmean(value for life in lives for _, value in life)
    is_exact = math.sqrt(squares) <= _ROUNDING * max(1.0, abs(mean))
    correlation = 0.0 if is_exact else _correlation(residuals, squares)
    inflation = (1 + correlation) / (1 - correlation)
    error = math.sqrt(squares / max(1, freedom) / spread * inflation)
    left = min(freedom, max(FREEDOM_MIN, freedom / inflation))
    return Slope(each, error, left, blocks, len(lives), mean)


def student_t(share: float, freedom: float) -> float:
    """Return the quantile of Student's t: the normal one, expanded in 1 / freedom.

    Abramowitz and Stegun 26.7.5. With 3 degrees of freedom it is 0.1 % too small at 97.5 %, and
    2.3 % at 99.86 % (0.05 shared by 18 rows, on two sides); with 10 it is exact to 0.01 %.
    """
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _block_means(points: Iterable[Point]) -> list[list[tuple[float, float]]]:
    """Return for each life the means of its blocks, in order."""
    sorted_: defaultdict[str, defaultdict[int, list[Point]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for point in points:
        sorted_[point.life][point.block].append(point)
    return [
        [
            (fmean(one.at for one in block), fmean(one.value for one in block))
            for _, block in sorted(life.items())
        ]
        for life in sorted_.values()
    ]


def _centred(life: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    at_mean, value_mean = fmean(at for at, _ in life), fmean(value for _, value in life)
    return [(at - at_mean, value - value_mean) for at, value in life]


def _correlation(residuals: Sequence[Sequence[float]], squares: float) -> float:
    """Return how far neighbours of one life resemble each other, from 0 on."""
    blocks = sum(map(len, residuals))
    neighbours = sum(one * other for life in residuals for one, other in pairwise(life))
    pairs = blocks - len(residuals)
    found = (neighbours / pairs) / (squares / blocks)
    # A line and an intercept that were fitted take some of it away: about (2 + 4 r) / n.
    corrected = found + (2 + 4 * max(0.0, found)) / (blocks / len(residuals))
    return min(_CORRELATION_MAX, max(0.0, corrected))
