"""`evp health`: the probe for containers."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def health(
    live: Annotated[
        bool, typer.Option("--live", help="Ask only whether the process runs.")
    ] = False,
    url: Annotated[
        Optional[str], typer.Option(help="Address of the server; default: the configured one.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the server's answer.")] = False,
) -> None:
    """Ask a server whether it is ready; exit 0 if it is, 3 if not.

    Example, in a Dockerfile: HEALTHCHECK CMD evp health
    """
    from evp.cli.context import run, server_url, start
    from evp.cli.output import Output
    from evp.errors import EXIT_OK, EXIT_UNAVAILABLE
    from evp.http import HttpConnection, Reply

    settings = start()

    async def ask() -> Reply:
        async with HttpConnection(server_url(settings, url)) as connection:
            return await connection.request("GET", "/api/live" if live else "/api/ready")

    reply = run(ask(), asking="the server")
    ok = reply.status == 200
    if json:
        text = reply.body.decode()
    else:
        text = ("live" if live else "ready") if ok else f"not ready: {reply.code}"
    Output().say(text)
    raise typer.Exit(EXIT_OK if ok else EXIT_UNAVAILABLE)
