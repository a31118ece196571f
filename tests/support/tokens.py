"""Access tokens that evp would never make: what an attacker, or another program, may send."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any

SECRET = "a secret of a test, of 32 bytes or more"
PUBLIC_KEY = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\n"
    "q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n"
    "-----END PUBLIC KEY-----\n"
)
HEADER: dict[str, Any] = {"alg": "HS256", "typ": "at+jwt"}


def part(value: object) -> str:
    """Return one part of a token: JSON, or bytes as they are."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    header: object, claims: object, *, secret: str = SECRET, algorithm: str = "sha256"
) -> str:
    """Return a token with any header, signed by HMAC all the same."""
    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), algorithm))}"


def good_claims(name: str = "anna", version: int = 1, **changes: Any) -> dict[str, Any]:
    """Return claims that evp takes, with changes; a change to None leaves one out."""
    at_s = int(time.time())
    claims = {
        "iss": "evp",
        "aud": "evp-api",
        "sub": name,
        "ver": version,
        "scope": "read",
        "iat": at_s,
        "exp": at_s + 600,
    }
    return {key: value for key, value in (claims | changes).items() if value is not None}


def bad_tokens(name: str = "anna") -> Iterator[tuple[str, str]]:
    """Give wrong tokens, each with what is wrong about it."""
    good = good_claims(name)
    for alg in ("none", "None", "", None, "HS384", "RS256", "ES256", "hs256"):
        yield f"alg {alg}", signed(HEADER | {"alg": alg}, good)
    yield "alg none, unsigned", f"{part(HEADER | {'alg': 'none'})}.{part(good)}."
    yield "no alg", signed({"typ": "at+jwt"}, good)
    yield "HS512, signed so", signed(HEADER | {"alg": "HS512"}, good, algorithm="sha512")
    yield "HS256 by a public key", signed(HEADER, good, secret=PUBLIC_KEY)
    yield (
        "RS256 that is HS256 by a public key",
        signed(HEADER | {"alg": "RS256"}, good, secret=PUBLIC_KEY),
    )
    yield "by another secret", signed(HEADER, good, secret=SECRET[::-1])
    yield "by an empty secret", signed(HEADER, good, secret="")
    for kid in ("1", "../../dev/null", "' or 1=1", 7, None):
        yield f"kid {kid}", signed(HEADER | {"kid": kid}, good)
    extras: tuple[dict[str, Any], ...] = (
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"jku": "https://evil.example/keys"},
        {"jwk": {"kty": "oct", "k": part(SECRET.encode())}},
        {"x5u": "https://evil.example/cert"},
    )
    for extra in extras:
        yield f"header {extra}", signed(HEADER | extra, good)
    yield "typ JWT", signed(HEADER | {"typ": "JWT"}, good)
    yield "no typ", signed({"alg": "HS256"}, good)
    for claim, wrong in _wrong_claims().items():
        for what, value in wrong.items():
            change: dict[str, Any] = {claim: value}
            yield f"{claim} {what}", signed(HEADER, good_claims(name, **change))
    for what, text in (
        ("exp without end", '"exp": 1e999'),
        ("exp that is no number", '"exp": NaN'),
    ):
        claims = json.dumps(good).replace(f'"exp": {good["exp"]}', text).encode()
        yield what, signed(HEADER, claims)
    yield "claims in a list", signed(HEADER, [good])
    yield "no JSON", signed(HEADER, b"\xff\xfe")
    yield "nested deeply", signed(HEADER, b"[" * 1500)
    yield "header nested deeply", signed(b"[" * 1500, good)
    whole = signed(HEADER, good)
    yield "cut", whole[:-1]
    yield "one part more", f"{whole}.{part(b'x')}"
    yield "one part", whole.partition(".")[0]
    yield "empty", ""
    yield "dots", ".."
    yield "not ASCII", whole + "é"
    yield "too long", signed(HEADER, good_claims(name, more="x" * 8_000))


def _wrong_claims() -> dict[str, dict[str, Any]]:
    """Return wrong values of each claim, by what is wrong about them."""
    at_s = int(time.time())
    return {
        "iss": {"missing": None, "empty": "", "other": "other", "list": ["evp"], "number": 1},
        "aud": {
            "missing": None,
            "empty": "",
            "other": "other",
            "list": ["evp-api"],
            "many": ["evp-api", "other"],
            "object": {},
        },
        "sub": {"missing": None, "number": 1, "list": ["anna"]},
        "ver": {"missing": None, "text": "1", "fraction": 1.5, "boolean": True},
        "scope": {"missing": None, "number": 1, "list": ["read"]},
        "exp": {
            "missing": None,
            "word": "soon",
            "text": str(at_s + 600),
            "past": at_s - 60,
            "negative": -1,
            "zero": 0,
            "list": [],
            "operator": {"$gt": 0},
        },
        "iat": {"missing": None, "word": "now", "future": at_s + 3600, "list": []},
        "nbf": {"future": at_s + 3600, "word": "later", "list": []},
    }
