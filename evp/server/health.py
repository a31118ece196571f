"""How the server is: what /api/health tells, and what readiness depends on.

Readiness and accepting never depend on the store: while MongoDB is away, events
go on into the log. A backlog that is full is no reason to be not ready either:
every other server would be as little, and a balancer that has none left answers
worse than a 503 which says when to come back. It makes health degraded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import UNSET, Struct, UnsetType

import evp
from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.limits import STORE_PING_KEEP_S, STORE_PING_S_MAX
from evp.server.accept import Acceptor
from evp.server.backpressure import BacklogPart

Ping = Callable[[], Awaitable[Any]]
"""Asks the store whether it is there; raises StoreUnavailable."""


class Part(Struct, omit_defaults=True):
    """One thing the server depends on."""

    ok: bool
    detail: str | UnsetType = UNSET
    durability: str | UnsetType = UNSET


class Health(Struct):
    """The body of /api/health: ok, degraded (it accepts, but something is wrong) or down."""

    status: str
    version: str
    uptime_s: int
    log: Part
    backlog: BacklogPart
    store: Part


class HealthCheck:
    """Looks at what the server depends on; asks the store at most every few seconds."""

    def __init__(self, acceptor: Acceptor, ping: Ping) -> None:
        self._acceptor = acceptor
        self._ping = ping
        self._started_at_s = monotonic_s()
        self._store = Part(ok=False, detail="not asked yet")
        self._asked_at_s = -STORE_PING_KEEP_S
        self._asking = asyncio.Lock()

    async def look(self) -> Health:
        """Return how everything is now."""
        refusal = self._acceptor.refusal
        log = Part(
            ok=refusal is None,
            detail=UNSET if refusal is None else refusal.detail,
            durability=self._acceptor.durability or UNSET,
        )
        store = await self._store_part()
        backlog = self._acceptor.backlog
        status = "down" if not log.ok else "ok" if store.ok and backlog.ok else "degraded"
        uptime_s = int(monotonic_s() - self._started_at_s)
        return Health(status, evp.__version__, uptime_s, log, backlog, store)

    async def _store_part(self) -> Part:
        async with self._asking:
            if monotonic_s() - self._asked_at_s >= STORE_PING_KEEP_S:
                try:
                    async with asyncio.timeout(STORE_PING_S_MAX):
                        await self._ping()
                    self._store = Part(ok=True)
                except (StoreUnavailable, TimeoutError) as error:
                    self._store = Part(ok=False, detail=str(error) or "no answer")
                self._asked_at_s = monotonic_s()
            return self._store
