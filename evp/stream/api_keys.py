"""The log's copy of the API keys: what servers go by, also while the store is away.

A hash with a field for each key, JSON by its id, and `version`, a random text that is
new with each change. So whoever has read it all needs to look at one field only, and
a change that is based on what is no longer true is refused. Without a `version` the
copy may lack keys: the log has lost it, or has never had it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from evp.api_keys import ApiKey
from evp.stream.client import Link, pairs
from evp.stream.keys import Keys
from evp.stream.scripts import CHANGE_API_KEYS

_VERSION = "version"
_VERSION_BYTES = 8
_decode = msgspec.json.Decoder(ApiKey).decode


class Copy(Struct, frozen=True):
    """The copy as it was at a moment. `version` is empty if it may lack keys."""

    version: str
    keys: dict[str, ApiKey]


async def copy_version(link: Link, keys: Keys) -> str:
    """Return the version of the copy, empty if it has none. Raises LogUnavailable."""
    version = await link.call("HGET", keys.api_keys, _VERSION)
    return "" if version is None else str(version.decode())


async def read_copy(link: Link, keys: Keys) -> Copy:
    """Return the copy; a field that is no key is passed over. Raises LogUnavailable."""
    fields = dict(pairs(await link.call("HGETALL", keys.api_keys)))
    version = fields.pop(_VERSION.encode(), b"")
    return Copy(version.decode(), {key.id: key for text in fields.values() if (key := _read(text))})


async def change_copy(
    link: Link,
    keys: Keys,
    seen: Copy,
    changed: Mapping[str, ApiKey],
    gone: Iterable[str] = (),
    *,
    complete: bool = True,
) -> bool:
    """Change the copy unless it is another one than was seen; True if that was done.

    `complete` says that it lacks nothing then. Raises LogUnavailable.
    """
    version = secrets.token_hex(_VERSION_BYTES) if complete else ""
    fields = [item for key in changed.values() for item in (key.id, msgspec.json.encode(key))]
    arguments = (seen.version, version, len(fields), *fields, *gone)
    return bool(await link.script(CHANGE_API_KEYS, (keys.api_keys,), arguments))


def _read(text: bytes) -> ApiKey | None:
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
