"""Sessions in a browser: cookies that no script reads and no other site sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from litestar._parsers import parse_cookie_string

from evp.errors import StoreUnavailable
from evp.server.person import ACCESS_COOKIE, REFRESH_COOKIE
from evp.settings import Settings
from evp.storage import sessions
from evp.stream.client import Link
from tests.support.people import PASSWORD, People, cookies_of, encode, granted, value_of
from tests.support.server import InProcess, serving
from tests.support.tokens import SECRET

LOGIN = encode({"username": "anna", "password": PASSWORD, "cookies": True})


@pytest.fixture
async def server(settings: Settings, link: Link, request: Any) -> AsyncIterator[InProcess]:
    """A server, in production where the test says so."""
    changes: dict[str, Any] = {"jwt_secret": SECRET} | getattr(request, "param", {})
    async with serving(msgspec.structs.replace(settings, **changes)) as server:
        yield server


@pytest.fixture
async def crowd(server: InProcess) -> AsyncIterator[People]:
    """The people of a test: anna."""
    crowd = People(server, "")
    await crowd.add("anna")
    yield crowd
    await crowd.close()


@pytest.fixture
async def cookies(server: InProcess, crowd: People) -> dict[str, str]:
    """What a browser was given at a login."""
    return await cookies_of(server, "/auth/login", LOGIN)


def sent(cookies: dict[str, str]) -> str:
    """Return cookies as a browser sends them back."""
    return "; ".join(f"{name}={value_of(cookie)}" for name, cookie in cookies.items())


async def test_no_script_and_no_other_site_gets_them(cookies: dict[str, str]) -> None:
    """Both are HttpOnly and SameSite=Strict; the refresh token is sent to /auth alone."""
    assert set(cookies) == {ACCESS_COOKIE, REFRESH_COOKIE}
    for cookie in cookies.values():
        words = cookie.split("; ")[1:]
        assert {"HttpOnly", "SameSite=strict"} <= set(words)
        assert "Secure" not in words
        assert not any(word.startswith("Domain") for word in words)
    assert {"Path=/", "Max-Age=900"} <= set(cookies[ACCESS_COOKIE].split("; "))
    assert "Path=/auth" in cookies[REFRESH_COOKIE].split("; ")


@pytest.mark.parametrize("server", [{"env": "production"}], indirect=True)
async def test_in_production_they_need_tls(cookies: dict[str, str]) -> None:
    """Where evp is used in earnest no cookie goes over a line that can be listened to."""
    assert all("Secure" in cookie.split("; ") for cookie in cookies.values())


async def test_tokens_are_in_cookies_only(crowd: People) -> None:
    """A login that asks for cookies has no token in its body, which scripts can read."""
    grant = granted(await crowd.post("login", LOGIN))
    assert set(grant) == {"token_type", "expires_in", "refresh_expires_in"}


async def test_a_browser_is_known_by_them(crowd: People, cookies: dict[str, str]) -> None:
    """With the cookie one is logged in, unless a page of another origin had it sent."""
    cookie = sent(cookies)
    for site in ("same-origin", "none"):
        assert (await crowd.me(cookie=cookie, sec_fetch_site=site)).status == 200
    assert (await crowd.me(cookie=cookie)).status == 200
    for site in ("same-site", "cross-site", "nonsense"):
        reply = await crowd.me(cookie=cookie, sec_fetch_site=site)
        assert (reply.status, reply.code) == (401, "unauthenticated")
    assert (await crowd.me(cookie=f"{ACCESS_COOKIE}=old")).code == "invalid_token"
    # What is sent on purpose goes before what a browser sends by itself.
    assert (await crowd.me(cookie=f"{ACCESS_COOKIE}=old", x_api_key="test-key")).status == 200
    assert (await crowd.me("garbage", cookie=cookie)).code == "invalid_token"


@pytest.mark.parametrize(
    ("first", "last"),
    [("", ""), ("a=b; ", "; c"), (" ;; = ;", f"; {ACCESS_COOKIE}=old"), ("x" * 20_000 + ";", ";")],
    ids=["alone", "among others", "first of two", "behind a long one"],
)
async def test_the_first_cookie_of_the_name_counts(
    crowd: People, cookies: dict[str, str], first: str, last: str
) -> None:
    """Whatever else a browser sends along, the first cookie of evp's name is the one."""
    token = value_of(cookies[ACCESS_COOKIE])
    assert (await crowd.me(cookie=f"{first}{ACCESS_COOKIE}={token}{last}")).status == 200
    assert (await crowd.me(cookie=f'{first}{ACCESS_COOKIE}="{token}"{last}')).status == 200
    for other in (f"x{ACCESS_COOKIE}={token}", ACCESS_COOKIE, f"a={ACCESS_COOKIE}={token}"):
        assert (await crowd.me(cookie=other)).code == "unauthenticated"
    assert (await crowd.me(cookie=f"{ACCESS_COOKIE}=old; {sent(cookies)}")).code == "invalid_token"


