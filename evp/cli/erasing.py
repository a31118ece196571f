"""The parts of `evp erase`: what is wanted, its progress, its report."""

from __future__ import annotations

from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from evp.cli.output import Output
from evp.cli.progress import progress
from evp.cli.storing import with_store
from evp.erasure import Erased, erase
from evp.errors import EXIT_FINDING, EXIT_OK, UsageError
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.erasure import Wanted
from evp.views.erasure import erased_view


def wanted_of(subject: str | None, event: str | None, source: str | None) -> Wanted:
    """Return what the flags describe. Raises UsageError."""
    if not (subject or event):
        raise UsageError("say whose events: --subject, or --id (and --source)")
    return Wanted(subject=subject or None, id=event or None, source=source or None)


def erase_and_tell(settings: Settings, wanted: Wanted, *, dry_run: bool, json: bool) -> int:
    """Erase, or count, with a sign of life on a terminal; report; return the exit code.

    Raises StoreUnavailable.
    """
    erased = Erased(dry_run)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with progress(*columns) as bar:
        task = bar.add_task("going through all events")

        def notify(so_far: Erased) -> None:
            told = f"going through all events: {so_far.events:,} found"
            bar.update(task, description=told)

        async def work(db: Database) -> None:
            await erase(settings, db, wanted, erased, notify)

        try:
            with_store(settings, work, asking=None)
        except BaseException:
            # Also where it ended before its time: this much was done.
            _report(erased, json=json)
            raise
    _report(erased, json=json)
    return EXIT_FINDING if erased.refused else EXIT_OK


def _report(erased: Erased, *, json: bool) -> None:
    if json:
        Output().say_json(erased)
    else:
        Output().print(erased_view(erased), soft_wrap=True)
