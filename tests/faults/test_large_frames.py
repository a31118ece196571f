"""Frames of the largest size there is: a worker's memory stays bounded by one read."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from pymongo import MongoClient

from evp.limits import BATCH_BODY_BYTES_MAX, KIB, MIB
from evp.settings import Settings
from tests.e2e.commands import background
from tests.support.make import event
from tests.support.streams import append

pytestmark = pytest.mark.timeout(300)

FRAMES = 8
EVENTS = 36
WORKER_BYTES_MAX = 300 * MIB


#: As much as an event can bring: in BSON a text is as long, small numbers six times.
TEXT = "x" * (BATCH_BODY_BYTES_MAX // EVENTS - KIB)
NUMBERS = [1] * (len(TEXT) // 2)


@pytest.mark.parametrize("data", [TEXT, NUMBERS], ids=["texts", "numbers"])
def test_worker_of_large_frames(
    environ: dict[str, str], settings: Settings, tmp_path: Path, data: object
) -> None:
    """Frames of requests of 8 MiB wait, and a worker takes them with less than 300 MiB."""
    for first in range(0, FRAMES * EVENTS, EVENTS):
        events = [event(number, data=data) for number in range(first, first + EVENTS)]
        assert len(msgspec.json.encode(events)) > 0.95 * BATCH_BODY_BYTES_MAX
        asyncio.run(append(settings, events))
    most = 0
    with background("work", "--burst", environ=environ, cwd=tmp_path) as working:
        process = psutil.Process(working.process.pid)
        while working.process.poll() is None:
            most = max(most, memory_of(process))
            time.sleep(0.02)
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongo_url)
    with client:
        found = client[settings.mongo_db].events.find({}, {"id": 1})
        assert Counter(one["id"] for one in found) == once()
    assert 0 < most < WORKER_BYTES_MAX


def memory_of(process: psutil.Process) -> int:
    """Return the memory of a process that may be about to end, and of its largest child."""
    try:
        family = [process, *process.children(recursive=True)]
        return max(one.memory_info().rss for one in family)
    except psutil.NoSuchProcess:
        return 0


def once() -> Counter[str]:
    """Return what the store must hold."""
    return Counter(f"e{number}" for number in range(FRAMES * EVENTS))
