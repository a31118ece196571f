"""`evp up`: everything on this machine, in one foreground command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def up(
    port: Annotated[Optional[int], typer.Option(help="Port of the server.")] = None,
    data_dir: Annotated[Optional[Path], typer.Option(help="Where all data goes.")] = None,
    serve_processes: Annotated[int, typer.Option(min=1, max=64, help="Server processes.")] = 1,
    work_processes: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    demo: Annotated[
        Optional[int],
        typer.Option(min=1, max=1_000_000, help="Send so many made events and print the account."),
    ] = None,
) -> None:
    """Run log, store, server and workers; Ctrl-C stops all. Data is kept and opened again.

    Example: evp up --demo 10000
    """
    import msgspec

    from evp.cli.context import configure_logs, load_settings, run, with_secrets
    from evp.cli.upping import bring_up
    from evp.engines.stack import lock

    loaded = load_settings(serves=True, port=port, data_dir=data_dir)
    # The terminal belongs to the account; what goes wrong is still told.
    quiet = loaded.origins["log_level"] == "default"
    level = "warning" if quiet else loaded.settings.log_level
    configure_logs(level)
    settings = msgspec.structs.replace(loaded.settings, log_level=level)
    with lock(settings.data_dir) as held:
        settings = with_secrets(settings)
        run(
            bring_up(settings, loaded.origins, held.fileno(), serve_processes, work_processes, demo)
        )
