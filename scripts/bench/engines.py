"""A log and a store of one turn, fresh, started just as `evp up` starts its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from redis import Redis
from redis.exceptions import RedisError

from evp.engines.engine import Engine, log_engine, store_engine
from evp.engines.locate import find_log, find_store
from processes import Processes

PING_MS_MAX = 500


class Engines(NamedTuple):
    """Where they are."""

    redis_url: str
    mongo_url: str
    pids: dict[str, int]


def start_engines(processes: Processes, folder: Path) -> Engines:
    """Start a log that fsyncs each append and a store that syncs each commit."""
    log = log_engine(find_log(), folder / "log")
    log_pid = _start(processes, "log", log)
    processes.wait(lambda: _answers_log(log.url), "the log")
    mongo_url, store_pid = start_store(processes, folder)
    return Engines(log.url, mongo_url, {"log": log_pid, "store": store_pid})


def given_store() -> tuple[str, int] | None:
    """Return address and pid of a store that is there already (`scripts/with_store.py`)."""
    url = os.environ.get("EVP_BENCH_MONGO_URL")
    return (url, int(os.environ["EVP_BENCH_MONGO_PID"])) if url else None


def start_store(processes: Processes, folder: Path) -> tuple[str, int]:
    """Start a store, unless one is given; return its address and its pid."""
    given = given_store()
    if given is not None:
        return given
    store = store_engine(find_store(), folder / "store")
    pid = _start(processes, "store", store)
    processes.wait(lambda: _answers_store(store.url), "the store")
    return store.url, pid


def _start(processes: Processes, role: str, engine: Engine) -> int:
    child = engine.child(role, engine.folder / "output", {})
    return processes.start(role, child.command)


def _answers_log(url: str) -> bool:
    try:
        with Redis.from_url(url) as log:
            return bool(log.ping())
    except RedisError:
        return False


def _answers_store(url: str) -> bool:
    client: MongoClient[Any] = MongoClient(url, serverSelectionTimeoutMS=PING_MS_MAX)
    try:
        client.admin.command("ping")
    except PyMongoError:
        return False
    finally:
        client.close()
    return True
