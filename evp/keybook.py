"""API keys as store and log know them together: made, listed, ended, and brought to agree.

The store keeps them. The log has a copy, which is what servers read, so that keys
work and can be revoked while the store is away. A crash in the middle of a change
leaves behind:

- of a new key: it is in the store, then in the log, and shown only then. Before that
  nobody has seen it: it stands in the list and can be revoked. One that was shown is
  in both.
- of a revocation: it is in the log, so servers refuse the key, then in the store.
  Servers carry to either side what the other one knows (`compare`), and the earlier
  end of a key always wins, so nothing brings it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, Self

from msgspec import Struct
from msgspec.structs import replace

from evp.api_keys import Account, ApiKey, agreed, make_key, news
from evp.clock import from_ms, now_ms
from evp.errors import LogUnavailable, StoreUnavailable, Unavailable, UsageError
from evp.limits import (
    API_KEYS_CHANGE_TRIES_MAX,
    API_KEYS_COMPARE_S_MAX,
    API_KEYS_ENDED_MS_KEPT,
    API_KEYS_MAX,
)
from evp.settings import Settings
from evp.storage.api_keys import add_keys, read_keys, remove_keys
from evp.storage.client import Database, opened
from evp.stream.api_keys import change_copy, read_copy
from evp.stream.asking import asked
from evp.stream.client import KeptLink, Link
from evp.stream.keys import Keys

LIVE, EXPIRED, REVOKED = "live", "expired", "revoked"


class KeyRow(Struct):
    """One key as people see it. `state` is live, expired or revoked; `id` is no secret."""

    id: str
    name: str
    state: str
    scopes: tuple[str, ...]
    rate_per_s: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(NamedTuple):
    """A key that was made. `text` is known to nobody else, and can't be found out again."""

    text: str
    row: KeyRow


class KeyBook:
    """The keys of one deployment."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._keys = Keys(settings.stream)
        self._link = KeptLink(settings.redis_url, self._keys)
        self._db = db

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator[Self]:
        """Give the keys of the log and the store that are set, for a while."""
        async with opened(settings, connections_max=1) as db:
            book = cls(settings, db)
            try:
                yield book
            finally:
                await book._link.close()

    async def rows(self) -> tuple[list[KeyRow], list[Unavailable]]:
        """Return all keys by name and age, and what is away that may know more.

        Raises LogUnavailable if neither log nor store can be asked.
        """
        account, away = await self._look()
        at_ms = now_ms()
        keys = sorted(account.values(), key=lambda key: (key.name, key.created_at_ms))
        return [_row(key, at_ms) for key in keys], away

    async def create(
        self,
        name: str,
        scopes: tuple[str, ...],
        *,
        expires_at_ms: int | None = None,
        rate_per_s: int | None = None,
    ) -> NewKey:
        """Make a key. Raises UsageError if a live one has this name, or there are too many.

        Also raises LogUnavailable and StoreUnavailable: then no key was shown, and
        one that works may have been made.
        """
        at_ms = now_ms()
        account = agreed(await self._copy(), await read_keys(self._db))
        if _live(account, name, at_ms):
            raise UsageError(f"there is a key {name}; rotate it, revoke it, or use another name")
        text, key = make_key(
            name, scopes, at_ms, expires_at_ms=expires_at_ms, rate_per_s=rate_per_s
        )
        await self._add(account, [key])
        return NewKey(text, _row(key, at_ms))

    async def rotate(
        self, name: str, *, grace_ms: int, expires_at_ms: int | None = None
    ) -> tuple[NewKey, list[KeyRow]]:
        """Make a key like the newest one of a name; the others end after a time of grace.

        Where `expires_at_ms` is not given, it lives as long as that one was meant to.
        Returns it, and those that end. Raises UsageError if no live key has this name,
        and as `create`: then the old ones may end all the same.
        """
        at_ms = now_ms()
        account = agreed(await self._copy(), await read_keys(self._db))
        old = _live(account, name, at_ms)
        if not old:
            raise UsageError(f"there is no live key {name}; `evp keys list` shows those there are")
        newest = old[-1]
        if expires_at_ms is None and newest.expires_at_ms is not None:
            expires_at_ms = at_ms + newest.expires_at_ms - newest.created_at_ms
        text, key = make_key(
            name,
            newest.scopes,
            at_ms,
            expires_at_ms=expires_at_ms,
            rate_per_s=newest.rate_per_s,
        )
        ended = [_ended(one, at_ms, grace_ms) for one in old]
        await self._add(account, [key, *ended])
        return NewKey(text, _row(key, at_ms)), [_row(one, at_ms) for one in ended]

    async def revoke(self, who: str) -> list[KeyRow]:
        """End a key by its id, or all keys of a name, at once; return them.

        Raises UsageError if there is none; LogUnavailable or StoreUnavailable, which
        say how far it got. Doing it again is right.
        """
        account, away = await self._look()
        at_ms = now_ms()
        found = {key.id: key for key in account.values() if who in {key.id, key.name}}
        if not found and away:
            raise away[0]
        if not found:
            raise UsageError(f"there is no key {who}; `evp keys list` shows those there are")
        ended = {
            key_id: replace(key, revoked_at_ms=at_ms) if key.lives(at_ms) else key
            for key_id, key in found.items()
        }
        await self._end(who, ended, away)
        return [_row(key, at_ms) for key in ended.values()]

    async def _look(self) -> tuple[dict[str, ApiKey], list[Unavailable]]:
        """Return what can be found out, and what is away. Raises LogUnavailable if both are."""
        accounts: list[Account] = []
        away: list[Unavailable] = []
        try:
            accounts.append(await self._copy())
        except LogUnavailable as error:
            away.append(error)
        try:
            accounts.append(await read_keys(self._db, within_s=API_KEYS_COMPARE_S_MAX))
        except StoreUnavailable as error:
            away.append(error)
        if not accounts:
            raise away[0]
        return agreed(*accounts), away

    async def _copy(self) -> Account:
        """Return the log's copy."""
        return (await asked(self._link, partial(read_copy, keys=self._keys))).keys

    async def _tell_log(
        self, account: Account, *, complete: bool, gone: Sequence[str] = ()
    ) -> None:
        await asked(
            self._link,
            partial(tell_log, keys=self._keys, account=account, complete=complete, gone=gone),
        )

    async def _add(self, account: Account, changed: Sequence[ApiKey]) -> None:
        """Write new keys, and old ones that end later: the store first. Forget what is old."""
        at_ms = now_ms()
        gone = [key.id for key in account.values() if key.is_old(at_ms)]
        if len(account) - len(gone) >= API_KEYS_MAX:
            days = API_KEYS_ENDED_MS_KEPT // (24 * 3600 * 1000)
            raise UsageError(
                f"there are {API_KEYS_MAX:,} keys, those included that ended within {days} days; "
                "give one key to several clients, or wait"
            )
        await add_keys(self._db, changed)
        account = agreed(account, {key.id: key for key in changed})
        await self._tell_log(account, complete=True, gone=gone)
        await remove_keys(self._db, gone)

    async def _end(self, who: str, ended: Account, away: Sequence[Unavailable]) -> None:
        """Write what is revoked: the log first, and each also if the other one is away."""
        untold = list(away)
        if not any(isinstance(error, LogUnavailable) for error in away):
            try:
                await self._tell_log(ended, complete=False)
            except LogUnavailable as error:
                untold.append(error)
        if not any(isinstance(error, StoreUnavailable) for error in away):
            try:
                await add_keys(self._db, ended.values(), within_s=API_KEYS_COMPARE_S_MAX)
            except StoreUnavailable as error:
                untold.append(error)
        if len(untold) == 1:
            raise _half_told(who, untold[0])
        if untold:
            raise untold[0]


async def compare(
    link: Link, keys: Keys, db: Database, known: Account, *, complete: bool
) -> dict[str, ApiKey]:
    """Bring store, log and what a server knows to agree; return all keys.

    `complete` says that a server knows all there were. Raises LogUnavailable; and
    StoreUnavailable once the log was told what the server knows: a log that has lost
    its memory then has it again.
    """
    try:
        stored = await read_keys(db, within_s=API_KEYS_COMPARE_S_MAX)
    except StoreUnavailable:
        await tell_log(link, keys, known, complete=complete)
        raise
    account = await tell_log(link, keys, agreed(known, stored), complete=True)
    told = news(account, stored, now_ms())
    await add_keys(db, told.values(), within_s=API_KEYS_COMPARE_S_MAX)
    return account


async def tell_log(
    link: Link, keys: Keys, account: Account, *, complete: bool, gone: Sequence[str] = ()
) -> dict[str, ApiKey]:
    """Add an account to the log's copy, and remove what is `gone`; return what both agree on.

    `complete` says that the account lacks nothing that a copy which was lost had.
    Raises LogUnavailable.
    """
    for _ in range(API_KEYS_CHANGE_TRIES_MAX):
        copy = await read_copy(link, keys)
        wanted = agreed(copy.keys, account)
        for key_id in gone:
            wanted.pop(key_id, None)
        changed = news(wanted, copy.keys, now_ms())
        removed = [key_id for key_id in gone if key_id in copy.keys]
        is_new = complete and not copy.version
        if not (changed or removed or is_new):
            return wanted
        complete_then = complete or bool(copy.version)
        if await change_copy(link, keys, copy, changed, removed, complete=complete_then):
            return wanted
    raise LogUnavailable("others keep changing the log's copy of the keys; try again")


def _half_told(who: str, error: Unavailable) -> Unavailable:
    """Return what to say when only one of log and store could be told that a key is revoked."""
    if isinstance(error, LogUnavailable):
        return LogUnavailable(
            f"{who} is revoked in the store, and servers that can reach it refuse it; run this "
            f"again once the log is back, so that all of them know: {error}"
        )
    return StoreUnavailable(
        f"{who} is revoked in the log, so servers refuse it, and they will tell the store; until "
        f"it is back only the log knows: {error}"
    )


def _live(account: Account, name: str, at_ms: int) -> list[ApiKey]:
    """Return the live keys of a name, the newest one last."""
    found = [key for key in account.values() if key.name == name and key.lives(at_ms)]
    return sorted(found, key=lambda key: key.created_at_ms)


def _ended(key: ApiKey, at_ms: int, grace_ms: int) -> ApiKey:
    """Return a key that ends after a time of grace; without one it is revoked, by any clock."""
    if grace_ms == 0:
        return replace(key, revoked_at_ms=at_ms)
    ends_at_ms = at_ms + grace_ms
    if key.expires_at_ms is not None:
        ends_at_ms = min(ends_at_ms, key.expires_at_ms)
    return replace(key, expires_at_ms=ends_at_ms)


def _row(key: ApiKey, at_ms: int) -> KeyRow:
    revoked = key.revoked_at_ms is not None
    return KeyRow(
        id=key.id,
        name=key.name,
        state=REVOKED if revoked else LIVE if key.lives(at_ms) else EXPIRED,
        scopes=key.scopes,
        rate_per_s=key.rate_per_s,
        created_at=from_ms(key.created_at_ms),
        expires_at=None if key.expires_at_ms is None else from_ms(key.expires_at_ms),
        revoked_at=None if key.revoked_at_ms is None else from_ms(key.revoked_at_ms),
    )
