"""`evp send`: events from a file, from standard input, or one by hand."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def send(
    file: Annotated[
        Optional[str], typer.Argument(help="NDJSON, one event a line; - is standard input.")
    ] = None,
    type_: Annotated[
        Optional[str], typer.Option("--type", help="Send one event of this type.")
    ] = None,
    data: Annotated[Optional[str], typer.Option(help="Its data, JSON.")] = None,
    source: Annotated[Optional[str], typer.Option(help="Its source.")] = None,
    id_: Annotated[Optional[str], typer.Option("--id", help="Its id.")] = None,
    subject: Annotated[Optional[str], typer.Option(help="Its subject.")] = None,
    time: Annotated[Optional[str], typer.Option(help="Its time, RFC 3339.")] = None,
    url: Annotated[Optional[str], typer.Option(help="Address of the server.")] = None,
    key: Annotated[Optional[str], typer.Option(help="API key.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the account as JSON.")] = False,
) -> None:
    """Send events; exit 1 if any was refused.

    Examples: evp send events.ndjson;  evp send --type signup --data '{"plan": "pro"}'
    """
    from contextlib import ExitStack

    from evp.cli import sending
    from evp.cli.context import run, sending_key, server_url, start
    from evp.errors import EXIT_FINDING, EXIT_OK, UsageError
    from evp.sender import Account, Line, lines_of

    if (file is None) == (type_ is None):
        raise UsageError("give a FILE (or - for standard input), or --type for one event")
    flags = {"data": data, "source": source, "id": id_, "subject": subject, "time": time}
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    if given and type_ is None:
        raise UsageError(f"{' and '.join(given)} belong to --type; a FILE has whole events")
    settings = start()
    with ExitStack() as stack:
        if type_ is not None:
            event = sending.one_event(type_, data, source, id_, subject, time)
            lines = iter([Line(1, event)])
            size_bytes: int | None = len(event)
        else:
            opened, size_bytes = sending.open_input(stack, str(file))
            lines = lines_of(opened)
        address, secret, account = server_url(settings, url), sending_key(settings, key), Account()
        sending.end_at_ctrl_c()
        try:
            run(sending.send_all(address, secret, lines, size_bytes, account))
        finally:
            # Also where it ended before its time: this much was accepted.
            sending.report(account, json=json)
    raise typer.Exit(EXIT_FINDING if account.refused else EXIT_OK)
