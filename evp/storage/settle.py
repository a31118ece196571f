"""Outcomes in the store: a frame is settled once its outcome is there and not open.

Two workers may settle one frame at once, and one may know less than the other
(it saw a refusal that has been mended since). The outcome with fewer dead wins;
to replace the other one it is first opened, then written anew, so that nobody
ever takes a half of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId
from pymongo.errors import BulkWriteError

from evp.batch.outcome import Outcome
from evp.clock import from_ms, now
from evp.errors import StoreUnavailable
from evp.storage.client import Database, Document
from evp.storage.failures import failures_of
from evp.storage.lookup import portions
from evp.storage.schema import OUTCOMES

_ATTEMPTS_MAX = 20
_STATE = ("_id", "settled_at", "dead", "open", "provisional")


async def settle(db: Database, outcomes: Sequence[Outcome]) -> None:
    """Write outcomes; where one is there already, the one with fewer dead stays.

    Raises StoreUnavailable and PyMongoError; calling again is safe.
    """
    if not outcomes:
        return
    try:
        await db[OUTCOMES].insert_many([document_of(one) for one in outcomes], ordered=False)
    except BulkWriteError as error:
        for place in failures_of(error):
            await _settle_anew(db, outcomes[place])


async def settled_among(db: Database, frame_ids: Sequence[ObjectId]) -> set[ObjectId]:
    """Return which of these frames have an outcome that is final."""
    return {
        document["_id"]
        for portion in portions(frame_ids)
        for document in await db[OUTCOMES].find({"_id": {"$in": portion}}).to_list()
        if not document.get("open") and not document.get("provisional")
    }


def document_of(outcome: Outcome) -> Document:
    """Return an outcome as it stands in the store."""
    summary = outcome.summary
    document = {
        "_id": outcome.frame_id,
        "stored": outcome.stored,
        "duplicate": outcome.duplicate,
        "dead": outcome.dead,
        "cells": [list(cell) for cell in summary.cells],
        # Pairs, not members: a source may hold dots and dollars.
        "sources": [list(pair) for pair in summary.sources.items()],
        "first_ms": summary.first_ms,
        "last_ms": summary.last_ms,
        "accepted_at": from_ms(outcome.accepted_ms),
        "settled_at": now(),
    }
    if outcome.external:
        document["external"] = True
    return document


async def _settle_anew(db: Database, mine: Outcome) -> None:
    """Agree on one outcome with whoever has settled this frame before."""
    collection = db[OUTCOMES]
    for _ in range(_ATTEMPTS_MAX):
        there: dict[str, Any] | None = await collection.find_one({"_id": mine.frame_id})
        if there is None:
            raise StoreUnavailable("an outcome was there and is gone")
        replaceable = there.get("open") or there.get("provisional")
        if not replaceable and len(there["dead"]) <= len(mine.dead):
            return
        # The time alone would not do: two may settle within one millisecond.
        seen = {name: there.get(name) for name in _STATE}
        if replaceable:
            if (await collection.replace_one(seen, document_of(mine))).matched_count:
                return
        else:
            await collection.update_one(seen, {"$set": {"open": True}})
    raise StoreUnavailable(f"frame {mine.frame_id}: others keep changing its outcome")
