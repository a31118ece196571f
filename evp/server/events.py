"""GET /events: pages of what is stored, and where a single event is."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from evp.batch.raw import event_as_json
from evp.errors import LogUnavailable, Refusal
from evp.identity import canonical
from evp.receipt import Receipt
from evp.server.queries import invalid
from evp.server.reading import Reading
from evp.server.receipts import write_cursor
from evp.server.waiting import LogPlace
from evp.storage.dlq import Letter
from evp.storage.listing import Page
from evp.storage.whereabouts import Status, begun, has_gone, status_of, whereabouts

_UNASKED = ", and without its receipt the log is not asked"


class EventsPage(Struct):
    """Events, the last accepted first. Each has the attributes it was sent with and `event_id`.

    A page may be short, or empty, and not the last one: go on as long as there is a
    `next_cursor`.
    """

    events: list[dict[str, Any]]
    next_cursor: str | None


class DeadLetter(Struct):
    """An event with this id that the store would not take; `evp dlq` shows and mends it."""

    id: str
    state: str
    reason: str
    detail: str
    last_at: datetime


class EventPlace(Struct):
    """Where an event is.

    `status` is stored, erased, expired (its time of retention is over, or that of what
    was sent with its receipt: which events these were is not kept), dead_letter,
    writing (a worker has begun), pending (it waits in the log), or missing: it was
    accepted and is nowhere, as `evp verify` will tell. An event that is stored has dead
    letters beside it where others were sent under its id.
    """

    event_id: str
    status: str
    event: dict[str, Any] | None
    dead_letters: list[DeadLetter]
    log: LogPlace | None


def read_event_id(text: str) -> bytes:
    """Return the 16 bytes of an event id. Raises Refusal `not_found` if it is none."""
    try:
        return UUID(text).bytes
    except ValueError:
        raise Refusal("not_found", "an event_id is a UUID; no event has this one") from None


async def page_of(found: Page) -> EventsPage:
    """Return a page as it is answered."""
    documents = [bytes(event.raw) for event in found.events]
    # A page can hold megabytes; the loop has requests to answer meanwhile.
    events = await asyncio.to_thread(lambda: [event_as_json(one) for one in documents])
    cursor = None if found.more_behind is None else write_cursor(found.more_behind)
    return EventsPage(events, cursor)


async def place_of(reading: Reading, event_id: bytes, receipt: Receipt | None) -> EventPlace:
    """Return where an event is, looking as it moves: into the log first, then into the store.

    Without a receipt only the store is asked. Raises Refusal: `not_found`, `invalid_query`
    where the receipt is of other events, and what `Reading.waits` raises.
    """
    waits: LogPlace | None = None
    log_error: LogUnavailable | None = None
    if receipt is not None:
        try:
            waits = await reading.waits(event_id, receipt)
        except LogUnavailable as error:
            log_error = error
    async with reading.asking() as db:
        frame = None if receipt is None else await begun(db, receipt.entry_id, receipt.partition)
        found = await whereabouts(db, event_id)
        if frame is not None and found.nothing and frame.settled and not frame.expired:
            frame.expired = await has_gone(db, frame)
    # An expired frame has lost its ids.
    if receipt and frame and frame.ids and event_id not in frame.ids[receipt.first :]:
        raise invalid("receipt is one of other events")
    status = status_of(found, frame, waits=waits is not None)
    if status is None and log_error is not None:
        raise Refusal("log_unavailable", "the store does not have it, and the log can't be asked")
    if status is None:
        hint = ", and it does not wait at this receipt" if receipt else _UNASKED
        raise Refusal("not_found", f"the store has no event with this id{hint}")
    return EventPlace(
        event_id=canonical(event_id),
        status=status,
        event=None if found.event is None else event_as_json(bytes(found.event.raw)),
        dead_letters=[_told(one) for one in found.letters],
        log=waits if status is Status.PENDING else None,
    )


def _told(letter: Letter) -> DeadLetter:
    return DeadLetter(letter.id, letter.state, letter.reason, letter.detail, letter.last_at)
