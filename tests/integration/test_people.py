"""Logins of people: who gets in, how long that lasts, and what ends it."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from evp import users
from evp.limits import PEOPLE_STORE_S_MAX, SESSIONS_MAX
from evp.passwords import verify_password
from evp.server import hashing, people, standing
from evp.server.limits import LOGIN_TRIES_MAX, LOGINS_AT_ONCE, LOGINS_WAITING_MAX, STANDING_KEEP_S
from evp.server.routes import auth
from evp.server.tokens import RefreshTokens
from evp.settings import Settings
from evp.storage import sessions as session_store
from evp.storage import users as user_store
from evp.storage.schema import REFRESH_TOKENS, USERS
from evp.stream.client import Link
from tests.support.people import PASSWORD, People
from tests.support.server import (
    ANSWER_S_MAX,
    JSON,
    InProcess,
    remove_traces,
    request,
    serving,
    settings_of,
)
from tests.support.servers import Server
from tests.support.stores import documents
from tests.support.tokens import HEADER, SECRET, bad_tokens, good_claims, signed
from tests.support.wait import until

WRONG = PASSWORD + "!"
FLOOD = 2 * (LOGINS_AT_ONCE + LOGINS_WAITING_MAX)

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def server(
    log_url: str, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InProcess]:
    """A server behind a proxy, so that each test has an address of its own."""
    folder = tmp_path_factory.mktemp("server")
    environ = {"EVP_JWT_SECRET": SECRET, "EVP_TRUSTED_PROXIES": "1"}
    settings = settings_of(log_url, store_url, folder, **environ)
    async with serving(settings) as server:
        yield server
    await remove_traces(settings)


@pytest.fixture
async def crowd(server: InProcess) -> AsyncIterator[People]:
    """The people of a test; whom one test has made the next one does not find."""
    crowd = People(server, f"198.51.100.{next(_numbers)}")
    yield crowd
    for collection in (USERS, REFRESH_TOKENS):
        await crowd.db[collection].delete_many({})
    await crowd.close()


@pytest.fixture
async def anna(crowd: People, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user, of whom the server looks each time whether they still may; one for each test."""
    monkeypatch.setattr(standing, "STANDING_KEEP_S", 0.0)
    name = f"anna{next(_numbers)}"
    await crowd.add(name)
    return name


@pytest.fixture
def _quick_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no password has to fit, none is hashed."""
    monkeypatch.setattr(hashing, "verify_password", lambda _kept, _password: False)


async def test_login(crowd: People, anna: str) -> None:
    """Name and password give two tokens; the first one opens what the user may see."""
    grant = await crowd.login(anna)
    assert (grant["token_type"], grant["expires_in"]) == ("Bearer", 900)
    assert 604_790 <= grant["refresh_expires_in"] <= 604_800
    reply = await crowd.me(grant["access_token"])
    assert reply.headers["cache-control"] == "no-store"
    assert msgspec.json.decode(reply.body) == {"name": anna, "scopes": ["read"]}


async def test_names_have_no_case(crowd: People, anna: str) -> None:
    """A name is the same however it is written."""
    assert (await crowd.login(anna.upper())).keys() >= {"access_token"}


async def test_an_admin_may_read(crowd: People) -> None:
    """The scope admin implies read."""
    await crowd.add("root", "admin")
    grant = await crowd.login("root")
    reply = await crowd.me(grant["access_token"])
    assert msgspec.json.decode(reply.body)["scopes"] == ["admin", "read"]


async def test_other_scopes_are_forbidden(
    crowd: People, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may read may not do what needs admin."""
    grant = await crowd.login(anna)
    monkeypatch.setattr(auth, "READ", "admin")
    reply = await crowd.me(grant["access_token"])
    assert (reply.status, reply.code) == (403, "forbidden")


