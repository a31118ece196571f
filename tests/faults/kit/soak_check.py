"""Every event of a soak, looked up: what was accepted is there once, as it was sent.

Millions of ids are too many to hold. They are asked for in portions, as they follow from the
list of requests, and only counted; those that are wrong are named. What is there and was
never asked for by any portion is there too often, or came from nowhere: documents are counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bson import Binary
from pymongo import AsyncMongoClient
from pymongo.read_concern import ReadConcern

from evp.identity import canonical
from evp.storage.lookup import portions
from tests.faults.kit.checker import check_counters
from tests.faults.kit.found import STORE_S_MAX, Found
from tests.faults.kit.history import content_digest
from tests.faults.kit.soak_load import Sent, requests

NAMED_MAX = 10
LOOKUPS_AT_ONCE = 4
SAMPLE_ONE_IN = 100
"""Of so many requests one has the content of its events compared."""


@dataclass
class Account:
    """What was found, in events. `wrong` names at most NAMED_MAX."""

    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    recovered: int = 0
    lost: int = 0
    doubled: int = 0
    altered: int = 0
    compared: int = 0
    refused_but_stored: int = 0
    found: int = 0
    documents: int = 0
    letters: int = 0
    wrong: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True if nothing is lost, doubled or otherwise wrong."""
        bad = (self.lost, self.doubled, self.altered, self.refused_but_stored, self.letters)
        return not any(bad) and not self.complaints

    def name(self, what: str, id_: bytes) -> None:
        """Name an event that is wrong."""
        if len(self.wrong) < NAMED_MAX:
            self.wrong.append(f"{what}: {canonical(id_)}")


async def compare(
    url: str, database: str, path: Path, accepted: int, progress: Callable[[int], None]
) -> Account:
    """Look up all events of all requests; `accepted` is what the log counted.

    `progress` is told how many were looked up so far.
    """
    account = Account()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        url, serverSelectionTimeoutMS=int(STORE_S_MAX * 1000)
    )
    try:
        db = client.get_database(database, read_concern=ReadConcern("majority"))
        await _look_up(account, db["events"], path, progress)
    finally:
        await client.close()
    await asyncio.to_thread(_count, account, url, database, accepted)
    return account


async def _look_up(
    account: Account, events: Any, path: Path, progress: Callable[[int], None]
) -> None:
    # One reader, a few who ask: as many requests are in memory as are asked for.
    numbered = enumerate(requests(path))
    done = 0

    async def ask() -> None:
        nonlocal done
        for number, sent in numbered:
            found = await _found(events, sent, whole=number % SAMPLE_ONE_IN == 0)
            _judge(account, sent, found)
            if number % SAMPLE_ONE_IN == 0:
                _compare_contents(account, sent, found)
            done += sent.count
            progress(done)

    async with asyncio.TaskGroup() as group:
        for _ in range(LOOKUPS_AT_ONCE):
            group.create_task(ask())


async def _found(events: Any, sent: Sent, *, whole: bool) -> dict[bytes, dict[str, Any]]:
    wanted = None if whole else {"_id": 1}
    found = {}
    for portion in portions(sent.ids):
        query = {"_id": {"$in": [Binary(id_, 4) for id_ in portion]}}
        for document in await events.find(query, wanted).to_list():
            found[bytes(document["_id"])] = document
    return found


def _judge(account: Account, sent: Sent, found: dict[bytes, Any]) -> None:
    account.found += len(found)
    if sent.verdict == "ok":
        account.accepted += sent.count
        account.lost += sent.count - len(found)
        for id_ in set(sent.ids) - found.keys() if len(found) < sent.count else ():
            account.name("lost", id_)
    elif sent.verdict == "fail":
        account.refused += sent.count
        account.refused_but_stored += len(found)
        for id_ in found:
            account.name("refused but stored", id_)
    else:
        account.unknown += sent.count
        account.recovered += len(found)


def _compare_contents(account: Account, sent: Sent, found: dict[bytes, Any]) -> None:
    for id_, digest in sent.digests():
        one = found.get(id_)
        if one is None:
            continue
        account.compared += 1
        if content_digest(one["type"], one["subject"], one["data"]) != digest:
            account.altered += 1
            account.name("altered", id_)


def _count(account: Account, url: str, database: str, accepted: int) -> None:
    """Count what is there, and compare it with what was found one by one and with evp's account."""
    found = Found(url, database)
    try:
        documents, letters = found.count(), len(found.letters())
        counters = found.counters(accepted)
    finally:
        found.close()
    account.doubled = documents - account.found
    account.documents, account.letters = documents, letters
    account.complaints += check_counters(counters, documents, letters)
