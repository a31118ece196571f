"""What several parts of one process have counted, as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from evp.metrics.families import Value, Values
from evp.metrics.histogram import Histogram


def added(parts: Sequence[Values]) -> Values:
    """Return the sums of what parts tell, by family; all of them tell the same families."""
    sums: dict[str, Value] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = _sum(sums[name], value) if name in sums else value
    return sums


def _sum(one: Value, other: Value) -> Value:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        return one + other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        both = Counter(one)
        both.update(other)
        return dict(both)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    raise TypeError(f"{one!r} and {other!r} are of two kinds of metrics")
