"""`evp groups list` as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from evp.groups import GroupRow
from evp.views.tables import plain_table


def group_table(rows: Sequence[GroupRow]) -> RenderableType:
    """Return the groups as a table."""
    if not rows:
        return Text("no groups yet; the first `evp work` makes one")
    parts: list[RenderableType] = [plain_table([_cells(row) for row in rows])]
    if any(not row.registered for row in rows):
        parts.append(Text("* not made by evp; holds the log all the same"))
    if any(not row.exists for row in rows):
        parts.append(Text("missing: nothing is trimmed until it is made again, or deleted"))
    return Group(*parts)


def _cells(row: GroupRow) -> dict[str, str]:
    return {
        "group": row.name,
        "role": _role(row),
        "pending": f"{row.pending_events:,}",
        "lag": f"{row.lag_events:,}",
        "oldest": f"{row.oldest_s:,.1f} s",
        "consumers": str(row.consumers),
        "holds log": "yes" if row.pins else "",
    }


def _role(row: GroupRow) -> str:
    if not row.exists:
        return "missing"
    if row.writes:
        return "writes"
    return "reads" if row.registered else "reads*"
