"""A soak, judged by what is in its folder: the samples, the faults, the load that was wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct, field

from tests.faults.kit.samples import Marked, Sample, records
from tests.faults.kit.session import LOAD_PLAN
from tests.faults.kit.soak_load import SoakPlan
from tests.faults.kit.soak_table import Row, rows, table

SAMPLES = "samples.ndjson"
LOAD_SHARE_MIN = 0.9
"""At least so much of the load that was wanted must be accepted, outside faults."""


class Judged(Struct):
    """What was seen. `wanted_per_s` is the load that was asked for, `fault_s` the time in faults.

    `events` were accepted by the time of the last sample, `seconds` after the start.
    """

    wanted_per_s: float
    seconds: float = 0.0
    fault_s: float = 0.0
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    rows: list[Row] = field(default_factory=list)

    @property
    def reached_per_s(self) -> float:
        """Events that were accepted in a second, on average."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def complaints(self) -> list[str]:
        """What grows, and whether the load was the one that was wanted."""
        found = [f"{row.kind} {row.what} {row.verdict}" for row in self.rows if row.bad]
        wanted = self.wanted_per_s * (self.seconds - self.fault_s)
        if self.events < LOAD_SHARE_MIN * wanted:
            rates = f"{self.reached_per_s:,.0f} events/s of {self.wanted_per_s:,g}"
            found.append(f"the load was not the one that was wanted: {rates} were accepted")
        return found

    @property
    def doubts(self) -> list[str]:
        """The rows of which too little was seen, or that were off by what may be chance."""
        return [f"{row.kind} {row.what} ({row.verdict})" for row in self.rows if row.doubtful]

    def lines(self) -> list[str]:
        """Return load, table and faults, to print."""
        load = f"{self.wanted_per_s:,g} events/s wanted, {self.reached_per_s:,.0f} accepted"
        lines = [f"{self.seconds:.0f} s, {load}, {self.events:,} events\n", *table(self.rows)]
        lines.append(f"\nfaults: {self.faults.total()}, {self.fault_s:.0f} s")
        return lines + [f"  {verb:<24} {count:>5}" for verb, count in sorted(self.faults.items())]


def judge(folder: Path, warm_up_s: float) -> Judged:
    """Judge the soak whose samples are in a folder, also one that was cut off."""
    plan = msgspec.json.decode((folder / LOAD_PLAN).read_bytes(), type=SoakPlan)
    judged = Judged(plan.events_per_s)
    judged.rows = rows(_samples(folder / SAMPLES, judged), warm_up_s)
    return judged


def _samples(path: Path, judged: Judged) -> Iterator[Sample]:
    """Give the samples of a file; take note of the faults, and of how far it came."""
    for one in records(path):
        if isinstance(one, Marked):
            judged.faults[one.verb] += 1
            judged.fault_s += one.ended_s - one.began_s
        else:
            judged.seconds, judged.events = one.at_s, max(judged.events, one.events)
            yield one


def conclusion(complaints: list[str], doubts: list[str]) -> str:
    """Return what is to be said in the end."""
    lines = [f"WRONG: {one}" for one in complaints]
    lines += [f"in doubt: {', '.join(doubts)}"] if doubts else []
    if complaints:
        lines.append("\nSOMETHING IS WRONG")
    elif doubts:
        lines.append("\nnothing is known to be wrong, and not all is known")
    else:
        lines.append("nothing grows, nothing is wrong")
    return "\n".join(lines)
