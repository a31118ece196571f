"""`evp stats`: how things stand."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def stats(
    once: Annotated[
        bool, typer.Option("--once", help="Look once, as it does where there is no terminal.")
    ] = False,
    watch: Annotated[
        Optional[float],
        typer.Option(min=0.2, help="Look again every so many seconds; on a terminal every 1."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one look, or with --watch a line for each.")
    ] = False,
) -> None:
    """Show rates, lag, workers, engines and the balance, live on a terminal.

    Keys: s sorts, / filters, space pauses, ? explains, q quits.

    Examples: evp stats;  evp stats --once;  evp stats --json | jq .log.groups
    """
    from evp.cli.context import run, start
    from evp.cli.looking import show_stats
    from evp.errors import UsageError

    if once and watch is not None:
        raise UsageError("--once and --watch exclude each other")
    run(show_stats(start(), watch, once=once, json=json))
