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
from evp.balance import Balance
from evp.clock import monotonic_s
from evp.errors import LogUnavailable, StoreUnavailable
from evp.logs import get
from evp.server.accept import Acceptor
from evp.server.backpressure import BacklogPart
from evp.server.limits import (
    BALANCE_COST_FACTOR,
    BALANCE_KEEP_S,
    BALANCE_S_MAX,
    STORE_PING_KEEP_S,
    STORE_PING_S_MAX,
)
from evp.signals import end

Ping = Callable[[], Awaitable[Any]]
"""Asks the store whether it is there; raises StoreUnavailable."""

LookAtBalance = Callable[[], Awaitable[Balance]]
"""Sums up; raises LogUnavailable and StoreUnavailable."""

_log = get("evp.server")


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
    balance: Balance | None
    """As it was at its `at`; null before the first one is there."""


class HealthCheck:
    """Looks at what the server depends on; asks the store at most every few seconds.

    The balance is dear, so it is made beside the loop of requests, and rarely: a
    look gives the last one, and begins the next one if that is due.
    """

    def __init__(self, acceptor: Acceptor, ping: Ping, look_at_balance: LookAtBalance) -> None:
        self._acceptor = acceptor
        self._ping = ping
        self._look_at_balance = look_at_balance
        self._balance: Balance | None = None
        self._balancing: asyncio.Task[None] | None = None
        self._balance_again_at_s = 0.0
        self._started_at_s = monotonic_s()
        self._store = Part(ok=False, detail="not asked yet")
        self._asked_at_s = -STORE_PING_KEEP_S
        self._asking = asyncio.Lock()

    async def look(self) -> Health:
        """Return how everything is now."""
        refusal = self._acceptor.refusal
        troubles = self._acceptor.troubles
        why = "; ".join(troubles) if refusal is None else refusal.detail
        log = Part(
            ok=refusal is None,
            detail=why or UNSET,
            durability=self._acceptor.durability or UNSET,
        )
        store = await self._store_part()
        self._begin_balance()
        backlog = self._acceptor.backlog
        unaccounted = self._balance is not None and bool(self._balance.unaccounted)
        fine = store.ok and backlog.ok and not unaccounted and not troubles
        status = "down" if not log.ok else "ok" if fine else "degraded"
        uptime_s = int(monotonic_s() - self._started_at_s)
        return Health(status, evp.__version__, uptime_s, log, backlog, store, self._balance)

    async def close(self) -> None:
        """End the look at the balance that may be under way."""
        if self._balancing is not None:
            await end(self._balancing)

    def _begin_balance(self) -> None:
        """Begin a look at the balance, unless one is under way or was made a short while ago."""
        under_way = self._balancing is not None and not self._balancing.done()
        if not under_way and monotonic_s() >= self._balance_again_at_s:
            self._balancing = asyncio.create_task(self._make_balance(), name="balance")

    async def _make_balance(self) -> None:
        started_at_s = monotonic_s()
        try:
            async with asyncio.timeout(BALANCE_S_MAX):
                self._balance = await self._look_at_balance()
        except (LogUnavailable, StoreUnavailable, TimeoutError) as error:
            _log.debug("no balance", reason=str(error) or "it takes too long")
        pause_s = max(BALANCE_KEEP_S, BALANCE_COST_FACTOR * (monotonic_s() - started_at_s))
        self._balance_again_at_s = monotonic_s() + pause_s

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
