"""Passwords: which are good enough, and how they are kept.

Kept is an argon2id hash with the library's defaults, which are those of RFC
9106: 64 MiB and three passes, a tenth of a second or two. Whoever hashes in a loop
that serves others does it beside that loop.
"""

from __future__ import annotations

import secrets
import unicodedata
from base64 import b64encode

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from evp.errors import UsageError
from evp.limits import PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN

_MADE_BYTES = 15

_hasher = PasswordHasher()


def check_password(password: str) -> None:
    """Raise UsageError if a password is too short or too long."""
    if len(password) < PASSWORD_CHARS_MIN:
        raise UsageError(f"a password has at least {PASSWORD_CHARS_MIN} characters")
    if len(_bytes(password)) > PASSWORD_BYTES_MAX:
        raise UsageError(f"a password has at most {PASSWORD_BYTES_MAX} bytes")


def make_password() -> str:
    """Return a new password of 120 random bits."""
    return secrets.token_urlsafe(_MADE_BYTES)


def hash_password(password: str) -> str:
    """Return what is kept of a password. Takes long."""
    return _hasher.hash(_bytes(password))


def verify_password(kept: str | None, password: str) -> bool:
    """Return whether a password is the one of which this was kept. Takes long.

    None stands for a user that there isn't: False, after the same time.
    """
    try:
        return _hasher.verify(_NOBODY if kept is None else kept, _bytes(password))
    except VerifyMismatchError:
        return False


def is_outdated(kept: str) -> bool:
    """Return whether a hash was made with other parameters than are used now."""
    return _hasher.check_needs_rehash(kept)


def _bytes(password: str) -> bytes:
    """Return a password as it is hashed: the same from whatever keyboard."""
    return unicodedata.normalize("NFC", password).encode()


def _nobodys_hash() -> str:
    """Return a hash with the parameters of today that no password has."""
    salt, tag = (
        b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
        for size in (_hasher.salt_len, _hasher.hash_len)
    )
    costs = f"m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${tag}"


_NOBODY = _nobodys_hash()
