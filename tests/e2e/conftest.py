"""Fixtures of the end-to-end tests: one `evp up` for all that do it no harm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.support.up import Up, clean_environ, running_up


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory, store_url: str) -> Iterator[Up]:
    """A running `evp up`, shared by many tests: each has a source of events of its own."""
    with running_up(tmp_path_factory.mktemp("up"), environ=on_store(store_url, "up")) as up:
        yield up


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, str]:
    """Environment of a command: no setting of evp, and no `evp up` to be found."""
    return clean_environ(EVP_DATA_DIR=str(tmp_path / "data"))


@pytest.fixture
def light(environ: dict[str, str]) -> dict[str, str]:
    """Environment of an `evp up` on the session's store: starts and stops in half the time."""
    return clean_environ(**on_store(environ["EVP_MONGO_URL"], environ["EVP_MONGO_DB"]))


def on_store(url: str, database: str) -> dict[str, str]:
    """Return settings by which an `evp up` uses a store, and hears sooner that it should stop."""
    return {"EVP_MONGO_URL": url, "EVP_MONGO_DB": database, "EVP_READ_BLOCK_MS": "100"}


@pytest.fixture
def shared(environ: dict[str, str]) -> dict[str, str]:
    """Environment of a command on the session's engines, with a stream and database of its own."""
    return clean_environ(**environ)


@pytest.fixture
def stored(shared: dict[str, str]) -> Iterator[Any]:
    """The test's database, through a client of its own."""
    client: MongoClient[dict[str, Any]] = MongoClient(shared["EVP_MONGO_URL"])
    with client:
        yield client[shared["EVP_MONGO_DB"]]
        if "EVP_TEST_MONGO_URL" in os.environ:
            # Somebody's server; any other one ends with the session.
            client.drop_database(shared["EVP_MONGO_DB"])
