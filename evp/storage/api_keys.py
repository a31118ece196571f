"""API keys as the store keeps them: `evp.api_keys` has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
import pymongo
from msgspec import Struct
from pymongo import DeleteOne, UpdateOne

from evp.api_keys import ApiKey
from evp.clock import from_ms, to_ms
from evp.limits import API_KEYS_MAX
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.schema import API_KEYS


class _Row(Struct, rename={"id": "_id"}):
    """A key's document."""

    id: str
    name: str
    digest: bytes
    scopes: tuple[str, ...]
    created_at: datetime
    rate_per_s: int | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


async def read_keys(db: Database, *, within_s: float | None = None) -> dict[str, ApiKey]:
    """Return all keys by id; a document that is no key is passed over. Raises StoreUnavailable."""
    with told(), pymongo.timeout(within_s):
        # Two that were made at once may be one more than the most.
        rows = await db[API_KEYS].find().limit(2 * API_KEYS_MAX).to_list()
    return {key.id: key for row in rows if (key := _key(row))}


async def add_keys(db: Database, keys: Iterable[ApiKey], *, within_s: float | None = None) -> None:
    """Add keys, and end those that are there no later than these, one after the other.

    Raises StoreUnavailable. Doing it again is right.
    """
    steps = [UpdateOne({"_id": key.id}, _update(key), upsert=True) for key in keys]
    if steps:
        with told(), pymongo.timeout(within_s):
            await db[API_KEYS].bulk_write(steps, ordered=True)


async def remove_keys(db: Database, ids: Sequence[str]) -> None:
    """Forget keys. Raises StoreUnavailable."""
    if ids:
        with told():
            await db[API_KEYS].bulk_write([DeleteOne({"_id": one}) for one in ids])


def _update(key: ApiKey) -> Document:
    fixed = {
        "name": key.name,
        "digest": key.digest,
        "scopes": list(key.scopes),
        "created_at": from_ms(key.created_at_ms),
    }
    if key.rate_per_s is not None:
        fixed["rate_per_s"] = key.rate_per_s
    ends = {"expires_at": key.expires_at_ms, "revoked_at": key.revoked_at_ms}
    earlier = {name: from_ms(at_ms) for name, at_ms in ends.items() if at_ms is not None}
    return {"$setOnInsert": fixed} | ({"$min": earlier} if earlier else {})


def _key(row: Document) -> ApiKey | None:
    try:
        kept = msgspec.convert(row, _Row)
    except msgspec.ValidationError:
        return None
    return ApiKey(
        id=kept.id,
        name=kept.name,
        digest=kept.digest,
        scopes=kept.scopes,
        rate_per_s=kept.rate_per_s,
        created_at_ms=to_ms(kept.created_at),
        expires_at_ms=_ms(kept.expires_at),
        revoked_at_ms=_ms(kept.revoked_at),
    )


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else to_ms(moment)
