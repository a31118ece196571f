"""`evp keys`: who may send, read and administer."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from evp.limits import API_KEY_RATE_PER_S_MAX

keys = typer.Typer(name="keys", help="Make, list, revoke or rotate API keys.", no_args_is_help=True)

_JSON = typer.Option("--json", help="Print JSON.")
_EXPIRES = typer.Option(help="When it ends: a time from now (90d, 12h) or RFC 3339.")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What or whom it is for.")],
    scope: Annotated[
        Optional[list[str]],
        typer.Option(
            "--scope",
            help="ingest (the default), read or admin, which may read as well; again for more.",
        ),
    ] = None,
    expires: Annotated[Optional[str], _EXPIRES] = None,
    rate: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            max=API_KEY_RATE_PER_S_MAX,
            help="Events a second it may send to each server process; a request is one at least.",
        ),
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept. Servers take it within 5 s.

    Example: evp keys create shop --scope ingest --expires 90d --rate 5000
    """
    from evp.cli import keying
    from evp.cli.context import run, start
    from evp.keybook import KeyBook, NewKey

    scopes, expires_at_ms = keying.scopes_of(scope or ["ingest"]), keying.end_of(expires)
    keying.require_name(name)
    settings = start()

    async def create() -> NewKey:
        async with KeyBook.opened(settings) as book:
            return await book.create(name, scopes, expires_at_ms=expires_at_ms, rate_per_s=rate)

    keying.show(run(create(), asking="log and store"), (), json=json)


@keys.command("list")
def list_keys(
    all_: Annotated[
        bool, typer.Option("--all", help="Those too that have ended, for 90 days.")
    ] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show the keys that were made: what each may do, how fast, how long.

    Example: evp keys list --json | jq -r '.[].name'
    """
    from evp.cli import keying
    from evp.cli.context import run, start
    from evp.cli.output import Output
    from evp.errors import Unavailable
    from evp.keybook import LIVE, KeyBook, KeyRow
    from evp.views.keys import key_table

    async def rows() -> tuple[list[KeyRow], list[Unavailable]]:
        async with KeyBook.opened(start()) as book:
            return await book.rows()

    found, away = run(rows(), asking="log and store")
    keying.tell_away(away)
    shown = [row for row in found if all_ or row.state == LIVE]
    if json:
        Output().say_json(shown)
    else:
        Output().print(key_table(shown, ended=len(found) - len(shown)))


@keys.command("revoke")
def revoke_key(
    who: Annotated[str, typer.Argument(help="Its id, or a name: then all keys of that name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """End a key for good. Every server refuses it within 5 s, also while the store is away.

    Exit 3 if only one of log and store could be told: run it again once both are there.

    Example: evp keys revoke shop --yes
    """
    import sys

    from evp.cli.context import run, start
    from evp.cli.output import Output
    from evp.errors import UsageError
    from evp.keybook import KeyBook, KeyRow

    settings = start()

    async def revoke() -> list[KeyRow]:
        async with KeyBook.opened(settings) as book:
            return await book.revoke(who)

    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"whoever uses {who} is refused from then on; add --yes to revoke it")
        typer.confirm(f"Revoke {who}? Whoever uses it is refused from then on.", abort=True)
    rows, output = run(revoke(), asking="log and store"), Output()
    if json:
        output.say_json(rows)
        return
    for row in rows:
        output.say(f"{row.name} ({row.id}) is revoked; servers refuse it within 5 s")


@keys.command("rotate")
def rotate_key(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    grace: Annotated[
        str, typer.Option(help="How long the old one works beside it: 24h, 30m, 7d; 0s for not.")
    ] = "24h",
    expires: Annotated[Optional[str], _EXPIRES] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Make a second key of a name and print it, this once; the old one ends after a time.

    The new one may do what the old one may, and lives as long as that was meant to.

    Example: evp keys rotate shop --grace 48h
    """
    from evp.cli import keying
    from evp.cli.context import run, start
    from evp.keybook import KeyBook, KeyRow, NewKey

    grace_ms, expires_at_ms = keying.grace_ms_of(grace), keying.end_of(expires)
    settings = start()

    async def rotate() -> tuple[NewKey, list[KeyRow]]:
        async with KeyBook.opened(settings) as book:
            return await book.rotate(name, grace_ms=grace_ms, expires_at_ms=expires_at_ms)

    made, old = run(rotate(), asking="log and store")
    keying.show(made, old, json=json)
