"""Pages of other origins: which of them a browser lets at the event routes (`CORS_ORIGINS`).

Off unless origins are set. Cookies count for nothing at these routes, so
credentials are never allowed, whatever the origin.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from evp.server.answer import Answer, Headers
from evp.server.limits import CORS_KEPT_S

ANY_ORIGIN = "*"

_PATH = "/events"
_HEADERS = frozenset((
    "authorization", "content-encoding", "content-type", "x-api-key", "x-request-id",
))  # fmt: skip
_ATTRIBUTE = re.compile(r"ce-[a-z0-9]+")
_EXPOSED = b"retry-after, x-request-id"


class Cors:
    """What a server says to browsers."""

    def __init__(self, origins: Collection[str]) -> None:
        self._any = ANY_ORIGIN in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def allows(self, path: str, origin: bytes | None) -> bool:
        """Return whether a page of `origin` may call what is at `path`."""
        if origin is None or not _is_open(path):
            return False
        return self._any or origin in self._origins

    def headers_of(self, path: str, origin: bytes | None) -> Headers:
        """Return what an answer says about it."""
        # Where it depends on the origin, a cache must not keep it for another one.
        varies = self._origins and not self._any and _is_open(path)
        vary = ((b"vary", b"origin"),) if varies else ()
        if origin is None or not self.allows(path, origin):
            return vary
        allowed = b"*" if self._any else origin
        return (
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", _EXPOSED),
            *vary,
        )


def _is_open(path: str) -> bool:
    return path == _PATH or path.startswith(_PATH + "/")


def preflight(asked: bytes | None) -> Answer:
    """Return the answer to a browser that asks first, for an origin that is allowed.

    `asked` are the headers that the page would send; those that evp reads are allowed.
    """
    names = [name.strip().lower() for name in (asked or b"").decode("latin-1").split(",")]
    allowed = [name for name in names if name in _HEADERS or _ATTRIBUTE.fullmatch(name)]
    headers = (
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", ", ".join(allowed).encode()),
        (b"access-control-max-age", b"%d" % CORS_KEPT_S),
    )
    return Answer(204, b"", headers)
