"""Tables that read well on a terminal of any width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def plain_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Return rows of text, none of it markup, as a table without frames; long values fold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table
