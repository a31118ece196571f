"""An event that kills the process which writes it: set aside by workers that really die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from evp.settings import Settings
from evp.storage import schema
from evp.storage.client import Database
from evp.stream.client import Link
from tests.support.make import event
from tests.support.stores import documents, the_one
from tests.support.streams import append
from tests.support.up import clean_environ
from tests.support.workers import is_drained

DEADLY = "boom"
LIVES_MAX = 20
WORK_S_MAX = 20


@pytest.mark.slow
async def test_a_deadly_event_is_set_aside(
    db: Database, link: Link, settings: Settings, environ: dict[str, str], tmp_path: Path
) -> None:
    """Workers die of one event of four, again and again, until it is a dead letter by itself."""
    await append(
        settings,
        [event(0), event(1, type=DEADLY), event(2), event(3)],
        [event(4)],
    )
    command = [sys.executable, "-m", "tests.support.mortal", DEADLY]
    folder = Path(__file__).parents[2]
    environ = clean_environ(**environ, EVP_MAX_DELIVERIES="1", PYTHONPATH=str(folder))

    def live() -> int:
        return subprocess.run(
            command, env=environ, cwd=tmp_path, timeout=WORK_S_MAX, capture_output=True, check=False
        ).returncode

    codes: list[int] = []
    while not codes or (codes[-1] != 0 and len(codes) < LIVES_MAX):
        codes.append(await asyncio.to_thread(live))
    assert codes[-1] == 0
    assert set(codes[:-1]) == {-9}
    assert await is_drained(settings)
    assert (await the_one(db, schema.DEAD_LETTERS))["reason"] == "poison"
    found = await documents(db, schema.EVENTS)
    assert sorted(one["id"] for one in found) == ["e0", "e2", "e3", "e4"]
    outcomes = await documents(db, schema.OUTCOMES)
    assert sorted((one["stored"], one["dead"]) for one in outcomes) == [(1, []), (3, [1])]
