"""`--all`: every document in `events` is of a frame that lists it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from bson import ObjectId
from msgspec import Struct

from evp.limits import LOOKUP_IDS_MAX, VERIFY_HEADERS_BYTES_MAX
from evp.storage.client import Database
from evp.storage.evidence import FrameHeader, StoredEvent, frames_by_id, stored_ids
from evp.verify.report import Kind


class Stranger(Struct, frozen=True):
    """Documents that no frame lists: why, the frame they name, their ids."""

    kind: Kind
    frame_id: Any
    ids: list[Any]


class Documents:
    """Checks documents a page at a time; the headers used last are kept, up to a number of bytes.

    A header is written before the first document of its frame, so what is read
    after a document knows of it: nothing that is on its way can be taken for a stranger.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._headers: OrderedDict[ObjectId, FrameHeader | None] = OrderedDict()
        self._bytes = 0

    async def strangers(self, page: Sequence[StoredEvent]) -> list[Stranger]:
        """Return the documents of a page that no frame lists, by frame. Raises StoreUnavailable."""
        by_frame: dict[Any, list[Any]] = {}
        for event in page:
            by_frame.setdefault(event.frame_id, []).append(event.id)
        frame_ids = [one for one in by_frame if isinstance(one, ObjectId)]
        found = [
            Stranger(Kind.FRAME_UNKNOWN, frame_id, ids)
            for frame_id, ids in by_frame.items()
            if not isinstance(frame_id, ObjectId)
        ]
        for start in range(0, len(frame_ids), LOOKUP_IDS_MAX):
            portion = frame_ids[start : start + LOOKUP_IDS_MAX]
            await self._fetch(portion)
            for frame_id in portion:
                header = self._headers[frame_id]
                if header is None:
                    found.append(Stranger(Kind.FRAME_UNKNOWN, frame_id, by_frame[frame_id]))
                    continue
                listed = set(header.event_ids)
                ids = [one for one in by_frame[frame_id] if _as_bytes(one) not in listed]
                if header.expired:
                    # Its ids are gone, and so are its documents, though maybe only since the scan.
                    there = await stored_ids(self._db, list(filter(None, map(_as_bytes, ids))))
                    ids = [one for one in ids if (id_ := _as_bytes(one)) is None or id_ in there]
                if ids:
                    found.append(Stranger(Kind.EVENT_UNLISTED, frame_id, ids))
            self._shrink()
        return found

    async def _fetch(self, frame_ids: Sequence[ObjectId]) -> None:
        """Have the headers of these frames at hand; a frame that is not known stays unknown."""
        absent = [one for one in frame_ids if self._headers.get(one) is None]
        fresh = await frames_by_id(self._db, absent)
        for frame_id in absent:
            if frame_id in self._headers:
                self._bytes -= _size(self._headers[frame_id])
            self._headers[frame_id] = fresh.get(frame_id)
            self._bytes += _size(self._headers[frame_id])
        for frame_id in frame_ids:
            self._headers.move_to_end(frame_id)

    def _shrink(self) -> None:
        while self._bytes > VERIFY_HEADERS_BYTES_MAX:
            _, header = self._headers.popitem(last=False)
            self._bytes -= _size(header)


#: What an entry of the cache costs beside its ids, about.
_ENTRY_BYTES = 500


def _size(header: FrameHeader | None) -> int:
    return _ENTRY_BYTES + (0 if header is None else len(header.ids))


def _as_bytes(id_: Any) -> bytes | None:
    """Return an id as headers list it; None for one that is none of evp's."""
    return bytes(id_) if isinstance(id_, bytes) else None
