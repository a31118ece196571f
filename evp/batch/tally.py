"""Sums over frames. Pure: the same outcomes give the same sums, in whatever order.

A tally has two sides. `cells` counts what was stored by the events' own time, and
there by type and by source. Everything else is known by frame only, and so by time
of acceptance: duplicates, dead letters, how long it took to store them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from evp.clock import to_ms
from evp.frame import MINUTE_MS, SOURCE_OTHER
from evp.limits import ROLLUP_NAMES_MAX

#: Each slot of a histogram ends at the fourth root of 2 times the end of the one before.
_SLOTS_A_DOUBLING = 4
_SLOT_LAST = 32 * _SLOTS_A_DOUBLING

Names = Iterable[tuple[str, int]]


class Cell(Struct):
    """Events stored whose own time lies within one minute, hour or day."""

    types: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)


class Tally(Struct):
    """Sums over some frames. `cells` are by start, ms; `took` counts events by `slot_end_ms`.

    `external` events, of plain entries, are in the other sums as well.
    """

    frames: int = 0
    stored: int = 0
    duplicate: int = 0
    dead: int = 0
    missing: int = 0
    external: int = 0
    cells: dict[int, Cell] = field(default_factory=dict)
    took: Counter[int] = field(default_factory=Counter)

    def add_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Add one frame by its outcome as it stands in the store."""
        self.frames += 1
        self.stored += outcome["stored"]
        self.duplicate += outcome["duplicate"]
        self.dead += len(outcome["dead"])
        self.missing += len(outcome.get("missing", ()))
        if outcome.get("external"):
            self.external += outcome["stored"] + outcome["duplicate"] + len(outcome["dead"])
        for minute, type_, count in outcome["cells"]:
            self.cell(minute * MINUTE_MS).types[type_] += count
        first = outcome["first_ms"] // MINUTE_MS
        by_source = [(first, source, count) for source, count in outcome["sources"]]
        for minute, source, count in outcome.get("source_cells", by_source):
            self.cell(minute * MINUTE_MS).sources[source] += count
        # One made without the events says nothing about when they were stored.
        if outcome["stored"] and not outcome.get("provisional"):
            took_ms = to_ms(outcome["settled_at"]) - to_ms(outcome["accepted_at"])
            self.took[slot_end_ms(took_ms)] += outcome["stored"]

    def cell(self, start_ms: int) -> Cell:
        """Return the cell that starts then, a new one if there is none yet."""
        return self.cells.setdefault(start_ms, Cell())

    def add_cell(self, start_ms: int, types: Names, sources: Names) -> None:
        """Add events stored to the cell that starts at `start_ms`, by type and by source."""
        cell = self.cell(start_ms)
        for name, count in types:
            cell.types[name] += count
        for name, count in sources:
            cell.sources[name] += count

    def add_account(self, account: Mapping[str, Any]) -> None:
        """Add what `account` returned for other frames; their cells are apart."""
        self.frames += account["frames"]
        self.stored += account["stored"]
        self.duplicate += account["duplicate"]
        self.dead += account["dead"]
        self.missing += account["missing"]
        self.external += account["external"]
        for end_ms, count in account.get("took", ()):
            self.took[end_ms] += count

    def add(self, other: Tally) -> None:
        """Add another tally, cells and all."""
        self.add_account(other.account())
        for start_ms, cell in other.cells.items():
            self.add_cell(start_ms, cell.types.items(), cell.sources.items())

    def account(self) -> dict[str, Any]:
        """Return everything but the cells, for the store."""
        return {
            "frames": self.frames,
            "stored": self.stored,
            "duplicate": self.duplicate,
            "dead": self.dead,
            "missing": self.missing,
            "external": self.external,
            "took": [list(pair) for pair in self.took.items()],
        }


def bounded(counts: Counter[str], most: int = ROLLUP_NAMES_MAX) -> dict[str, int]:
    """Return the `most` frequent counts by name, the rest as "other"."""
    if len(counts) <= most:
        return dict(counts)
    kept = dict(counts.most_common(most))
    kept[SOURCE_OTHER] = kept.get(SOURCE_OTHER, 0) + counts.total() - sum(kept.values())
    return kept


def slot_end_ms(took_ms: int) -> int:
    """Return where the slot of a duration ends in a histogram: at most a fifth above it.

    The last slot has whatever took longer than 49 days.
    """
    if took_ms <= 1:
        return max(0, took_ms)
    slot = math.ceil(_SLOTS_A_DOUBLING * math.log2(took_ms))
    return int(2 ** (min(slot, _SLOT_LAST) / _SLOTS_A_DOUBLING))


def quantiles_ms(took: Mapping[int, int], shares: Sequence[float]) -> list[int]:
    """Return below which duration, ms, these shares of the events lie; none without events.

    Each is the end of its slot: never too small, and too large as `slot_end_ms` says.
    """
    total, so_far = sum(took.values()), 0
    found: list[int] = []
    for end_ms, count in sorted(took.items()):
        so_far += count
        while len(found) < len(shares) and so_far >= shares[len(found)] * total > 0:
            found.append(end_ms)
    return found
