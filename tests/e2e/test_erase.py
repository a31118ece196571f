"""`evp erase` as an operator uses it: count, erase, and see that it is done."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from evp.settings import Settings
from tests.e2e.commands import evp
from tests.support.make import event
from tests.support.streams import append
from tests.support.up import clean_environ


@pytest.mark.slow
def test_count_then_erase(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """Without --yes it only counts; with it they are gone, and `evp verify` is clean."""
    mine, other = event(0, subject="me"), event(1)
    asyncio.run(append(settings, [mine, other]))
    assert evp("work", "--burst", environ=shared, cwd=tmp_path).code == 0
    counted = evp("erase", "--subject", "me", environ=shared, cwd=tmp_path)
    assert (counted.code, counted.err) == (0, "")
    assert counted.out.splitlines() == [
        "1 event and 0 dead letters would be erased",
        "    1 of source test",
        "nothing was changed; --yes erases them, for good",
    ]
    assert stored.events.count_documents({"subject": "me"}) == 1
    done = evp("erase", "--subject", "me", "--yes", "--json", environ=shared, cwd=tmp_path)
    told = json.loads(done.out)
    assert (done.code, told["events"], told["waiting_events"], told["finished"]) == (0, 1, 0, True)
    assert stored.events.count_documents({"subject": "me"}) == 0
    assert stored.events.count_documents({}) == 2
    assert evp("verify", "--all", environ=shared, cwd=tmp_path).code == 0
    again = evp("erase", "--subject", "me", "--yes", environ=shared, cwd=tmp_path)
    assert again.out.splitlines() == ["0 events and 0 dead letters erased"]


def test_what_waits_is_said(shared: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    """What the log still has is said, and what to do."""
    asyncio.run(append(settings, [event(0, subject="me")]))
    done = evp("erase", "--subject", "me", "--yes", environ=shared, cwd=tmp_path)
    assert done.code == 0
    assert "1 event in the log may not be stored yet" in done.out
    assert "erase again" in done.out


def test_wrong_use(shared: dict[str, str], tmp_path: Path) -> None:
    """Whose events must be said, exit 2; a store that is away is exit 3."""
    for flags in ((), ("--source", "shop"), ("--subject", "")):
        done = evp("erase", *flags, environ=shared, cwd=tmp_path)
        assert (done.code, "--subject" in done.one_line) == (2, True)
    away = clean_environ(**shared) | {
        "EVP_MONGO_URL": "mongodb://127.0.0.1:1/?directConnection=true"
    }
    done = evp("erase", "--subject", "me", environ=away, cwd=tmp_path)
    assert done.code == 3
    assert "not finished" in done.out
