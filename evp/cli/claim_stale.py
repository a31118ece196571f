"""`evp claim-stale`: one pass over what workers have left behind."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def claim_stale(
    group: Annotated[Optional[str], typer.Option(help="Consumer group.")] = None,
    min_idle: Annotated[
        Optional[int],
        typer.Option(
            min=0,
            metavar="MS",
            help="Take what nobody worked on for so many milliseconds (default: CLAIM_IDLE_MS).",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the account as JSON.")] = False,
) -> None:
    """Take over entries that workers left pending: write them, ack them, remove who is gone.

    Workers do this by themselves; use it from cron where none may be running. Exit 1 if an
    event can't be stored, or an entry was deleted from the log or is of a newer evp; exit 3
    if all is well but for partitions whose server is away.

    Example: evp claim-stale --min-idle 60000 --json
    """
    from rich.console import Console

    from evp.cli.context import EXIT_INTERRUPTED, run, start
    from evp.cli.output import Output
    from evp.errors import EXIT_FINDING, EXIT_OK, EXIT_UNAVAILABLE
    from evp.signals import own_signals
    from evp.views.claimed import claimed_line
    from evp.worker.stale import Claimed, claim_stale

    settings = start(consumer_group=group)
    idle_ms = settings.claim_idle_ms if min_idle is None else min_idle
    screen = Console(stderr=True)

    async def claim() -> Claimed:
        with screen.status("looking for stale entries") as status:
            return await claim_stale(
                settings,
                idle_ms,
                own_signals(),
                lambda account: status.update(claimed_line(account)),
            )

    account = run(claim())
    if json:
        Output().say_json(account)
    else:
        Output().say(claimed_line(account))
    if account.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not account.clean:
        raise typer.Exit(EXIT_FINDING)
    raise typer.Exit(EXIT_UNAVAILABLE if account.away else EXIT_OK)
