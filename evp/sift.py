"""Batches of which only the good events are taken (`?on_error=skip`).

Each event is decoded, checked and encoded by itself, by the functions that would
do it for its whole batch: so what is left is taken, and what is rejected is so
for the reason for which its batch would have been refused. It costs a multiple
of a plain batch, so it is done only to one that was refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from evp.codec import Decoded, Media, decode_one, texts_of
from evp.documents import Admission, try_out, twice
from evp.errors import Refusal
from evp.events import Event


class Sifted(NamedTuple):
    """The good events in their order, and by index why the others are rejected."""

    decoded: Decoded
    rejected: dict[int, Refusal]


def sift(body: bytes, media: Media, received_at: datetime, admission: Admission) -> Sifted:
    """Return what of a batch can be taken, and what not.

    Raises Refusal if it is no batch, is empty or has too many events, and the
    first event's own refusal if none of them is good.
    """
    one = Media.CLOUD_EVENT if media is Media.CLOUD_BATCH else Media.EVENT
    events: list[Event] = []
    extensions: dict[int, dict[str, Any]] = {}
    index_by_id: dict[bytes, int] = {}
    rejected: dict[int, Refusal] = {}
    for index, text in enumerate(texts_of(body, media)):
        try:
            decoded = decode_one(text, one, alone=False)
            id_ = try_out(decoded, received_at, admission)
        except Refusal as refusal:
            rejected[index] = refusal.within(index)
            continue
        if id_ in index_by_id:
            rejected[index] = twice(index_by_id[id_], index)
            continue
        index_by_id[id_] = index
        if decoded.extensions:
            extensions[len(events)] = decoded.extensions[0]
        events += decoded.events
    if not events:
        raise rejected[0]
    return Sifted(Decoded(events, extensions), rejected)
