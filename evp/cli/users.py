"""`evp users`: the people who may log in."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evp.storage.users import User

users = typer.Typer(name="users", help="Manage who may log in.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The user's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Scope(StrEnum):
    """What a user may do."""

    READ = "read"
    ADMIN = "admin"


@users.command(epilog="Example: evp users create anna --scope admin")
def create(
    name: Name,
    scope: Annotated[
        Scope, typer.Option(help="What they may do: read, or everything.")
    ] = Scope.READ,
    json: Json = False,
) -> None:
    """Make a user. The password is asked for, or read as a line of standard input."""
    from evp import users as service
    from evp.cli.context import start
    from evp.cli.passwords import ask_password
    from evp.cli.storing import with_store

    settings = start()
    service.check_name(name)
    password = ask_password()
    user = with_store(settings, lambda db: service.create(db, name, password, scope.value))
    _tell(user, f"user {user.name} is made, with the scope {scope.value}", json=json)


@users.command(
    "list", epilog="Example: evp users list --json | jq -r '.[] | select(.disabled).name'"
)
def list_(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show all users."""
    from evp.cli.context import start
    from evp.cli.output import Output
    from evp.cli.storing import with_store
    from evp.storage.users import listed
    from evp.views.users import user_table

    found, output = with_store(start(), listed), Output()
    if json:
        output.say_json(found)
    else:
        output.print(user_table(found))


@users.command(epilog="Example: evp users passwd anna")
def passwd(name: Name, json: Json = False) -> None:
    """Set another password, which is asked for, or read as a line of standard input.

    Whoever is logged in by the old one must log in again, within a minute.
    """
    from evp import users as service
    from evp.cli.context import start
    from evp.cli.passwords import ask_password
    from evp.cli.storing import with_store

    settings = start()
    with_store(settings, lambda db: service.require(db, name))
    password = ask_password()
    user = with_store(settings, lambda db: service.change_password(db, name, password))
    _tell(user, f"user {user.name} has another password", json=json)


@users.command(epilog="Example: evp users disable anna")
def disable(name: Name, json: Json = False) -> None:
    """Keep a user from logging in; who is logged in stays so for a minute at most."""
    from evp import users as service
    from evp.cli.context import start
    from evp.cli.storing import with_store

    user = with_store(start(), lambda db: service.disable(db, name))
    _tell(user, f"user {user.name} is disabled", json=json)


@users.command(epilog="Example: evp users enable anna")
def enable(name: Name, json: Json = False) -> None:
    """Let a user who was disabled log in again, by the same password."""
    from evp import users as service
    from evp.cli.context import start
    from evp.cli.storing import with_store

    user = with_store(start(), lambda db: service.enable(db, name))
    _tell(user, f"user {user.name} is enabled", json=json)


def _tell(user: User, line: str, *, json: bool) -> None:
    from evp.cli.output import Output

    if json:
        Output().say_json(user)
    else:
        Output().say(line)
