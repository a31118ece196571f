"""Tokens of people: access tokens that prove themselves, refresh tokens that the store knows.

An access token is a JWT (RFC 9068) that allows for no choice: one algorithm, one
header, one issuer, one audience, all of them checked. A refresh token is 128
bits of family and 256 bits of secret. The secret that follows is an HMAC of the
one before, so a client that lost an answer and asks again gets the same answer.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

import jwt
import msgspec
from msgspec import Struct

from evp.clock import now_ms
from evp.errors import Refusal, SettingsError, SettingsProblem
from evp.server.limits import ACCESS_TOKEN_S, ACCESS_TOKEN_SKEW_S_MAX, TOKEN_BYTES_MAX

_ALGORITHM = "HS256"
_HEADER = {"alg": _ALGORITHM, "typ": "at+jwt"}
_ISSUER = "evp"
_AUDIENCE = "evp-api"
_REQUIRED = ["exp", "iat", "aud", "iss", "sub"]

_FAMILY_BYTES = 16
_SECRET_BYTES = 32
_REFRESH_USE = b"evp refresh token"


class Claims(Struct, frozen=True):
    """What evp reads of an access token: the user, their version and scopes, seconds since 1970."""

    sub: str
    ver: int
    scope: str
    exp: int


class AccessTokens:
    """Makes and reads access tokens. Raises SettingsError if the secret is a public key."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        try:
            self.make("nobody", 0, [])
        except jwt.InvalidKeyError as error:
            problem = SettingsProblem("EVP_JWT_SECRET", "***", f"a secret text ({error})")
            raise SettingsError([problem]) from error

    def make(self, name: str, version: int, scopes: list[str]) -> str:
        """Return a token that is good for ACCESS_TOKEN_S."""
        at_s = now_ms() // 1000
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": name,
            "ver": version,
            "scope": " ".join(scopes),
            "iat": at_s,
            "exp": at_s + ACCESS_TOKEN_S,
        }
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM, headers=_HEADER)

    def read(self, token: str, overdue_s: int = 0) -> Claims:
        """Return what a token says, also if it ended `overdue_s` ago at most.

        Raises Refusal `invalid_token`, whatever is wrong with it.
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise invalid_token()
        try:
            whole = jwt.decode_complete(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                audience=_AUDIENCE,
                leeway=ACCESS_TOKEN_SKEW_S_MAX + overdue_s,
                options={"require": _REQUIRED, "strict_aud": True},
            )
            claims = msgspec.convert(whole["payload"], Claims)
        except (jwt.InvalidTokenError, msgspec.ValidationError):
            raise invalid_token() from None
        if whole["header"] != _HEADER:
            raise invalid_token()
        return claims


class RefreshToken(Struct, frozen=True):
    """One refresh token; the store has its family and its digest only."""

    family: bytes
    secret: bytes

    @property
    def digest(self) -> bytes:
        """What is kept of it."""
        return sha256(self.family + self.secret).digest()

    @property
    def text(self) -> str:
        """The token as a client holds it."""
        return urlsafe_b64encode(self.family + self.secret).decode()


class RefreshTokens:
    """Makes and reads refresh tokens."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), _REFRESH_USE, "sha256")

    def first(self) -> RefreshToken:
        """Return the first token of a new family."""
        return RefreshToken(secrets.token_bytes(_FAMILY_BYTES), secrets.token_bytes(_SECRET_BYTES))

    def following(self, token: RefreshToken) -> RefreshToken:
        """Return the token that takes the place of this one."""
        secret = hmac.digest(self._key, token.family + token.secret, "sha256")
        return RefreshToken(token.family, secret)

    def read(self, text: str) -> RefreshToken:
        """Return a token as it was made. Raises Refusal `invalid_token` if none looks like that."""
        try:
            both = urlsafe_b64decode(text)
        except (binascii.Error, ValueError):
            raise invalid_token() from None
        token = RefreshToken(both[:_FAMILY_BYTES], both[_FAMILY_BYTES:])
        if len(token.secret) != _SECRET_BYTES or token.text != text:
            raise invalid_token()
        return token


def invalid_token() -> Refusal:
    """Return the refusal of a token; it does not say why, which would help only who made it up."""
    return Refusal("invalid_token", "the token is wrong, has expired or was revoked; log in again")
