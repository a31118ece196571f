"""`evp drill`: faults on purpose, and the proof that nothing was lost."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from evp.drill.faults import Fault
from evp.drill.limits import DRILL_EPS_MAX, DRILL_TURNS_MAX


def drill(
    fault: Annotated[
        Optional[list[Fault]],
        typer.Option(
            metavar="FAULT", help="Only this one; give it again for more. Without it: all six."
        ),
    ] = None,
    duration: Annotated[
        str, typer.Option(help="How long each fault has, at least, before the next one: 20s, 2m.")
    ] = "20s",
    eps: Annotated[
        int, typer.Option(min=1, max=DRILL_EPS_MAX, help="Events a second, all the time.")
    ] = 500,
    times: Annotated[
        int, typer.Option(min=1, max=DRILL_TURNS_MAX, help="All of it so many times.")
    ] = 1,
    yes_really: Annotated[
        bool,
        typer.Option(
            "--yes-really",
            help="Also where no `evp up` with engines of its own runs: it then sends events to, "
            "and destroys the group of, whatever the settings name. Not in production.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Break a running `evp up` on purpose, under load, and look every event up.

    \b
    kill-worker   kill -9 of a worker
    kill-serve    kill -9 of a server
    restart-log   kill -9 of Redis or Valkey
    stop-store    the store stands still (SIGSTOP) for half of --duration
    pause-worker  a worker stands still for longer than its entries stay its own
                  (EVP_CLAIM_IDLE_MS, a minute); wants `evp up --work-processes 2`
    drop-group    XGROUP DESTROY of the consumer group

    They come in this order; `evp up` starts again what is killed. The next one
    comes when all is stored that was accepted before the last one was over. Then
    each event that was accepted must be stored once, no refused one may be there,
    and `evp verify` must be content.

    The events stay in the store, of type evp.drill, with evp-drill-RUN as source
    and subject; `evp erase --subject evp-drill-RUN --yes` erases them. Ctrl-C
    undoes what is under way and tells what was done. Exit 1 if anything was lost
    or doubled, or did not come back.

    \b
    Examples: evp drill --times 3
              evp drill --fault stop-store --fault drop-group --duration 10s
              evp drill --json | jq .clean
    """  # noqa: D301 - click keeps the lines of a paragraph that is marked so
    from evp.cli import drilling
    from evp.cli.context import run, sending_key, server_url, start
    from evp.drill.plan import Plan
    from evp.drill.target import find

    plan = Plan(fault or list(Fault), times, drilling.duration_s_of(duration), eps)
    settings = start()
    # Who may be hurt at all comes before which key to send with.
    target = find(settings, server_url(settings, None), yes_really=yes_really)
    report = run(drilling.drilled(target, plan, sending_key(settings, None)))
    drilling.print_report(report, json=json)
    raise typer.Exit(drilling.exit_code_of(report))
