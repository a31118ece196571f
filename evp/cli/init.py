"""`evp init`: the store made ready."""

from __future__ import annotations

from typing import Annotated

import typer


def init(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make collections and indexes in the store; in a cluster of shards, spread what is large.

    Workers make collections and indexes by themselves. They never shard: where
    EVP_MONGO_URL leads to a mongos, run this before the first event, as a user
    who may. events, frames, outcomes and dead letters are sharded by hashed _id.
    Doing it again does no harm. A collection that is sharded by anything else
    than _id is exit 2; what is different from what evp makes, or refused by the
    store, is told, and exit 1. What is only missing is exit 0, with --dry-run
    too: a script asks the JSON whether there is anything to do.

    Examples: evp init --dry-run;  evp init;
    evp init --dry-run --json | jq -e 'any(.steps[]; .state == "missing")'
    """
    from evp.cli.context import start
    from evp.cli.provisioning import provision_and_tell

    raise typer.Exit(provision_and_tell(start(), dry_run=dry_run, json=json))
