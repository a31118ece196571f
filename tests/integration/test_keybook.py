"""Keys in log and store together: what a crash leaves behind, and how both come to agree."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from evp import keybook
from evp.api_keys import Account, ApiKey, agreed, make_key, news
from evp.clock import from_ms, now_ms
from evp.errors import LogUnavailable, Refusal, StoreUnavailable, UsageError
from evp.keybook import KeyBook, compare, tell_log
from evp.limits import API_KEYS_ENDED_MS_KEPT
from evp.scopes import INGEST, READ
from evp.server.keys import Keys as ServerKeys
from evp.settings import Settings
from evp.storage.api_keys import add_keys, read_keys
from evp.storage.client import Database
from evp.storage.schema import API_KEYS
from evp.stream.api_keys import Copy, change_copy, copy_version, read_copy
from evp.stream.client import Link
from evp.stream.keys import Keys

HOUR_MS = 3_600_000
STEPS = ("read_keys", "add_keys", "remove_keys", "read_copy", "change_copy")


class Crash(Exception):
    """Raised where a command dies."""


@pytest.fixture
async def book(settings: Settings, link: Link, db: Database) -> AsyncIterator[KeyBook]:
    """The keys of the test's own log and store."""
    async with KeyBook.opened(settings) as book:
        yield book


def crash_at(patch: pytest.MonkeyPatch, step: int, *, done: bool) -> list[str]:
    """Let a command die before or after its step number `step`; return the steps it takes."""
    taken: list[str] = []

    def dying(name: str) -> Callable[..., Any]:
        original = getattr(keybook, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            taken.append(name)
            last = len(taken) == step
            if last and not done:
                raise Crash
            result = await original(*arguments, **named)
            if last:
                raise Crash
            return result

        return call

    for name in STEPS:
        patch.setattr(keybook, name, dying(name))
    return taken


async def both(link: Link, keys: Keys, db: Database) -> tuple[Account, Account]:
    """Return what log and store know."""
    return (await read_copy(link, keys)).keys, await read_keys(db)


def answer(keys: ServerKeys, text: str) -> str:
    """Return how a server answers a key: its name, or the code of the refusal."""
    try:
        return keys.grant_of(text.encode()).name
    except Refusal as refusal:
        return refusal.code


def is_revoked(*accounts: Account) -> set[bool]:
    """Return whether keys are revoked, over all of some accounts."""
    return {one.revoked_at_ms is not None for account in accounts for one in account.values()}


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_revoking_that_is_cut_anywhere(
    book: KeyBook, link: Link, keys: Keys, db: Database, *, done: bool
) -> None:
    """Once one of log and store knows it both will, and doing it again ends well."""
    cuts = 0
    for step in range(1, 20):
        name = f"key-{step}"
        made = await book.create(name, (INGEST,))
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step, done=done)
            try:
                await book.revoke(name)
            except Crash:
                cuts += 1
                finished = False
            else:
                finished = True
        known = [one[made.row.id] for one in await both(link, keys, db)]
        revoked = any(one.revoked_at_ms is not None for one in known)
        if finished:
            assert all(one.revoked_at_ms is not None for one in known)
        if any(one.revoked_at_ms is not None for one in known):
            # Servers go by the log, so that was told first.
            assert known[0].revoked_at_ms is not None
        await compare(link, keys, db, {}, complete=False)
        known = [one[made.row.id] for one in await both(link, keys, db)]
        assert [one.revoked_at_ms is not None for one in known] == [revoked, revoked]
        await book.revoke(name)
        known = [one[made.row.id] for one in await both(link, keys, db)]
        assert all(one.revoked_at_ms is not None for one in known)
        if finished:
            break
    assert cuts >= 4


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_making_that_is_cut_anywhere(
    book: KeyBook, link: Link, keys: Keys, db: Database, *, done: bool
) -> None:
    """A key that was shown is in both; one that was not can be seen by its name and revoked."""
    cuts = 0
    for step in range(1, 20):
        name = f"key-{step}"
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step, done=done)
            try:
                shown = await book.create(name, (INGEST,))
            except Crash:
                cuts += 1
            else:
                assert all(shown.row.id in one for one in await both(link, keys, db))
                break
        in_log, in_store = await both(link, keys, db)
        # The store keeps it for good, so the log never has more.
        assert set(in_log) <= set(in_store)
        if any(one.name == name for one in in_store.values()):
            await compare(link, keys, db, {}, complete=False)
            assert {row.state for row in await book.revoke(name)} == {"revoked"}
        else:
            await book.create(name, (INGEST,))
    assert cuts >= 4


