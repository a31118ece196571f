"""What is said of partitions that are away."""

from __future__ import annotations

import pytest

from evp.naming import named
from evp.stream.asking import told_away


@pytest.mark.parametrize(
    ("away", "count", "told"),
    [
        ({}, 3, None),
        ({0: "gone"}, 1, "gone"),
        ({1: "gone"}, 3, "partition 1: gone"),
        ({2: "gone", 0: "gone", 1: "gone"}, 3, "gone"),
        ({5: "gone", 0: "gone", 1: "gone"}, 9, "partitions 0, 1, 5: gone"),
        ({0: "gone", 1: "slow"}, 2, "partition 0: gone; partition 1: slow"),
    ],
)
def test_partitions_that_are_away(away: dict[int, str], count: int, told: str | None) -> None:
    """Each reason is told once, with the numbers it is of, where others are there or away too."""
    assert told_away(away, count) == told


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([3], "partition 3"),
        ([0, 1], "partitions 0, 1"),
        ([0, 1, 2, 5, 7, 8], "partitions 0 to 2, 5, 7, 8"),
        (list(range(200)), "partitions 0 to 199"),
        (list(range(0, 40, 2)), "partitions 0, 2, 4, 6, 8, 10, 12, 14 and 12 more"),
    ],
)
def test_partitions_by_number(numbers: list[int], told: str) -> None:
    """Those in a row are told by the first and the last one, and of very many not all are."""
    assert named(numbers) == told
