"""What `evp stats` is made of: rates and totals, the balance, latency, the engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import NamedTuple

from msgspec import Struct
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from evp.balance import Balance
from evp.history import Sample
from evp.state import LogState
from evp.stats import Stats, Summed
from evp.views import sparkline, units
from evp.views.partitions import away_texts, server_text
from evp.views.units import UNKNOWN
from evp.views.untrusted import printable

#: The words on the left of each line have this many columns, the gap included.
LABEL_COLUMNS = 12
_GAP = 2
_NUMBER_COLUMNS_MIN = 8
#: What is shown of an error: about two lines.
_ERROR_CHARS_MAX = 200
#: A chart of fewer columns tells nothing.
_CHART_COLUMNS_MIN = 12
_COLUMNS_FOR_PEAKS = 100
#: What is nearly always about zero needs no high chart.
_ALWAYS_LOW = ("duplicate", "dead")
_BAR_COLUMNS = 12
#: What was summed more lately is not told to be old.
_NEW_S = 2.0


class Seen(Struct):
    """A look, and what was seen in the minute before `until_s` of the monotonic clock."""

    stats: Stats
    samples: Sequence[Sample]
    until_s: float


class _Line(NamedTuple):
    """One line of the headline: what, in which colour, how much now and in all, and its history."""

    what: str
    style: str
    now: str
    total: int | None
    value_of: Callable[[Sample], float | None]


class Headline:
    """What goes in and out: a second, in all, and within the last minute where that is known.

    `chart_rows` is how high the charts are of what was accepted, stored, and waits.
    """

    def __init__(self, seen: Seen, chart_rows: int = 1) -> None:
        self._seen = seen
        self._chart_rows = chart_rows

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it for the width there is."""
        lines = _lines(self._seen)
        samples, has_peaks = self._seen.samples, options.max_width >= _COLUMNS_FOR_PEAKS
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
        table.add_column(min_width=LABEL_COLUMNS - _GAP, no_wrap=True)
        headings = ["now", "peak", "in all"] if has_peaks and samples else ["now", "in all"]
        cells = [_cells(line, samples, has_peaks=len(headings) == 3) for line in lines]
        left = options.max_width - LABEL_COLUMNS
        for number, heading in enumerate(headings):
            width = max(_NUMBER_COLUMNS_MIN, *(len(row[number].plain) for row in cells))
            table.add_column(heading, justify="right", no_wrap=True, min_width=width)
            left -= width + _GAP
        has_charts = bool(samples) and left >= _CHART_COLUMNS_MIN
        if has_charts:
            table.add_column("60 s ago".ljust(left - 3) + "now", no_wrap=True)
        for line, row in zip(lines, cells, strict=True):
            drawn = self._drawn(line, left) if has_charts else []
            table.add_row(Text(line.what), *row, *drawn[:1])
            for chart in drawn[1:]:
                table.add_row(*[""] * (1 + len(headings)), chart)
        yield table

    def _drawn(self, line: _Line, columns: int) -> list[Text]:
        """Return the chart of a line, with an empty one below if it is a high one."""
        rows = 1 if line.what in _ALWAYS_LOW else self._chart_rows
        seen = self._seen
        values = sparkline.last_minute(seen.samples, line.value_of, columns, seen.until_s)
        drawn = [Text(one, style=line.style) for one in sparkline.sparkline(values, rows)]
        is_last = line.value_of is _waiting
        return drawn if rows == 1 or is_last else [*drawn, Text()]


def added_rows(chart_rows: int) -> int:
    """Return by how many lines a headline with charts so high is longer.

    There are three high ones, with an empty line below the first two.
    """
    return 0 if chart_rows == 1 else 3 * (chart_rows - 1) + 2


def balance_line(stats: Stats) -> RenderableType:
    """Return whether everything that was accepted is somewhere, and what to do if not."""
    found = stats.balance
    if found is None:
        away = any(one.away for one in stats.partitions)
        text, style = "not known while a partition is away" if away else "not known yet", "dim"
    elif found.unaccounted:
        them = "it" if found.unaccounted == 1 else "them"
        text = f"{found.unaccounted:,} accepted and nowhere: `evp verify` names {them}"
        style = "bold red"
    elif found.unaccounted_max:
        text = (
            f"{found.unknown:,} of unknown outcome, so up to {found.unaccounted_max:,} may be "
            "nowhere: `evp verify` tells"
        )
        style = "yellow"
    else:
        text, style = f"{_when(stats.summed)}: {_equation(found)}", "green"
    return _labelled("balance", Text(text, style=style))


def latency_line(stats: Stats) -> RenderableType:
    """Return how long it took lately until an event was stored."""
    found = stats.latency_ms
    if found is None:
        told = "not known" if stats.store_error else "nothing was stored just now"
        return _labelled("latency", Text(told, style="dim"))
    text = Text()
    for name, value in (("p50", found.p50), ("p90", found.p90), ("p99", found.p99)):
        text.append(f"{name} ", style="dim")
        text.append(f"{units.milliseconds(value)}  ", style="bold")
    return _labelled("latency", text.append("until stored", style="dim"))


