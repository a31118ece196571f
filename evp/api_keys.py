"""API keys: how one is made, what is kept of it, and how two accounts of it agree.

A key is `evp_<id>_<secret>`, in hexadecimal: the id may be shown, the secret is 256
random bits. Kept is the SHA-256 of the whole; with so much chance in it no slow hash
is needed.

Of what is kept only the end changes, and only to come sooner. So two accounts of the
same key, the store's and the log's, agree by the earlier end of each. However often
and in whatever order that is done, a key that was revoked in one of them is revoked.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from evp.limits import API_KEYS_ENDED_MS_KEPT
from evp.scopes import ADMIN, INGEST, READ

SCOPES: Final = (INGEST, READ, ADMIN)
"""What a key may be good for."""

_ID_BYTES = 5
_SECRET_BYTES = 32
_ID = re.compile(r"[0-9a-f]{10}")
_KEY = re.compile(rb"evp_[0-9a-f]{10}_[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ApiKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of a key. Times are milliseconds since 1970, UTC.

    `rate_per_s` is how many events a second it may send; None: as many as it likes.
    """

    id: str
    name: str
    digest: bytes
    scopes: tuple[str, ...]
    rate_per_s: int | None = None
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None

    def lives(self, at_ms: int) -> bool:
        """Return whether it may be used at a time. What is revoked is so by any clock."""
        if self.revoked_at_ms is not None:
            return False
        return self.expires_at_ms is None or at_ms < self.expires_at_ms

    def is_old(self, at_ms: int) -> bool:
        """Return whether it ended so long ago that nobody needs to remember it."""
        end_ms = _earliest(self.expires_at_ms, self.revoked_at_ms)
        return end_ms is not None and end_ms < at_ms - API_KEYS_ENDED_MS_KEPT


Account = Mapping[str, ApiKey]
"""Keys by id, as somebody knows them."""


def make_key(
    name: str,
    scopes: tuple[str, ...],
    at_ms: int,
    *,
    expires_at_ms: int | None = None,
    rate_per_s: int | None = None,
) -> tuple[str, ApiKey]:
    """Return a new key as its holder needs it, and what is kept of it."""
    key_id = secrets.token_hex(_ID_BYTES)
    text = f"evp_{key_id}_{secrets.token_hex(_SECRET_BYTES)}"
    kept = ApiKey(
        id=key_id,
        name=name,
        digest=digest_of(text.encode()),
        scopes=scopes,
        rate_per_s=rate_per_s,
        created_at_ms=at_ms,
        expires_at_ms=expires_at_ms,
    )
    return text, kept


def digest_of(key: bytes) -> bytes:
    """Return the 32 bytes by which a key is known."""
    return sha256(key).digest()


def is_key(key: bytes) -> bool:
    """Return whether this looks like a key that `make_key` made."""
    return _KEY.fullmatch(key) is not None


def is_name(text: str) -> bool:
    """Return whether a key may have this name; one that looks like an id could be mistaken."""
    return _NAME.fullmatch(text) is not None and _ID.fullmatch(text) is None


def agreed(*accounts: Account) -> dict[str, ApiKey]:
    """Return all keys of some accounts, each with the earliest end that one of them has."""
    keys: dict[str, ApiKey] = {}
    for account in accounts:
        for key_id, other in account.items():
            known = keys.get(key_id, other)
            keys[key_id] = known if known is other else _earlier(known, other)
    return keys


def news(account: Account, of_other: Account, at_ms: int) -> dict[str, ApiKey]:
    """Return what an account has to tell another one: keys that it has otherwise, or lacks.

    One that is old and missing there was forgotten on purpose.
    """
    return {
        key_id: key
        for key_id, key in account.items()
        if of_other.get(key_id) != key and (key_id in of_other or not key.is_old(at_ms))
    }


def _earlier(one: ApiKey, other: ApiKey) -> ApiKey:
    return replace(
        one,
        expires_at_ms=_earliest(one.expires_at_ms, other.expires_at_ms),
        revoked_at_ms=_earliest(one.revoked_at_ms, other.revoked_at_ms),
    )


def _earliest(*times_ms: int | None) -> int | None:
    return min((one for one in times_ms if one is not None), default=None)
