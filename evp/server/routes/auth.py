"""Logins of people: two tokens in the answer, or in cookies that no script of a page can read."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.status_codes import HTTP_200_OK, HTTP_204_NO_CONTENT
from msgspec import UNSET, Meta, Struct, UnsetType

from evp.errors import Refusal, StoreUnavailable
from evp.limits import PASSWORD_BYTES_MAX, USER_NAME_CHARS_MAX
from evp.scopes import READ
from evp.server.access import require
from evp.server.body import content_type_of, decode_json, read_body
from evp.server.limits import AUTH_BODY_BYTES_MAX
from evp.server.parts import AnyRequest, parts_of, response
from evp.server.people import Issued
from evp.server.person import ACCESS_COOKIE, REFRESH_COOKIE, address_of, cookie_of
from evp.server.problem import problem, store_away
from evp.server.request import Hold
from evp.server.tokens import invalid_token
from evp.settings import PRODUCTION

_PATH = "/auth"


class Credentials(Struct, frozen=True):
    """The body of POST /auth/login. `cookies` asks for cookies in place of tokens."""

    username: Annotated[str, Meta(min_length=1, max_length=USER_NAME_CHARS_MAX)]
    password: Annotated[str, Meta(min_length=1, max_length=PASSWORD_BYTES_MAX)]
    cookies: bool = False


class Renewal(Struct, frozen=True):
    """The body of POST /auth/refresh and /auth/logout; left out where the cookie is there."""

    refresh_token: str


class Tokens(Struct, frozen=True):
    """What a login or a refresh gives, in OAuth's words; `expires_in` is in seconds.

    The tokens are left out where they are in cookies.
    """

    expires_in: int
    refresh_expires_in: int
    token_type: str = "Bearer"  # noqa: S105 - is no secret
    access_token: str | UnsetType = UNSET
    refresh_token: str | UnsetType = UNSET


class Me(Struct, frozen=True):
    """Who asks, and what they may do."""

    name: str
    scopes: list[str]


@post(f"{_PATH}/login", status_code=HTTP_200_OK)
async def login(request: AnyRequest) -> Response[Tokens]:
    """Log in with user name and password."""
    body = await _body(request)
    asked = decode_json(body, content_type_of(request), Credentials)
    people = parts_of(request).people
    issued = await people.login(asked.username, asked.password, address_of(request))
    return _answer(request, issued, cookies=asked.cookies)


@post(f"{_PATH}/refresh", status_code=HTTP_200_OK)
async def refresh(request: AnyRequest) -> Response[Tokens]:
    """Exchange a refresh token for two new tokens; it is good once."""
    token, from_cookie = await _refresh_token(request)
    issued = await parts_of(request).people.refresh(token)
    return _answer(request, issued, cookies=from_cookie)


def _not_ended(request: AnyRequest, error: Refusal | StoreUnavailable) -> Response[bytes]:
    """Tell why a session was not ended; whoever uses the browser next is not logged in."""
    told = response(problem(error if isinstance(error, Refusal) else store_away(error)))
    for name in _COOKIE_PATHS:
        # What another site had sent is not there.
        if cookie_of(request, name) is not None:
            told.set_cookie(_cookie(request, name, "", 0))
    return told


@post(
    f"{_PATH}/logout",
    status_code=HTTP_204_NO_CONTENT,
    exception_handlers={Refusal: _not_ended, StoreUnavailable: _not_ended},
)
async def logout(request: AnyRequest) -> Response[None]:
    """End a session: no refresh token of it is good any more."""
    token, from_cookie = await _refresh_token(request)
    await parts_of(request).people.logout(token)
    gone = [_cookie(request, name, "", 0) for name in _COOKIE_PATHS] if from_cookie else []
    return Response(None, cookies=gone)


@get(f"{_PATH}/me")
async def me(request: AnyRequest) -> Response[Me]:
    """Tell who asks, and what they may do."""
    caller = await require(request, READ)
    return Response(Me(caller.name, sorted(caller.scopes)))


async def _body(request: AnyRequest) -> bytes:
    with Hold(parts_of(request).bodies) as hold:
        return await read_body(request, AUTH_BODY_BYTES_MAX, hold)


async def _refresh_token(request: AnyRequest) -> tuple[str, bool]:
    """Return the refresh token of a request, and whether it came as a cookie."""
    body = await _body(request)
    if body:
        return decode_json(body, content_type_of(request), Renewal).refresh_token, False
    cookie = cookie_of(request, REFRESH_COOKIE)
    if cookie is None:
        raise invalid_token()
    return cookie, True


def _answer(request: AnyRequest, issued: Issued, *, cookies: bool) -> Response[Tokens]:
    if not cookies:
        tokens = Tokens(
            issued.expires_in_s,
            issued.refresh_expires_in_s,
            access_token=issued.access_token,
            refresh_token=issued.refresh_token,
        )
        return Response(tokens)
    made = [
        _cookie(request, ACCESS_COOKIE, issued.access_token, issued.expires_in_s),
        _cookie(request, REFRESH_COOKIE, issued.refresh_token, issued.refresh_expires_in_s),
    ]
    tokens = Tokens(issued.expires_in_s, issued.refresh_expires_in_s)
    return Response(tokens, cookies=made)


#: The browser shows the refresh token to these routes only.
_COOKIE_PATHS = {ACCESS_COOKIE: "/", REFRESH_COOKIE: _PATH}


def _cookie(request: AnyRequest, name: str, value: str, age_s: int) -> Cookie:
    """Return a cookie that scripts can't read and other sites can't send."""
    return Cookie(
        name,
        path=_COOKIE_PATHS[name],
        value=value,
        max_age=age_s,
        httponly=True,
        samesite="strict",
        # In development the server speaks plain HTTP, and some browsers mind even on localhost.
        secure=parts_of(request).settings.env == PRODUCTION,
    )


ROUTES = (login, refresh, logout, me)
