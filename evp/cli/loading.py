"""The parts of `evp loadtest`: its flags, its live view, its report."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live

from evp.cli.moments import span_s_of
from evp.cli.output import Output
from evp.errors import UsageError
from evp.limits import LOADTEST_DURATION_S_MAX, LOADTEST_INPUT_BYTES_MAX
from evp.loadtest.follow import Engines
from evp.loadtest.plan import Plan
from evp.loadtest.report import Report
from evp.loadtest.run import LoadTest
from evp.loadtest.thresholds import NAMES_BEHIND, NAMES_VERIFIED, Threshold, threshold_of
from evp.sender import lines_of
from evp.settings import Settings
from evp.signals import end, own_signals
from evp.storage.client import close, connect_patiently, database
from evp.views.loadtest import live, render

_RENEW_S = 0.25
#: To watch events until they are stored, to look them all up, and one to spare.
_STORE_CONNECTIONS_MAX = 3


def spans(duration: str, warmup: str) -> tuple[float, float]:
    """Return the two spans in seconds. Raises UsageError."""
    found = []
    for name, text, least_s in (("duration", duration, 0.1), ("warmup", warmup, 0.0)):
        seconds = span_s_of(text)
        if seconds is None or not least_s <= seconds <= LOADTEST_DURATION_S_MAX:
            raise UsageError(f"--{name} {text!r}: wanted a span such as 500ms, 10s, 5m or 1h")
        found.append(seconds)
    return found[0], found[1]


def given_lines(file: Path) -> list[bytes]:
    """Return the events of a file, all objects. Raises UsageError."""
    try:
        if file.stat().st_size > LOADTEST_INPUT_BYTES_MAX:
            raise UsageError(f"{file} has more than {LOADTEST_INPUT_BYTES_MAX} bytes")
        with file.open("rb") as opened:
            lines = list(lines_of(opened))
    except OSError as error:
        raise UsageError(f"can't read {file}: {error.strerror}") from error
    for line in lines:
        try:
            msgspec.json.decode(line.text, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{file}, line {line.number}: no event: {error}") from None
    if not lines:
        raise UsageError(f"{file} has no events")
    return [line.text for line in lines]


def bounds(
    texts: Sequence[str], *, accept_only: bool, verify: bool
) -> tuple[list[Threshold], bool]:
    """Return the thresholds, and whether every event is to be looked up. Raises UsageError.

    A bound on what is lost or doubled wants that also without --verify.
    """
    found = [threshold_of(text) for text in texts]
    behind = [one.text for one in found if one.name in NAMES_BEHIND]
    if accept_only and (verify or behind):
        what = f"--threshold {behind[0]!r}" if behind else "--verify"
        raise UsageError(f"{what} looks at the store; --accept-only excludes that")
    return found, verify or any(one.name in NAMES_VERIFIED for one in found)


async def load(
    plan: Plan, key: str, settings: Settings | None, thresholds: Sequence[Threshold]
) -> Report:
    """Run a test, with a live view on a terminal; raises as `LoadTest.run`.

    Raises KeyboardInterrupt at a second Ctrl-C, and at the first before anything was sent.
    """
    client = None
    if settings is not None:
        client = connect_patiently(settings, connections_max=_STORE_CONNECTIONS_MAX)
    try:
        engines = None
        if settings is not None and client is not None:
            engines = Engines(settings, database(client, settings.mongo_db))
        test = LoadTest(plan, key, engines)
        running = asyncio.create_task(test.run(thresholds))
        heeding = asyncio.create_task(_heed(test, running))
        try:
            await _show(test, plan, running)
        finally:
            await end(heeding, running, again_s=1.0)
        if running.cancelled():
            raise KeyboardInterrupt
        return running.result()
    finally:
        if client is not None:
            await close(client)


async def _heed(test: LoadTest, running: asyncio.Task[Report]) -> None:
    """End the load at the first Ctrl-C, and the test at the second one."""
    signals = own_signals()
    await signals.get()
    if test.has_begun:
        test.interrupt()
        await signals.get()
    running.cancel()


async def _show(test: LoadTest, plan: Plan, running: asyncio.Task[Report]) -> None:
    """Show how the test stands until it has ended; nothing where nobody looks."""
    console = Console(stderr=True)
    if not console.is_terminal:
        await asyncio.wait({running})
        return
    with Live(live(test.look(), plan), console=console, auto_refresh=False, transient=True) as view:
        while not running.done():
            await asyncio.wait({running}, timeout=_RENEW_S)
            view.update(live(test.look(), plan), refresh=True)


def print_report(report: Report, *, json: bool) -> None:
    """Print a report for people, or as JSON."""
    Output().say_report(report, render, json=json)
