"""`evp groups`: the consumer groups, and what they hold up."""

from __future__ import annotations

from typing import Annotated

import typer

groups = typer.Typer(name="groups", help="List or delete consumer groups.", no_args_is_help=True)


@groups.command("list")
def list_groups(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each group: whether it exists, what waits for it, which one holds the log back.

    Example: evp groups list --json | jq '.[] | select(.pins)'
    """
    from evp.cli.context import run, start
    from evp.cli.output import Output
    from evp.groups import GroupBook, GroupRow
    from evp.views.groups import group_table

    async def rows() -> list[GroupRow]:
        async with GroupBook.opened(start()) as book:
            return await book.rows()

    found, output = run(rows(), asking="log and store"), Output()
    if json:
        output.say_json(found)
    else:
        output.print(group_table(found))


@groups.command("delete")
def delete_group(
    name: Annotated[str, typer.Argument(help="The group.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even while anyone reads by it, or something waits for it."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete a group: what it has not read is no longer kept for it.

    Example: evp groups delete analytics --yes
    """
    import sys

    from evp.cli.context import run, start
    from evp.cli.output import Output
    from evp.errors import UsageError
    from evp.groups import GroupBook, GroupRow

    settings = start()

    async def find() -> GroupRow | None:
        async with GroupBook.opened(settings) as book:
            return next((row for row in await book.rows() if row.name == name), None)

    async def delete() -> None:
        async with GroupBook.opened(settings) as book:
            await book.delete(name, force=force)

    row = run(find(), asking="log and store")
    if row is None:
        raise UsageError(f"there is no group {name}; `evp groups list` shows those there are")
    waiting = row.pending_events + row.lag_events
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"group {name} has {waiting:,} events waiting; add --yes to delete it")
        typer.confirm(f"Delete group {name}, for which {waiting:,} events wait?", abort=True)
    run(delete(), asking="log and store")
    if json:
        Output().say_json({"group": name, "deleted": True, "events_waited": waiting})
    else:
        Output().say(f"group {name} is deleted; {waiting:,} events waited for it")
