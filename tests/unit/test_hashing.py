"""Hashing beside the loop: it waits for its turn, and lets everything else go first."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from evp.passwords import hash_password
from evp.server import hashing
from evp.server.hashing import Hashing

PASSWORD = "correct horse battery"


@pytest.fixture
async def beside() -> AsyncIterator[Hashing]:
    """Hashing that is closed at the end."""
    beside = Hashing()
    yield beside
    beside.close()


async def test_the_loop_goes_on(beside: Hashing) -> None:
    """While a password is hashed the loop does other things."""
    hashed = asyncio.ensure_future(beside.hash(PASSWORD))
    turns = 0
    while not hashed.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 5
    assert await beside.verify(await hashed, PASSWORD)
    assert not await beside.verify(None, PASSWORD)


async def test_one_at_a_time(beside: Hashing, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many log in, one password is hashed, by one thread."""
    at_once: list[int] = []
    under_way = 0

    def counted(_kept: str | None, _password: str) -> bool:
        nonlocal under_way
        under_way += 1
        at_once.append(under_way)
        hash_password(PASSWORD)
        under_way -= 1
        return True

    monkeypatch.setattr(hashing, "verify_password", counted)
    assert all(await asyncio.gather(*(beside.verify(None, "") for _ in range(4))))
    assert at_once == [1] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
async def test_it_is_humble(beside: Hashing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread, and those that it starts, come after the loop's."""
    found: list[int] = []

    def niceness() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def asked(_kept: str | None, _password: str) -> bool:
        niceness()
        inner = threading.Thread(target=niceness)
        inner.start()
        inner.join()
        return True

    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    monkeypatch.setattr(hashing, "verify_password", asked)
    await beside.verify(None, "")
    assert found == [max(mine, 15)] * 2
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine
