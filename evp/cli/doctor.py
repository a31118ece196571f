"""`evp doctor`: what is wrong, before it hurts, and its mend."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what is safe to mend, then look again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before mending.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find what is wrong with log, store, groups and workers, each with its mend.

    Without --fix nothing is changed. With it, what is marked so is mended: settings of the log
    (CONFIG SET, and CONFIG REWRITE so that they stay), what consumers that are gone have left,
    trimming, collections and indexes. Nothing that was accepted is ever removed. What can't be
    checked is told, with the reason. Exit 0 if nothing is wrong, also with notes; 1 if an error
    or a warning is left; 3 if the log or the store is away: what could be checked is told.

    Examples: evp doctor; evp doctor --fix --yes; evp doctor --json | jq '.findings[].check'
    """
    from evp.cli.context import start
    from evp.cli.doctoring import Options, examine_and_tell

    raise typer.Exit(examine_and_tell(start(), Options(fix, yes, json)))
