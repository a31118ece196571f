"""Facts one below the other: what, and how much."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

Fact = tuple[str, str, str | None]
"""What, how much, and in which style."""


def fact_table(facts: Iterable[Fact]) -> Table:
    """Return facts as a table of two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="right")
    for what, how_much, style in facts:
        table.add_row(what, how_much, style=style)
    return table
