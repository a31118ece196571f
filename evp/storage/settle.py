"""Outcomes in the store: a frame is settled once its outcome is there and not open.

Two workers may settle one frame at once, and one may know less than the other
(it saw a refusal that has been mended since). The outcome with fewer dead wins;
to replace the other one it is first opened, then its bucket is marked, then it
is written anew: nobody ever takes a half of each, and no sum keeps the old one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo.errors import BulkWriteError

from evp.batch.outcome import Outcome
from evp.clock import from_ms, now, now_ms, to_ms
from evp.errors import StoreUnavailable
from evp.limits import JUDGE_AGAIN_AGE_MS_MAX, JUDGE_AGAIN_MS_MAX, JUDGE_AGAIN_MS_MIN
from evp.storage.buckets import bucket_of, mark
from evp.storage.client import Database, Document
from evp.storage.failures import failures_of
from evp.storage.lookup import portions
from evp.storage.schema import OUTCOMES

_ATTEMPTS_MAX = 20
_STATE = (
    "_id",
    "stored",
    "duplicate",
    "dead",
    "open",
    "provisional",
    "settled_at",
    "judged_at",
)
"""What tells one outcome of a frame from the next. The time alone would not do: two may
settle within one millisecond."""


async def settle(db: Database, outcomes: Sequence[Outcome], worker: str = "") -> None:
    """Write outcomes; where one is there already, the one with fewer dead stays.

    `worker` is who wrote the events, for people who look. Raises StoreUnavailable and
    PyMongoError; calling again is safe.
    """
    if not outcomes:
        return
    try:
        documents = [document_of(one, worker) for one in outcomes]
        await db[OUTCOMES].insert_many(documents, ordered=False)
    except BulkWriteError as error:
        for place in failures_of(error):
            await _settle_anew(db, outcomes[place], worker)


async def settled_among(db: Database, frame_ids: Sequence[ObjectId]) -> set[ObjectId]:
    """Return which of these frames have an outcome that is final."""
    return {
        document["_id"]
        for portion in portions(frame_ids)
        for document in await db[OUTCOMES].find({"_id": {"$in": portion}}).to_list()
        if is_final(document)
    }


def is_final(document: Mapping[str, Any]) -> bool:
    """Return True unless an outcome is judged again, or was made without the events."""
    return not document.get("open") and not document.get("provisional")


def judge_at(since_ms: int) -> datetime | None:
    """Return when to judge an outcome again that is as it is since `since_ms`: ever less often.

    None once it is so old that no worker will come back to it.
    """
    age_ms = now_ms() - since_ms
    if age_ms >= JUDGE_AGAIN_AGE_MS_MAX:
        return None
    wait_ms = min(max(age_ms // 2, JUDGE_AGAIN_MS_MIN), JUDGE_AGAIN_MS_MAX)
    return from_ms(now_ms() + wait_ms)


def document_of(outcome: Outcome, worker: str = "") -> Document:
    """Return an outcome as it stands in the store; without a `worker` it does not name one."""
    summary, at = outcome.summary, now()
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
        "settled_at": at,
    }
    if summary.source_cells:
        document["source_cells"] = [list(cell) for cell in summary.source_cells]
    if worker:
        document["worker"] = worker
    if outcome.external:
        document["external"] = True
    if outcome.provisional:
        document |= {"provisional": True, "missing": outcome.missing}
    if outcome.provisional or outcome.dead:
        document["judge_at"] = judge_at(to_ms(at))
    return document


async def replace(
    db: Database, there: Mapping[str, Any], outcome: Outcome, worker: str = ""
) -> bool:
    """Put an outcome in the place of the one that was seen; False if that has changed since.

    Raises StoreUnavailable and PyMongoError; the old one may then be left open.
    """
    seen = {name: there.get(name) for name in _STATE}
    if not there.get("open"):
        opened = {"open": True, "judge_at": judge_at(now_ms())}
        if not (await db[OUTCOMES].update_one(seen, {"$set": opened})).matched_count:
            return False
        seen["open"] = True
    # Whoever opened it may have died before this; only now is it sure.
    await mark(db, [bucket_of(outcome.accepted_ms)])
    document = document_of(outcome, worker)
    if "provisional" not in there:
        # It was stored when it was settled first, not now.
        document.pop("worker", None)
        first = {name: there[name] for name in ("settled_at", "worker") if name in there}
        document |= first | {"judged_at": now()}
    return bool((await db[OUTCOMES].replace_one(seen, document)).matched_count)


async def _settle_anew(db: Database, mine: Outcome, worker: str) -> None:
    """Agree on one outcome with whoever has settled this frame before."""
    for _ in range(_ATTEMPTS_MAX):
        there: dict[str, Any] | None = await db[OUTCOMES].find_one({"_id": mine.frame_id})
        if there is None:
            raise StoreUnavailable("an outcome was there and is gone")
        if is_final(there) and len(there["dead"]) <= len(mine.dead):
            return
        if await replace(db, there, mine, worker):
            return
    raise StoreUnavailable(f"frame {mine.frame_id}: others keep changing its outcome")
