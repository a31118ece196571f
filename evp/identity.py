"""Where an event's `_id` comes from: the same event always gets the same one.

An `_id` is a UUID of 16 bytes (RFC 9562). With an `id` it is version 8:

    48 bits  `time` in milliseconds since 1970, rounded down; 0 without a time
     4 bits  version, 8
    12 bits  ┐
     2 bits  │ variant, binary 10
    62 bits  ┘ the other 74 bits: BLAKE2b, 10 bytes long, of source and id

Source and id go into the hash as `<length in bytes>:<UTF-8>`, one after the
other, so that no two pairs can run together. Byte 0 of the digest gives its low
4 bits, byte 2 its low 6, the rest all 8. Without an `id` nothing could be the
same on a retry, so it is version 7: time and random bits.

The test vectors are in `docs/IDENTITY.md`; they must never change.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import blake2b

ID_BYTES = 16
TIME_MS_MAX = (1 << 48) - 1

_HASH_BITS = 80
#: Where version and variant stand in the last 80 bits, and what they are.
_FIXED_MASK = 0xF0 << 72 | 0xC0 << 56
_FIXED_V8 = 0x80 << 72 | 0x80 << 56
_FIXED_V7 = 0x70 << 72 | 0x80 << 56
_FREE_MASK = (1 << _HASH_BITS) - 1 & ~_FIXED_MASK


def event_id(source: str, id_: str, time_ms: int) -> bytes:
    """Return the 16 bytes of `_id` for an event that has an `id`.

    `time_ms` is 0 for an event without a time, and for all events where the
    deployment sets ID_FROM=source+id. Raises OverflowError outside 48 bits.
    """
    text = id_.encode()
    state = _hashed_source(source).copy()
    state.update(b"%d:%b" % (len(text), text))
    # One number is put together faster than sixteen bytes.
    free = int.from_bytes(state.digest()) & _FREE_MASK
    return (time_ms << _HASH_BITS | _FIXED_V8 | free).to_bytes(ID_BYTES)


@lru_cache(maxsize=1024)
def _hashed_source(source: str) -> blake2b:
    """Return the hash of a source, to go on with; the same few sources come again and again."""
    text = source.encode()
    return blake2b(b"%d:%b" % (len(text), text), digest_size=10)


def random_event_id(time_ms: int) -> bytes:
    """Return the 16 bytes of a new version 7 UUID for an event without an `id`."""
    free = int.from_bytes(os.urandom(10)) & _FREE_MASK
    return (time_ms << _HASH_BITS | _FIXED_V7 | free).to_bytes(ID_BYTES)


def canonical(event_id_: bytes) -> str:
    """Return the 16 bytes as a UUID's text, `01234567-89ab-…`."""
    text = event_id_.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
