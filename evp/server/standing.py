"""Whether what was handed out to a user still holds, by what the store said a short while ago."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.logs import get
from evp.server.limits import PEOPLE_KNOWN_MAX, STANDING_AGAIN_S, STANDING_KEEP_S, STORE_PING_S_MAX
from evp.storage import users
from evp.storage.client import Database

_log = get("evp.server")


class _Known(NamedTuple):
    version: int
    disabled: bool
    at_s: float


class Standing:
    """The versions of users that were here lately; each is asked for again after a while.

    While the store is away what is known holds on, and nobody who is not known is
    turned away: access tokens end by themselves soon.
    """

    def __init__(self, db: Database, clock_s: Callable[[], float] = monotonic_s) -> None:
        self._db = db
        self._clock_s = clock_s
        self._known: dict[str, _Known] = {}
        self._asking = asyncio.Lock()
        self._ask_at_s = clock_s()

    async def holds(self, name: str, version: int) -> bool:
        """Return whether a token of this version still holds."""
        if self._is_old(name, version):
            async with self._asking:
                if self._is_old(name, version) and not self._store_is_away:
                    await self._ask(name)
        known = self._known.get(name)
        if known is None or (known.version < version and self._store_is_away):
            return True
        return known.version == version and not known.disabled

    async def can_be_asked(self, name: str) -> bool:
        """Return whether the store is there to say how a user stands."""
        async with self._asking:
            if not self._store_is_away:
                await self._ask(name)
        return not self._store_is_away

    @property
    def _store_is_away(self) -> bool:
        """Whether the store did not answer a short while ago."""
        return self._clock_s() < self._ask_at_s

    def _is_old(self, name: str, version: int) -> bool:
        """Return whether to ask: after a while, or for a token that is newer than what is known."""
        known = self._known.get(name)
        if known is None or known.version < version:
            return True
        return self._clock_s() - known.at_s >= STANDING_KEEP_S

    async def _ask(self, name: str) -> None:
        try:
            async with asyncio.timeout(STORE_PING_S_MAX):
                record = await users.find(self._db, name)
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or "no answer"
            _log.warning("can't see whether tokens still hold", reason=reason)
            self._ask_at_s = self._clock_s() + STANDING_AGAIN_S
            return
        version = 0 if record is None else record.user.version
        disabled = record is None or record.user.disabled
        if name not in self._known and len(self._known) >= PEOPLE_KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[name] = _Known(version, disabled, self._clock_s())
