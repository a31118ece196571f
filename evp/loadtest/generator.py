"""One generator process: requests go out when they are due, over connections that are free.

What is refused for the moment (429, 503) or lost with its connection is sent again,
the same events with the same ids, once the server wants more; its latency still
counts from when it was due. All requests end as one of four:

    asked = accepted + rejected + unanswered + unsent
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from math import inf

from evp.clock import monotonic_s, now_ms
from evp.http import Reply, authority
from evp.limits import DETAIL_CHARS_MAX
from evp.loadtest.connection import Connection, Request
from evp.loadtest.counts import Counts, Ledger, Sample
from evp.loadtest.events import Bodies
from evp.loadtest.histogram import Histogram
from evp.loadtest.limits import LOADTEST_FINISH_S_MAX, LOADTEST_REFUSED_MAX, LOADTEST_TICK_S
from evp.loadtest.plan import Share
from evp.loadtest.pool import Pool
from evp.loadtest.schedule import Schedule

_AGAIN = frozenset((429, 503))
_CONNECTION_LOST = "connection_lost"


class Generator:
    """Sends the requests of one share; `watch` is given some of what is accepted."""

    def __init__(self, share: Share, watch: Callable[[Sample], None]) -> None:
        self.ledger = Ledger()
        self.latency = Histogram()
        self._share = share
        self._watch = watch
        self._schedule = Schedule(share, inf)
        self._bodies = Bodies(share)
        self._pool = Pool(share, self._replied, self._dispatch)
        self._counts = Counts()
        self._rejected: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()
        self._begun = 0
        self._again: deque[Request] = deque()
        self._paused_until_s = 0.0
        self._stopped_at_s = inf
        self._is_welcome = False
        self._turned_away = 0
        self._head = (
            f"POST {share.target} HTTP/1.1\r\nhost: {authority(share.host, share.port)}\r\n"
            f"content-type: application/json\r\nx-api-key: {share.key}\r\ncontent-length: "
        ).encode()

    async def connect(self) -> None:
        """Open all connections. Raises ServerUnavailable and EngineFailed as `Pool.connect`."""
        await self._pool.connect()

    def stop(self) -> None:
        """Send only what is due by now."""
        self._stopped_at_s = min(self._stopped_at_s, monotonic_s())

    def counts(self) -> Counts:
        """Return how things stand."""
        counts = self._counts
        due = self._schedule.measured_by(min(monotonic_s(), self._stopped_at_s))
        counts.asked = counts.sent if due is None else due
        counts.unanswered = counts.sent - counts.accepted - sum(self._rejected.values())
        counts.rejected, counts.retried = dict(self._rejected), dict(self._retried)
        return counts

    async def run(self, start_s: float) -> None:
        """Send all that is due from `start_s` on, until the end or until stopped."""
        self._schedule = Schedule(self._share, start_s)
        try:
            await self._pace()
            await self._finish()
        finally:
            await self._pool.close()

    async def _pace(self) -> None:
        looked_at_s = 0.0
        while (now_s := monotonic_s()) < min(self._schedule.end_s, self._stopped_at_s):
            self._dispatch()
            if now_s - looked_at_s > 1:
                looked_at_s = now_s
                self._pool.end_silent(now_s)
            await asyncio.sleep(LOADTEST_TICK_S)

    async def _finish(self) -> None:
        """Wait for what was due by now; what can't be sent in time stays unsent."""
        gives_up_at_s = monotonic_s() + LOADTEST_FINISH_S_MAX
        while (now_s := monotonic_s()) < gives_up_at_s:
            self._dispatch()
            left = self._again or self._is_due(now_s)
            if not self._pool.is_waiting and (not left or self._paused_until_s > gives_up_at_s):
                return
            self._pool.end_silent(now_s)
            await asyncio.sleep(LOADTEST_TICK_S)

    def _dispatch(self) -> None:
        """Send what is due over what is free."""
        idle, now_s = self._pool.idle, monotonic_s()
        while idle and now_s >= self._paused_until_s:
            if not idle[-1].is_open:
                idle.pop()  # It ended just now; whoever holds it will know in a moment.
                continue
            request = self._take(now_s)
            if request is None:
                return
            body = self._bodies.body(request.number, request.time_ms)
            idle.pop().send(request, b"%b%d\r\n\r\n%b" % (self._head, len(body), body), now_s)

    def _take(self, now_s: float) -> Request | None:
        """Return what to send next, what was refused first; None if nothing is due."""
        if self._again:
            return self._again.popleft()
        if not self._is_due(now_s):
            return None
        number, self._begun = self._begun, self._begun + 1
        request = Request(number, now_ms(), self._schedule.due_at_s(number, now_s))
        self._begin(request, now_s)
        return request

    def _is_due(self, now_s: float) -> bool:
        """Return whether there is a request that has not been sent yet, and should be by now."""
        due = self._schedule.due_by(min(now_s, self._stopped_at_s))
        if due is None:
            return now_s < self._stopped_at_s
        return self._begun < due

    def _begin(self, request: Request, now_s: float) -> None:
        """Take note of a request that is sent for the first time."""
        if self._share.keeps_ledger:
            self.ledger.times_ms.append(request.time_ms)
            self.ledger.accepted.append(0)
        if not self._is_measured(request):
            return
        self._counts.sent += 1
        if self._schedule.is_late(request.due_at_s, now_s):
            self._counts.late += 1
            self._counts.late_s_max = max(self._counts.late_s_max, now_s - request.due_at_s)

    def _replied(self, connection: Connection, request: Request, reply: Reply | None) -> None:
        if reply is None or reply.status in _AGAIN:
            self._refused_for_now(request, reply)
        elif 200 <= reply.status < 300:
            self._accepted(request)
        else:
            self._refused_for_good(request, reply)
        if connection.is_open:
            self._pool.idle.append(connection)
            self._dispatch()

    def _accepted(self, request: Request) -> None:
        number, time_ms, due_at_s = request
        self._is_welcome = True
        if self._share.keeps_ledger:
            self.ledger.accepted[number] = 1
        if not self._is_measured(request):
            return
        now_s = monotonic_s()
        self._counts.accepted += 1
        self._counts.finished_s = now_s
        self.latency.record_s(now_s - due_at_s)
        if number % self._share.sample_every == 0:
            place = self._share.batch - 1
            self._watch(Sample(self._share.process, number, place, time_ms, due_at_s))

    def _refused_for_now(self, request: Request, reply: Reply | None) -> None:
        self._again.append(request)
        if self._is_measured(request):
            self._retried[_CONNECTION_LOST if reply is None else reply.code] += 1
        if reply is not None:
            back_at_s = monotonic_s() + reply.retry_after_s
            self._paused_until_s = max(self._paused_until_s, back_at_s)

    def _refused_for_good(self, request: Request, reply: Reply) -> None:
        """Count a refusal; where the first answers are nothing else, so would be the others."""
        if self._is_measured(request):
            self._rejected[reply.code] += 1
        self._turned_away += 1
        if not self._is_welcome and self._turned_away >= LOADTEST_REFUSED_MAX:
            self._counts.gave_up = f"{reply.status} {reply.code}: {reply.detail[:DETAIL_CHARS_MAX]}"
            self.stop()

    def _is_measured(self, request: Request) -> bool:
        return self._schedule.is_measured(request.number, request.due_at_s)
