"""Whether events stand in the store: asked before the last copy beside it is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from uuid import UUID

from bson.raw_bson import RawBSONDocument

from evp.batch.outcome import same_event
from evp.storage.client import Database
from evp.storage.dlq import Body, Letter
from evp.storage.failures import told
from evp.storage.lookup import stored_events


async def standing(db: Database, ids: Sequence[bytes], documents: Sequence[bytes]) -> set[int]:
    """Return the places of the documents, as BSON, whose very event is in the store under its id.

    Another event with the id does not count. Raises StoreUnavailable.
    """
    with told():
        found = await stored_events(db, set(ids))
    return {
        place
        for place, id_ in enumerate(ids)
        if id_ in found and same_event(found[id_], RawBSONDocument(documents[place]))
    }


async def standing_letters(
    db: Database, letters: Sequence[Letter], kept: Mapping[str, Body]
) -> set[str]:
    """Return the ids of letters whose very event is in the store, by what was kept of them.

    For one that is not whole its checksum speaks: the store must have the same bytes.
    Raises StoreUnavailable.
    """
    event_ids = {one.id: UUID(one.event_id).bytes for one in letters if one.event_id is not None}
    with told():
        found = await stored_events(db, set(event_ids.values()))
    return {
        one.id
        for one in letters
        if one.id in event_ids
        and (stored := found.get(event_ids[one.id])) is not None
        and _is_of(stored, one, kept.get(one.id))
    }


def _is_of(stored: RawBSONDocument, letter: Letter, body: Body | None) -> bool:
    if body is not None and body.is_whole(letter):
        return same_event(stored, RawBSONDocument(body.raw))
    return sha256(stored.raw).hexdigest() == letter.payload_sha256
