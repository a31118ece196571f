"""GET /events and /events/{event_id}: what is stored, and where one event is."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.params import FromPath, QueryParameter

from evp.clock import now_ms
from evp.limits import PAGE_EVENTS_MAX, PAGE_EVENTS_USUAL
from evp.server.access import require_read
from evp.server.events import EventPlace, EventsPage, page_of, place_of, read_event_id
from evp.server.parts import AnyRequest, parts_of
from evp.server.queries import check_names, invalid, moment_ms
from evp.server.receipts import read_cursor, read_receipt
from evp.storage.candidates import Wanted


@get("/events", before_request=require_read)
async def list_events(
    request: AnyRequest,
    type_: Annotated[
        str | None, QueryParameter(name="type", description="events of exactly this type")
    ] = None,
    source: Annotated[str | None, QueryParameter(description="of exactly this source")] = None,
    subject: Annotated[str | None, QueryParameter(description="of exactly this subject")] = None,
    from_: Annotated[
        str | None,
        QueryParameter(
            name="from",
            description="whose own time is not before this: RFC 3339, `now`, or `now-90m` (smhd)",
        ),
    ] = None,
    to: Annotated[str | None, QueryParameter(description="whose own time is before this")] = None,
    limit: Annotated[
        int, QueryParameter(ge=1, le=PAGE_EVENTS_MAX, description="events on a page")
    ] = PAGE_EVENTS_USUAL,
    cursor: Annotated[
        str | None, QueryParameter(description="`next_cursor` of the page before")
    ] = None,
) -> EventsPage:
    """List stored events, the last accepted first, a page at a time."""
    check_names(request, ("type", "source", "subject", "from", "to", "limit", "cursor"))
    at_ms = now_ms()
    first_ms = None if from_ is None else moment_ms("from", from_, at_ms)
    end_ms = None if to is None else moment_ms("to", to, at_ms)
    if first_ms is not None and end_ms is not None and first_ms >= end_ms:
        raise invalid("from must be before to")
    wanted = Wanted(type_, source, subject, first_ms, end_ms)
    after = None if cursor is None else read_cursor(cursor)
    return await page_of(await parts_of(request).reading.events(wanted, after, limit))


@get("/events/{event_id:str}", before_request=require_read)
async def get_event(
    request: AnyRequest,
    event_id: FromPath[str],
    receipt: Annotated[
        str | None,
        QueryParameter(description="of the request that sent it; then the log is asked as well"),
    ] = None,
) -> EventPlace:
    """Tell where an event is: stored, a dead letter, or on its way."""
    check_names(request, ("receipt",))
    sent = None if receipt is None else read_receipt(receipt)
    return await place_of(parts_of(request).reading, read_event_id(event_id), sent)


ROUTES = (list_events, get_event)
