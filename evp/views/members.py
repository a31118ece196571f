"""The groups of the log, and who works in them: sorted, filtered, as many columns as fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rich.text import Text

from evp.stats import Stats
from evp.storage.workers import WorkerRow
from evp.stream.info import ConsumerFacts, GroupFacts
from evp.views import units
from evp.views.columns import Column, FittingTable
from evp.views.units import UNKNOWN
from evp.views.untrusted import printable

Order = Literal["name", "rate", "lag", "memory"]
ORDERS: tuple[Order, ...] = ("name", "rate", "lag", "memory")

#: A group that is no further behind is as good as done: what waits is on its way.
_FRESH_S = 2.0


class Member(NamedTuple):
    """A consumer of a group, a worker that told about itself, or both, as it should be."""

    group: str
    name: str
    worker: WorkerRow | None
    consumer: ConsumerFacts | None


def groups_of(stats: Stats, order: Order = "name", text: str = "") -> list[GroupFacts]:
    """Return the groups whose names have a text in them, in an order.

    The group that is set is the first of equals.
    """
    found = [one for one in stats.log.groups if text.lower() in one.name.lower()]
    found.sort(key=lambda one: (one.name != stats.group, one.name))
    if order == "lag":
        found.sort(key=lambda one: -one.waiting_events)
    elif order == "rate":
        rates = {one.name: 0.0 for one in found}
        for worker in stats.working:
            rates[worker.group] = rates.get(worker.group, 0.0) + worker.stored_per_s
        found.sort(key=lambda one: -rates[one.name])
    return found


def members_of(stats: Stats, order: Order = "name", text: str = "") -> list[Member]:
    """Return who works, those whose name or group has a text in it, in an order.

    What nobody knows of one counts as nothing.
    """
    workers = {(one.group, one.name): one for one in stats.workers}
    consumers = {
        (group.name, one.name): one for group in stats.log.groups for one in group.consumers
    }
    found = [
        Member(*key, workers.get(key), consumers.get(key))
        for key in sorted(workers.keys() | consumers.keys(), key=lambda key: _own_first(stats, key))
        if any(text.lower() in part.lower() for part in key)
    ]
    if order != "name":
        found.sort(key=_HIGHEST_FIRST[order])
    return found


def group_table(
    stats: Stats, groups: Sequence[GroupFacts], rows_max: int | None = None
) -> FittingTable:
    """Return what waits for each group; the one that is set has a star."""
    cells: list[tuple[str, int, Callable[[GroupFacts], Text]]] = [
        ("consumers", 3, lambda one: Text(str(len(one.consumers)))),
        ("pending", 2, lambda one: Text(units.count(one.pending_events))),
        ("lag", 0, lambda one: Text(units.count(one.lag_events))),
        ("behind", 0, lambda one: Text(units.seconds(one.lag_s))),
        ("change", 4, _change),
        ("drains in", 1, _drains),
    ]
    names = [_name(one.name + (" *" if one.name == stats.group else "")) for one in groups]
    columns = [Column(name, rank, [make(one) for one in groups]) for name, rank, make in cells]
    heading = _heading("group", len(groups), len(stats.log.groups))
    return FittingTable(heading, names, columns, len(groups) if rows_max is None else rows_max)


def member_table(
    stats: Stats, members: Sequence[Member], rows_max: int | None = None
) -> FittingTable:
    """Return what each worker does, or how long ago it did anything."""
    cells: list[tuple[str, int, Callable[[Member], Text]]] = [
        ("group", 6, lambda one: _name(one.group)),
        ("host", 9, _of_worker(lambda row: printable(row.host))),
        ("pid", 10, _of_worker(lambda row: str(row.pid or ""))),
        ("rate", 0, _of_worker(lambda row: units.rate(row.stored_per_s))),
        ("duplicate", 8, _of_worker(lambda row: units.rate(row.duplicate_per_s))),
        ("dead", 7, _of_worker(lambda row: units.rate(row.dead_per_s))),
        ("batch", 2, _of_worker(_batch)),
        ("write", 1, _of_worker(_write)),
        ("pending", 5, _pending),
        ("RSS", 1, _of_worker(lambda row: units.size(row.rss_bytes))),
        ("heard", 0, _heard),
    ]
    names = [_name(one.name, style="red" if _is_silent(one) else "") for one in members]
    columns = [Column(name, rank, [make(one) for one in members]) for name, rank, make in cells]
    heading = _heading("worker", len(members), len(members_of(stats)))
    return FittingTable(heading, names, columns, len(members) if rows_max is None else rows_max)


def _own_first(stats: Stats, key: tuple[str, str]) -> tuple[bool, str, str]:
    return key[0] != stats.group, *key


def _heading(what: str, shown: int, known: int) -> str:
    return f"{known} {what}{'' if known == 1 else 's'}" + (f", {shown} shown" * (shown != known))


def _name(name: str, style: str = "") -> Text:
    return Text(printable(name), style=style)


def _change(group: GroupFacts) -> Text:
    return Text(UNKNOWN if group.change_per_s is None else units.change(group.change_per_s))


def _drains(group: GroupFacts) -> Text:
    if not group.waiting_events:
        return Text(UNKNOWN, style="dim")
    if group.stuck:
        return Text("stuck", style="bold red")
    if group.lag_s < _FRESH_S:
        return Text("keeps up", style="green")
    if group.drain_s is not None:
        return Text(units.seconds(group.drain_s), style="green")
    if group.change_per_s is None:
        return Text("?", style="dim")
    if group.change_per_s > 0:
        return Text("growing", style="bold yellow")
    return Text("no less")


def _of_worker(told: Callable[[WorkerRow], str]) -> Callable[[Member], Text]:
    """Return what makes a cell of what a worker told, dim where that is old."""

    def cell(member: Member) -> Text:
        if member.worker is None:
            return Text(UNKNOWN, style="dim")
        return Text(told(member.worker), style="dim" if member.worker.silent else "")

    return cell


def _batch(row: WorkerRow) -> str:
    return units.count(row.batch_events) if row.batch_events else UNKNOWN


def _write(row: WorkerRow) -> str:
    return units.milliseconds(row.write_ms) if row.write_ms else UNKNOWN


def _pending(member: Member) -> Text:
    return Text(UNKNOWN if member.consumer is None else units.count(member.consumer.pending))


def _heard(member: Member) -> Text:
    """Return how long ago a worker told anything; of others, how long ago they read."""
    if member.worker is not None:
        ago = units.seconds(member.worker.seen_s)
        return Text(f"silent {ago}", style="bold red") if _is_silent(member) else Text(ago)
    assert member.consumer is not None  # noqa: S101 - it is one or the other.
    return Text(f"read {units.seconds(member.consumer.idle_ms / 1000)}", style="dim")


def _is_silent(member: Member) -> bool:
    return member.worker is not None and member.worker.silent


def _by_rate(member: Member) -> float:
    return -member.worker.stored_per_s if member.worker else 0.0


def _by_lag(member: Member) -> float:
    return -member.consumer.pending if member.consumer else 0.0


def _by_memory(member: Member) -> float:
    return -member.worker.rss_bytes if member.worker else 0.0


_HIGHEST_FIRST: dict[Order, Callable[[Member], float]] = {
    "rate": _by_rate,
    "lag": _by_lag,
    "memory": _by_memory,
}