async def test_rotating_that_is_cut_anywhere(
    book: KeyBook, link: Link, keys: Keys, db: Database
) -> None:
    """Whoever sees the new key has it in both, and the old one ends in both; again is right."""
    cuts, finished = 0, False
    for step in range(1, 20):
        name = f"key-{step}"
        old = await book.create(name, (INGEST,))
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step, done=True)
            try:
                shown, _ = await book.rotate(name, grace_ms=HOUR_MS)
            except Crash:
                cuts += 1
                shown, _ = await book.rotate(name, grace_ms=HOUR_MS)
            else:
                finished = True
        await compare(link, keys, db, {}, complete=False)
        for known in await both(link, keys, db):
            assert known[shown.row.id].lives(now_ms() + 2 * HOUR_MS)
            assert not known[old.row.id].lives(now_ms() + 2 * HOUR_MS)
            assert known[old.row.id].lives(now_ms())
        if finished:
            break
    assert cuts >= 4


async def test_accounts_come_to_agree(link: Link, keys: Keys, db: Database) -> None:
    """Whatever log, store and a server know of keys: afterwards all know the same."""
    chance = random.Random(7)
    at_ms = now_ms()
    pool = [make_key(f"k{number}", (INGEST, READ), at_ms)[1] for number in range(6)]

    def some() -> dict[str, ApiKey]:
        def end() -> int | None:
            return at_ms + chance.randrange(-HOUR_MS, HOUR_MS) if chance.random() < 0.5 else None

        drawn = chance.sample(pool, chance.randrange(len(pool) + 1))
        return {one.id: replace(one, expires_at_ms=end(), revoked_at_ms=end()) for one in drawn}

    for _ in range(40):
        await link.call("DEL", keys.api_keys)
        await db[API_KEYS].delete_many({})
        known, in_store, in_log = some(), some(), some()
        await add_keys(db, in_store.values())
        await change_copy(link, keys, Copy("", {}), in_log, complete=chance.random() < 0.5)
        found = await compare(link, keys, db, known, complete=chance.random() < 0.5)
        assert found == agreed(known, in_store, in_log)
        assert [dict(one) for one in await both(link, keys, db)] == [found, found]
        version = await copy_version(link, keys)
        assert version
        await compare(link, keys, db, found, complete=True)
        assert await copy_version(link, keys) == version, "nothing was new"


async def test_the_store_keeps_the_earlier_end(db: Database) -> None:
    """Whoever writes what is no longer true does not let a key live longer."""
    _, key = make_key("app", (INGEST,), 0, expires_at_ms=HOUR_MS)
    ended = replace(key, expires_at_ms=7, revoked_at_ms=5)
    await add_keys(db, [ended])
    await add_keys(db, [key, replace(key, revoked_at_ms=9)])
    assert await read_keys(db) == {key.id: ended}


