"""A leak is told from noise, however often the process is started again; what is flat is flat."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest

from tests.faults.kit.slopes import Point, Slope, slope, student_t

LIFE_BLOCKS = 10


def _series(
    blocks: int, value: Callable[[int, float], float], *, each: int = 3, life: int = LIFE_BLOCKS
) -> Iterator[Point]:
    """Give a run of blocks with `each` samples; after `life` blocks another life begins."""
    for number in range(blocks):
        for sample in range(each):
            at = number + sample / each
            yield Point(str(number // life), number, at, value(number // life, at))


def _slope(points: Iterator[Point]) -> Slope:
    found = slope(points)
    assert found is not None
    return found


def _noise(dice: random.Random, correlation: float, sigma: float) -> Callable[[], float]:
    """Return noise in which neighbours resemble each other (AR(1)), with this deviation."""
    state = dice.gauss(0, sigma)

    def drawn() -> float:
        nonlocal state
        state = correlation * state + dice.gauss(0, sigma * math.sqrt(1 - correlation**2))
        return state

    return drawn


def _only(noise: Callable[[], float]) -> Callable[[int, float], float]:
    """Return a value that is flat, with noise."""
    return lambda _life, _at: noise()


def test_a_line_is_found_exactly() -> None:
    """Without noise the slope is that of the line, with no doubt left."""
    found = _slope(_series(20, lambda _, at: 7 + 2.5 * at))
    assert found.each == pytest.approx(2.5)
    assert found.interval() == pytest.approx((2.5, 2.5))
    assert (found.blocks, found.lives) == (20, 2)


def test_a_restart_hides_no_leak() -> None:
    """A process that leaks, and is started again, shows the leak of its lives."""
    found = _slope(_series(60, lambda life, at: 60 + 2.0 * (at - life * LIFE_BLOCKS)))
    assert found.each == pytest.approx(2.0)


def test_lives_that_begin_higher_are_no_leak() -> None:
    """Where each life is flat there is no slope, though each begins higher than the last."""
    found = _slope(_series(60, lambda life, _: 60.0 + 5 * life))
    assert found.each == pytest.approx(0.0)
    assert found.is_flat()


def test_what_never_changes_is_flat() -> None:
    """Threads that are always five have no slope and no doubt about it."""
    found = _slope(_series(60, lambda _life, _at: 5.0))
    assert found.is_flat()
    assert found.interval() == pytest.approx((0.0, 0.0))


@pytest.mark.parametrize("seed", range(10))
def test_a_leak_of_two_megabytes_per_million_is_told_from_noise(seed: int) -> None:
    """An hour at 5,000 a second, a restart each ten minutes, 1 MB of correlated noise."""
    noise = _noise(random.Random(seed), 0.8, 1.0)
    millions_a_block = 0.3
    leaking = _slope(
        Point(life, block, at * millions_a_block, value)
        for life, block, at, value in _series(
            60, lambda _, at: 70 + 2.0 * millions_a_block * at + noise()
        )
    )
    steady = _slope(
        Point(life, block, at * millions_a_block, value)
        for life, block, at, value in _series(60, lambda _life, _at: 70 + noise())
    )
    assert leaking.each > 1.0 > abs(steady.each)
    assert not leaking.is_flat()


def test_intervals_hold_as_often_as_they_say() -> None:
    """Of 300 flat series with correlated noise, at least 92 % have 0 within the 95 % interval."""
    dice = random.Random(1)
    flat = 0
    for _ in range(300):
        noise = _noise(dice, 0.8, 1.0)
        flat += _slope(_series(60, _only(noise))).is_flat()
    assert flat >= 0.92 * 300


def test_little_is_not_called_flat_with_certainty() -> None:
    """One block tells nothing; with three blocks the interval is without bounds."""
    assert slope(_series(1, lambda _life, at: at)) is None
    found = _slope(_series(3, lambda _life, at: at * at))
    assert found.interval() == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("freedom", "wanted"), [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)]
)
def test_quantiles_of_student(freedom: float, wanted: float) -> None:
    """The quantile at 97.5 % is that of the tables."""
    assert student_t(0.975, freedom) == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize(("freedom", "off"), [(3, 0.025), (10, 1e-3)])
def test_quantiles_far_out(freedom: int, off: float) -> None:
    """Where 18 rows share 5 %, a quantile has nearly the share that is asked for, never less."""
    share = 1 - 0.05 / 36
    exact = _quantile(share, freedom)
    assert exact * (1 - off) <= student_t(share, freedom) <= exact * 1.0001


def _quantile(share: float, freedom: int) -> float:
    """Return the quantile by adding up the density, and halving."""

    def upto(t: float) -> float:
        steps = 2_000
        density = [(1 + (t * (n + 0.5) / steps) ** 2 / freedom) for n in range(steps)]
        area = sum(math.pow(one, -(freedom + 1) / 2) for one in density) * t / steps
        size = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
        return 0.5 + area * math.exp(size) / math.sqrt(freedom * math.pi)

    low, high = 0.0, 100.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if upto(middle) < share else (low, middle)
    return low
