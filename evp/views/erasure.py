"""What `evp erase` did, or would do, for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from evp.erasure import Erased

_INDENT = "    "


def erased_view(erased: Erased) -> RenderableType:
    """Return what was found, what was done, and what is still to be done by whom."""
    verb = "would be erased" if erased.dry_run else "erased"
    lines = [f"{_counted(erased.events, 'event')} and {_letters(erased.letters)} {verb}"]
    lines += [
        f"{_INDENT}{count:,} of source {source}" for source, count in erased.by_source.items()
    ]
    for reason, count in erased.refused.items():
        lines.append(
            f"{_counted(count, 'event')} refused, {reason}: a unique index on events does not take "
            "what would be left of them; make it partial or drop it, then erase again"
        )
    if erased.waiting_events is None:
        lines.append(f"whether any wait in the log is not known: {erased.log_error}")
    elif erased.log_error is not None:
        lines.append(f"whether more wait in the log is not known: {erased.log_error}")
    if erased.waiting_events:
        lines.append(
            f"{_counted(erased.waiting_events, 'event')} in the log may not be stored yet, of "
            "whomever; once workers have done with them (evp stats), erase again"
        )
    if erased.unreadable_letters:
        lines.append(
            f"{_letters(erased.unreadable_letters)} hold entries that nobody can read: look at "
            "them (evp dlq list), and purge them if need be"
        )
    if not erased.finished:
        lines.append("not finished: the rest is as it was; the same command goes on")
    elif erased.dry_run:
        lines.append("nothing was changed; --yes erases them, for good")
    return Group(*map(Text, lines))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _letters(count: int) -> str:
    return _counted(count, "dead letter")
