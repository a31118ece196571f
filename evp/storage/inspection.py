"""What the store says about itself, and what of evp's is missing there: read only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from evp.clock import to_ms
from evp.storage.client import Database
from evp.storage.failures import told
from evp.storage.schema import ALL, INDEXES

_OPTIONS = ("unique", "sparse", "expireAfterSeconds", "partialFilterExpression")


class SchemaGaps(Struct):
    """Collections that are missing, indexes that are, and those that are not as evp makes them.

    Indexes are (collection, name).
    """

    collections: list[str]
    missing: list[tuple[str, str]]
    different: list[tuple[str, str]]


async def hello(db: Database) -> tuple[int | None, bool]:
    """Return the clock of the store's server, ms, if told, and whether it is alone.

    Raises StoreUnavailable.
    """
    with told():
        said = await db.client.admin.command("hello")
    at = said.get("localTime")
    is_alone = "setName" not in said and said.get("msg") != "isdbgrid"
    return to_ms(at.replace(tzinfo=UTC)) if isinstance(at, datetime) else None, is_alone


async def is_persistent(db: Database) -> bool:
    """Return False if the store's engine keeps everything in memory. Raises StoreUnavailable."""
    with told():
        said = await db.client.admin.command("serverStatus")
    return bool((said.get("storageEngine") or {}).get("persistent", True))


async def schema_gaps(db: Database) -> SchemaGaps:
    """Return what `schema.ensure` would make, and what it could not. Raises StoreUnavailable."""
    with told():
        existing = set(await db.list_collection_names())
        gaps = SchemaGaps([name for name in ALL if name not in existing], [], [])
        for name, wanted in INDEXES.items():
            rows = await (await db[name].list_indexes()).to_list() if name in existing else []
            for one in wanted:
                state = index_state(one.document, rows)
                if state is not None:
                    getattr(gaps, state).append((name, one.document["name"]))
    return gaps


def index_state(wanted: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Return whether an index is `missing` or `different`; None if it is as it should be.

    `rows` are the indexes that there are, as listIndexes tells them.
    """
    for row in rows:
        same_keys = list(row["key"].items()) == list(wanted["key"].items())
        if not same_keys and row["name"] != wanted["name"]:
            continue
        same = same_keys and all(_option(row, one) == _option(wanted, one) for one in _OPTIONS)
        return None if same else "different"
    return "missing"


def _option(index: Mapping[str, Any], name: str) -> Any:
    value = index.get(name)
    return None if value is False else value