async def test_no_cache_has_them(crowd: People, cookies: dict[str, str]) -> None:
    """Cookies are tokens, and a stranger's are of any size: nothing keeps what was read of them."""
    before = parse_cookie_string.cache_info()
    assert (await crowd.me(cookie=sent(cookies))).status == 200
    for number in range(20):
        assert (await crowd.me(cookie=f"{ACCESS_COOKIE}={number}")).code == "invalid_token"
    assert parse_cookie_string.cache_info() == before


async def test_refresh_by_cookie(server: InProcess, crowd: People, cookies: dict[str, str]) -> None:
    """Without a body the cookie is exchanged, and the new tokens are in cookies again."""
    renewed = await cookies_of(server, "/auth/refresh", b"", cookie=sent(cookies))
    assert value_of(renewed[REFRESH_COOKIE]) != value_of(cookies[REFRESH_COOKIE])
    assert (await crowd.me(cookie=sent(renewed))).status == 200
    reply = await crowd.post("refresh", cookie=sent(renewed))
    assert set(granted(reply)) == {"token_type", "expires_in", "refresh_expires_in"}
    stolen = await crowd.post("refresh", cookie=sent(renewed), sec_fetch_site="cross-site")
    assert stolen.code == "invalid_token"


async def test_logout_by_cookie(server: InProcess, crowd: People, cookies: dict[str, str]) -> None:
    """The session has ended, and the browser forgets both cookies."""
    gone = await cookies_of(server, "/auth/logout", b"", cookie=sent(cookies))
    assert {name: value_of(cookie).strip('"') for name, cookie in gone.items()} == {
        ACCESS_COOKIE: "",
        REFRESH_COOKIE: "",
    }
    for name, path in ((ACCESS_COOKIE, "/"), (REFRESH_COOKIE, "/auth")):
        assert {f"Path={path}", "Max-Age=0"} <= set(gone[name].split("; "))
    assert (await crowd.post("refresh", cookie=sent(cookies))).code == "invalid_token"


@pytest.mark.parametrize("names", [[ACCESS_COOKIE], [REFRESH_COOKIE, ACCESS_COOKIE]])
async def test_logout_that_fails_leaves_nobody_logged_in(
    server: InProcess,
    crowd: People,
    cookies: dict[str, str],
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever keeps a session from being ended, its browser forgets what it has of it."""

    async def away(*_given: Any) -> None:
        raise StoreUnavailable("planted")

    monkeypatch.setattr(sessions, "end", away)
    cookie = sent({name: cookies[name] for name in names})
    reply = await crowd.post("logout", cookie=cookie)
    assert reply.code == ("invalid_token" if len(names) == 1 else "store_unavailable")
    gone = await cookies_of(server, "/auth/logout", b"", cookie=cookie)
    assert gone.keys() == set(names)
    assert all("Max-Age=0" in line.split("; ") for line in gone.values())
    # Another site logs nobody out.
    assert not await cookies_of(
        server, "/auth/logout", b"", cookie=cookie, **{"sec-fetch-site": "cross-site"}
    )
