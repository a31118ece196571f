"""`evp keys list` as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from evp.keybook import KeyRow
from evp.views.tables import plain_table


def key_table(rows: Sequence[KeyRow], *, ended: int) -> RenderableType:
    """Return keys as a table, and how many more there are that have ended."""
    parts: list[RenderableType] = []
    if rows:
        parts.append(plain_table([_cells(row) for row in rows]))
    else:
        parts.append(Text("no keys; `evp keys create NAME` makes one"))
    if ended:
        parts.append(Text(f"{ended:,} have ended; --all shows them"))
    return Group(*parts)


def _cells(row: KeyRow) -> dict[str, str]:
    return {
        "name": row.name,
        "id": row.id,
        "state": row.state,
        "may": ", ".join(row.scopes),
        "events/s": "" if row.rate_per_s is None else f"{row.rate_per_s:,}",
        "made": f"{row.created_at:%Y-%m-%d}",
        "ends": _minute(row.revoked_at or row.expires_at),
    }


def _minute(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
