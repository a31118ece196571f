"""What is said of partitions that are away."""

from __future__ import annotations

import pytest

from evp.stream.asking import told_away


@pytest.mark.parametrize(
    ("away", "count", "told"),
    [
        ({}, 3, None),
        ({0: "gone"}, 1, "gone"),
        ({1: "gone"}, 3, "partition 1: gone"),
        ({2: "gone", 0: "gone", 1: "gone"}, 3, "gone"),
        ({5: "gone", 0: "gone", 1: "gone"}, 9, "partitions 0 to 1, 5: gone"),
        ({0: "gone", 1: "slow"}, 2, "partition 0: gone; partition 1: slow"),
    ],
)
def test_partitions_that_are_away(away: dict[int, str], count: int, told: str | None) -> None:
    """Each reason is told once, with the numbers it is of, where others are there or away too."""
    assert told_away(away, count) == told
