"""The parts of `evp verify`: its scope, its progress, its report."""

from __future__ import annotations

import asyncio
from datetime import datetime

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from evp.cli.moments import moment_of
from evp.cli.output import Output
from evp.cli.progress import progress
from evp.clock import now
from evp.errors import UsageError
from evp.limits import DETAIL_CHARS_MAX
from evp.settings import Settings
from evp.signals import end
from evp.verify.report import Report, Scope
from evp.verify.run import verify
from evp.views.verify import render


def scope_of(
    since: str | None,
    *,
    every_document: bool,
    sample: int | None,
    repair: bool,
    acknowledge: str | None,
) -> Scope:
    """Return what the flags ask for. Raises UsageError."""
    if acknowledge is not None:
        acknowledge = acknowledge.strip()
        if not 0 < len(acknowledge) <= DETAIL_CHARS_MAX:
            raise UsageError(
                f"--acknowledge: wanted a reason of 1 to {DETAIL_CHARS_MAX} characters"
            )
        if since is not None or sample is not None:
            raise UsageError("--acknowledge looks at everything; it excludes --since and --sample")
    if every_document and (since is not None or sample is not None):
        raise UsageError("--all looks at everything; it excludes --since and --sample")
    moment = None if since is None else _moment(since)
    return Scope(moment, every_document, sample, repair, acknowledge)


def _moment(text: str) -> datetime:
    moment = moment_of(text)
    if moment is None:
        raise UsageError(
            f"--since {text!r}: wanted a span (90s, 30m, 24h, 7d) or a time with a zone "
            "(2026-01-02T03:04:05Z)"
        )
    if moment > now():
        raise UsageError(f"--since {text!r}: that is still to come")
    return moment


async def verified(settings: Settings, scope: Scope) -> Report:
    """Verify, with a bar on a terminal; raises as `verify`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
    )
    with progress(*columns) as bar:
        task = bar.add_task("records", total=None)

        def notify(what: str, done: int, expected: int | None) -> None:
            total = None if expected is None else max(expected, done)
            bar.update(task, description=what, completed=done, total=total)

        running = asyncio.create_task(verify(settings, scope, notify))
        try:
            await asyncio.wait({running})
        finally:
            # A call to the store may miss that it is cancelled, and Ctrl-C would wait for it.
            await end(running)
        return running.result()


def print_report(report: Report, *, json: bool) -> None:
    """Print a report for people, or as JSON."""
    Output().say_report(report, render, json=json)
