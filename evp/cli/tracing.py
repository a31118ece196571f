"""The parts of `evp trace`: which event is asked for, a bar for the search, the story."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from evp.cli.output import Output
from evp.cli.progress import progress
from evp.clock import to_ms
from evp.errors import EXIT_FINDING, EXIT_OK, EXIT_UNAVAILABLE, UsageError
from evp.identity import event_id
from evp.receipt import receipt_of
from evp.settings import Settings
from evp.trace.run import trace
from evp.trace.story import FINDINGS, Story
from evp.trace.tell import Asked
from evp.views.trace import story_view


def asked_for(
    settings: Settings,
    what: str | None,
    id_: str | None,
    source: str | None,
    time: str | None,
    nth: int,
    *,
    search: bool,
) -> Asked:
    """Return which event is meant. Raises UsageError."""
    if (what is None) == (id_ is None):
        raise UsageError("give an EVENT_ID or a RECEIPT, as a 202 told it, or --id")
    if id_ is None and (source is not None or time is not None):
        raise UsageError("--source and --time belong to --id")
    receipt = None if what is None else receipt_of(what)
    if nth and receipt is None:
        raise UsageError("--nth belongs to a RECEIPT")
    if receipt is not None:
        return Asked(None, receipt, nth, search)
    if id_ is not None:
        time_ms = 0 if time is None else _time_ms(time)
        made = event_id(source or settings.default_source, id_, time_ms * settings.time_in_id)
        return Asked(made, search=search)
    try:
        return Asked(UUID(what).bytes, search=search)
    except ValueError:
        raise UsageError(
            f"{what!r} is no event_id, which is a UUID, and no receipt; --id takes the sender's"
        ) from None


def _time_ms(text: str) -> int:
    try:
        moment = msgspec.convert(text, datetime)
        if moment.tzinfo is not None and to_ms(moment) >= 0:
            return to_ms(moment)
    except msgspec.ValidationError:
        pass
    raise UsageError(f"--time {text!r}: wanted a time with a zone (2026-01-02T03:04:05Z)")


async def traced(settings: Settings, asked: Asked) -> Story:
    """Trace an event, with a bar on a terminal while the log is searched; raises as `trace`."""
    columns = (TextColumn("searching the log"), BarColumn(bar_width=None), TimeElapsedColumn())
    with progress(*columns) as bar:
        task = bar.add_task("", total=None, visible=False)

        def notify(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        return await trace(settings, asked, notify)


def print_story(story: Story, *, json: bool, is_timeless: bool) -> None:
    """Print a story for people, or as JSON."""
    if json:
        Output().say_json(story)
    else:
        Output().print(story_view(story, is_timeless=is_timeless))


def exit_code(story: Story) -> int:
    """Return what the command ends with."""
    if not story.is_whole:
        return EXIT_UNAVAILABLE
    return EXIT_FINDING if story.fate in FINDINGS else EXIT_OK
