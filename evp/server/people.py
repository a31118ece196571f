"""People at the server: login, refresh, logout, and who is behind an access token.

Few do this at a time, and the others wait within bounds, so that a flood of
logins takes neither the cores nor the store's connections away from events.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct

from evp.clock import now, now_ms
from evp.errors import Refusal
from evp.logs import get
from evp.passwords import is_outdated
from evp.scopes import with_implied
from evp.server.attempts import LoginLimit
from evp.server.hashing import Hashing
from evp.server.limits import (
    ACCESS_TOKEN_S,
    ACCESS_TOKEN_SKEW_S_MAX,
    LOGINS_AT_ONCE,
    LOGINS_WAITING_MAX,
    REFRESH_AGAIN_S,
    REFRESH_IDLE_S,
    REFRESHES_AT_ONCE,
    REFRESHES_WAITING_MAX,
    SESSION_S_MAX,
)
from evp.server.standing import Standing
from evp.server.tokens import AccessTokens, RefreshToken, RefreshTokens, invalid_token
from evp.server.turns import Turns
from evp.storage import sessions, users
from evp.storage.client import Database
from evp.storage.sessions import Session
from evp.storage.users import Record, User

_IDLE = timedelta(seconds=REFRESH_IDLE_S)
_LONGEST = timedelta(seconds=SESSION_S_MAX)
_AGAIN = timedelta(seconds=REFRESH_AGAIN_S)
_log = get("evp.server")


class Person(Struct, frozen=True):
    """Who is behind a token, with the scopes that theirs imply."""

    name: str
    scopes: frozenset[str]


class Issued(Struct, frozen=True):
    """What a login or a refresh gives: two tokens, and how many seconds each is good for."""

    access_token: str
    expires_in_s: int
    refresh_token: str
    refresh_expires_in_s: int


class People:
    """The people of one server process; their accounts and sessions are in the store."""

    def __init__(self, db: Database, secret: str) -> None:
        self._db = db
        self._access = AccessTokens(secret)
        self._refresh = RefreshTokens(secret)
        self._limit = LoginLimit()
        self._hashing = Hashing()
        self._standing = Standing(db)
        self._logins = Turns(LOGINS_AT_ONCE, LOGINS_WAITING_MAX)
        # Apart, so that a flood of logins turns nobody away who is logged in.
        self._refreshes = Turns(REFRESHES_AT_ONCE, REFRESHES_WAITING_MAX)

    async def person(self, token: str, overdue_s: int = 0) -> Person:
        """Return who is behind an access token. Raises Refusal `invalid_token`.

        It is good `overdue_s` longer while the store is away: nobody can renew it then.
        """
        claims = self._access.read(token, overdue_s)
        is_over = overdue_s > 0 and claims.exp + ACCESS_TOKEN_SKEW_S_MAX <= now_ms() / 1000
        if is_over and await self._standing.can_be_asked(claims.sub):
            raise invalid_token()
        if not await self._standing.holds(claims.sub, claims.ver):
            raise invalid_token()
        return Person(claims.sub, with_implied(claims.scope.split()))

    async def login(self, name: str, password: str, address: str) -> Issued:
        """Begin a session. Raises Refusal and StoreUnavailable.

        Whoever can't log in, for whatever reason, gets the same answer after the
        same time: `invalid_credentials`.
        """
        name = name.lower()
        self._limit.take(name, address)
        async with self._logins.one():
            record = await users.find(self._db, name)
            kept = None if record is None else record.password_hash
            is_right = await self._hashing.verify(kept, password)
            if record is None or not is_right or record.user.disabled:
                # What is no user's name may be a password, typed into the wrong field.
                _log.warning("login refused", user=record and record.user.name, address=address)
                raise Refusal("invalid_credentials", "user name or password is wrong")
            await self._renew_hash(record, password)
            _log.info("login", user=record.user.name, address=address)
            return await self._begin(record.user)

    async def refresh(self, text: str) -> Issued:
        """Go on with a session: the token that is given ends, another takes its place.

        A token that has ended before ends the whole session, since two clients have
        it, and one of them is a thief. Only the last one is taken again for
        REFRESH_AGAIN_S, with the same result: its answer may have been lost. Raises
        Refusal `invalid_token`, and StoreUnavailable.
        """
        token = self._refresh.read(text)
        following = self._refresh.following(token)
        async with self._refreshes.one():
            session = await sessions.find(self._db, token.family)
            if session is None or session.expires_at <= now():
                raise invalid_token()
            record = await users.find(self._db, session.user)
            if record is None or record.user.disabled or record.user.version != session.version:
                await sessions.end(self._db, session.family)
                raise invalid_token()
            expires_at = min(now() + _IDLE, session.started_at + _LONGEST)
            if not await self._rotate(session, token, following, expires_at):
                await sessions.end(self._db, session.family)
                _log.warning("refresh token used twice; session ended", user=session.user)
                raise invalid_token()
        return self._issue(record.user, following, expires_at)

    async def logout(self, text: str) -> None:
        """End a session, by any token it ever had. Raises Refusal and StoreUnavailable."""
        token = self._refresh.read(text)
        async with self._refreshes.one():
            await sessions.end(self._db, token.family)

    def close(self) -> None:
        """Begin nothing more."""
        self._hashing.close()

    async def _renew_hash(self, record: Record, password: str) -> None:
        if is_outdated(record.password_hash):
            kept = await self._hashing.hash(password)
            await users.keep_better_hash(self._db, record, kept)

    async def _begin(self, user: User) -> Issued:
        token = self._refresh.first()
        at = now()
        expires_at = at + _IDLE
        await sessions.begin(
            self._db,
            Session(token.family, user.name, user.version, token.digest, None, at, at, expires_at),
        )
        return self._issue(user, token, expires_at)

    async def _rotate(
        self,
        session: Session,
        token: RefreshToken,
        following: RefreshToken,
        expires_at: datetime,
    ) -> bool:
        """Put the following token in the place of this one; False if that is an old one."""
        if token.digest == session.current:
            if await sessions.rotate(self._db, session, following.digest, now(), expires_at):
                return True
            # Another request with the same token was quicker, or the session has ended.
            found = await sessions.find(self._db, session.family)
            if found is None:
                raise invalid_token()
            session = found
        is_last = (session.former, session.current) == (token.digest, following.digest)
        return is_last and now() - session.rotated_at <= _AGAIN

    def _issue(self, user: User, token: RefreshToken, expires_at: datetime) -> Issued:
        access = self._access.make(user.name, user.version, user.scopes)
        left_s = int((expires_at - now()).total_seconds())
        return Issued(access, ACCESS_TOKEN_S, token.text, left_s)
