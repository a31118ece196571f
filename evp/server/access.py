"""Who may use a route: the caller behind a request, and what that caller may do."""

from __future__ import annotations

from msgspec import Struct

from evp.errors import Refusal
from evp.scopes import READ
from evp.server.keys import Grant
from evp.server.parts import AnyRequest, parts_of
from evp.server.person import person_of


class Caller(Struct, frozen=True):
    """Who asks, and what for: a key or a person."""

    name: str
    scopes: frozenset[str]


async def require(request: AnyRequest, scope: str, overdue_s: int = 0) -> Caller:
    """Return who asks, if they may do what `scope` stands for; of a key, it counts as one event.

    A token is good `overdue_s` longer while the store is away, which alone could renew it. Raises
    Refusal as `require_key` does, and `invalid_token`.
    """
    person = await person_of(request, overdue_s)
    if person is not None:
        if scope not in person.scopes:
            raise Refusal("forbidden", f"this needs a user with the scope {scope}")
        return Caller(person.name, person.scopes)
    grant = require_key(request, scope)
    grant.spend(1)
    return Caller(grant.name, grant.scopes)


async def require_read(request: AnyRequest) -> None:
    """Raise as `require` unless whoever asks may read.

    A route has it as `before_request`: strangers learn nothing of its parameters either.
    """
    await require(request, READ)


def require_key(request: AnyRequest, scope: str) -> Grant:
    """Return what the key behind a request may do; the caller says what the request spends.

    Raises Refusal `unauthenticated`, the same for a missing and a wrong key;
    `forbidden` if the key is good for other things only; `rate_limited` if it has sent
    too much; `keys_unavailable` while nobody can tell.
    """
    headers = dict(request.scope["headers"])  # None of those that decide is there twice.
    grant = parts_of(request).keys.grant_of(headers.get(b"x-api-key"))
    grant.require(scope)
    grant.require_pace()
    return grant
