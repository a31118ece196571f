"""Sets of numbers as intervals: the same as plain sets, whatever the order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from evp.verify.intervals import Gap, IntervalSet

NUMBERS = st.lists(st.integers(1, 40), max_size=60)


def filled(numbers: list[int]) -> IntervalSet:
    """Return a set of these numbers; number n was at n * 10 milliseconds."""
    made = IntervalSet()
    for number in numbers:
        made.add(number, number * 10)
    return made


@given(NUMBERS)
def test_holds_what_was_added(numbers: list[int]) -> None:
    """Intervals don't touch, and hold what was added and nothing else."""
    made, plain = IntervalSet(), set[int]()
    for number in numbers:
        assert made.add(number, 0) == (number not in plain)
        plain.add(number)
    held = [n for one in made.intervals for n in range(one.first, one.last + 1)]
    assert held == sorted(plain)
    assert [n for n in range(45) if made.has(n)] == held
    edges = [(one.first, one.last) for one in made.intervals]
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(edges))


@given(NUMBERS, st.integers(0, 45), st.integers(0, 45))
def test_gaps(numbers: list[int], above: int, upto: int) -> None:
    """Gaps are what is not there within bounds; beside each stands when its neighbours were."""
    plain = set(numbers)
    gaps = list(filled(numbers).gaps(above, upto))
    found = [n for gap in gaps for n in range(gap.first, gap.last + 1)]
    assert found == [n for n in range(above + 1, upto + 1) if n not in plain]
    for gap in gaps:
        below = max((n for n in plain if n < gap.first), default=None)
        beyond = min((n for n in plain if n > gap.last), default=None)
        assert gap.after_ms == (None if below is None else below * 10)
        assert gap.before_ms == (None if beyond is None else beyond * 10)


def test_a_gap_beyond_the_end() -> None:
    """A gap at the end is cut where one asks for no more."""
    assert list(filled([1, 2, 9]).gaps(0, 5)) == [Gap(3, 5, 20, 90)]
    assert list(filled([]).gaps(0, 2)) == [Gap(1, 2, None, None)]
    assert list(filled([1, 2]).gaps(0, 2)) == []
