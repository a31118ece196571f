"""`evp groups`: the consumer groups, and what they hold up."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

groups = typer.Typer(
    name="groups", help="Look at consumer groups, make, set and delete them.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The group.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@groups.command("list")
def list_groups(
    json: Json = False,
) -> None:
    """Show each group: whether it exists, what waits for it, which one holds the log back.

    Example: evp groups list --json | jq '.[] | select(.pins)'
    """
    from evp.cli.context import run, start
    from evp.cli.output import Output
    from evp.groups.book import GroupBook, GroupRow
    from evp.views.groups import group_table

    async def rows() -> list[GroupRow]:
        async with GroupBook.opened(start()) as book:
            return await book.rows()

    found, output = run(rows(), asking="log and store"), Output()
    if json:
        output.say_json(found)
    else:
        output.print(group_table(found))


@groups.command()
def describe(name: Name, json: Json = False) -> None:
    """Show where a group stands, what waits for it, and who reads by it.

    Example: evp groups describe evp-workers-group
    """
    from evp.cli.context import run, start
    from evp.cli.output import Output
    from evp.groups import describe as service
    from evp.views.groups import description_view

    found = run(service.describe(start(), name))
    if json:
        Output().say_json(found)
    else:
        Output().print(description_view(found))


@groups.command()
def create(
    name: Name,
    begin: Annotated[
        str,
        typer.Option("--from", metavar="WHERE", help="earliest, latest, an age (2h) or a time."),
    ] = "earliest",
    json: Json = False,
) -> None:
    """Make a group and register it, as workers do: the log is kept for it from then on.

    For a second consumer of the log; the group that writes to the database is made by
    `evp work`.

    Example: evp groups create analytics --from 30m
    """
    from evp.cli.context import run, start
    from evp.cli.grouping import named_target_of
    from evp.cli.output import Output
    from evp.groups.book import Created, GroupBook

    target, settings = named_target_of("--from", begin), start()

    async def create_it() -> Created:
        async with GroupBook.opened(settings) as book:
            return await book.create(name, target)

    made, output = run(create_it()), Output()
    if json:
        output.say_json(made)
    else:
        output.say(f"group {name} is made; {made.lag_events:,} events of the log wait for it")


@groups.command()
def reset(
    name: Name,
    to_datetime: Annotated[
        Optional[str],
        typer.Option(metavar="TIME", help="To what came at a time with a zone or later."),
    ] = None,
    by_duration: Annotated[
        Optional[str], typer.Option(metavar="SPAN", help="To what came so long ago: 90m, 24h.")
    ] = None,
    to_earliest: Annotated[
        bool, typer.Option("--to-earliest", help="To the first entry that the log has.")
    ] = False,
    to_latest: Annotated[
        bool, typer.Option("--to-latest", help="Behind the last entry that the log has.")
    ] = False,
    execute: Annotated[
        bool, typer.Option("--execute", help="Do it; without, it is only told what it means.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even if events are skipped that the store does not have."),
    ] = False,
    json: Json = False,
) -> None:
    """Set a group to another place of the log: what it is delivered next begins there.

    Going back does no harm where evp's workers read: what is stored already is recognised.
    Going forward skips events. Nobody may read by the group meanwhile.

    Examples: evp groups reset evp-workers-group --by-duration 90m;
    evp groups reset analytics --to-latest --execute
    """
    from evp.cli.context import run, start
    from evp.cli.grouping import Where, checked, print_reset
    from evp.cli.grouping import reset as set_group

    where = checked(Where(to_datetime, by_duration, to_earliest, to_latest))
    done = run(set_group(start(), name, where, execute=execute, force=force))
    print_reset(done, json=json)


@groups.command("delete")
def delete_group(
    name: Name,
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
    from evp.groups.book import GroupBook, GroupRow

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
