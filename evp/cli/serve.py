"""`evp serve`: the ingest server."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def serve(
    host: Annotated[Optional[str], typer.Option(help="Address to listen on.")] = None,
    port: Annotated[Optional[int], typer.Option(help="Port to listen on.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that share the port.")
    ] = 1,
    socket_fd: Annotated[
        Optional[int], typer.Option(hidden=True, help="Serve on this inherited socket.")
    ] = None,
    board: Annotated[
        Optional[str], typer.Option(hidden=True, help="Share metrics at this place.")
    ] = None,
) -> None:
    """Accept events over HTTP and answer 202 once the log has them on disk.

    Example: evp serve --port 3001 --processes 2
    """
    import socket
    import sys

    from evp import supervise
    from evp.cli.context import child_environ, run, run_until_told, start, with_secrets
    from evp.metrics.board import Board, Place
    from evp.server.run import serve as serve_one
    from evp.settings import PRODUCTION

    settings = start(serves=True, host=host, port=port)
    if settings.env != PRODUCTION:
        settings = with_secrets(settings)
    if socket_fd is not None:
        inherited = socket.socket(fileno=socket_fd)
        place = Place.of_flag(board) if board else None
        run_until_told(lambda signals: serve_one(settings, inherited, signals, place))
        return
    listener = supervise.bind(settings.host, settings.port)
    if processes == 1:
        run_until_told(lambda signals: serve_one(settings, listener, signals))
        return
    command = [sys.executable, "-m", "evp", "serve", "--socket-fd", str(listener.fileno())]
    shared = Board()
    children = [
        supervise.Child(
            name=name,
            command=[*command, "--board", shared.place(name)],
            environ=child_environ(settings),
            pass_fds=(listener.fileno(), shared.fd),
        )
        for name in (f"serve-{number}" for number in range(1, processes + 1))
    ]
    timeout_s = settings.drain_delay_ms / 1000 + settings.shutdown_timeout_s + 1
    run(supervise.run_children(children, timeout_s))
