"""The parts of `evp drill`: its flags, its progress, its report."""

from __future__ import annotations

import asyncio
import sys

import msgspec
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from evp.cli.context import EXIT_INTERRUPTED
from evp.cli.moments import span_s_of
from evp.cli.output import Output
from evp.cli.progress import progress
from evp.drill.limits import DRILL_DURATION_S_MAX, DRILL_DURATION_S_MIN
from evp.drill.plan import Plan
from evp.drill.report import Report
from evp.drill.run import Drill
from evp.drill.target import Target
from evp.errors import EXIT_FINDING, UsageError
from evp.signals import end, own_signals
from evp.storage.client import close, connect_patiently, database
from evp.views.drill import render

_RENEW_S = 0.25
#: What is under way is undone at once; connections get so long to be closed.
_CLEAN_UP_S = 2.0


def duration_s_of(text: str) -> float:
    """Return a span in seconds. Raises UsageError."""
    seconds = span_s_of(text)
    if seconds is None or not DRILL_DURATION_S_MIN <= seconds <= DRILL_DURATION_S_MAX:
        raise UsageError(
            f"--duration {text!r}: wanted a span of {DRILL_DURATION_S_MIN:g} to "
            f"{DRILL_DURATION_S_MAX:g} seconds, such as 20s or 2m"
        )
    return seconds


async def drilled(target: Target, plan: Plan, key: str) -> Report:
    """Do a drill, and tell on stderr what comes, and how it stands; raises as `Drill.run`.

    A signal to stop ends it early: what is under way is undone, and what was done is told.
    """
    signals = own_signals()
    client = connect_patiently(target.settings, connections_max=1)
    try:
        drill = Drill(target, plan, key, database(client, target.settings.mongo_db))
        print(_outlook(plan, target.claim_idle_ms), file=sys.stderr)
        running = asyncio.create_task(drill.run())
        told = asyncio.create_task(signals.get())
        try:
            await _show(drill, running, told)
        finally:
            interrupted = not running.done()
            await end(running, told, again_s=_CLEAN_UP_S)
        if not interrupted:
            running.result()
        return msgspec.structs.replace(drill.report(), interrupted=interrupted)
    finally:
        await close(client)


def _outlook(plan: Plan, claim_idle_ms: int) -> str:
    """Return what whoever waits wants to know beforehand."""
    seconds = plan.seconds_min(claim_idle_ms)
    long = f"{seconds / 60:.0f} minutes" if seconds > 100 else f"{seconds:.0f} seconds"
    faults = f"{plan.turns} faults" if plan.turns > 1 else plan.faults[0]
    return f"{faults}, {long} at least; Ctrl-C ends it and undoes what is under way"


async def _show(drill: Drill, running: asyncio.Task[None], told: asyncio.Task[int]) -> None:
    """Show how the drill stands until it has ended, or is to end."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} accepted"),
        TimeElapsedColumn(),
    )
    with progress(*columns) as bar:
        task = bar.add_task(drill.stage, total=None)
        while not (running.done() or told.done()):
            await asyncio.wait(
                {running, told}, timeout=_RENEW_S, return_when=asyncio.FIRST_COMPLETED
            )
            bar.update(task, description=drill.stage, completed=drill.accepted)


def print_report(report: Report, *, json: bool) -> None:
    """Print a report for people, or as JSON."""
    Output().say_report(report, render, json=json)


def exit_code_of(report: Report) -> int:
    """Return what the command ends with: of one that was interrupted, what was found by then."""
    found = report.exit_code
    return EXIT_INTERRUPTED if report.interrupted and found != EXIT_FINDING else found
