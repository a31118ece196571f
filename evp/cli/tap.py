"""`evp tap`: what the log accepts, as it comes."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from evp.limits import TAP_SHOWN_PER_S_MAX, TAP_SHOWN_PER_S_USUAL


def tap(
    type_: Annotated[
        Optional[str], typer.Option("--type", help="Only events of this type.")
    ] = None,
    source: Annotated[Optional[str], typer.Option(help="Only events of this source.")] = None,
    subject: Annotated[Optional[str], typer.Option(help="Only events of this subject.")] = None,
    where: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="PATH=VALUE",
            help="Only events that have this value there, compared as text: data.order.id=17, "
            "data.items.0.sku=x. May be given several times; then all must hold.",
        ),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="End after so many.")] = None,
    sample: Annotated[
        Optional[str], typer.Option(metavar="1/N", help="Of those, each Nth only: 1/100.")
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1, max=TAP_SHOWN_PER_S_MAX, help="Show at most so many a second; pass over more."
        ),
    ] = TAP_SHOWN_PER_S_USUAL,
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="START",
            help="now; earliest, with all that the log still has; an age (5m); or a time with a "
            "zone. What was there before is read as fast as it is shown.",
        ),
    ] = "now",
    duration: Annotated[
        Optional[str], typer.Option(metavar="SPAN", help="End after a time: 30s, 5m.")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="json|logfmt|table", help="How to print them.")
    ] = "table",
    json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Show events as the log accepts them: a live sample, without touching anything.

    Nothing is claimed, acked or moved. What is not shown is counted on stderr. All partitions
    are read; --rate and --limit are for all of them together.

    Example: evp tap --where data.user.id=42 --from 10m --json

    Example: evp tap --type order.paid --sample 1/100
    """
    from evp.cli.context import run, start
    from evp.cli.tapping import Lines, ending_of, follow, start_of, wanted_of

    wanted = wanted_of(type_, source, subject, where or [], sample)
    lines = Lines("json" if json else format_)
    ending, begin = ending_of(limit, duration), start_of(from_)
    run(follow(start(), wanted, begin, ending, lines, shown_per_s=rate))