async def test_many_compare_at_once(
    book: KeyBook, link: Link, keys: Keys, db: Database, settings: Settings
) -> None:
    """Servers that tell an empty log at once, while keys are made and revoked, lose nothing."""
    first = [await book.create(f"first-{n}", (INGEST,)) for n in range(5)]
    known = await read_keys(db)
    await link.call("DEL", keys.api_keys)

    async def server() -> None:
        for _ in range(5):
            async with Link.opened(settings.redis_url) as own:
                await compare(own, keys, db, known, complete=True)

    async def people(number: int) -> None:
        async with KeyBook.opened(settings) as own:
            await own.create(f"second-{number}", (INGEST,))
            await own.revoke(f"first-{number}")

    await asyncio.gather(*(server() for _ in range(4)), *(people(n) for n in range(4)))
    await compare(link, keys, db, {}, complete=False)
    in_log, in_store = await both(link, keys, db)
    assert in_log == in_store
    states = {one.name: one.revoked_at_ms is None for one in in_log.values()}
    assert states == {
        **{f"first-{n}": n == 4 for n in range(5)},
        **{f"second-{n}": True for n in range(4)},
    }
    assert len(first) == 5


class History:
    """What people do to keys and what happens to engines, beside a server that looks on."""

    def __init__(self, book: KeyBook, link: Link, keys: Keys, db: Database, seed: int) -> None:
        self.server = ServerKeys({}, complete=False)
        self.texts: dict[str, str] = {}
        self.begun: set[str] = set()
        self.revoked: set[str] = set()
        self.happenings = (
            *(self.command,) * 5,
            *(self.command_that_dies,) * 2,
            self.log_is_lost,
            self.store_is_saved,
            self.store_is_put_back,
            self.compare,
        )
        self.chance = random.Random(seed)
        self._book, self._link, self._keys, self._db = book, link, keys, db
        self._saved: list[dict[str, Any]] = []

    async def command(self) -> None:
        """Make a key, or revoke one."""
        live = [name for name in self.texts if name not in self.begun]
        if not live or self.chance.random() < 0.5:
            name = f"key-{len(self.texts)}-{self.chance.randrange(10**6)}"
            self.texts[name] = (await self._book.create(name, (INGEST,))).text
        else:
            name = self.chance.choice(live)
            self.begun.add(name)
            await self._book.revoke(name)
            self.revoked.add(name)

    async def command_that_dies(self) -> None:
        """Begin a command."""
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, self.chance.randrange(1, 7), done=self.chance.random() < 0.5)
            with contextlib.suppress(Crash):
                await self.command()

    async def log_is_lost(self) -> None:
        """Lose the copy."""
        await self._link.call("DEL", self._keys.api_keys)

    async def store_is_saved(self) -> None:
        """Make a backup."""
        self._saved = await self._db[API_KEYS].find().to_list()

    async def store_is_put_back(self) -> None:
        """Put the backup in the place of what is there."""
        await self._db[API_KEYS].delete_many({})
        if self._saved:
            await self._db[API_KEYS].insert_many(self._saved)

    async def compare(self) -> None:
        """Bring all to agree, as servers do now and then."""
        known, complete = self.server.known, self.server.complete
        found = await compare(self._link, self._keys, self._db, known, complete=complete)
        self.server.learn(found, now_ms())
        self.server.complete = True

    async def look(self) -> None:
        """Look at the log, as servers do every two seconds; at all, if it lacks something."""
        copy = await read_copy(self._link, self._keys)
        self.server.learn(copy.keys, now_ms())
        if not copy.version or news(self.server.known, copy.keys, now_ms()):
            await self.compare()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens(
    book: KeyBook, link: Link, keys: Keys, db: Database, seed: int
) -> None:
    """Commands that die, a log that is lost, a store that is put back: what was told is so."""
    history = History(book, link, keys, db, seed)
    for _ in range(25):
        await history.chance.choice(history.happenings)()
        await history.look()
    await history.compare()
    in_log, in_store = await both(link, keys, db)
    assert in_log == in_store
    started_now = ServerKeys({})
    started_now.learn(in_log, now_ms())
    assert history.revoked
    for name, text in history.texts.items():
        answers = {answer(one, text) for one in (history.server, started_now)}
        assert len(answers) == 1
        if name not in history.begun:
            assert answers == {name}
        if name in history.revoked:
            assert answers == {"unauthenticated"}


