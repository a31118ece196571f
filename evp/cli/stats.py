"""`evp stats`: how things stand."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def stats(
    once: Annotated[bool, typer.Option("--once", help="Look once (the default).")] = False,
    watch: Annotated[
        Optional[float], typer.Option(min=0.2, help="Look again every so many seconds.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a look.")] = False,
) -> None:
    """Show log, groups, consumers, totals and rates.

    Examples: evp stats;  evp stats --watch 2;  evp stats --json | jq .log.groups
    """
    from evp.cli.context import run, start
    from evp.cli.looking import watch_stats
    from evp.errors import UsageError

    if once and watch is not None:
        raise UsageError("--once and --watch exclude each other")
    run(watch_stats(start(), watch, json=json))
