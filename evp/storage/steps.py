"""Cells added up by the steps of a series. Pure, and bounded however many names there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from evp.batch.tally import Cell
from evp.limits import STEPS_NAMES_HELD_MAX, STEPS_NAMES_KEPT

GROUP_BY = ("type", "source")
"""What steps may be divided by."""

Names = Collection[tuple[str, int]]


class Steps:
    """Events stored: in all by type and by source, and by the step in which their cells start.

    Steps are divided by the `groups` alone, each a `NamedSteps`.
    """

    def __init__(self, step_ms: int, groups: Collection[str] = GROUP_BY) -> None:
        self.stored: Counter[int] = Counter()
        self.types: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.by_type = NamedSteps(self.types) if "type" in groups else None
        self.by_source = NamedSteps(self.sources) if "source" in groups else None
        self._step_ms = step_ms

    def add(self, at_ms: int, types: Names, sources: Names) -> None:
        """Add one cell."""
        start_ms = at_ms // self._step_ms * self._step_ms
        self.stored[start_ms] += _count(types, start_ms, self.types, self.by_type)
        _count(sources, start_ms, self.sources, self.by_source)

    def add_cells(self, cells: Mapping[int, Cell], first_ms: int, end_ms: int) -> None:
        """Add those of some cells that start within a span."""
        for at_ms, cell in cells.items():
            if first_ms <= at_ms < end_ms:
                self.add(at_ms, cell.types.items(), cell.sources.items())


class NamedSteps:
    """Counts by step and name, about `held_max` of them at most.

    Where there would be more, names that are rare so far are left out, from every step and
    for good: what a step says of a name is always all of it.
    """

    def __init__(self, totals: Counter[str], held_max: int = STEPS_NAMES_HELD_MAX) -> None:
        self.steps: dict[int, Counter[str]] = {}
        self._totals = totals
        self._held = 0
        self._held_max = held_max
        self._left_out: set[str] = set()

    def add(self, start_ms: int, names: Names) -> None:
        """Add counts to the step that starts at `start_ms`, once they are in the totals."""
        counts = self.steps.setdefault(start_ms, Counter())
        before = len(counts)
        for name, count in names:
            if name not in self._left_out:
                counts[name] += count
        self._held += len(counts) - before
        if self._held > self._held_max:
            self._leave_out()

    def _leave_out(self) -> None:
        kept = {name for name, _ in self._totals.most_common(STEPS_NAMES_KEPT)}
        self._left_out.update(self._totals.keys() - kept)
        for start_ms, counts in self.steps.items():
            some = {name: counts[name] for name in counts.keys() - self._left_out}
            self.steps[start_ms] = Counter(some)
        self._held = sum(map(len, self.steps.values()))


def _count(names: Names, start_ms: int, totals: Counter[str], steps: NamedSteps | None) -> int:
    total = 0
    for name, count in names:
        totals[name] += count
        total += count
    if steps is not None:
        steps.add(start_ms, names)
    return total
