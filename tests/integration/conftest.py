"""Fixtures that modules of integration tests share; each module has engines of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from evp.settings import Settings
from evp.storage.client import Database
from evp.verify import run
from tests.support.server import InProcess, serving_alone
from tests.support.servers import Server, own_log
from tests.support.stores import failing_store, store


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A log that tests may set, pause and kill; each test puts it right again."""
    server = own_log(tmp_path_factory.mktemp("own"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store that fails on demand, and may be paused."""
    with failing_store(tmp_path_factory.mktemp("failing")) as server:
        yield server


@pytest.fixture
async def faulty(failing: Server, settings: Settings) -> AsyncIterator[Database]:
    """A database in the store that fails on demand."""
    async with store(failing.url, settings.mongo_db) as db:
        yield db


@pytest.fixture(scope="module")
async def server(
    log_url: str, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InProcess]:
    """One server for all tests of a module that need nothing special."""
    folder = tmp_path_factory.mktemp("server")
    async with serving_alone(log_url, store_url, folder) as server:
        yield server


@pytest.fixture
def verify_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is on its way when it is verified, so there is nothing to wait for."""
    monkeypatch.setattr(run, "VERIFY_AGAIN_S", 0.0)
