"""Scopes: what a key or a person may be good for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

INGEST: Final = "ingest"
READ: Final = "read"
ADMIN: Final = "admin"


def with_implied(scopes: Iterable[str]) -> frozenset[str]:
    """Return scopes with those that they imply: who administers may read as well."""
    given = frozenset(scopes)
    return given | {READ} if ADMIN in given else given
