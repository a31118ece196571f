"""What the client makes of an event, and that none is ever dropped untold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evp.client.async_client import AsyncClient, encode
from evp.errors import Failed, ServerUnavailable
from evp.http import Reply

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
MEMBERS = st.sampled_from(["id", "time", "timestamp", "type", "data", "ext"])


@given(st.dictionaries(MEMBERS, JSON, max_size=6))
def test_members_stay_as_they_are(event: dict[str, Any]) -> None:
    """An id is added where there is none, a time only with it, and nothing else is changed."""
    text = encode(event)
    assert b"\n" not in text
    made = msgspec.json.decode(text)
    assert made["id"] is not None
    changed = {name for name in made if name not in event or made[name] != event[name]}
    if event.get("id") is not None:
        assert changed == set()
    elif event.get("time") is None and event.get("timestamp") is None:
        assert changed == {"id", "time"}
    else:
        assert changed == {"id"}
    # What is handed back is the same event when it is sent again.
    assert encode(made) == msgspec.json.encode(made)


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: its HTTP library looks files up when it is made, and it serves nobody."""


class Moody:
    """A server in the same process, in a mood for each request; keeps the ids that it accepted."""

    def __init__(self, moods: list[str], bad: set[str]) -> None:
        self.accepted: Counter[str] = Counter()
        self._moods = moods
        self._bad = bad

    async def request(
        self, _method: str, _path: str, body: bytes, _headers: Mapping[str, str], _within_s: float
    ) -> Reply:
        """Answer as HttpConnection does."""
        await asyncio.sleep(0)
        ids = [msgspec.json.decode(line)["id"] for line in body.split(b"\n")]
        bad = [index for index, id_ in enumerate(ids) if id_ in self._bad]
        mood = self._moods.pop() if self._moods else "well"
        if mood == "away":
            raise ServerUnavailable("away")
        if mood == "busy":
            return Reply(503, {}, b"")
        if mood == "odd" or len(bad) == len(ids):
            index = {} if mood == "odd" else {"index": bad[0]}
            return Reply(422, {}, msgspec.json.encode({"code": "bad", "detail": "", **index}))
        self.accepted.update(id_ for id_ in ids if id_ not in self._bad)
        if mood == "lost":
            raise ServerUnavailable("its answer was lost")
        told = {
            "accepted": len(ids) - len(bad),
            "rejected": [{"index": index, "code": "bad", "detail": ""} for index in bad],
            "receipt": "r",
            "durability": "fsync",
        }
        return Reply(202, {}, msgspec.json.encode(told))

    async def close(self) -> None:
        """Do nothing."""


@settings(max_examples=150)
@given(
    st.integers(1, 30),
    st.sets(st.integers(0, 29)),
    st.lists(st.sampled_from(["well", "away", "busy", "odd", "lost"]), max_size=12),
    st.integers(1, 7),
    st.sampled_from([0.0, 10.0]),
)
def test_no_event_is_dropped(
    count: int, bad: set[int], moods: list[str], batch_events: int, within_s: float
) -> None:
    """Whatever a server does, an event is on its disk or handed back, and a bad one handed back."""
    told: list[Failed] = []
    server = Moody(list(moods), {f"e{number}" for number in bad})
    sleep = asyncio.sleep

    async def send() -> None:
        client = AsyncClient("http://evp", "k", on_failed=told.extend, flush_every_s=0.001)
        client._connection = server  # type: ignore[assignment]  # it answers alike
        for number in range(count):
            await client.enqueue({"type": "t", "id": f"e{number}"})
            await sleep(0)
        await client.close(within_s)
        assert client.held == 0

    with (
        patch("evp.client.async_client.SEND_EVENTS_MAX", batch_events),
        patch("evp.client.delivery.asyncio.sleep", lambda _s: sleep(0)),
    ):
        asyncio.run(send())
    ids = {f"e{number}" for number in range(count)}
    handed_back = Counter(one.event["id"] for one in told)
    assert set(server.accepted) | set(handed_back) == ids
    assert all(times == 1 for times in handed_back.values())
    assert not set(server.accepted) & {f"e{number}" for number in bad}
    if within_s and "odd" not in moods and "lost" not in moods:
        assert set(handed_back) == ids & {f"e{number}" for number in bad}
        assert all(times == 1 for times in server.accepted.values())