async def test_copy_is_not_changed_on_old_knowledge(link: Link, keys: Keys) -> None:
    """A change that is based on what is no longer there is not made."""
    _, one = make_key("one", (INGEST,), 0)
    seen = await read_copy(link, keys)
    assert await change_copy(link, keys, seen, {one.id: one})
    assert not await change_copy(link, keys, seen, {})
    now = await read_copy(link, keys)
    assert now.keys == {one.id: one}
    assert not await change_copy(link, keys, Copy("another", {}), {}, [one.id])
    assert await change_copy(link, keys, now, {}, [one.id])
    last = await read_copy(link, keys)
    assert (last.keys, last.version != now.version) == ({}, True)


async def test_a_copy_that_may_lack_keys_is_not_taken_for_whole(
    book: KeyBook, link: Link, keys: Keys, db: Database
) -> None:
    """What is revoked in a log that has lost its memory does not make its copy complete."""
    made = await book.create("app", (INGEST,))
    await link.call("DEL", keys.api_keys)
    ended = replace((await read_keys(db))[made.row.id], revoked_at_ms=now_ms())
    await tell_log(link, keys, {ended.id: ended}, complete=False)
    copy = await read_copy(link, keys)
    assert (copy.version, set(copy.keys)) == ("", {ended.id})
    await compare(link, keys, db, {}, complete=False)
    assert (await read_copy(link, keys)).version


async def test_what_is_no_key_is_passed_over(
    book: KeyBook, link: Link, keys: Keys, db: Database
) -> None:
    """Documents and fields that are no keys hide none, and are left as they are."""
    made = await book.create("app", (INGEST,), rate_per_s=7, expires_at_ms=now_ms() + HOUR_MS)
    await db[API_KEYS].insert_many([{"_id": "odd"}, {"_id": 7, "name": "x"}])
    await link.call("HSET", keys.api_keys, "odd", "{", "odder", b"\xff", "oddest", "{}")
    in_log, in_store = await both(link, keys, db)
    assert set(in_log) == set(in_store) == {made.row.id}
    assert in_log == in_store
    await compare(link, keys, db, {}, complete=False)
    assert await db[API_KEYS].count_documents({}) == 3


async def test_names_and_states(book: KeyBook) -> None:
    """A live name is not given twice; after its key ended it may be; ids and names are told."""
    first = await book.create("app", (INGEST,))
    with pytest.raises(UsageError, match="there is a key app"):
        await book.create("app", (READ,))
    assert [row.id for row in await book.revoke(first.row.id)] == [first.row.id]
    second = await book.create("app", (READ,), rate_per_s=3)
    await book.create("late", (INGEST,), expires_at_ms=now_ms() - 1)
    rows, away = await book.rows()
    assert away == []
    assert [(row.name, row.state) for row in rows] == [
        ("app", "revoked"),
        ("app", "live"),
        ("late", "expired"),
    ]
    assert (rows[1].id, rows[1].scopes, rows[1].rate_per_s) == (second.row.id, (READ,), 3)
    with pytest.raises(UsageError, match="there is no key nobody"):
        await book.revoke("nobody")
    with pytest.raises(UsageError, match="no live key late"):
        await book.rotate("late", grace_ms=0)


async def test_rotation(book: KeyBook) -> None:
    """The new key is like the old one; the old one ends after the grace, or sooner if it was to."""
    first = await book.create(
        "app", (INGEST, READ), rate_per_s=9, expires_at_ms=now_ms() + 24 * HOUR_MS
    )
    second, [old] = await book.rotate("app", grace_ms=HOUR_MS)
    assert old.id == first.row.id
    assert old.expires_at is not None
    assert abs(old.expires_at - from_ms(now_ms() + HOUR_MS)).total_seconds() < 60
    row = second.row
    assert (row.scopes, row.rate_per_s, row.state) == ((INGEST, READ), 9, "live")
    assert row.expires_at is not None
    assert first.row.expires_at is not None
    assert (row.expires_at - row.created_at) == (first.row.expires_at - first.row.created_at)
    third, ended = await book.rotate("app", grace_ms=48 * HOUR_MS)
    assert {one.id: one.expires_at for one in ended} == {
        old.id: old.expires_at,
        row.id: row.expires_at,
    }
    _, ended = await book.rotate("app", grace_ms=0)
    assert {one.state for one in ended} == {"revoked"}
    assert third.row.id in {one.id for one in ended}
    states = [row.state for row in (await book.rows())[0]]
    assert sorted(states) == ["live", "revoked", "revoked", "revoked"]


