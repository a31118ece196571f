"""The load of a drill: requests that are sent when they are due, and what each was told.

Every second request is sent again, the same events with the same ids, until it is
accepted, as a good client does; the others never are, so that what was refused, or
not answered, stays so. While nobody answers, that holds up what is due once all
`DRILL_LANES` are taken. All events have one source, which is their subject as well.
"""

from __future__ import annotations

import asyncio
import math
from enum import IntEnum
from typing import NamedTuple

import msgspec
from msgspec import Struct

from evp.batch.retry import Backoff, is_set_within
from evp.client.delivery import ACCEPTED
from evp.clock import from_ms, monotonic_s, now_ms
from evp.drill.limits import (
    DRILL_EVENTS_MAX,
    DRILL_LANES,
    DRILL_REQUESTS_MAX,
    DRILL_REQUESTS_PER_S,
)
from evp.errors import ServerUnavailable
from evp.http import HttpConnection, Reply
from evp.signals import end

TYPE = "evp.drill"
_PATH = "/events/batch"
_PADDING = "x" * 80
_BUSY = 503
_NOBODY_KNOWS = "ack_unknown"
_encode = msgspec.json.Encoder().encode


class Outcome(IntEnum):
    """What became of a request: of all its attempts the one that comes last here."""

    REFUSED = 0
    UNKNOWN = 1
    ACCEPTED = 2


class Request(Struct, gc=False):
    """One request by its number: the time of its events, when it was due, in which turn it ended.

    `took_s` counts from when it was due until it was accepted; None if it was not.
    """

    number: int
    time_ms: int
    turn: int
    due_at_s: float
    outcome: Outcome = Outcome.UNKNOWN
    took_s: float | None = None


class Failing(NamedTuple):
    """The last time that answers were not 202, and since when they are again; None: not yet."""

    last_at_s: float
    again_at_s: float | None


def source_of(run: str) -> str:
    """Return the `source`, and the `subject`, of all events of a drill."""
    return f"evp-drill-{run}"


def id_of(number: int, place: int) -> str:
    """Return the `id` of an event by its request and its place in it."""
    return f"{number}-{place}"


class Load:
    """Sends `eps` events a second until `stop`; `turn` is noted with each answer.

    It ends by itself when it has sent as much as can be remembered.
    """

    def __init__(self, url: str, key: str, run: str, eps: int) -> None:
        self.requests: list[Request] = []
        self.turn = 0
        self.accepted = 0
        """Events that are accepted so far."""
        self.batch = math.ceil(eps / DRILL_REQUESTS_PER_S)
        self.last_refusal = "no answer"
        self.ok_sent_at_s = 0.0
        """When the youngest attempt was sent that was answered with 202."""
        self.failing = Failing(0.0, None)
        self._source = source_of(run)
        self._requests_per_s = eps / self.batch
        self._headers = {"content-type": "application/json", "x-api-key": key}
        self._connection = HttpConnection(url, connections_max=DRILL_LANES)
        self._begun_at_s = 0.0
        self._due = 0
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Send until stopped, and wait for the last answers."""
        self._begun_at_s = monotonic_s()
        lanes = [asyncio.create_task(self._lane()) for _ in range(DRILL_LANES)]
        try:
            await asyncio.gather(*lanes)
        finally:
            await end(*lanes)
            await self._connection.close()

    def stop(self) -> None:
        """Send nothing more; what is under way is still answered."""
        self._stop.set()

    async def _lane(self) -> None:
        """Take the next request that is to come, wait until it is due, send it; again and again."""
        while True:
            due_at_s = self._begun_at_s + self._due / self._requests_per_s
            self._due += 1
            if await is_set_within(self._stop, max(0.0, due_at_s - monotonic_s())):
                return
            if len(self.requests) >= min(DRILL_REQUESTS_MAX, DRILL_EVENTS_MAX // self.batch):
                return
            request = Request(len(self.requests), now_ms(), self.turn, due_at_s)
            self.requests.append(request)
            await self._send(request)

    async def _send(self, request: Request) -> None:
        """Send a request, once or until it is accepted."""
        body, backoff, so_far = self._body(request), Backoff(), Outcome.REFUSED
        while True:
            # While it is under way nobody knows.
            request.outcome = Outcome.UNKNOWN
            reply = await self._attempt(request, body)
            request.outcome = so_far = max(so_far, _outcome(reply))
            request.turn = self.turn
            if request.outcome is Outcome.ACCEPTED or request.number % 2:
                return
            wait_s = backoff.next_s() if reply is None else reply.retry_after_s
            if await is_set_within(self._stop, wait_s):
                return

    async def _attempt(self, request: Request, body: bytes) -> Reply | None:
        """Send a request once, and note what it was told; None if there was no answer."""
        sent_at_s = monotonic_s()
        try:
            reply = await self._connection.request("POST", _PATH, body, self._headers)
        except ServerUnavailable as error:
            reply, self.last_refusal = None, str(error)
        now_s = monotonic_s()
        if _outcome(reply) is Outcome.ACCEPTED:
            self.accepted += self.batch
            request.took_s = now_s - request.due_at_s
            self.ok_sent_at_s = max(self.ok_sent_at_s, sent_at_s)
            if self.failing.again_at_s is None:
                self.failing = self.failing._replace(again_at_s=now_s)
        else:
            self.failing = Failing(now_s, None)
            if reply is not None:
                self.last_refusal = f"{reply.status} {reply.code}: {reply.detail}"
        return reply

    def _body(self, request: Request) -> bytes:
        source, time = self._source, from_ms(request.time_ms)
        return _encode(
            [
                {
                    "id": id_of(request.number, place),
                    "type": TYPE,
                    "source": source,
                    "subject": source,
                    "time": time,
                    "data": {"request": request.number, "place": place, "text": _PADDING},
                }
                for place in range(self.batch)
            ]
        )


def _outcome(reply: Reply | None) -> Outcome:
    """Return what an answer promises: a 4xx, or a 503 but this one, that nothing was kept."""
    if reply is None or not (reply.status == ACCEPTED or reply.is_problem):
        return Outcome.UNKNOWN
    if reply.status == ACCEPTED:
        return Outcome.ACCEPTED
    is_busy = reply.status == _BUSY and reply.code != _NOBODY_KNOWS
    return Outcome.REFUSED if 400 <= reply.status < 500 or is_busy else Outcome.UNKNOWN
