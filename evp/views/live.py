"""The live view of `evp stats`: one screen, whatever its size, with nothing cut in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from evp.stats import Stats
from evp.views import units
from evp.views.members import Order, group_table, groups_of, member_table, members_of
from evp.views.partitions import partition_table
from evp.views.stats_parts import (
    Headline,
    Seen,
    added_rows,
    balance_line,
    engine_lines,
    latency_line,
)
from evp.views.untrusted import printable

#: Where there are so many rows, charts have two rows, or three.
_ROWS_FOR_HIGHER_CHARTS = (34, 44)
#: Lines that are empty, between the parts, give way to groups and workers, but not to all of many.
_GAPS = 3
_CHART_ROWS_MAX = 5
_ROWS_BEFORE_GAPS = 16
#: Each table has one.
_HEADINGS = 2
_GROUPS_SHOWN_MIN = 3
_PARTITIONS_SHOWN_MIN = 3
#: What the headline and the facts take of a screen, about.
_ROWS_WITHOUT_TABLES = 12
#: A look that is older is told to be.
_OLD_S = 3.0

_KEYS = (
    ("s", "sort by the next of name, rate, lag, memory"),
    ("/", "show only groups and workers with a text in their names"),
    ("space", "hold what is shown; once more goes on"),
    ("?", "this page; any key leaves it"),
    ("q", "quit, as Ctrl-C does"),
)
_WORDS = (
    ("accepted", "answered with 202, by the log's own counters"),
    ("in the log", "not acked yet by the group that is set; it has a star"),
    ("in all", "when that was summed last: the balance tells how long ago"),
    ("balance", "a quick sum; `evp verify` is the proof"),
    ("latency", "from the append to the log until stored, of what was stored just now"),
    ("pending", "of a group: events delivered and not acked; of a worker: entries"),
    ("lag", "events that were not delivered yet"),
    ("behind", "age of the oldest entry that is not acked"),
    ("drains in", "until nothing waits, as the last looks went"),
    ("batch, write", "means of a worker's writes: events, and how long one took"),
    ("heard", "since a worker told anything; read: since one that tells nothing read"),
)


class Away(Struct):
    """The log can't be looked at: since when, for how long, and why."""

    since: datetime
    for_s: float
    reason: str


class Steering(Struct):
    """What the person at the keyboard has chosen; `has_keys` is false where there is none."""

    order: Order = "name"
    filter: str = ""
    is_typing: bool = False
    is_paused: bool = False
    is_help: bool = False
    has_keys: bool = True


class Picture(Struct):
    """All that is shown: what was seen, at `at`, `age_s` ago, and how it is to be shown."""

    seen: Seen
    at: datetime
    age_s: float
    every_s: float
    away: Away | None
    steering: Steering


class LiveView:
    """A picture as a screen: fills its height, and shows as many rows and columns as fit."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it for the size there is."""
        rows = options.height or console.height
        size = options.update(height=None)
        body = _help() if self._picture.steering.is_help else self._body(console, size, rows - 2)
        layout = Layout()
        layout.split_column(
            Layout(_title(self._picture, options.max_width), size=1),
            Layout(body, ratio=1),
            Layout(_footer(self._picture.steering), size=1),
        )
        yield layout

    def _body(self, console: Console, size: ConsoleOptions, rows: int) -> RenderableType:
        """Return all between title and footer: tables get the rows that the rest leaves."""
        seen, steering = self._picture.seen, self._picture.steering
        stats = seen.stats
        groups = groups_of(stats, steering.order, steering.filter)
        members = members_of(stats, steering.order, steering.filter)
        alarm = _alarm(self._picture.away)
        facts = Group(
            balance_line(stats),
            latency_line(stats),
            engine_lines(stats),
            *_partitions(stats, rows),
        )
        fixed = Group(*alarm, Headline(seen), facts)
        spare = rows - len(console.render_lines(fixed, size, pad=False)) - _HEADINGS
        room = _share(rows, spare, len(groups), len(members))
        parts: list[RenderableType] = [
            Headline(seen, room.chart_rows),
            facts,
            group_table(stats, groups, room.groups),
            member_table(stats, members, room.members),
        ]
        shown = Group(*_spread(parts, room.gaps))
        return Group(*alarm, Styled(shown, "dim") if alarm else shown)


