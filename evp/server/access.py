"""Who may use a route: the caller behind a request, and what that caller may do."""

from __future__ import annotations

from msgspec import Struct

from evp.server.parts import AnyRequest, parts_of

INGEST = "ingest"
READ = "read"
ADMIN = "admin"


class Caller(Struct, frozen=True):
    """Who asks, and what for: a key or a person."""

    name: str
    scopes: frozenset[str]


async def require(request: AnyRequest, scope: str) -> Caller:
    """Return who asks, if they may do what `scope` stands for.

    Raises Refusal `unauthenticated`, the same for a missing and a wrong key.
    """
    key = request.headers.get("x-api-key")
    name = parts_of(request).keys.name_of(None if key is None else key.encode("latin-1"))
    return Caller(name, frozenset((scope,)))
