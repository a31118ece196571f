"""What a drill did, and what became of the events."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evp.drill.report import Report, Turn
from evp.verify.report import Report as Verification
from evp.views.facts import Fact, fact_table
from evp.views.untrusted import printable

_COLUMNS = (
    *("at\ns", "202\nin s", "stored\nin s"),
    *("\naccepted", "\nunknown", "\nlost", "\ndoubled", "p99\nms"),
)
_CLEAN = "clean"
_UNKNOWN = "-"


def render(report: Report) -> RenderableType:
    """Return a report."""
    parts: list[RenderableType] = []
    if report.turns:
        parts += [_turns(report), Text()]
    parts.append(fact_table(_facts(report)))
    notes = [*_failures(report), *_wrong(report)]
    parts += [Text(note, style="red") for note in notes]
    parts += [Text(), Text(_last_word(report), style="" if report.clean else "red")]
    if report.sent:
        parts.append(Text(f"its events: source and subject {report.source}", style="dim"))
    return Group(*parts)


def _turns(report: Report) -> Table:
    """Return a row for each fault."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("\nfault", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("\nverdict", no_wrap=True)
    for turn in report.turns:
        style = None if turn.verdict.value == _CLEAN else "red"
        table.add_row(*_cells(turn), turn.verdict.value, style=style)
    return table


def _cells(turn: Turn) -> list[str]:
    return [
        turn.fault.value,
        f"{turn.at_s:,.0f}",
        _seconds(turn.away_s),
        _seconds(turn.drained_s),
        f"{turn.accepted:,}",
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
    if report.error:
        told.append(printable(report.error))
    return told


def _last_word(report: Report) -> str:
    if report.interrupted:
        return "interrupted: nothing is paused any more, and nothing was looked up"
    if report.clean:
        return "clean: all that was accepted is stored, once"
    return "NOT CLEAN"


def _seconds(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.1f}"


def _count(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"
