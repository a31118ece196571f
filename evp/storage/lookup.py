"""Ids of many events: as a header holds them, and in portions that every store answers quickly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from evp.identity import ID_BYTES
from evp.limits import LOOKUP_IDS_MAX

T = TypeVar("T")


def portions(ids: Sequence[T]) -> Iterator[list[T]]:
    """Give all ids, at most LOOKUP_IDS_MAX at a time."""
    for start in range(0, len(ids), LOOKUP_IDS_MAX):
        yield list(ids[start : start + LOOKUP_IDS_MAX])


def ids_of(header: bytes) -> list[bytes]:
    """Return the event ids of a frame's header, where they stand one after the other."""
    return [header[start : start + ID_BYTES] for start in range(0, len(header), ID_BYTES)]
