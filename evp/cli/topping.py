"""The parts of `evp dlq top`: its filters, its progress, its report."""

from __future__ import annotations

from collections.abc import Mapping

from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from evp.cli.output import Output
from evp.cli.progress import progress
from evp.cli.replaying import filters_of
from evp.cli.storing import with_store
from evp.dlq.top import By, Top, top
from evp.errors import UsageError
from evp.settings import Settings
from evp.views.dlq_top import top_view


def top_of(settings: Settings, by: str, given: Mapping[str, str | None], most: int) -> Top:
    """Return groups of the letters that flags choose, with a sign of life on a terminal.

    Raises UsageError and StoreUnavailable.
    """
    if by not in {one.value for one in By}:
        raise UsageError(f"--by {by!r}: there are {', '.join(one.value for one in By)}")
    filters = filters_of(
        given["--reason"],
        given["--type"],
        given["--source"],
        given["--since"],
        given["--until"],
        frame=None,
        error=given["--error"],
    )
    flags = [part for flag, value in given.items() if value is not None for part in (flag, value)]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with progress(*columns) as bar:
        task = bar.add_task("dead letters")

        def notify(counted: int) -> None:
            bar.update(task, description=f"{counted:,} dead letters")

        return with_store(settings, lambda db: top(db, filters, By(by), most, flags, notify))


def print_top(found: Top, *, json: bool) -> None:
    """Print groups for people, or as JSON."""
    if json:
        Output().say_json(found)
    else:
        Output().print(top_view(found), crop=False)