async def test_nothing_secret_is_stored(crowd: People, anna: str) -> None:
    """Neither password nor token stands in the store, not even a refresh token's secret."""
    grant = await crowd.login(anna)
    token = RefreshTokens(SECRET).read(grant["refresh_token"])
    [user], [session] = [await documents(crowd.db, name) for name in (USERS, REFRESH_TOKENS)]
    assert user["password"].startswith("$argon2id$")
    assert (session["_id"], session["current"]) == (token.family, token.digest)
    everything = repr([user, session])
    for secret in (PASSWORD, grant["access_token"], grant["refresh_token"], repr(token.secret)):
        assert secret not in everything


async def test_who_can_not_log_in_is_not_told_why(crowd: People, anna: str) -> None:
    """A wrong password, a name that nobody has and a disabled user get the very same answer."""
    await crowd.add("gone")
    await users.disable(crowd.db, "gone")
    tries = [(anna, WRONG), ("nobody", PASSWORD), ("gone", PASSWORD), ("gone", WRONG), ("%", "x")]
    replies = [await crowd.try_login(*one) for one in tries]
    assert {(reply.status, reply.code) for reply in replies} == {(401, "invalid_credentials")}
    assert len({reply.body for reply in replies}) == 1
    assert len({tuple(reply.headers) for reply in replies}) == 1


