"""`evp erase`: remove what is known of somebody, and keep every count."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def erase(
    subject: Annotated[Optional[str], typer.Option(help="Events of this subject.")] = None,
    event: Annotated[
        Optional[str],
        typer.Option("--id", help="Events with this id: the sender's, or evp's event_id."),
    ] = None,
    source: Annotated[Optional[str], typer.Option(help="Only events of this source.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Erase them; without it they are only counted.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Erase events for good: from what is stored, and from dead letters.

    Of each event its type, source and time stay, and that it was erased: counts
    and `evp verify` are as before, and the same event, sent or delivered again,
    does not come back. All events are gone through, which takes time. What waits in
    the log is told: erase again once it is stored. Exit 1 if any had to stay.

    Examples: evp erase --subject user_1;  evp erase --id order-17 --source shop --yes
    """
    from evp.cli.context import start
    from evp.cli.erasing import erase_and_tell, wanted_of

    wanted = wanted_of(subject, event, source)
    raise typer.Exit(erase_and_tell(start(), wanted, dry_run=not yes, json=json))
