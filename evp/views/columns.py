"""Tables that show as many columns as fit, the most important ones, and say how many rows don't."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2
#: A name has so many columns at least, and longer ones leave no less to the others than these do.
_NAME_COLUMNS_MIN = 16
_NAME_COLUMNS_USUAL = 32


class Column(NamedTuple):
    """A heading and its cells. Columns of `importance` 0 are always shown, others as they fit."""

    heading: str
    importance: int
    cells: Sequence[Text]


class FittingTable:
    """A column of names and others to its right; every row is one line that fits.

    Of more than `rows_max` rows it shows one less, and how many more there are.
    """

    def __init__(
        self, heading: str, names: Sequence[Text], columns: Sequence[Column], rows_max: int
    ) -> None:
        self._heading = heading
        self._names = names
        self._columns = columns
        self._rows_max = rows_max

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it for the width there is."""
        natural = max(map(_columns_of, (Text(self._heading), *self._names)))
        shown = _chosen(self._columns, options.max_width - min(natural, _NAME_COLUMNS_USUAL))
        left = options.max_width - sum(map(_width, shown))
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(self._heading, no_wrap=True, min_width=max(1, min(natural, left)))
        for column in shown:
            table.add_column(column.heading, justify="right", no_wrap=True)
        more = max(0, len(self._names) - self._rows_max)
        fitting = len(self._names) - (more + 1 if more else 0)
        for number, name in enumerate(self._names[: max(0, fitting)]):
            table.add_row(_ending(name, left), *(column.cells[number] for column in shown))
        yield table
        if more:
            yield Text(f"and {len(self._names) - max(0, fitting):,} more", style="dim")


def _chosen(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit, in their order; those that must be there in any case."""
    chosen: set[str] = set()
    for column in sorted(columns, key=lambda column: column.importance):
        if column.importance > 0 and _width(column) > width:
            break
        chosen.add(column.heading)
        width -= _width(column)
    return [column for column in columns if column.heading in chosen]


def _width(column: Column) -> int:
    return max(map(_columns_of, (Text(column.heading), *column.cells))) + _GAP


def _columns_of(text: Text) -> int:
    return cell_len(text.plain)


def _ending(name: Text, columns: int) -> Text:
    """Return a name, or the end of it: workers of one deployment differ in that."""
    columns = max(_NAME_COLUMNS_MIN, columns)
    if _columns_of(name) <= columns:
        return name
    plain = name.plain
    while cell_len(plain) > columns - 1:
        plain = plain[1:]
    return Text(f"…{plain}", style=name.style)
