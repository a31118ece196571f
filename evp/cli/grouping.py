"""The parts of `evp groups`: where to set a group, as flags say it, and the progress of that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from evp.cli.moments import moment_of, span_s_of
from evp.cli.output import Output
from evp.cli.progress import progress
from evp.clock import now, to_ms
from evp.errors import UsageError
from evp.groups.reset import Notify, Reset, Resetter
from evp.settings import Settings
from evp.stream.positions import EARLIEST, LATEST, moment
from evp.views.groups import reset_view

_NAMES = {"earliest": EARLIEST, "latest": LATEST}


class Where(msgspec.Struct, frozen=True):
    """What the flags say: one of these, and no other."""

    to_datetime: str | None
    by_duration: str | None
    to_earliest: bool
    to_latest: bool


def target_of(flag: str, text: str) -> str:
    """Return the target of a moment as people write it. Raises UsageError."""
    at = moment_of(text)
    if at is None:
        raise UsageError(f"{flag} {text!r}: wanted 30m, 2h, 7d or 2026-01-02T03:04:05Z")
    if at > now():
        raise UsageError(f"{flag} {text!r}: that is still to come")
    return moment(to_ms(at))


def named_target_of(flag: str, text: str) -> str:
    """Return the target of `earliest`, `latest` or a moment. Raises UsageError."""
    return _NAMES[text] if text in _NAMES else target_of(flag, text)


def checked(where: Where) -> Where:
    """Return what the flags say. Raises UsageError unless it is exactly one thing."""
    given = (where.to_datetime is not None, where.by_duration is not None)
    if sum((*given, where.to_earliest, where.to_latest)) != 1:
        raise UsageError(
            "say where to: one of --to-datetime, --by-duration, --to-earliest, --to-latest"
        )
    if where.by_duration is not None and not span_s_of(where.by_duration):
        raise UsageError(f"--by-duration {where.by_duration!r}: wanted a span: 90s, 30m, 24h, 7d")
    return where


async def reset(
    settings: Settings, name: str, where: Where, *, execute: bool, force: bool
) -> Reset:
    """Tell what setting a group elsewhere means, or do it; with a bar if that takes long.

    Raises UsageError, LogUnavailable and StoreUnavailable.
    """
    async with Resetter.opened(settings, name) as resetter:
        target = await _target(resetter, where)
        with _bar() as notify:
            act = resetter.execute if execute else resetter.plan
            return await act(target, notify, force=force)


def print_reset(reset: Reset, *, json: bool) -> None:
    """Print it for people, or as JSON."""
    if json:
        Output().say_json(reset)
    else:
        Output().print(reset_view(reset))


async def _target(resetter: Resetter, where: Where) -> str:
    if where.to_datetime is not None:
        return target_of("--to-datetime", where.to_datetime)
    if where.by_duration is not None:
        return await resetter.ago(span_s_of(where.by_duration) or 0.0)
    return EARLIEST if where.to_earliest else LATEST


@contextlib.contextmanager
def _bar() -> Iterator[Notify]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with progress(*columns) as bar:
        task = bar.add_task("asking the store", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
