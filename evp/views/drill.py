"""What a drill did, and what became of the events."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from evp.drill.report import Report, Turn
from evp.verify.report import Report as Verification
from evp.views.facts import Fact, fact_table
from evp.views.untrusted import printable

_COLUMNS = (
    *("at\ns", "202\nin s", "stored\nin s"),
    *("\naccepted", "\nrefused", "\nunknown", "\nlost", "\ntwice", "p99\nms"),
)
#: Where a table is too wide these go, in this order. What is wrong stays.
_LEAVE = ("at\ns", "p99\nms", "\nrefused", "\nunknown")
_WIDE = 1_000
_CLEAN = "clean"
_UNKNOWN = "-"
_ALONE = (
    "one worker was paused, and there was no other one to take over what it had: "
    "`evp up --work-processes 2` has two"
)


def render(report: Report) -> RenderableType:
    """Return a report."""
    parts: list[RenderableType] = []
    if report.turns:
        parts += [_Turns(report.turns), Text()]
    parts.append(fact_table(_facts(report)))
    notes = [*_failures(report), *_wrong(report)]
    parts += [Text(note, style="red") for note in notes]
    parts += [Text(), Text(_last_word(report), style="" if report.clean else "red")]
    if report.sent:
        parts.append(Text(f"its events: source and subject {report.source}", style="dim"))
    if report.paused_alone:
        parts.append(Text(_ALONE, style="dim"))
    return Group(*parts)


class _Turns:
    """A row for each fault, with as many columns as fit."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it for the width there is."""
        wide = options.update(max_width=_WIDE)
        *tables, narrowest = [self._table(_LEAVE[:count]) for count in range(len(_LEAVE) + 1)]
        fitting = (
            table
            for table in tables
            if console.measure(table, options=wide).maximum <= options.max_width
        )
        yield next(fitting, narrowest)

    def _table(self, left_out: Sequence[str]) -> Table:
        shown = [number for number, name in enumerate(_COLUMNS) if name not in left_out]
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("\nfault", no_wrap=True)
        for number in shown:
            table.add_column(_COLUMNS[number], justify="right", no_wrap=True)
        table.add_column("\nverdict", no_wrap=True)
        for turn in self._turns:
            cells = _cells(turn)
            style = None if turn.verdict.value == _CLEAN else "red"
            fitting = (cells[number] for number in shown)
            table.add_row(turn.fault.value, *fitting, turn.verdict.value, style=style)
        return table


def _cells(turn: Turn) -> list[str]:
    """Return a cell for each of the columns."""
    return [
        f"{turn.at_s:,.0f}",
        _seconds(turn.away_s),
        _seconds(turn.drained_s),
        f"{turn.accepted:,}",
        f"{turn.refused:,}",
        f"{turn.unknown:,}",
        _count(turn.lost),
        _count(turn.doubled),
        _UNKNOWN if turn.accept_ms_p99 is None else f"{turn.accept_ms_p99:,.0f}",
    ]


def _facts(report: Report) -> list[Fact]:
    """Return the sums of all events."""
    return [
        ("sent", f"{report.sent:,}", None),
        ("accepted", f"{report.accepted:,}", None),
        ("refused, and nothing of it kept", f"{report.refused:,}", None),
        ("outcome unknown", f"{report.unknown:,}", None),
        ("  of these stored", _count(report.recovered), None),
        _wanted_none("accepted and lost", report.lost),
        _wanted_none("stored twice", report.doubled),
        _wanted_none("refused, and stored all the same", report.refused_stored),
        ("evp verify", _verified(report.verification), None),
    ]


def _wanted_none(name: str, count: int | None) -> Fact:
    return name, _count(count), "red" if count else None


def _verified(found: Verification | None) -> str:
    if found is None:
        return _UNKNOWN
    if found.clean:
        return "clean"
    return f"{found.findings_total:,} findings, {found.undecided_frames:,} frames undecided"


def _failures(report: Report) -> list[str]:
    return [f"{one.fault.value}: {printable(one.failure)}" for one in report.turns if one.failure]


def _wrong(report: Report) -> list[str]:
    """Return by name what must not be."""
    named = (
        ("lost", report.lost_ids),
        ("stored twice", report.doubled_ids),
        ("refused and stored", report.refused_stored_ids),
    )
    told = [f"{what}: {', '.join(ids)}" for what, ids in named if ids]
    if report.unexpected:
        told.append(f"{report.unexpected:,} events of this source were never sent")
    if report.verification is not None and not report.verification.clean:
        told.append("`evp verify` says more")
    if report.error and not any(one.failure == report.error for one in report.turns):
        told.append(printable(report.error))
    return told


def _last_word(report: Report) -> str:
    if report.interrupted:
        looked_up = "nothing was looked up" if report.lost is None else "not all was verified"
        return f"interrupted: nothing is paused any more, and {looked_up}"
    if report.clean:
        return "clean: all that was accepted is stored, once"
    return "NOT CLEAN"


def _seconds(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.1f}"


def _count(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"
