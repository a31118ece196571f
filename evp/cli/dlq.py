"""`evp dlq`: look at dead letters, deliver them once more, give them up for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from evp.dlq.actions import Account, Notify
    from evp.storage.client import Database

dlq = typer.Typer(name="dlq", help="Look at dead letters, and mend them.", no_args_is_help=True)

Reason = Annotated[Optional[str], typer.Option(help="Only those with this reason.")]
Error = Annotated[
    Optional[str], typer.Option(help="Only those that died alike, as `top` shows it.")
]
Type = Annotated[Optional[str], typer.Option("--type", help="Only events of this type.")]
Source = Annotated[Optional[str], typer.Option(help="Only events of this source.")]
Since = Annotated[
    Optional[str], typer.Option(help="Refused since then: 30m, 2h, 7d, or a time with a zone.")
]
Until = Annotated[Optional[str], typer.Option(help="Refused before then.")]
Frame = Annotated[Optional[str], typer.Option(help="Only events of this frame, by its id.")]
Ids = Annotated[Optional[list[str]], typer.Argument(help="Only these.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@dlq.callback()
def root() -> None:
    """Look at dead letters, and mend them."""


@dlq.command("list", epilog="Example: evp dlq list --reason id_conflict --since 2h")
def list_(
    reason: Reason = None,
    error: Error = None,
    type_: Type = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    frame: Frame = None,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="Show so many.")] = 20,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also those that don't count: purged, settling and so on."),
    ] = False,
    json: Json = False,
) -> None:
    """Count dead letters by reason, and show the newest."""
    from evp.cli.context import start
    from evp.cli.output import Output
    from evp.cli.replaying import filters_of
    from evp.cli.storing import with_store
    from evp.dlq.actions import look
    from evp.storage.dead_letters import REASONS
    from evp.storage.dlq import DEAD, STATES
    from evp.views.dlq import listing_view

    filters = filters_of(reason, type_, source, since, until, frame, error=error)
    states = tuple(STATES) if everything else (DEAD,)
    listing = with_store(start(), lambda db: look(db, filters, limit, states=states))
    if json:
        Output().say_json(listing)
    else:
        Output().print(listing_view(listing, REASONS), soft_wrap=True)


@dlq.command(epilog="Example: evp dlq top --since 24h;  evp dlq top --by type --json")
def top(
    by: Annotated[
        str, typer.Option(metavar="WHAT", help="error, reason, type or source.")
    ] = "error",
    reason: Reason = None,
    error: Error = None,
    type_: Type = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show so many groups.")] = 10,
    json: Json = False,
) -> None:
    """Group dead letters by what they died of, the largest group first, each with what to do.

    An error is a reason and what was said, with ids, numbers and quoted values left out.
    """
    from evp.cli.context import start
    from evp.cli.topping import print_top, top_of

    given = {
        "--reason": reason,
        "--error": error,
        "--type": type_,
        "--source": source,
        "--since": since,
        "--until": until,
    }
    print_top(top_of(start(), by, given, limit), json=json)


@dlq.command(epilog="Example: evp dlq show 65f0c0ffee0ddba11ca7f00d:3 --json | jq .event.data")
def show(
    letter: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Show all of what it holds.")] = False,
    json: Json = False,
) -> None:
    """Show all about one dead letter: the event, why it is dead, what to do about it."""
    from evp.cli.context import start
    from evp.cli.replaying import checked_id, print_shown
    from evp.cli.storing import with_store
    from evp.dlq import actions as service

    letter_id = checked_id(letter)
    print_shown(with_store(start(), lambda db: service.show(db, letter_id)), raw=raw, json=json)


@dlq.command(epilog="Example: evp dlq replay --reason document_validation --rate 500")
def replay(
    ids: Ids = None,
    reason: Reason = None,
    error: Error = None,
    type_: Type = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    frame: Frame = None,
    rate: Annotated[
        Optional[float], typer.Option(min=0.1, help="No more than so many a second.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Deliver dead letters once more, after what made them has been mended.

    An event is stored under its own id, so that doing it twice does no harm;
    what is refused again stays, and is exit 1.
    """
    from evp.cli.context import start
    from evp.cli.replaying import Options, change, filters_of
    from evp.dlq import actions as service
    from evp.documents import Admission
    from evp.storage.replay import Replayer

    filters = filters_of(reason, type_, source, since, until, frame, ids, error=error)
    settings = start()
    admission = Admission(settings.default_source, settings.time_in_id)

    async def work(db: Database, account: Account, notify: Notify) -> None:
        replayer = Replayer(db, admission, settings.write_timeout_ms)
        await service.replay(db, filters, replayer, account, notify, letters_per_s=rate)

    options = Options(service.TO_REPLAY, dry_run, yes, json)
    raise typer.Exit(change(settings, filters, "replay", "delivered", work, options=options))


@dlq.command(epilog="Example: evp dlq purge --reason invalid_entry --until 30d --dry-run")
def purge(
    ids: Ids = None,
    reason: Reason = None,
    error: Error = None,
    type_: Type = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    frame: Frame = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Give dead letters up for good: what they hold is removed.

    That an event was dead stays on record, so that nothing looks lost. A letter
    that is not known to count as dead, and may hold the last copy, stays, and is exit 1.
    """
    from evp.cli.context import start
    from evp.cli.replaying import Options, change, filters_of
    from evp.dlq import actions as service

    filters = filters_of(reason, type_, source, since, until, frame, ids, error=error)

    async def work(db: Database, account: Account, notify: Notify) -> None:
        await service.purge(db, filters, account, notify)

    options = Options(service.TO_PURGE, dry_run, yes, json)
    raise typer.Exit(change(start(), filters, "purge", "purged", work, options=options))
