"""What looks up the events of a soak finds every kind of violation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from bson import Binary

from evp.clock import from_ms
from evp.settings import Settings
from evp.storage.client import Database
from tests.faults.kit.soak_check import Account, compare
from tests.faults.kit.soak_load import SOURCE, TYPE, Sent, event_of

COUNT = 60
TIME_MS = 1_760_000_000_123

ACCEPTED = Sent(0, 0, COUNT, TIME_MS, "ok")
REFUSED = Sent(1, 0, COUNT, TIME_MS, "fail")
UNKNOWN = Sent(2, 0, COUNT, TIME_MS, "info")


def _document(sent: Sent, number: int) -> dict[str, Any]:
    made = event_of(sent.lane, number, "")
    named = {"source": SOURCE, "type": TYPE, "time": from_ms(sent.time_ms)}
    id_ = sent.ids[number - sent.first]
    return made | named | {"_id": Binary(id_, 4)}


def _documents(sent: Sent) -> list[dict[str, Any]]:
    return [_document(sent, number) for number in range(sent.first, sent.first + sent.count)]


async def _account(
    settings: Settings, db: Database, folder: Path, there: list[dict[str, Any]], *sent: Sent
) -> Account:
    path = folder / "requests.ndjson"
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in sent))
    await db["events"].insert_many(there)
    return await compare(settings.mongo_url, settings.mongo_db, path, 0, lambda _: None)


async def test_all_is_there(settings: Settings, db: Database, tmp_path: Path) -> None:
    """What was accepted is there, and some of what was not: nothing is lost or doubled."""
    there = _documents(ACCEPTED) + _documents(UNKNOWN)[:7]
    account = await _account(settings, db, tmp_path, there, ACCEPTED, REFUSED, UNKNOWN)
    assert (account.accepted, account.refused, account.unknown) == (COUNT, COUNT, COUNT)
    assert (account.recovered, account.compared, account.found) == (7, COUNT, COUNT + 7)
    assert account.wrong == []
    assert (account.lost, account.doubled, account.altered) == (0, 0, 0)
    # No worker wrote these: the account of evp itself is empty, which is noticed.
    assert account.complaints == ["outcomes say stored 0, documents 67"]


@pytest.mark.parametrize(
    ("violation", "count", "named"),
    [("lost", 2, 2), ("doubled", 1, 0), ("altered", 1, 1), ("refused_but_stored", 3, 3)],
)
async def test_violations(
    settings: Settings, db: Database, tmp_path: Path, violation: str, count: int, named: int
) -> None:
    """Each kind of violation is counted, and named where it has an id."""
    there = _documents(ACCEPTED)
    if violation == "lost":
        del there[4:6]
    elif violation == "doubled":
        there.append(there[0] | {"_id": Binary(bytes(15) + b"\1", 4)})
    elif violation == "altered":
        there[3]["data"]["n"] = -1
    else:
        there += _documents(REFUSED)[:3]
    account = await _account(settings, db, tmp_path, there, ACCEPTED, REFUSED)
    assert getattr(account, violation) == count
    assert len(account.wrong) == named
    assert not account.clean
