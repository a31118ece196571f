"""The `evp` command. Each subcommand parses, builds, calls one function, renders."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from evp.cli.claim_stale import claim_stale
from evp.cli.config import config
from evp.cli.dlq import dlq
from evp.cli.doctor import doctor
from evp.cli.drill import drill
from evp.cli.erase import erase
from evp.cli.groups import groups
from evp.cli.health import health
from evp.cli.init import init
from evp.cli.keys import keys
from evp.cli.loadtest import loadtest
from evp.cli.openapi import openapi
from evp.cli.send import send
from evp.cli.serve import serve
from evp.cli.stats import stats
from evp.cli.tap import tap
from evp.cli.trace import trace
from evp.cli.up import up
from evp.cli.users import users
from evp.cli.verify import verify
from evp.cli.work import work
from evp.errors import EvpError

app = typer.Typer(
    name="evp",
    help="Accept events durably, store each exactly once, and see that none is lost.",
    epilog="Start with: evp up --demo 10000",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up)
app.command()(serve)
app.command()(work)
app.command()(send)
app.command()(stats)
app.command()(tap)
app.command()(trace)
app.command()(verify)
app.command()(loadtest)
app.command()(drill)
app.command()(health)
app.command()(openapi)
app.command("claim-stale")(claim_stale)
app.command()(erase)
app.command()(init)
app.command()(doctor)
app.add_typer(groups)
app.add_typer(dlq)
app.add_typer(keys)
app.add_typer(users)
app.add_typer(config)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print versions: evp, commit, Python, engines found here."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: print JSON.")] = False,
) -> None:
    """Accept events durably, store each exactly once, and see that none is lost."""
    if version:
        from evp.cli.version import tell_version

        tell_version(json=json)
        raise typer.Exit
    if json:
        context.fail("--json goes behind the command, as in: evp stats --json")
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def main() -> None:
    """Run the command line; every expected failure is one clear line and an exit code."""
    try:
        app(prog_name="evp")
    except EvpError as error:
        print(f"evp: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
