"""The parts of `evp dlq`: its filters, its question, its progress, its report."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from typing import Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from evp.cli.moments import moment_of
from evp.cli.output import Output
from evp.cli.progress import progress
from evp.cli.storing import with_store
from evp.dlq.actions import Account, Notify, Shown, select
from evp.errors import EXIT_FINDING, EXIT_OK, UsageError
from evp.limits import DEAD_LETTER_SHOWN_BYTES_MAX
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.dead_letters import REASONS
from evp.storage.dlq import Filters
from evp.views.dlq import account_view, selection_view, shown_view

_FRAME_ID = re.compile(r"[0-9a-f]{24}")
_FINGERPRINT = re.compile(r"[0-9a-f]{8}")
_LETTER_ID = re.compile(r"[0-9a-f]{24}:\d{1,9}|[0-9a-f]{32}")

Work = Callable[[Database, Account, Notify], Coroutine[Any, Any, None]]


class Options(msgspec.Struct, frozen=True):
    """What `replay` and `purge` have in common; `states` of letters are those they take."""

    states: frozenset[str]
    dry_run: bool
    yes: bool
    json: bool


def filters_of(
    reason: str | None,
    type_: str | None,
    source: str | None,
    since: str | None,
    until: str | None,
    frame: str | None,
    ids: list[str] | None = None,
    *,
    error: str | None = None,
) -> Filters:
    """Return the filters that the flags describe. Raises UsageError."""
    if reason is not None and reason not in REASONS:
        raise UsageError(f"--reason {reason!r}: there are {', '.join(REASONS)}")
    if frame is not None and not _FRAME_ID.fullmatch(frame):
        raise UsageError(f"--frame {frame!r}: wanted a frame id, 24 hexadecimal digits")
    if error is not None and not _FINGERPRINT.fullmatch(error):
        raise UsageError(f"--error {error!r}: wanted 8 hexadecimal digits; see `evp dlq top`")
    return Filters(
        reason=reason,
        error=error,
        type=type_,
        source=source,
        since=_moment("--since", since),
        until=_moment("--until", until),
        frame_id=frame,
        ids=tuple(checked_id(one) for one in ids or ()),
    )


def checked_id(text: str) -> str:
    """Return the id of a letter. Raises UsageError if it can't be one."""
    if not _LETTER_ID.fullmatch(text):
        raise UsageError(f"{text!r} is no id of a dead letter; `evp dlq list` shows them")
    return text


def change(
    settings: Settings, filters: Filters, what: str, done: str, work: Work, *, options: Options
) -> int:
    """Count letters, ask, change them with progress, report; return the exit code."""
    if not (options.yes or options.dry_run or sys.stdin.isatty()):
        raise UsageError(f"nobody can be asked here: --yes says that {what} is meant")
    account: Account = with_store(
        settings, lambda db: select(db, filters, options.states, dry_run=options.dry_run)
    )
    if not options.json and (options.dry_run or not options.yes):
        Output().print(selection_view(account, what))
    if not account.selected or options.dry_run:
        account.finished = True
        return _report(account, done, options)
    if not options.yes and not typer.confirm(f"{what.capitalize()} them?", err=True):
        Output(stderr=True).say("nothing was changed")
        return EXIT_FINDING
    try:
        with _bar(what, account.selected) as progress:
            with_store(settings, lambda db: work(db, account, progress), asking=None)
    except BaseException:
        # Also where it ended before its time: this much was done.
        _report(account, done, options)
        raise
    return _report(account, done, options)


def print_shown(shown: Shown, *, raw: bool, json: bool) -> None:
    """Print one letter, with no more of what it holds than fits, unless `raw`."""
    output = Output()
    most = None if raw else DEAD_LETTER_SHOWN_BYTES_MAX
    if not json:
        output.print(shown_view(shown, most), soft_wrap=True)
        return
    fields = msgspec.to_builtins(shown.letter)
    fields |= {"what_to_do": shown.mend, "whole": shown.whole, "event": shown.event}
    fields["payload_hex"] = None if shown.payload is None else shown.payload[:most].hex()
    output.say_json(fields)


def _report(account: Account, done: str, options: Options) -> int:
    if options.json:
        Output().say_json(account)
    elif not options.dry_run or account.missing:
        Output().print(account_view(account, done), soft_wrap=True)
    return EXIT_FINDING if account.refused or account.missing else EXIT_OK


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Notify]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with progress(*columns, transient=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda account: bar.update(task, completed=account.done + account.refused_count)


def _moment(flag: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = moment_of(text)
    if moment is None:
        raise UsageError(f"{flag} {text!r}: wanted 30m, 2h, 7d or 2026-01-02T03:04:05Z")
    return moment
