"""`evp trace`: the story of one event."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def trace(
    what: Annotated[
        Optional[str],
        typer.Argument(metavar="EVENT_ID|RECEIPT", help="As a 202 told it; or give --id."),
    ] = None,
    id_: Annotated[
        Optional[str], typer.Option("--id", help="The id that its sender gave it.")
    ] = None,
    source: Annotated[
        Optional[str], typer.Option(help="With --id: its source; else the default source.")
    ] = None,
    time: Annotated[
        Optional[str], typer.Option(help="With --id: the time it was sent with, if any.")
    ] = None,
    nth: Annotated[
        int, typer.Option(min=0, help="With the RECEIPT of a batch: which event of it, from 0.")
    ] = 0,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="Look through the whole log, so that an event that was sent again is found each "
            "time. Without it that is done only for one that the store does not know.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell where one event came in, who had it, and what became of it, or why it is not stored.

    Exit 1 if it is a dead letter, missing or unknown; 3 if the store is away, or the log or a
    partition of it that was to be asked, and what the others know is told all the same.

    Example: evp trace --id order-1042 --source shop

    Example: evp trace 0.1767323045000-0.0 --nth 3
    """
    from evp.cli.context import run, start
    from evp.cli.tracing import asked_for, exit_code, print_story, traced

    settings = start()
    asked = asked_for(settings, what, id_, source, time, nth, search=search)
    story = run(traced(settings, asked))
    print_story(story, json=json, is_timeless=id_ is not None and time is None)
    raise typer.Exit(exit_code(story))
