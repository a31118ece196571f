"""Managing people in a real store: what can be done, what can't, what ends with it."""

from __future__ import annotations

import asyncio
import io
import sys

import pytest

from evp import users
from evp.cli.passwords import ask_password
from evp.clock import now
from evp.errors import UsageError
from evp.limits import PASSWORD_BYTES_MAX
from evp.passwords import verify_password
from evp.scopes import ADMIN, READ
from evp.storage import sessions
from evp.storage import users as store
from evp.storage.client import Database
from evp.storage.schema import REFRESH_TOKENS, USERS
from evp.storage.sessions import Session
from tests.support.stores import Listener, documents
from tests.support.stores import store as open_store

PASSWORD = "correct horse battery"
OTHER = "another horse battery"


async def test_a_user_is_made_once(db: Database) -> None:
    """A name is taken by the first one, in whatever case; who comes later changes nothing."""
    made = await users.create(db, "Anna@Example.org", PASSWORD, READ)
    assert (made.name, made.scopes, made.version) == ("anna@example.org", ["read"], 1)
    assert not made.disabled
    with pytest.raises(UsageError, match=r"there is a user anna@example\.org already"):
        await users.create(db, "anna@example.ORG", OTHER, ADMIN)
    assert await users.require(db, "ANNA@example.org") == made
    record = await store.find(db, made.name)
    assert record is not None
    assert verify_password(record.password_hash, PASSWORD)


@pytest.mark.parametrize(
    ("name", "password", "told"),
    [
        ("", PASSWORD, "can't be a user name"),
        ("with space", PASSWORD, "can't be a user name"),
        ("-option", PASSWORD, "can't be a user name"),
        ("$where", PASSWORD, "can't be a user name"),
        ("anna\n", PASSWORD, "can't be a user name"),
        ("änna", PASSWORD, "can't be a user name"),
        ("x" * 65, PASSWORD, "can't be a user name"),
        ("anna", "short", "at least 12 characters"),
        ("anna", "x" * 513, "at most 512 bytes"),
    ],
)
async def test_what_can_not_be_made(db: Database, name: str, password: str, told: str) -> None:
    """Names and passwords that break the rules are refused, and nothing is stored."""
    with pytest.raises(UsageError, match=told):
        await users.create(db, name, password, READ)
    assert await documents(db, USERS) == []


async def test_there_are_only_so_many(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment has a largest number of users."""
    monkeypatch.setattr(users, "USERS_MAX", 1)
    await users.create(db, "anna", PASSWORD, READ)
    with pytest.raises(UsageError, match="which is the most"):
        await users.create(db, "berta", PASSWORD, READ)


async def test_nobody_is_changed_who_is_not_there(db: Database) -> None:
    """To change a user that there isn't is told, and makes nobody."""
    for change in (users.require, users.disable, users.enable):
        with pytest.raises(UsageError, match="there is no user nobody"):
            await change(db, "nobody")
    with pytest.raises(UsageError, match="there is no user nobody"):
        await users.change_password(db, "nobody", PASSWORD)
    assert await documents(db, USERS) == []


async def test_versions_grow_with_what_ends_tokens(db: Database) -> None:
    """Another password, disabling and enabling make a new version; doing it again does not."""
    await users.create(db, "anna", PASSWORD, READ)
    assert (await users.change_password(db, "anna", OTHER)).version == 2
    for change, disabled, version in (
        (users.disable, True, 3),
        (users.disable, True, 3),
        (users.enable, False, 4),
        (users.enable, False, 4),
    ):
        user = await change(db, "anna")
        assert (user.disabled, user.version) == (disabled, version)


async def test_the_version_grows_before_sessions_go(store_url: str, db: Database) -> None:
    """Whatever breaks off in the middle, no session outlives the version it was begun under."""
    await users.create(db, "anna", PASSWORD, READ)
    listener = Listener()
    async with open_store(store_url, db.name, listener) as listened:
        await begin(listened, "anna", b"1")
        await users.change_password(listened, "anna", OTHER)
        await users.disable(listened, "anna")
    changes = [f"update {USERS}", f"delete {REFRESH_TOKENS}"]
    assert [name for name in listener.names if name in changes] == changes * 2
    assert await documents(db, REFRESH_TOKENS) == []


async def test_sessions_of_others_stay(db: Database) -> None:
    """What ends the sessions of one user ends nobody else's."""
    for name in ("anna", "berta"):
        await users.create(db, name, PASSWORD, READ)
        await begin(db, name, name.encode())
    await users.disable(db, "anna")
    assert [row["user"] for row in await documents(db, REFRESH_TOKENS)] == ["berta"]


async def test_the_first_user_is_made_once(db: Database) -> None:
    """Where nobody is, one is made, however many try at once; where somebody is, nobody is."""
    made = await asyncio.gather(*(users.create_first(db) for _ in range(3)))
    [password] = [one for one in made if one is not None]
    record = await store.find(db, users.FIRST_NAME)
    assert record is not None
    assert record.user.scopes == ["admin"]
    assert verify_password(record.password_hash, password)
    assert await users.create_first(db) is None


@pytest.mark.parametrize(
    ("line", "password"),
    [
        (PASSWORD.encode(), PASSWORD),
        (PASSWORD.encode() + b"\n", PASSWORD),
        (PASSWORD.encode() + b"\r\nmore", PASSWORD),
        (b" " + PASSWORD.encode() + b" \n", f" {PASSWORD} "),
        ("schlüssel und schloß\n".encode(), "schlüssel und schloß"),
        (b"x" * PASSWORD_BYTES_MAX + b"\r\n", "x" * PASSWORD_BYTES_MAX),
    ],
)
def test_a_password_is_a_line(monkeypatch: pytest.MonkeyPatch, line: bytes, password: str) -> None:
    """Where nobody can be asked, one line of standard input is the password, as it stands."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    assert ask_password() == password


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"", "at least"),
        (b"\n" + PASSWORD.encode(), "at least"),
        (b"x" * (PASSWORD_BYTES_MAX + 1) + b"\n", "at most"),
        (b"x" * 100_000, "at most"),
        (b"\xff" * 20, "is not UTF-8"),
    ],
)
def test_what_is_no_password(monkeypatch: pytest.MonkeyPatch, line: bytes, told: str) -> None:
    """A line that is too short, too long or no text is refused, never cut."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    with pytest.raises(UsageError, match=told):
        ask_password()


async def begin(db: Database, user: str, family: bytes) -> None:
    """Begin a session of a user."""
    at = now()
    await sessions.begin(db, Session(family, user, 1, b"c", None, at, at, at))
