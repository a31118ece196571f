"""Whether events stand in the store: asked before the last copy beside it is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from bson import Binary
from bson.raw_bson import RawBSONDocument

from evp.batch.outcome import same_event
from evp.batch.raw import AS_IT_IS
from evp.storage.client import Database
from evp.storage.dlq import Body, Letter
from evp.storage.failures import told
from evp.storage.lookup import portions
from evp.storage.schema import EVENTS


async def standing(db: Database, ids: Sequence[bytes], documents: Sequence[bytes]) -> set[int]:
    """Return the places of the documents, as BSON, whose very event is in the store under its id.

    Another event with the id does not count. Raises StoreUnavailable.
    """
    events = db.get_collection(EVENTS, codec_options=AS_IT_IS)
    found: dict[bytes, Mapping[str, Any]] = {}
    with told():
        for portion in portions(sorted(set(ids))):
            wanted = [Binary(one, 4) for one in portion]
            for document in await events.find({"_id": {"$in": wanted}}).to_list():
                found[bytes(document["_id"])] = document
    return {
        place
        for place, id_ in enumerate(ids)
        if id_ in found and same_event(found[id_], RawBSONDocument(documents[place]))
    }


async def standing_letters(
    db: Database, letters: Sequence[Letter], kept: Mapping[str, Body]
) -> set[str]:
    """Return the ids of letters whose very event is in the store, by what was kept of them.

    One that is not whole can't tell. Raises StoreUnavailable.
    """
    event_ids = {
        one.id: UUID(one.event_id).bytes
        for one in letters
        if one.event_id is not None and one.id in kept and kept[one.id].is_whole(one)
    }
    ids = list(event_ids)
    places = await standing(db, list(event_ids.values()), [kept[id_].raw for id_ in ids])
    return {ids[place] for place in places}