def engine_lines(stats: Stats) -> RenderableType:
    """Return how log and store are: a line for each, and what is wrong with it."""
    log, store = stats.log_state, stats.store_state
    version, server = Text(printable(log.version)), Text(printable(server_text(stats)))
    parts = [_labelled("log", _spaced(version, _durability(log), _memory(log), server))]
    away = away_texts((one.partition, one.away) for one in stats.partitions if one.away)
    troubles = [*filter(None, [log.detail]), *away]
    parts += [_labelled("", Text(_shortened(text), style="red")) for text in troubles]
    version = Text(f"mongodb {printable(store.version)}" if store is not None else "")
    parts.append(_labelled("store", _spaced(version, _answer(stats))))
    if stats.store_error:
        parts.append(_labelled("", Text(_shortened(stats.store_error), style="red")))
    return Group(*parts)


def _lines(seen: Seen) -> list[_Line]:
    stats, sums = seen.stats, seen.stats.totals
    rates, summed, group = stats.rates, stats.summed, stats.own_group
    accepted = stats.log.events_accepted if summed is None else summed.accepted
    if stats.balance is not None:
        # What servers have recorded outlives the log, and is a few seconds old.
        accepted = max(accepted, stats.balance.accepted)
    stored, duplicate, dead = (sums.stored, sums.duplicate, sums.dead) if sums else (None,) * 3
    has_dead = "red" if dead or rates.dead_per_s else "dim"

    def now(per_s: float) -> str:
        return UNKNOWN if stats.store_error else units.rate(per_s)

    return [
        _Line("accepted", "cyan", units.rate(rates.accepted_per_s), accepted, _accepted),
        _Line("stored", "green", now(rates.stored_per_s), stored, _stored),
        _Line("duplicate", "blue", now(rates.duplicate_per_s), duplicate, _duplicate),
        _Line("dead", has_dead, now(rates.dead_per_s), dead, _dead),
        _Line(
            "in the log",
            "yellow",
            units.count(group.waiting_events) if group else UNKNOWN,
            summed.waiting if summed else None,
            _waiting,
        ),
    ]


def _accepted(sample: Sample) -> float | None:
    return sample.accepted_per_s


def _stored(sample: Sample) -> float | None:
    return sample.stored_per_s


def _duplicate(sample: Sample) -> float | None:
    return sample.duplicate_per_s


def _dead(sample: Sample) -> float | None:
    return sample.dead_per_s


def _waiting(sample: Sample) -> float | None:
    return sample.waiting_events


def _cells(line: _Line, samples: Sequence[Sample], *, has_peaks: bool) -> list[Text]:
    """Return the numbers of a line: now, at most within the last minute if wanted, in all."""
    cells = [Text(line.now, style=f"bold {line.style}"), Text(_total(line.total))]
    if has_peaks:
        known = [value for value in map(line.value_of, samples) if value is not None]
        unit = units.count if line.value_of is _waiting else units.rate
        cells.insert(1, Text(unit(max(known)) if known else UNKNOWN))
    return cells


def _total(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _equation(found: Balance) -> str:
    external = f" + {found.external:,} external" if found.external else ""
    lost = f" + {found.acknowledged:,} known as lost" if found.acknowledged else ""
    return f"accepted{external} = stored + duplicate + dead + in the log{lost}"


def _when(summed: Summed | None) -> str:
    if summed is None or summed.age_s < _NEW_S:
        return "adds up"
    return f"added up {summed.age_s:.0f} s ago"


def _durability(log: LogState) -> Text:
    if log.detail:
        return Text("not durable", style="bold red")
    return Text(log.durability, style="yellow" if log.durability == "memory" else "green")


def _memory(log: LogState) -> Text:
    if log.used_bytes is None:
        return Text()
    if not log.mark_bytes:
        return Text(f"{units.size(log.used_bytes)} in use")
    share = log.used_bytes / log.mark_bytes
    style = "green" if share < 0.6 else "yellow" if share < 0.9 else "red"
    full, empty = sparkline.bar(share, _BAR_COLUMNS)
    text = Text(f"{units.size(log.used_bytes)} of {units.size(log.mark_bytes)}  ")
    return text.append(full, style=style).append(empty, style="dim").append(f"  {share:.0%}")


def _answer(stats: Stats) -> Text:
    store = stats.store_state
    if stats.store_error:
        return Text("away", style="bold red")
    if store is None or store.answer_ms is None:
        return Text(UNKNOWN)
    return Text(f"answers within {units.milliseconds(store.answer_ms)}")


def _spaced(*texts: Text) -> Text:
    return Text("  ").join(one for one in texts if one)


def _shortened(text: str) -> str:
    return shorten(printable(text), _ERROR_CHARS_MAX, placeholder=" …")


def _labelled(label: str, text: Text) -> RenderableType:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(min_width=LABEL_COLUMNS - _GAP, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(label, text)
    return table
