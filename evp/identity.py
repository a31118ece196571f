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


def event_id(source: str, id_: str, time_ms: int) -> bytes:
    """Return the 16 bytes of `_id` for an event that has an `id`.

    `time_ms` is 0 for an event without a time, and for all events where the
    deployment sets ID_FROM=source+id. Raises OverflowError outside 48 bits.
    """
    text = id_.encode()
    state = _hashed_source(source).copy()
    state.update(b"%d:%b" % (len(text), text))
    digest = state.digest()
    return (
        time_ms.to_bytes(6, "big")
        + bytes((0x80 | digest[0] & 0x0F, digest[1], 0x80 | digest[2] & 0x3F))
        + digest[3:]
    )


@lru_cache(maxsize=1024)
def _hashed_source(source: str) -> blake2b:
    """Return the hash of a source, to go on with; the same few sources come again and again."""
    text = source.encode()
    return blake2b(b"%d:%b" % (len(text), text), digest_size=10)


def random_event_id(time_ms: int) -> bytes:
    """Return the 16 bytes of a new version 7 UUID for an event without an `id`."""
    noise = os.urandom(10)
    return (
        time_ms.to_bytes(6, "big")
        + bytes((0x70 | noise[0] & 0x0F, noise[1], 0x80 | noise[2] & 0x3F))
        + noise[3:]
    )


def canonical(event_id_: bytes) -> str:
    """Return the 16 bytes as a UUID's text, `01234567-89ab-…`."""
    text = event_id_.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
