"""What a request tells about the person behind it: a token, and an address."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from evp.server.parts import AnyRequest, parts_of
from evp.server.people import Person

ACCESS_COOKIE = "evp_access"
REFRESH_COOKIE = "evp_refresh"

_IPV6_SITE_BITS = 64
#: Pages of the same origin, and whoever types an address. Older browsers don't say.
_SENT_FROM_HERE = {"same-origin", "none", None}


async def person_of(request: AnyRequest, overdue_s: int = 0) -> Person | None:
    """Return who is behind a request by a token; None if it has none.

    That is `Authorization: Bearer …` or, if no API key came along, the cookie of a
    browser; `overdue_s` is as `People.person` takes it. Raises Refusal `invalid_token`.
    There are never two Authorization headers: `evp.server.guard` refuses them.
    """
    token = _bearer(request)
    if token is None and "x-api-key" not in request.headers:
        token = cookie_of(request, ACCESS_COOKIE)
    return None if token is None else await parts_of(request).people.person(token, overdue_s)


def cookie_of(request: AnyRequest, name: str) -> str | None:
    """Return the first cookie of a name, None also if a page of another origin had it sent."""
    if request.headers.get("sec-fetch-site") not in _SENT_FROM_HERE:
        return None
    # Not `request.cookies`: Litestar keeps the last thousand, and they are secrets, of any size.
    for header in request.headers.getall("cookie", []):
        for pair in header.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip() == name:
                return value.strip().strip('"')
    return None


def address_of(request: AnyRequest) -> str:
    """Return where a request comes from, as `site_of` does."""
    client = request.scope.get("client")
    forwarded = request.headers.getall("x-forwarded-for", [])
    proxies = parts_of(request).settings.trusted_proxies
    return site_of(client[0] if client else "", forwarded, proxies)


def site_of(peer: str, forwarded: Sequence[str], proxies: int) -> str:
    """Return the address of a client; of IPv6 the network, since one has addresses without end.

    Behind `proxies` it is what the outermost of them has added to X-Forwarded-For.
    What clients put there themselves stands further left.
    """
    path = [hop.strip() for hop in ",".join([*forwarded, peer]).split(",") if hop.strip()]
    try:
        found = ipaddress.ip_address(path[-min(proxies + 1, len(path))])
    except (ValueError, IndexError):
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), _IPV6_SITE_BITS), strict=False))


def _bearer(request: AnyRequest) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    # Other schemes belong to a proxy in between.
    return token.strip() if scheme.lower() == "bearer" else None
