"""Partitions by their numbers, as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from evp.limits import PARTITIONS_NAMED_MAX


def named(numbers: Sequence[int]) -> str:
    """Return partitions, which are in order, as people write them: partitions 0 to 2, 5.

    Of many the first ones, and how many more there are.
    """
    parts: list[str] = []
    for _, group in groupby(enumerate(numbers), key=lambda one: one[1] - one[0]):
        run = [number for _, number in group]
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)
        if len(parts) >= PARTITIONS_NAMED_MAX:
            more = len(numbers) - numbers.index(run[-1]) - 1
            parts[-1] += f" and {more} more" if more else ""
            break
    return f"partition{'s' if len(numbers) > 1 else ''} {', '.join(parts)}"