async def test_there_are_only_so_many(
    book: KeyBook, link: Link, keys: Keys, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit none is made; those that ended long ago are forgotten and make room."""
    monkeypatch.setattr(keybook, "API_KEYS_MAX", 3)
    old_ms = now_ms() - API_KEYS_ENDED_MS_KEPT - HOUR_MS
    _, old = make_key("old", (INGEST,), old_ms, expires_at_ms=old_ms + 1)
    await add_keys(db, [old])
    await tell_log(link, keys, {old.id: old}, complete=True)
    await change_copy(link, keys, await read_copy(link, keys), {old.id: old})
    for number in range(3):
        await book.create(f"k{number}", (INGEST,))
    in_log, in_store = await both(link, keys, db)
    assert in_log == in_store
    assert old.id not in in_log
    with pytest.raises(UsageError, match="there are 3 keys"):
        await book.create("more", (INGEST,))
    # A server that still remembers it does not bring it back.
    assert news({old.id: old}, {}, now_ms()) == {}
    await compare(link, keys, db, {old.id: old}, complete=True)
    assert old.id not in (await read_keys(db))


async def test_one_is_away(settings: Settings, book: KeyBook) -> None:
    """None is made; what is there is listed, with what is missing; neither is an error told so."""
    made = await book.create("app", (INGEST,))
    no_log = replace(settings, redis_url="redis://127.0.0.1:1")
    async with KeyBook.opened(no_log) as half:
        rows, away = await half.rows()
        assert [row.id for row in rows] == [made.row.id]
        assert [type(error) for error in away] == [LogUnavailable]
        with pytest.raises(LogUnavailable):
            await half.create("other", (INGEST,))
        with pytest.raises(LogUnavailable):
            await half.revoke("other")
        with pytest.raises(LogUnavailable, match="app is revoked in the store"):
            await half.revoke("app")
    [row] = (await book.rows())[0]
    assert row.state == "revoked"
    assert [row.state for row in await book.revoke("app")] == ["revoked"]


async def test_both_are_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing can be said or done."""
    monkeypatch.setattr(keybook, "API_KEYS_COMPARE_S_MAX", 0.2)
    nothing = replace(settings, redis_url="redis://127.0.0.1:1", mongo_url="mongodb://127.0.0.1:1")
    async with KeyBook.opened(nothing) as book:
        with pytest.raises(LogUnavailable):
            await book.rows()
        with pytest.raises(LogUnavailable):
            await book.revoke("app")


async def test_store_is_away(
    settings: Settings, book: KeyBook, link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that lost its memory is told what a server knows, also without the store."""
    monkeypatch.setattr(keybook, "API_KEYS_COMPARE_S_MAX", 0.2)
    made = await book.create("app", (INGEST,))
    known = (await read_copy(link, keys)).keys
    await link.call("DEL", keys.api_keys)
    no_store = replace(settings, mongo_url="mongodb://127.0.0.1:1")
    async with KeyBook.opened(no_store) as half:
        with pytest.raises(StoreUnavailable):
            await compare(link, keys, half._db, known, complete=True)
        assert set((await read_copy(link, keys)).keys) == {made.row.id}
        assert await copy_version(link, keys)
        with pytest.raises(StoreUnavailable, match="app is revoked in the log"):
            await half.revoke("app")
    assert is_revoked((await read_copy(link, keys)).keys) == {True}
