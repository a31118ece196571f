"""Whether every accepted event of a drill is in the store, once, and no refused one is there.

Read by the events' own `id`, in one pass over all of the store, so an event that is stored
under two `_id`s shows, whatever time is in them. What the pass did not meet is looked up by
`_id` as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct, field

from evp.drill.limits import DRILL_NAMED_MAX, DRILL_PAGE_EVENTS, DRILL_PAGE_REQUESTS
from evp.drill.load import Outcome, Request, id_of, source_of
from evp.identity import event_id
from evp.storage.account import ids_of_source, present
from evp.storage.client import Database

#: What fits into a byte.
_TIMES_MAX = 255


class Found(Struct):
    """How many events of a turn are lost, stored twice, and stored although they were refused.

    `recovered` are those of unknown outcome that are stored: that is no fault.
    """

    lost: int = 0
    doubled: int = 0
    refused_stored: int = 0
    recovered: int = 0


class Check(Struct):
    """What was found, by turn; the first ids of what is wrong; ids that nobody sent."""

    turns: list[Found]
    unexpected: int = 0
    lost_ids: list[str] = field(default_factory=list)
    doubled_ids: list[str] = field(default_factory=list)
    refused_stored_ids: list[str] = field(default_factory=list)


class Sent(NamedTuple):
    """What was sent: all requests in order, of so many events each, and how `_id`s are made."""

    run: str
    batch: int
    requests: Sequence[Request]
    time_in_id: bool

    def stored_id(self, where: int) -> bytes:
        """Return the `_id` of an event by its place among all."""
        number, place = divmod(where, self.batch)
        time_ms = self.requests[number].time_ms if self.time_in_id else 0
        return event_id(source_of(self.run), id_of(number, place), time_ms)

    def places(self, request: Request) -> range:
        """Return the places of a request's events among all."""
        return range(request.number * self.batch, (request.number + 1) * self.batch)


async def check(db: Database, sent: Sent, turns: int) -> Check:
    """Look up every event that was sent in so many turns. Raises StoreUnavailable."""
    found = Check([Found() for _ in range(turns)])
    # How often each event was met, by its place among all.
    times = bytearray(len(sent.requests) * sent.batch)
    async for ids in ids_of_source(db, source_of(sent.run)):
        for id_ in ids:
            where = _where(id_, sent.batch)
            if where is None or where >= len(times):
                found.unexpected += 1
            else:
                times[where] = min(_TIMES_MAX, times[where] + 1)
    for page in _pages(_unseen(sent, times)):
        place_of = {sent.stored_id(where): where for where in page}
        for stored in await present(db, list(place_of)):
            times[place_of[stored]] = 1
    for request in sent.requests:
        places = sent.places(request)
        _judge(found, request, times[places.start : places.stop])
        if request.number % DRILL_PAGE_REQUESTS == 0:
            # Ctrl-C may come in between.
            await asyncio.sleep(0)
    return found


def _judge(found: Check, request: Request, times: bytearray) -> None:
    """Add what one request's events have become."""
    if times.count(int(request.outcome is Outcome.ACCEPTED)) == len(times):
        return  # As it should be: each is stored once, or none is.
    turn = found.turns[request.turn]
    for place, count in enumerate(times):
        id_ = id_of(request.number, place)
        if count > 1:
            turn.doubled += 1
            _name(found.doubled_ids, id_)
        if request.outcome is Outcome.ACCEPTED and not count:
            turn.lost += 1
            _name(found.lost_ids, id_)
        elif request.outcome is Outcome.REFUSED and count:
            turn.refused_stored += 1
            _name(found.refused_stored_ids, id_)
        elif request.outcome is Outcome.UNKNOWN and count:
            turn.recovered += 1


def _name(ids: list[str], id_: str) -> None:
    if len(ids) < DRILL_NAMED_MAX:
        ids.append(id_)


def _where(id_: str, batch: int) -> int | None:
    """Return which event an `id` stands for; None if it is none of a drill."""
    number, _, place = id_.partition("-")
    if not (number.isdecimal() and place.isdecimal() and int(place) < batch):
        return None
    return int(number) * batch + int(place)


def _unseen(sent: Sent, times: bytearray) -> Iterator[int]:
    """Give the accepted events that the pass did not meet."""
    for request in sent.requests:
        if request.outcome is Outcome.ACCEPTED:
            yield from (where for where in sent.places(request) if not times[where])


def _pages(places: Iterator[int]) -> Iterator[list[int]]:
    page: list[int] = []
    for where in places:
        page.append(where)
        if len(page) == DRILL_PAGE_EVENTS:
            yield page
            page = []
    if page:
        yield page
