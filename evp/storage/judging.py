"""Judging frames again whose dead letters were delivered after all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bson import Binary, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError

from evp.batch.outcome import Outcome, same_event, summary_of
from evp.batch.raw import AS_IT_IS, member
from evp.clock import to_ms
from evp.storage.client import Database, Document
from evp.storage.dlq import DEAD, Filters, bodies, portions_of, walk
from evp.storage.failures import unavailable
from evp.storage.lookup import portions
from evp.storage.schema import EVENTS, FRAMES, OUTCOMES
from evp.storage.settle import settle

_ID_BYTES = 16


async def judge_again(db: Database, frame_ids: Iterable[ObjectId]) -> None:
    """Settle frames anew by what the store has now of their events.

    Leaves alone what is not settled. Raises StoreUnavailable; calling again is safe.
    """
    try:
        for frame_id in frame_ids:
            header = await db[FRAMES].find_one({"_id": frame_id})
            outcome = await db[OUTCOMES].find_one({"_id": frame_id})
            if header and outcome and not outcome.get("open") and not outcome.get("provisional"):
                await settle(db, [await _judge(db, header, outcome)])
    except PyMongoError as error:
        raise unavailable(error) from error


async def _judge(db: Database, header: Document, before: Document) -> Outcome:
    all_ids = bytes(header["ids"])
    ids = [all_ids[start : start + _ID_BYTES] for start in range(0, len(all_ids), _ID_BYTES)]
    found = await _stored(db, ids)
    dead = set(before["dead"])
    for index, event in await _dead_events(db, header["_id"]):
        document = found.get(ids[index])
        if document is not None and same_event(document, event):
            dead.discard(index)
    alive = {id_ for index, id_ in enumerate(ids) if index not in dead}
    mine = [
        found[id_]
        for id_ in alive
        if id_ in found and member(found[id_], "frame_id") == header["_id"]
    ]
    accepted_ms = to_ms(before["accepted_at"])
    return Outcome(
        frame_id=header["_id"],
        stored=len(mine),
        duplicate=len(ids) - len(mine) - len(dead),
        dead=sorted(dead),
        summary=summary_of(mine, accepted_ms),
        accepted_ms=accepted_ms,
    )


async def _stored(db: Database, ids: list[bytes]) -> dict[bytes, Any]:
    events = db.get_collection(EVENTS, codec_options=AS_IT_IS)
    found: dict[bytes, Any] = {}
    for portion in portions(sorted(set(ids))):
        wanted = [Binary(id_, 4) for id_ in portion]
        for document in await events.find({"_id": {"$in": wanted}}).to_list():
            found[bytes(document["_id"])] = document
    return found


async def _dead_events(db: Database, frame_id: ObjectId) -> list[tuple[int, RawBSONDocument]]:
    found: list[tuple[int, RawBSONDocument]] = []
    async for letters in walk(db, Filters(frame_id=str(frame_id)), {DEAD}):
        for portion in portions_of(letters):
            kept = await bodies(db, portion)
            found += [
                (one.index, RawBSONDocument(kept[one.id].raw))
                for one in portion
                if one.index is not None and one.id in kept
            ]
    return found
