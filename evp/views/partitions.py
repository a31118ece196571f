"""The partitions of a log that has several: a table of them, and which are away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from rich.text import Text

from evp.looks import PartitionRow
from evp.naming import named
from evp.stats import Stats
from evp.views import units
from evp.views.columns import Column, FittingTable
from evp.views.units import UNKNOWN
from evp.views.untrusted import printable

#: Reasons for which partitions are away, each on a line.
_REASONS_SHOWN_MAX = 2


def partition_table(stats: Stats, rows_max: int | None = None) -> FittingTable:
    """Return what waits in each partition; if not all are shown, those that need a look first."""
    rows: Sequence[PartitionRow] = stats.partitions
    shown_max = len(rows) if rows_max is None else rows_max
    if shown_max < len(rows):
        rows = sorted(rows, key=lambda one: (one.away is None, -(one.lag_s or 0.0), one.partition))
    cells: list[tuple[str, int, Callable[[PartitionRow], Text]]] = [
        ("server", 1, lambda one: Text(printable(one.server))),
        ("frames", 3, lambda one: Text(units.count(one.length))),
        ("size", 4, lambda one: Text(units.size(one.size_bytes))),
        ("in the log", 0, _waiting),
        ("behind", 0, _behind),
    ]
    names = [Text(str(one.partition), style="red" if one.away else "") for one in rows]
    columns = [Column(name, rank, [make(one) for one in rows]) for name, rank, make in cells]
    return FittingTable(f"{len(rows)} partitions", names, columns, shown_max)


def away_texts(away: Iterable[tuple[int, str]]) -> list[str]:
    """Return which partitions are away, given by number and reason: a text for each reason."""
    by_reason: dict[str, list[int]] = {}
    for number, reason in away:
        by_reason.setdefault(reason, []).append(number)
    texts = [
        f"{named(numbers)} {'is' if len(numbers) == 1 else 'are'} away: {reason}"
        for reason, numbers in islice(by_reason.items(), _REASONS_SHOWN_MAX)
    ]
    more = sum(map(len, islice(by_reason.values(), _REASONS_SHOWN_MAX, None)))
    return [*texts, f"and {more} more are away"] if more else texts


def server_text(stats: Stats) -> str:
    """Return which one of several servers is told of; nothing if there is one."""
    servers = stats.log_servers
    told = next((one for one in servers if one.state == stats.log_state), None)
    return "" if told is None else f"{told.server}, of {len(servers)} servers"


def _waiting(one: PartitionRow) -> Text:
    return Text(UNKNOWN if one.waiting_events is None else units.count(one.waiting_events))


def _behind(one: PartitionRow) -> Text:
    if one.away is not None:
        return Text("away", style="bold red")
    return Text(UNKNOWN if one.lag_s is None else units.seconds(one.lag_s))
