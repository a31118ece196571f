"""Sums over frames. Pure: the same outcomes give the same sums, in whatever order.

A tally has two sides. `cells` counts what was stored by the events' own time
and type. Everything else is known by frame only, and so by time of acceptance:
duplicates, dead letters, sources, how long it took to store them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from evp.clock import to_ms
from evp.frame import MINUTE_MS, SOURCE_OTHER
from evp.limits import ROLLUP_NAMES_MAX

#: Each slot of a histogram ends at √2 times the end of the one before; the first at 1 ms.
_SLOTS_A_DOUBLING = 2
_SLOT_LAST = 64


class Tally(Struct):
    """Sums over some frames. `latency` counts events by slot (`slot_of`), `cells` by start, ms.

    `external` events, of plain entries, are in the other sums as well.
    """

    frames: int = 0
    stored: int = 0
    duplicate: int = 0
    dead: int = 0
    missing: int = 0
    external: int = 0
    cells: dict[int, Counter[str]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)

    def add_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Add one frame by its outcome as it stands in the store."""
        self.frames += 1
        self.stored += outcome["stored"]
        self.duplicate += outcome["duplicate"]
        self.dead += len(outcome["dead"])
        self.missing += len(outcome.get("missing", ()))
        if outcome.get("external"):
            self.external += outcome["stored"] + outcome["duplicate"] + len(outcome["dead"])
        self.sources.update(dict(outcome["sources"]))
        for minute, type_, count in outcome["cells"]:
            self.add_cell(minute * MINUTE_MS, [(type_, count)])
        # One made without the events says nothing about when they were stored.
        if outcome["stored"] and not outcome.get("provisional"):
            took_ms = to_ms(outcome["settled_at"]) - to_ms(outcome["accepted_at"])
            self.latency[slot_of(took_ms)] += outcome["stored"]

    def add_cell(self, start_ms: int, types: Iterable[tuple[str, int]]) -> None:
        """Add events stored, by type, to the cell that starts at `start_ms`."""
        cell = self.cells.setdefault(start_ms, Counter())
        for type_, count in types:
            cell[type_] += count

    def add_account(self, account: Mapping[str, Any]) -> None:
        """Add what `account` returned for other frames; their cells are apart."""
        self.frames += account["frames"]
        self.stored += account["stored"]
        self.duplicate += account["duplicate"]
        self.dead += account["dead"]
        self.missing += account["missing"]
        self.external += account["external"]
        self.sources.update(dict(account["sources"]))
        self.latency.update(dict(account["latency"]))

    def account(self) -> dict[str, Any]:
        """Return everything but the cells, for the store; names in pairs, they may hold dots."""
        return {
            "frames": self.frames,
            "stored": self.stored,
            "duplicate": self.duplicate,
            "dead": self.dead,
            "missing": self.missing,
            "external": self.external,
            "sources": [list(pair) for pair in bounded(self.sources).items()],
            "latency": [list(pair) for pair in self.latency.items()],
        }


def bounded(counts: Counter[str]) -> dict[str, int]:
    """Return the ROLLUP_NAMES_MAX most frequent counts by name, the rest as "other"."""
    if len(counts) <= ROLLUP_NAMES_MAX:
        return dict(counts)
    kept = dict(counts.most_common(ROLLUP_NAMES_MAX))
    kept[SOURCE_OTHER] = kept.get(SOURCE_OTHER, 0) + counts.total() - sum(kept.values())
    return kept


def slot_of(took_ms: int) -> int:
    """Return the slot of a duration in a histogram; slot n ends at 2^(n/2) ms."""
    if took_ms < 1:
        return 0
    return min(1 + int(_SLOTS_A_DOUBLING * math.log2(took_ms)), _SLOT_LAST)
