"""`evp config`: what is set, and where it comes from."""

from __future__ import annotations

from typing import Annotated

import typer

config = typer.Typer(name="config", help="Look at the settings.", no_args_is_help=True)


@config.callback()
def root() -> None:
    """Look at the settings."""


@config.command(epilog="Example: evp config show --json | jq .EVP_PORT.value")
def show(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every setting with its value and origin; secrets are masked."""
    from evp.cli.context import load_settings
    from evp.cli.output import Output
    from evp.settings import ROWS, shown
    from evp.views.tables import plain_table

    loaded = load_settings()
    rows = [
        {
            "setting": row.key,
            "value": shown(row, loaded.settings),
            "origin": loaded.origins[row.name],
        }
        for row in ROWS
    ]
    output = Output()
    if json:
        by_key = {row.pop("setting"): row for row in rows}
        output.say_json(by_key)
    else:
        output.print(plain_table(rows))
