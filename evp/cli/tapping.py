"""The parts of `evp tap`: its flags, its loop, its lines."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evp.cli.away import hint_if_away
from evp.cli.moments import moment_of, span_s_of
from evp.cli.output import Output
from evp.clock import monotonic_s, to_ms
from evp.errors import UsageError
from evp.limits import TAP_BROKEN_TOLD_MAX, TAP_TELL_S, TAP_WHERE_MAX
from evp.settings import Settings
from evp.tap.run import Tap
from evp.tap.showing import Portion
from evp.tap.wanted import Start, Wanted
from evp.views.tap import Columns, json_line, logfmt_line, summary
from evp.views.untrusted import printable

FORMATS = ("json", "logfmt", "table")
#: Nobody knows how wide a file is.
_FILE_COLUMNS = 160


class Ending(NamedTuple):
    """When it is over: after so many events, or seconds, or with Ctrl-C alone."""

    events: int | None
    seconds: float | None


def wanted_of(
    type_: str | None,
    source: str | None,
    subject: str | None,
    where: Sequence[str],
    sample: str | None,
) -> Wanted:
    """Return which events the flags ask for. Raises UsageError."""
    if len(where) > TAP_WHERE_MAX:
        raise UsageError(f"--where may be given {TAP_WHERE_MAX} times")
    conditions = []
    for text in where:
        path, equals, value = text.partition("=")
        if not path or not equals:
            raise UsageError(f"--where {text!r}: wanted PATH=VALUE, such as data.order.id=17")
        conditions.append((path, value))
    every = 1
    if sample is not None:
        head, _, number = sample.partition("/")
        if head != "1" or not number.isdecimal() or not int(number[:9]) > 0:
            raise UsageError(f"--sample {sample!r}: wanted 1/N, such as 1/100")
        every = int(number[:9])
    return Wanted(type_, source, subject, tuple(conditions), every)


def start_of(text: str) -> Start:
    """Return where to begin. Raises UsageError."""
    if text in {"now", "earliest"}:
        return Start(earliest=text == "earliest")
    span_s, moment = span_s_of(text), moment_of(text)
    if span_s is not None:
        return Start(ago_s=span_s)
    if moment is None:
        raise UsageError(
            f"--from {text!r}: wanted now, earliest, an age (5m) or a time with a zone "
            "(2026-01-02T03:04:05Z)"
        )
    return Start(at_ms=to_ms(moment))


def ending_of(limit: int | None, duration: str | None) -> Ending:
    """Return when it is over. Raises UsageError."""
    seconds = None if duration is None else span_s_of(duration)
    if duration is not None and not seconds:
        raise UsageError(f"--duration {duration!r}: wanted a span such as 500ms, 30s or 5m")
    return Ending(limit, seconds)


class Lines:
    """Prints events in a format, one a line. Raises UsageError if there is no such format."""

    def __init__(self, format_: str) -> None:
        if format_ not in FORMATS:
            raise UsageError(f"--format {format_!r}: wanted {', '.join(FORMATS)}")
        self.output = Output()
        columns = Columns(self.output.width if self.output.is_terminal else _FILE_COLUMNS)
        line = {"json": json_line, "logfmt": logfmt_line, "table": columns.line}
        self._line = line[format_]
        self._heading = columns.heading if format_ == "table" else None

    def print(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Print events, below a heading where they are the first ones."""
        lines = [self._line(event) for event in events]
        if lines and self._heading is not None:
            lines.insert(0, self._heading)
            self._heading = None
        if lines:
            self.output.say("\n".join(lines))


class Notes:
    """What is told beside the events, on stderr: troubles, and what was passed over."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._broken_told = 0
        self._passed_over = 0
        self._again_at_s = monotonic_s() + TAP_TELL_S

    def tell(self, portion: Portion) -> None:
        """Tell what there is to tell; troubles at once, counts now and then."""
        if portion.notice is not None:
            _note(portion.notice)
        for text in portion.broken[: TAP_BROKEN_TOLD_MAX - self._broken_told]:
            self._broken_told += 1
            last = self._broken_told == TAP_BROKEN_TOLD_MAX
            _note(f"passed over: {text}" + ("; more of these are only counted" if last else ""))
        if monotonic_s() < self._again_at_s:
            return
        self._again_at_s = monotonic_s() + TAP_TELL_S
        fresh = self._tap.counts.passed_over - self._passed_over
        self._passed_over += fresh
        if fresh > 0:
            _note(f"{fresh:,} events passed over in {TAP_TELL_S:g} s")

    def summarize(self) -> None:
        """Tell what became of all events."""
        _note(summary(self._tap.counts))


async def follow(
    settings: Settings,
    wanted: Wanted,
    start: Start,
    ending: Ending,
    lines: Lines,
    *,
    shown_per_s: float,
) -> None:
    """Print events as they come, until it is over or nobody reads any more.

    Raises LogUnavailable if all of the log is away at the start; later it is waited for.
    """
    tap = Tap(settings, wanted, shown_per_s=shown_per_s, shown_max=ending.events)
    notes = Notes(tap)
    try:
        with hint_if_away():
            await tap.begin(start)
        try:
            # Nothing within raises a time-out of its own.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ending.seconds):
                    while lines.output.is_heard and not tap.is_done:
                        portion = await tap.next()
                        lines.print(portion.events)
                        notes.tell(portion)
        finally:
            # Ctrl-C ends it as well.
            notes.summarize()
    finally:
        await tap.close()


def _note(text: str) -> None:
    print(f"evp: {printable(text)}", file=sys.stderr)
