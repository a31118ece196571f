"""Fixtures for all tests: engines by the ladder, a stream and a database for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from blockbuster import blockbuster_ctx

from evp import configuration
from evp.settings import Settings
from evp.storage.client import Database, connect, database
from evp.storage.schema import ensure
from evp.stream.client import Link
from evp.stream.keys import Keys
from tests.support.servers import Server, own_log, own_store, shared_log, shared_store

hypothesis.settings.register_profile(
    "evp", deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("evp")

API_KEY = "test-key"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests on the loop that evp runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """Fail a test in which evp blocks the event loop."""
    with blockbuster_ctx("evp") as guard:
        # A client of the store looks once, when it is made, whether it is in a container.
        looks = ("pymongo/pool_options.py", {"get_container_env_info"})
        guard.functions["os.stat"].can_block_in(*looks)
        yield


@pytest.fixture(scope="session")
def log_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the session's log."""
    with shared_log(tmp_path_factory.mktemp("log")) as url:
        yield url


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the session's store."""
    with shared_store(tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture
def own_log_server(tmp_path: Path) -> Iterator[Server]:
    """A log of the test's own, to be killed, paused and set at will."""
    server = own_log(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_store_server(tmp_path: Path) -> Iterator[Server]:
    """A store of the test's own, to be killed, paused and set at will."""
    server = own_store(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def environ(log_url: str, store_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings of a test, as environment: a stream and a database of its own."""
    name = f"t{secrets.token_hex(6)}"
    return {
        "EVP_REDIS_URL": log_url,
        "EVP_MONGO_URL": store_url,
        "EVP_MONGO_DB": name,
        "EVP_STREAM": name,
        "EVP_PORT": "0",
        "EVP_API_KEYS": API_KEY,
        "EVP_DATA_DIR": str(tmp_path / "data"),
        "EVP_CONSUMER_NAME": "worker",
        "EVP_READ_BLOCK_MS": "100",
        "EVP_DRAIN_DELAY_MS": "0",
    }


@pytest.fixture
def settings(environ: dict[str, str], tmp_path: Path) -> Settings:
    """Settings of a test."""
    return configuration.load(environ, {}, cwd=tmp_path).settings


@pytest.fixture
def keys(settings: Settings) -> Keys:
    """Keys of the test's stream."""
    return Keys(settings.stream)


@pytest.fixture
async def link(settings: Settings, keys: Keys) -> AsyncIterator[Link]:
    """A connection to the log; what the test put there is removed afterwards."""
    link = await Link.open(settings.redis_url)
    try:
        yield link
    finally:
        await link.close()
        cleaner = await Link.open(settings.redis_url)
        # Those of other partitions as well.
        for pattern in (f"{keys.stream}*", f"{{{keys.stream}[:}}]*"):
            names = await cleaner.call("KEYS", pattern)
            if names:
                await cleaner.call("DEL", *names)
        await cleaner.close()


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    """The test's database, with evp's collections; dropped afterwards."""
    client = connect(settings)
    try:
        db = database(client, settings.mongo_db)
        await ensure(db)
        yield db
        await client.drop_database(settings.mongo_db)
    finally:
        await client.close()
