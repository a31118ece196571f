"""`evp verify`: the proof that nothing was lost."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from evp.limits import VERIFY_SAMPLE_MAX


def verify(
    since: Annotated[
        Optional[str],
        typer.Option(help="Look at what was accepted since: 90s, 30m, 24h, 7d, or RFC 3339."),
    ] = None,
    every_document: Annotated[
        bool,
        typer.Option("--all", help="Also scan all events for documents that no frame lists."),
    ] = False,
    sample: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            max=VERIFY_SAMPLE_MAX,
            help="Look up the ids of so many frames only, drawn by chance.",
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Settle frames that the log has lost by what the store has of them, and have "
            "those written again that are acked and not stored.",
        ),
    ] = False,
    acknowledge: Annotated[
        Optional[str],
        typer.Option(
            metavar="REASON",
            help="Take note of what is found, each by itself: it is then listed apart, and no "
            "longer a reason for exit 1 or for health to be degraded.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Prove that every event that was accepted is stored, a duplicate, dead, or in the log.

    Changes nothing without --repair or --acknowledge, and may run at any time, also beside
    servers and workers. All partitions there ever were are proved; one that is away is named,
    and what it alone could tell is undecided. Exit 0: clean; 1: a difference was found, and it
    is not acknowledged; 3: not all could be looked at or acknowledged.

    Examples: evp verify;  evp verify --since 24h;  evp verify --all --json | jq .findings
    """
    from evp.cli.context import run, start
    from evp.cli.verifying import print_report, scope_of, verified

    scope = scope_of(
        since,
        every_document=every_document,
        sample=sample,
        repair=repair,
        acknowledge=acknowledge,
    )
    report = run(verified(start(), scope))
    print_report(report, json=json)
    raise typer.Exit(report.exit_code)