async def test_and_not_by_the_time_it_takes(
    crowd: People, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hash is computed for a name that nobody has as for a wrong password."""
    verified: list[bool] = []

    def counted(kept: str | None, password: str) -> bool:
        verified.append(kept is None)
        return verify_password(kept, password)

    monkeypatch.setattr(hashing, "verify_password", counted)
    took_s: dict[str, list[float]] = {anna: [], "nobody": []}
    for name in [anna, "nobody"] * 4:
        started_at_s = time.perf_counter()
        await crowd.try_login(name, WRONG)
        took_s[name].append(time.perf_counter() - started_at_s)
    assert verified == [False, True] * 4
    known_s, unknown_s = (statistics.median(took_s[name]) for name in (anna, "nobody"))
    assert known_s / 3 < unknown_s < known_s * 3


@pytest.mark.usefixtures("_quick_hash")
@pytest.mark.parametrize("known", [True, False])
async def test_eleven_tries_for_an_account(crowd: People, anna: str, *, known: bool) -> None:
    """From wherever they come, and for a name that nobody has as well, the eleventh has to wait."""
    name = anna if known else "nobody-who-tries"
    replies = []
    for number in range(LOGIN_TRIES_MAX + 1):
        crowd.address = f"203.0.113.{number}"
        replies.append(await crowd.try_login(name, WRONG))
    *allowed, last = replies
    assert {reply.code for reply in allowed} == {"invalid_credentials"}
    assert (last.status, last.code) == (429, "too_many_logins")
    assert 1 <= int(last.headers["retry-after"]) <= 60
    # Not even with the right password, or the answer would tell whether it was guessed.
    assert (await crowd.try_login(name)).code == "too_many_logins"


@pytest.mark.usefixtures("_quick_hash")
async def test_eleven_tries_from_an_address(crowd: People) -> None:
    """For whatever accounts they are, and whatever a client claims about its address."""
    crowd.address = "203.0.113.200"
    for number in range(LOGIN_TRIES_MAX):
        reply = await crowd.try_login(f"victim{number}", WRONG)
        assert reply.code == "invalid_credentials"
    crowd.address = "192.0.2.77, 203.0.113.200"
    assert (await crowd.try_login("victim", WRONG)).code == "too_many_logins"
    crowd.address = "203.0.113.201"
    assert (await crowd.try_login("victim", WRONG)).code == "invalid_credentials"


async def test_a_flood_of_logins_is_bounded(
    crowd: People, anna: str, server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few wait, others are told to come back; events, and who is logged in, go on meanwhile."""
    await until(server.is_ready, what="the server accepts")
    grant = await crowd.login(anna)
    go_on = threading.Event()

    def slow(_kept: str | None, _password: str) -> bool:
        go_on.wait(ANSWER_S_MAX)
        return False

    monkeypatch.setattr(hashing, "verify_password", slow)

    async def flood(number: int) -> str:
        body = {"username": f"mob{number}", "password": WRONG}
        return (await crowd.post("login", body, x_forwarded_for=f"192.0.2.{number}")).code

    flooding = [asyncio.create_task(flood(number)) for number in range(FLOOD)]
    try:
        await until(lambda: sum(one.done() for one in flooding) == FLOOD // 2, what="half are busy")
        assert (await server.ask(request(b'{"type": "t"}', headers=JSON))).status == 202
        assert (await crowd.refresh(grant["refresh_token"])).status == 200
    finally:
        go_on.set()
    codes = Counter(await asyncio.gather(*flooding))
    assert codes == {"server_busy": FLOOD // 2, "invalid_credentials": FLOOD // 2}


async def test_refresh_rotates(crowd: People, anna: str) -> None:
    """Each refresh gives two new tokens, and the new refresh token is the one that is good."""
    grant = await crowd.login(anna)
    seen = {grant["refresh_token"]}
    for _ in range(3):
        reply = await crowd.refresh(grant["refresh_token"])
        assert reply.status == 200
        grant = msgspec.json.decode(reply.body)
        assert (await crowd.me(grant["access_token"])).status == 200
        seen.add(grant["refresh_token"])
    assert len(seen) == 4
    assert len(await documents(crowd.db, REFRESH_TOKENS)) == 1


async def test_an_old_token_ends_the_session(crowd: People, anna: str) -> None:
    """A token that comes back after the one that followed it was used: a thief has one of them."""
    first = await crowd.login(anna)
    other = await crowd.login(anna)
    second = msgspec.json.decode((await crowd.refresh(first["refresh_token"])).body)
    third = msgspec.json.decode((await crowd.refresh(second["refresh_token"])).body)
    stolen = await crowd.refresh(first["refresh_token"])
    assert (stolen.status, stolen.code) == (401, "invalid_token")
    assert (await crowd.refresh(third["refresh_token"])).code == "invalid_token"
    assert (await crowd.refresh(other["refresh_token"])).status == 200


async def test_a_lost_answer_can_be_asked_for_again(
    crowd: People, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last token is taken once more, with the same result; after a short while it is old."""
    first = (await crowd.login(anna))["refresh_token"]
    second, again = [msgspec.json.decode((await crowd.refresh(first)).body) for _ in range(2)]
    assert again["refresh_token"] == second["refresh_token"]
    monkeypatch.setattr(people, "_AGAIN", timedelta(seconds=-1))
    assert (await crowd.refresh(first)).code == "invalid_token"
    assert (await crowd.refresh(second["refresh_token"])).code == "invalid_token"


async def test_windows_that_refresh_at_once(crowd: People, anna: str) -> None:
    """Of many that use one token at the same time all go on, with one token."""
    first = (await crowd.login(anna))["refresh_token"]
    replies = await asyncio.gather(*(crowd.refresh(first) for _ in range(8)))
    grants = [msgspec.json.decode(reply.body) for reply in replies]
    assert {reply.status for reply in replies} == {200}
    [second] = {grant["refresh_token"] for grant in grants}
    assert (await crowd.refresh(second)).status == 200


async def test_logout(crowd: People, anna: str) -> None:
    """After a logout no refresh token of the session is good; to log out again is as well."""
    first = await crowd.login(anna)
    second = msgspec.json.decode((await crowd.refresh(first["refresh_token"])).body)
    for _ in range(2):
        reply = await crowd.post("logout", {"refresh_token": second["refresh_token"]})
        assert (reply.status, reply.body) == (204, b"")
    for grant in (first, second):
        assert (await crowd.refresh(grant["refresh_token"])).code == "invalid_token"


@pytest.mark.parametrize("how", ["passwd", "disable"])
async def test_what_ends_everything(crowd: People, anna: str, how: str) -> None:
    """With another password, or disabled: access tokens end soon, refresh tokens at once."""
    grant = await crowd.login(anna)
    if how == "passwd":
        await users.change_password(crowd.db, anna, WRONG)
    else:
        await users.disable(crowd.db, anna)
    assert (await crowd.refresh(grant["refresh_token"])).code == "invalid_token"
    assert (await crowd.me(grant["access_token"])).code == "invalid_token"
    assert (await crowd.try_login(anna)).code == "invalid_credentials"
    if how == "disable":
        await users.enable(crowd.db, anna)
        assert (await crowd.me(grant["access_token"])).code == "invalid_token"
    again = await crowd.login(anna, WRONG if how == "passwd" else PASSWORD)
    assert (await crowd.me(again["access_token"])).status == 200


@pytest.mark.parametrize("how", ["passwd", "disable"])
async def test_a_change_that_stopped_halfway(crowd: People, anna: str, how: str) -> None:
    """Sessions that outlived their user's version are not gone on with."""
    grant = await crowd.login(anna)
    left = await documents(crowd.db, REFRESH_TOKENS)
    if how == "passwd":
        await users.change_password(crowd.db, anna, WRONG)
    else:
        await users.disable(crowd.db, anna)
    await crowd.db[REFRESH_TOKENS].insert_many(left)
    assert (await crowd.refresh(grant["refresh_token"])).code == "invalid_token"
    assert await documents(crowd.db, REFRESH_TOKENS) == []


async def test_a_change_is_seen_within_a_minute(crowd: People) -> None:
    """The store is asked again after half a minute, and in between it is not."""
    await crowd.add("berta")
    at_s = 100.0
    known = standing.Standing(crowd.db, lambda: at_s)
    assert await known.holds("berta", 1)
    await users.disable(crowd.db, "berta")
    at_s += STANDING_KEEP_S - 1
    assert await known.holds("berta", 1)
    at_s += 1
    assert not await known.holds("berta", 1)
    assert STANDING_KEEP_S + PEOPLE_STORE_S_MAX < 60


async def test_a_new_token_is_good_at_once(crowd: People) -> None:
    """A server that knows the version of before asks again when a later one comes."""
    await crowd.add("clara")
    known = standing.Standing(crowd.db, lambda: 100.0)
    assert await known.holds("clara", 1)
    await users.change_password(crowd.db, "clara", WRONG)
    assert await known.holds("clara", 2)
    assert not await known.holds("clara", 1)
    await users.disable(crowd.db, "clara")
    await users.enable(crowd.db, "clara")
    assert await known.holds("clara", 4)
    assert not await known.holds("nobody", 1)


async def test_few_are_remembered(crowd: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more users than may be remembered the first ones are asked for again."""
    monkeypatch.setattr(standing, "PEOPLE_KNOWN_MAX", 2)
    known = standing.Standing(crowd.db)
    for number in range(5):
        await known.holds(f"nobody{number}", 1)
    assert list(known._known) == ["nobody3", "nobody4"]


async def test_sessions_of_a_user_are_bounded(crowd: People, anna: str) -> None:
    """Of more sessions than a user may have the oldest end."""
    oldest = await crowd.login(anna)
    [first] = await documents(crowd.db, REFRESH_TOKENS)
    at = first["started_at"] + timedelta(seconds=1)
    rows = [first | {"_id": b"%d" % number, "started_at": at} for number in range(SESSIONS_MAX - 1)]
    await crowd.db[REFRESH_TOKENS].insert_many(rows)
    assert (await crowd.refresh(oldest["refresh_token"])).status == 200
    newest = await crowd.login(anna)
    assert len(await documents(crowd.db, REFRESH_TOKENS)) == SESSIONS_MAX
    assert (await crowd.refresh(oldest["refresh_token"])).code == "invalid_token"
    assert (await crowd.refresh(newest["refresh_token"])).status == 200


async def test_sessions_end_by_time(crowd: People, anna: str) -> None:
    """After a week without a refresh, and after thirty days whatever was done."""
    grant = await crowd.login(anna)
    [row] = await documents(crowd.db, REFRESH_TOKENS)
    long_ago = row["started_at"] - timedelta(days=30) + timedelta(seconds=60)
    change: dict[str, Any] = {"$set": {"started_at": long_ago}}
    await crowd.db[REFRESH_TOKENS].update_one({"_id": row["_id"]}, change)
    reply = await crowd.refresh(grant["refresh_token"])
    grant = msgspec.json.decode(reply.body)
    assert 0 < grant["refresh_expires_in"] <= 60
    change = {"$set": {"expires_at": row["started_at"]}}
    await crowd.db[REFRESH_TOKENS].update_one({"_id": row["_id"]}, change)
    assert (await crowd.refresh(grant["refresh_token"])).code == "invalid_token"


async def test_a_hash_of_before_is_made_anew(
    crowd: People, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the parameters have changed a login replaces the hash, and the password stays."""
    [before] = await documents(crowd.db, USERS)
    monkeypatch.setattr(people, "is_outdated", lambda _kept: True)
    grant = await crowd.login(anna)
    [after] = await documents(crowd.db, USERS)
    assert after["password"] != before["password"]
    assert after | {"password": ""} == before | {"password": ""}
    await crowd.login(anna)
    assert (await crowd.me(grant["access_token"])).status == 200


async def test_wrong_tokens(crowd: People, anna: str) -> None:
    """Over HTTP a wrong token is 401 `invalid_token`, whatever is wrong about it."""
    for what, text in bad_tokens(anna):
        reply = await crowd.me(text)
        assert (reply.status, reply.code) == (401, "invalid_token"), what
        assert reply.headers["www-authenticate"] == 'Bearer realm="evp", error="invalid_token"'
        assert reply.headers["cache-control"] == "no-store"


async def test_a_token_as_it_should_be(crowd: People, anna: str) -> None:
    """The scheme has no case; a token of no user, or of a user's future, is none."""
    assert (await crowd.me(signed(HEADER, good_claims(anna)))).status == 200
    lower = f"bearer {signed(HEADER, good_claims(anna))}"
    assert (await crowd.me(authorization=lower)).status == 200
    for claims in (good_claims("nobody"), good_claims(anna, 2), good_claims(anna, 0)):
        assert (await crowd.me(signed(HEADER, claims))).code == "invalid_token"


async def test_a_token_of_a_megabyte(crowd: People, server: InProcess) -> None:
    """It is cut off with the other headers, long before it has come whole."""
    async with server.wire() as wire:
        head = b"GET /auth/me HTTP/1.1\r\nhost: t\r\nauthorization: Bearer "
        await wire.send(head, b"x" * 100_000)
        assert (await wire.reply()).status == 431


async def test_two_authorization_headers(crowd: People, server: InProcess, anna: str) -> None:
    """Which one counts is not for evp to guess: 400."""
    token = (await crowd.login(anna))["access_token"]
    line = f"authorization: Bearer {token}\r\n"
    head = f"GET /auth/me HTTP/1.1\r\nhost: t\r\n{line}{line}\r\n"
    reply = await server.ask(head.encode())
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_other_ways_in(crowd: People, anna: str) -> None:
    """A proxy's own scheme is none of evp's; a key is taken beside it; a token nowhere else."""
    token = (await crowd.login(anna))["access_token"]
    basic = {"authorization": "Basic YTpi"}
    for headers in ({}, basic, {"x_access_token": token}, {"cookie": f"other={token}"}):
        reply = await crowd.me(**headers)
        assert (reply.status, reply.code) == (401, "unauthenticated")
        assert "Bearer" in reply.headers["www-authenticate"]
    path = f"/auth/me?access_token={token}"
    assert (await crowd.server.get(path, headers={})).code == "unauthenticated"
    assert (await crowd.me(x_api_key="test-key", **basic)).status == 200
    assert (await crowd.me("garbage", x_api_key="test-key")).code == "invalid_token"


@pytest.mark.parametrize("path", ["login", "refresh", "logout"])
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "400 invalid_json"),
        (b'{"x": ' + b"[" * 4000, "400 invalid_json"),
        (b'{"username": "\xff", "refresh_token": "\xff"}', "400 invalid_utf8"),
        (b"[]", "422 invalid_body"),
        (b"null", "422 invalid_body"),
        (b"{}", "422 invalid_body"),
        ({"username": {"$gt": ""}, "refresh_token": {"$gt": ""}}, "422 invalid_body"),
        ({"username": 1, "refresh_token": 1, "password": PASSWORD}, "422 invalid_body"),
        (b"x" * 4097, "413 body_too_large"),
    ],
)
async def test_wrong_bodies(crowd: People, path: str, body: object, told: str) -> None:
    """What is no JSON, or has another shape, is refused with its reason, never a 500."""
    reply = await crowd.post(path, body)
    assert f"{reply.status} {reply.code}" == told
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "400 invalid_json"),
        ({"username": "", "password": PASSWORD}, "422 invalid_body"),
        ({"username": "x" * 65, "password": PASSWORD}, "422 invalid_body"),
        ({"username": "anna", "password": ""}, "422 invalid_body"),
        ({"username": "anna", "password": "x" * 513}, "422 invalid_body"),
        ({"username": "anna", "password": None}, "422 invalid_body"),
        ({"username": "anna", "password": PASSWORD, "cookies": "yes"}, "422 invalid_body"),
    ],
)
async def test_wrong_credentials_in_form(crowd: People, body: object, told: str) -> None:
    """Of credentials that can't be any it is said where; what was sent is not repeated."""
    reply = await crowd.post("login", body)
    assert f"{reply.status} {reply.code}" == told
    assert PASSWORD.encode() not in reply.body
    if reply.status == 422:
        assert msgspec.json.decode(reply.body)["path"].startswith("$.")