def _partitions(stats: Stats, rows: int) -> list[RenderableType]:
    """Return a table of several partitions: a few on a low screen, more on a high one."""
    if not stats.partitions:
        return []
    shown = max(_PARTITIONS_SHOWN_MIN, (rows - _ROWS_WITHOUT_TABLES) // 4)
    return [partition_table(stats, min(shown, len(stats.partitions)))]


class _Room(NamedTuple):
    """What the rows of a screen are used for."""

    gaps: int
    chart_rows: int
    groups: int
    members: int


def _share(rows: int, spare: int, groups: int, members: int) -> _Room:
    """Share out the `spare` ones of all rows: to groups and workers, then gaps, then charts.

    Only on a high screen charts need not wait for what many workers leave.
    """
    gaps = min(_GAPS, max(0, spare - min(groups + members, _ROWS_BEFORE_GAPS)))
    spare -= gaps
    left = spare - groups - members
    fitting = [high for high in range(1, _CHART_ROWS_MAX + 1) if added_rows(high) <= left]
    least = 1 + len([wanted for wanted in _ROWS_FOR_HIGHER_CHARTS if rows >= wanted])
    chart_rows = max([least, *fitting])
    spare -= added_rows(chart_rows)
    for_groups = max(min(spare, _GROUPS_SHOWN_MIN), spare // 3, spare - members)
    for_groups = min(groups, for_groups)
    return _Room(gaps, chart_rows, for_groups, spare - for_groups)


def _spread(parts: list[RenderableType], gaps: int) -> list[RenderableType]:
    """Return parts, the last ones with an empty line before them."""
    for before in range(gaps):
        parts.insert(len(parts) - 1 - 2 * before, Text())
    return parts


def _title(picture: Picture, columns: int) -> Text:
    left = f" evp stats  {printable(picture.seen.stats.stream)}"
    at = f"{picture.at:%H:%M:%SZ}"
    if picture.steering.is_paused:
        right = f"PAUSED at {at} "
    elif picture.age_s > max(_OLD_S, 2 * picture.every_s):
        right = f"seen {units.seconds(picture.age_s)} ago "
    else:
        right = f"{at}  every {picture.every_s:g} s "
    gap = columns - cell_len(left) - cell_len(right)
    return Text(left + " " * max(2, gap) + right, style="reverse", no_wrap=True)


def _alarm(away: Away | None) -> list[RenderableType]:
    if away is None:
        return []
    told = (
        f"the log is away since {away.since:%H:%M:%SZ}, for {units.seconds(away.for_s)}: "
        f"{printable(away.reason)}; what you see was before that"
    )
    return [Text(told, style="bold red")]


def _footer(steering: Steering) -> Text:
    if not steering.has_keys:
        return Text("no keys: standard input is no terminal. Ctrl-C quits", style="dim")
    if steering.is_help:
        return _keys([("any key", "goes back")])
    if steering.is_typing:
        return _keys([("filter:", f"{steering.filter}▏"), ("Enter", "keeps"), ("Esc", "clears")])
    filtered = f"filter: {steering.filter}" if steering.filter else "filter"
    pause = "go on" if steering.is_paused else "pause"
    return _keys([
        ("q", "quit"), ("s", f"sort: {steering.order}"), ("/", filtered), ("space", pause),
        ("?", "help"),
    ])  # fmt: skip


def _keys(pairs: Sequence[tuple[str, str]]) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for key, what in pairs:
        text.append(key, style="bold").append(f" {what}   ")
    return text


def _help() -> RenderableType:
    return Group(Text(), _explained(_KEYS), Text(), _explained(_WORDS))


def _explained(pairs: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True, min_width=12)
    table.add_column()
    for word, meaning in pairs:
        table.add_row(word, meaning)
    return table
