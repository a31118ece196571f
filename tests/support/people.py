"""Users of a test, and their requests to a server."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from evp.http import Reply
from evp.passwords import hash_password
from evp.server.tokens import AccessTokens
from evp.storage import users
from evp.storage.client import close, connect, database
from tests.support.server import InProcess, request

PASSWORD = "correct horse battery"
JSON = {"content-type": "application/json"}


class People:
    """What people do at one server; each test's come from an address of its own."""

    def __init__(self, server: InProcess, address: str) -> None:
        self.server = server
        self.address = address
        self._client = connect(server.settings, connections_max=2)
        self.db = database(self._client, server.settings.mongo_db)

    async def close(self) -> None:
        """Go away."""
        await close(self._client)

    async def add(self, name: str, scope: str = "read") -> None:
        """Make a user with the password of all tests."""
        assert await users.add(self.db, name, _kept(), [scope])

    async def post(self, path: str, body: object = None, **headers: str) -> Reply:
        """POST JSON below /auth; bytes go as they are, and None is no body."""
        raw = b"" if body is None else body if isinstance(body, bytes) else encode(body)
        sent = JSON | {"x-forwarded-for": self.address}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.server.ask(request(raw, path=f"/auth/{path}", headers=sent))

    async def try_login(self, name: str, password: str = PASSWORD, **more: Any) -> Reply:
        """Try to log in."""
        return await self.post("login", {"username": name, "password": password} | more)

    async def login(self, name: str, password: str = PASSWORD) -> dict[str, Any]:
        """Log in, which must succeed, and return the answer."""
        return granted(await self.try_login(name, password))

    async def refresh(self, token: str) -> Reply:
        """Exchange a refresh token."""
        return await self.post("refresh", {"refresh_token": token})

    async def me(self, token: str | None = None, **headers: str) -> Reply:
        """Ask who one is."""
        sent = {} if token is None else {"authorization": f"Bearer {token}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.server.ask(request(b"", method="GET", path="/auth/me", headers=sent))

    @property
    def tokens(self) -> AccessTokens:
        """Makes access tokens as this server does."""
        assert self.server.settings.jwt_secret is not None
        return AccessTokens(self.server.settings.jwt_secret)


@cache
def _kept() -> str:
    return hash_password(PASSWORD)


def encode(value: object) -> bytes:
    """Return JSON."""
    return msgspec.json.encode(value)


def granted(reply: Reply) -> dict[str, Any]:
    """Return what an answer grants, after checking that it does, and that nobody may keep it."""
    assert reply.status == 200, reply
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/json"
    found: dict[str, Any] = msgspec.json.decode(reply.body)
    return found


async def cookies_of(server: InProcess, path: str, body: bytes, **headers: str) -> dict[str, str]:
    """POST and return the cookies that are set, by name, each as the whole line."""
    sent = JSON | {"connection": "close"} | headers
    async with server.wire() as wire:
        await wire.send(request(body, path=path, headers=sent))
        head, _, _ = (await wire.rest()).decode().partition("\r\n\r\n")
    lines = [line.partition(": ") for line in head.split("\r\n")]
    cookies = [value for name, _, value in lines if name.lower() == "set-cookie"]
    return {cookie.partition("=")[0]: cookie for cookie in cookies}


def value_of(cookie: str) -> str:
    """Return what a cookie holds."""
    return cookie.partition("=")[2].partition(";")[0]
