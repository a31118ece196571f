"""`evp groups` as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from evp.groups.book import GroupRow
from evp.groups.describe import Described, Member, PartitionStanding
from evp.groups.reset import LogSpan, Mark, PartitionReset, Position, Reset
from evp.naming import named
from evp.views.partitions import away_texts
from evp.views.tables import plain_table
from evp.views.units import seconds, size
from evp.views.untrusted import printable

_BEGINNING = "the beginning"


def group_table(rows: Sequence[GroupRow]) -> RenderableType:
    """Return the groups as a table."""
    if not rows:
        return Text("no groups yet; the first `evp work` makes one")
    parts: list[RenderableType] = [plain_table([_cells(row) for row in rows])]
    if any(not row.registered for row in rows):
        parts.append(Text("* not made by evp; holds the log all the same"))
    if any(not row.exists for row in rows):
        parts.append(Text("missing: nothing is trimmed until it is made again, or deleted"))
    parts += [
        Text(f"{printable(row.name)} is missing from {named(row.missing_from)}")
        for row in rows
        if row.missing_from
    ]
    return Group(*parts)


def description_view(found: Described) -> RenderableType:
    """Return where a group stands, and a table of who reads by it."""
    other = ", not made by evp" if found.registered is False else ""
    parts: list[RenderableType] = [
        Text(_head(found.name, found.stream, found.database, writes=bool(found.writes)) + other)
    ]
    if found.exists:
        parts += map(Text, _standing(found))
    else:
        parts.append(Text("missing from the log: nothing is trimmed until its workers make it"))
        parts.append(Text("again, at the beginning, or `evp groups delete` removes it"))
    if found.partitions:
        parts.append(plain_table([_standing_in(one) for one in found.partitions]))
        away = away_texts((one.partition, one.away) for one in found.partitions if one.away)
        parts += [Text(printable(text), style="red") for text in away]
        missing = [one.partition for one in found.partitions if not (one.exists or one.away)]
        if missing and found.exists:
            parts.append(Text(f"it is missing from {named(missing)}: nothing is trimmed there"))
    if found.consumers:
        parts.append(plain_table([_member(one, found.at) for one in found.consumers]))
    hidden = found.consumers_total - len(found.consumers)
    if hidden > 0:
        parts.append(Text(f"and {hidden:,} more"))
    if found.store_error is not None:
        parts.append(Text(f"without the store: {printable(found.store_error)}", style="yellow"))
    return Group(*parts)


def reset_view(reset: Reset) -> RenderableType:
    """Return where a group is set, what that delivers again or passes over, what the log has."""
    parts: list[RenderableType] = [
        Text(_head(reset.group, reset.stream, reset.database, writes=reset.writes)),
        *_places(reset),
        *map(Text, _meaning(reset)),
        *map(Text, _held(reset.log)),
    ]
    if reset.executed:
        parts.append(Text("done; what reads by the group goes on from there"))
    elif reset.refused is not None:
        parts.append(Text(f"not possible now: {printable(reset.refused)}", style="yellow"))
    else:
        parts.append(Text("nothing was changed; --execute does it"))
    return Group(*parts)


def _places(reset: Reset) -> list[RenderableType]:
    """Return from where to where: two lines, or a table of several partitions."""
    if reset.partitions:
        return [plain_table([_reset_in(one) for one in reset.partitions])]
    return [
        Text(f"  from      {_place(reset.before)}"),
        Text(f"  to        {_place(reset.after)}"),
    ]


def _reset_in(one: PartitionReset) -> dict[str, str]:
    return {
        "partition": str(one.partition),
        "from": _time(one.before.last, "beginning"),
        "to": _time(one.after.last, "beginning"),
        "again": f"{one.again_events:,}",
        "skipped": f"{one.skipped_events:,}",
        "waiting": f"{one.waiting_events:,}",
    }


def _standing_in(one: PartitionStanding) -> dict[str, str]:
    known = one.away is None
    return {
        "partition": str(one.partition),
        "server": printable(one.server),
        "first unacked": _time(one.first_unacked, "") if known else "away",
        "pending": f"{one.pending_events:,}" if known else "",
        "lag": f"{one.lag_events:,}" if known else "",
        "behind": seconds(one.lag_s) if known else "",
    }


def _time(mark: Mark | None, otherwise: str) -> str:
    return otherwise if mark is None else f"{mark.at:%Y-%m-%d %H:%M:%S}Z"


def _cells(row: GroupRow) -> dict[str, str]:
    return {
        "group": printable(row.name),
        "role": _role(row),
        "pending": f"{row.pending_events:,}",
        "lag": f"{row.lag_events:,}",
        "oldest": seconds(row.oldest_s),
        "consumers": str(row.consumers),
        "holds log": "yes" if row.pins else "",
    }


def _role(row: GroupRow) -> str:
    if not row.exists:
        return "missing"
    if row.writes:
        return "writes"
    return "reads" if row.registered else "reads*"


def _head(group: str, stream: str, database: str, *, writes: bool) -> str:
    head = f"group {printable(group)} of {printable(stream)}"
    return f"{head}, which writes to {printable(database)}" if writes else head


def _standing(found: Described) -> list[str]:
    return [
        f"  last delivered  {_marked(found.last_delivered, 'none, it is at the beginning')}",
        f"  first unacked   {_marked(found.first_unacked, 'none, all is done')}",
        f"  pending         {found.pending_events:,} events in {found.pending_entries:,} entries",
        f"  lag             {found.lag_events:,} events not delivered yet",
        f"  behind          {seconds(found.lag_s)}",
    ]


def _member(one: Member, at: datetime) -> dict[str, str]:
    ago_s = None if one.heard_at is None else max(0.0, (at - one.heard_at).total_seconds())
    return {
        "consumer": printable(one.name),
        "state": one.state.value,
        "pending": f"{one.pending:,}",
        "idle": "" if one.idle_s is None else seconds(one.idle_s),
        "host": printable(one.host or ""),
        "pid": "" if one.pid is None else str(one.pid),
        "stored/s": f"{one.stored_per_s or 0:,.0f}" if one.works else "",
        "heartbeat": "" if ago_s is None else f"{seconds(ago_s)} ago",
    }


def _marked(mark: Mark | None, otherwise: str) -> str:
    """Return an entry with its time."""
    if mark is None:
        return otherwise
    return f"{mark.entry_id}  {mark.at:%Y-%m-%d %H:%M:%S}.{mark.at.microsecond // 1000:03}Z"


def _place(position: Position) -> str:
    return f"behind {_marked(position.last, '')}" if position.last else _BEGINNING


def _meaning(reset: Reset) -> list[str]:
    lines = []
    if reset.again_events:
        lines.append(f"  again     {reset.again_events:,} events are delivered once more;")
        lines.append(f"            {_harm(reset)}")
    if reset.skipped_events or reset.missing_events:
        lines.append(f"  skipped   {reset.skipped_events:,} events are never delivered to it")
        if reset.writes:
            lines.append(f"  missing   {reset.missing_events:,} of them are not in the store")
    if not lines:
        lines.append("  nothing is delivered again, and nothing is skipped")
    if reset.pending_entries:
        lines.append(f"  pending   {reset.pending_entries:,} entries stay so until they are acked")
    lines.append(f"  waiting   {reset.waiting_events:,} events have not been delivered then")
    if reset.backlog_max is not None and reset.waiting_events >= reset.backlog_max:
        lines.append(f"            EVP_BACKLOG_MAX is {reset.backlog_max:,}: until fewer wait,")
        lines.append("            servers refuse events")
    return lines


def _harm(reset: Reset) -> str:
    if reset.writes:
        return "the store knows what it has, so this does no harm"
    return "evp's workers know what they have stored, other readers may not"


def _held(log: LogSpan) -> list[str]:
    since = f" since {_marked(log.first, '')}" if log.first is not None else ""
    lines = [f"  log has   {log.events:,} events{since}"]
    if log.trimmed_events:
        kept = f"{seconds(log.retention_s)} or {size(log.retention_bytes)}"
        lines.append(
            f"  trimmed   {log.trimmed_events:,} events for good; of what is done it keeps"
        )
        lines.append(f"            {kept} (EVP_LOG_RETENTION_S, EVP_LOG_RETENTION_BYTES)")
    return lines