async def test_a_form_is_no_login(crowd: People, anna: str) -> None:
    """Only JSON is taken, so that no page of another site can send one unasked."""
    body = {"username": anna, "password": PASSWORD}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"):
        reply = await crowd.post("login", body, content_type=kind)
        assert (reply.status, reply.code) == (415, "unsupported_media_type")
    utf8 = "application/json;charset=UTF-8"
    assert (await crowd.post("login", body, content_type=utf8)).status == 200


@pytest.mark.parametrize("token", ["", "x", "A" * 64, "A" * 63, "é" * 32, "A" * 64 + "=="])
async def test_wrong_refresh_tokens(crowd: People, token: str) -> None:
    """Whatever is no token of a session that lives is 401."""
    assert (await crowd.refresh(token)).code == "invalid_token"
    assert (await crowd.post("refresh")).code == "invalid_token"


@pytest.mark.slow
async def test_store_away(
    settings: Settings, link: Link, own_store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can log in: 503; who is logged in is still known, by whichever server."""
    changes: dict[str, Any] = {"mongo_url": own_store_server.url, "jwt_secret": SECRET}
    async with serving(msgspec.structs.replace(settings, **changes)) as server:
        crowd = People(server, "")
        await crowd.add("anna")
        grant = await crowd.login("anna")
        assert (await crowd.me(grant["access_token"])).status == 200
        monkeypatch.setattr(user_store, "PEOPLE_STORE_S_MAX", 0.5)
        monkeypatch.setattr(session_store, "PEOPLE_STORE_S_MAX", 0.5)
        own_store_server.kill()
        posts = [
            crowd.try_login("anna"),
            crowd.refresh(grant["refresh_token"]),
            crowd.post("logout", {"refresh_token": grant["refresh_token"]}),
        ]
        for reply in await asyncio.gather(*posts):
            assert (reply.status, reply.code) == (503, "store_unavailable")
            assert int(reply.headers["retry-after"]) >= 1
            assert b"127.0.0.1" not in reply.body
        assert (await crowd.me(grant["access_token"])).status == 200
        assert (await crowd.me(signed(HEADER, good_claims("berta")))).status == 200
        assert (await crowd.me(signed(HEADER, good_claims("berta", exp=1)))).status == 401
        # Another server may have seen a new version; one of before is known to be over.
        assert (await crowd.me(signed(HEADER, good_claims("anna", 2)))).status == 200
        assert (await crowd.me(signed(HEADER, good_claims("anna", 0)))).status == 401
        await crowd.close()
