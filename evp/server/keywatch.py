"""Keeps a server's keys as log and store have them.

Every two seconds it looks at the version of the log's copy and reads it if that has
changed; while the log is away, it reads the store. If both are away the keys it knows
hold. Beside that, it now and then has log, store and what it knows brought to agree;
at once if the log's copy lacks something, as one does that has lost its memory.
"""

from __future__ import annotations

import asyncio
import contextlib

from evp.api_keys import news
from evp.clock import now_ms
from evp.errors import LogUnavailable, StoreUnavailable, Unavailable
from evp.keybook import compare
from evp.limits import API_KEYS_COMPARE_S
from evp.logs import get
from evp.server.keys import Keys
from evp.server.limits import API_KEYS_ANSWER_S_MAX, API_KEYS_LOOK_S
from evp.settings import Settings
from evp.signals import end
from evp.storage.api_keys import read_keys
from evp.storage.client import Database
from evp.stream.api_keys import copy_version, read_copy
from evp.stream.client import KeptLink, Link
from evp.stream.keys import Keys as LogKeys

_log = get("evp.server")


class KeyWatch:
    """Tells `keys` what changes, from `start` to `stop`. Never raises."""

    def __init__(self, settings: Settings, db: Database, keys: Keys) -> None:
        self._url = settings.redis_url
        self._log_keys = LogKeys(settings.stream)
        self._db = db
        self._keys = keys
        self._link = KeptLink(settings.redis_url, self._log_keys)
        self._version = ""
        self._differs = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read the keys, if anyone can tell them, and go on looking."""
        await self._try_to_look()
        if not self._keys.complete:
            _log.error(
                "the keys can't be read: log and store are away",
                effect="keys that are not set in EVP_API_KEYS get 503 until one of them is back",
            )
        elif not self._keys.any_live:
            _log.warning("there are no keys, so nobody may send", mend="evp keys create NAME")
        self._tasks = [
            asyncio.create_task(self._keep_looking(), name="key watch"),
            asyncio.create_task(self._keep_comparing(), name="key compare"),
        ]

    async def stop(self) -> None:
        """Look no more."""
        await end(*self._tasks)
        await self._link.close()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(API_KEYS_LOOK_S)
            await self._try_to_look()

    async def _try_to_look(self) -> None:
        try:
            await self._look()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not freeze the keys
            _log.error("unexpected error while reading keys", exc_info=error)

    async def _look(self) -> None:
        """Learn what has changed, within twice API_KEYS_ANSWER_S_MAX."""
        self._keys.end(now_ms())
        try:
            async with asyncio.timeout(API_KEYS_ANSWER_S_MAX):
                in_log = await self._look_at_log()
        except (LogUnavailable, TimeoutError) as error:
            _log.debug("the log can't tell the keys", reason=str(error))
            in_log = False
            self._version = ""
        if not in_log:
            await self._look_at_store()

    async def _look_at_log(self) -> bool:
        """Return whether the log has a copy of all keys; learn it if it is a new one."""
        link = await self._link.get()
        version = await copy_version(link, self._log_keys)
        if version and version == self._version:
            return True
        copy = await read_copy(link, self._log_keys)
        at_ms = now_ms()
        self._keys.learn(copy.keys, at_ms)
        if not copy.version or news(self._keys.known, copy.keys, at_ms):
            self._differs.set()
        self._version = copy.version
        self._learnt(complete=bool(copy.version), where="log")
        return bool(copy.version)

    async def _look_at_store(self) -> None:
        try:
            stored = await read_keys(self._db, within_s=API_KEYS_ANSWER_S_MAX)
        except StoreUnavailable as error:
            _log.debug("the store can't tell the keys", reason=str(error))
            return
        self._keys.learn(stored, now_ms())
        self._learnt(complete=True, where="store")

    def _learnt(self, *, complete: bool, where: str) -> None:
        if complete and not self._keys.complete:
            self._keys.complete = True
            _log.info("keys read", where=where, keys=len(self._keys.known))

    async def _keep_comparing(self) -> None:
        while True:
            try:
                await self._compare()
            except Unavailable as error:
                _log.debug("keys not compared", reason=str(error))
            except Exception as error:  # noqa: BLE001 - what is not told now must be the next time
                _log.error("unexpected error while comparing keys", exc_info=error)
            await asyncio.sleep(API_KEYS_LOOK_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(API_KEYS_COMPARE_S - API_KEYS_LOOK_S):
                    await self._differs.wait()

    async def _compare(self) -> None:
        self._differs.clear()
        keys = self._keys
        try:
            async with Link.opened(self._url, self._log_keys) as link:
                found = await compare(
                    link, self._log_keys, self._db, keys.known, complete=keys.complete
                )
        except LogUnavailable:
            # What the store knows holds all the same: a log may answer and yet take no change.
            await self._look_at_store()
            raise
        keys.learn(found, now_ms())
        self._learnt(complete=True, where="log and store")
