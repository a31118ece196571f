"""Older copies of log and store, put back as an operator does, and what a log that is gone had."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from redis import Redis

from evp.storage.client import Database
from evp.stream.client import KeptLink
from evp.stream.headers import all_headers
from evp.stream.keys import Keys
from tests.support.servers import ProcessServer
from tests.support.stores import collections_of_the_table
from tests.support.wait import until_now

FILES = "appendonlydir"
Copy = dict[str, list[Any]]
Number = tuple[bytes, int]
"""Epoch and number of a frame."""


def copy_log(home: Path, to: Path) -> None:
    """Copy the files of a log that nobody writes to just now."""
    shutil.copytree(home / FILES, to / FILES)


def back_up_log(url: str, home: Path, to: Path) -> None:
    """Copy the files of a log that runs: links first, during which it must not be rewritten."""
    with Redis.from_url(url) as log:
        log.config_set("auto-aof-rewrite-percentage", 0)
        until_now(
            lambda: not log.info("persistence")["aof_rewrite_in_progress"], what="no rewrite runs"
        )
        (to / FILES).mkdir(parents=True)
        for path in (home / FILES).iterdir():
            os.link(path, to / FILES / path.name)
        log.config_set("auto-aof-rewrite-percentage", 100)
    # A link is still the file itself: what is written to it meanwhile is there as well.
    for path in list((to / FILES).iterdir()):
        copy = shutil.copy2(path, path.with_suffix(".copy"))
        Path(copy).replace(path)


async def put_log_back(log: ProcessServer, home: Path, copy: Path) -> None:
    """Lose what a log has, and start it with a copy."""
    await asyncio.to_thread(exchange, log, home / FILES, copy / FILES)


def exchange(engine: ProcessServer, files: Path, copy: Path) -> None:
    """Lose the files of an engine, and start it with a copy."""
    engine.kill()
    shutil.rmtree(files)
    shutil.copytree(copy, files)
    engine.start()


async def copy_store(db: Database) -> Copy:
    """Copy everything that the store has, as of one moment if nobody writes to it."""
    return {name: await db[name].find().to_list() for name in collections_of_the_table()}


async def put_store_back(db: Database, copy: Copy) -> None:
    """Lose what the store has, and put a copy in its place."""
    for name, rows in copy.items():
        await db[name].delete_many({})
        if rows:
            await db[name].insert_many(rows)


async def frames_in_log(url: str, stream: str) -> dict[Number, int]:
    """Return how many events each numbered frame of a log has."""
    keys = Keys(stream)
    kept = KeptLink(url, keys)
    try:
        pages = [page async for page in all_headers(kept, keys)]
    finally:
        await kept.close()
    return {(one.srv, one.seq): one.count for page in pages for one in page if one.srv}


async def frames_in_store(db: Database) -> dict[Number, int]:
    """Return how many events each numbered frame of the store has."""
    rows = await db["frames"].find({}, {"srv": 1, "seq": 1, "n": 1}).to_list()
    return {(bytes(row["srv"]), row["seq"]): row["n"] for row in rows if row["srv"]}
