"""The demo's account is true: about what is slow, about what is lost, at any size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from evp import configuration, demo
from evp.demo import Demo
from evp.errors import ServerUnavailable
from evp.http import http_url
from evp.settings import Settings
from evp.storage.account import present
from evp.storage.client import Database, close, connect, database
from tests.support.up import Up

EVENTS = 3_000


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: the demo is a client and serves nobody."""


@pytest.fixture
def found(up: Up) -> Settings:
    """Settings under which the shared `evp up` is reached."""
    return configuration.load(up.environ, {}, cwd=up.folder).settings


@pytest.fixture
async def stored(found: Settings) -> AsyncIterator[Database]:
    """The database of the shared `evp up`."""
    client = connect(found, connections_max=2)
    yield database(client, found.mongo_db)
    await close(client)


def demo_of(found: Settings, db: Database, count: int) -> Demo:
    """Return a demo that sends to the shared `evp up` and looks into `db`."""
    return Demo(http_url(found.host, found.port), found.api_keys["default"], db, count)


async def test_account(found: Settings, stored: Database) -> None:
    """All that is sent is accepted and stored once, and the progress goes up to it."""
    seen: list[int] = []
    account = await demo_of(found, stored, EVENTS).run(seen.append)
    assert (account.sent, account.accepted, account.stored) == (EVENTS, EVENTS, EVENTS)
    assert (account.lost, account.doubled, account.ok) == (0, 0, True)
    assert seen == sorted(seen)
    assert seen[-1] == EVENTS
    assert 0 < account.accept_ms_p50 <= account.accept_ms_p99
    assert 0 < account.stored_ms_p50 <= account.stored_ms_p99


async def test_slow_is_not_lost(
    found: Settings, stored: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as events go on to arrive in the store it waits, and none is called lost."""

    async def ten_more(db: Database, ids: Sequence[bytes]) -> set[bytes]:
        return await present(db, sorted(ids)[:10])

    monkeypatch.setattr(demo, "DEMO_STORED_S_MAX", 0.4)
    monkeypatch.setattr(demo, "present", ten_more)
    account = await demo_of(found, stored, 150).run(lambda _stored: None)
    assert account.seconds > 0.4
    assert (account.stored, account.lost) == (150, 0)


async def test_lost_is_told(
    found: Settings, stored: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that were accepted and don't arrive are lost, and the account is not ok."""
    monkeypatch.setattr(demo, "DEMO_STORED_S_MAX", 0.2)
    elsewhere = stored.client["elsewhere"]
    account = await demo_of(found, elsewhere, 250).run(lambda _stored: None)
    assert (account.accepted, account.stored, account.lost) == (250, 0, 250)
    assert not account.ok


async def test_refused_demo(found: Settings, stored: Database) -> None:
    """A server that refuses ends the demo, with what it says."""
    refused = Demo(http_url(found.host, found.port), "wrong", stored, 1_000)
    with pytest.raises(ServerUnavailable, match="evp answered 401 unauthenticated"):
        await refused.run(lambda _stored: None)
