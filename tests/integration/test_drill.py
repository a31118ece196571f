"""What a drill looks up, on a real store: what is lost, doubled, or there against its word.

The database is prepared by hand, so that what was told and what is stored differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from bson import Binary

from evp.drill.backlog import Backlog
from evp.drill.check import Check, Sent, check
from evp.drill.load import Load, Outcome, Request, id_of, source_of
from evp.errors import EngineFailed
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.groups import ensure_group, existing_groups, registered_groups
from evp.stream.keys import Keys
from tests.support.server import API_KEY, InProcess
from tests.support.wait import until

BATCH = 3
TIME_MS = 1_767_323_045_000


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: the HTTP client reads files of its own when it is first used."""


def sent(*outcomes: Outcome, time_in_id: bool = True) -> Sent:
    """Return requests with these outcomes, a millisecond apart, each in a turn of its own."""
    requests = [Request(n, TIME_MS + n, n, 0.0, outcome) for n, outcome in enumerate(outcomes)]
    return Sent("run", BATCH, requests, time_in_id)


def document(of: Sent, where: int, **changes: Any) -> dict[str, Any]:
    """Return the document of an event by its place among all."""
    made = {
        "_id": Binary(of.stored_id(where), 4),
        "source": source_of("run"),
        "id": id_of(*divmod(where, BATCH)),
    }
    return made | changes


async def looked_up(db: Database, of: Sent, stored: Iterable[dict[str, Any]]) -> Check:
    """Store these, and look everything up."""
    await db.events.insert_many(list(stored))
    return await check(db, of, len(of.requests))


@pytest.mark.parametrize("time_in_id", [True, False])
async def test_all_as_it_should_be(db: Database, *, time_in_id: bool) -> None:
    """What was accepted is there, what was refused is not; of what nobody knows either is right."""
    of = sent(Outcome.ACCEPTED, Outcome.REFUSED, Outcome.UNKNOWN, time_in_id=time_in_id)
    there = [*range(BATCH), 2 * BATCH]
    found = await looked_up(db, of, (document(of, where) for where in there))
    assert sum(one.lost + one.doubled + one.refused_stored for one in found.turns) == 0
    assert [one.recovered for one in found.turns] == [0, 0, 1]
    assert found.unexpected == 0


async def test_what_is_wrong_is_found(db: Database) -> None:
    """Each by its name, in the turn in which it was sent, whatever time is in its `_id`."""
    of = sent(Outcome.ACCEPTED, Outcome.REFUSED, Outcome.UNKNOWN)
    twice = document(of, 2 * BATCH, _id=Binary(bytes(15) + b"\1", 4))
    within = of.stored_id(0)[:6] + bytes(10)
    stored = [
        document(of, 0),
        document(of, 1),
        document(of, 0, _id=Binary(within, 4)),
        document(of, BATCH + 1),
        document(of, 2 * BATCH),
        document(of, 0, _id=Binary(within[:-1] + b"\1", 4), id="7-0"),
        document(of, 0, _id=Binary(within[:-1] + b"\2", 4), id="what is this"),
        twice,
    ]
    found = await looked_up(db, of, stored)
    assert [one.lost for one in found.turns] == [1, 0, 0]
    assert [one.doubled for one in found.turns] == [1, 0, 1]
    assert [one.refused_stored for one in found.turns] == [0, 1, 0]
    assert (found.lost_ids, found.doubled_ids) == (["0-2"], ["0-0", "2-0"])
    assert found.refused_stored_ids == ["1-1"]
    assert found.unexpected == 2


async def test_load_tells_what_it_was_told(server: InProcess) -> None:
    """Each request has one outcome; a server that refuses keeps nothing, and that is known."""
    good = Load(server.url, API_KEY, "good", 2_000)
    bad = Load(server.url, "nobody", "bad", 2_000)
    for load, outcome in ((good, Outcome.ACCEPTED), (bad, Outcome.REFUSED)):
        await sent_some(load)
        assert {one.outcome for one in load.requests} == {outcome}
    assert good.accepted == len(good.requests) * good.batch
    assert good.ok_sent_at_s > 0
    assert bad.failing.again_at_s is None
    assert "401 unauthenticated" in bad.last_refusal


async def test_nobody_is_there() -> None:
    """Without an answer nobody knows, neither of what is sent again nor of what is not."""
    load = Load("http://127.0.0.1:1", "key", "run", 100)
    await sent_some(load)
    assert {one.outcome for one in load.requests} == {Outcome.UNKNOWN}
    assert "no answer" in load.last_refusal


async def test_group_is_dropped_and_still_known(
    settings: Settings, link: Link, keys: Keys, db: Database
) -> None:
    """The log loses the group and not its name, as by an accident; nothing counts as settled."""
    await ensure_group(link, keys, settings.consumer_group)
    await link.call("XADD", keys.stream, "*", "a", "b")
    backlog = Backlog(settings)
    try:
        await backlog.drop_group()
        assert await existing_groups(link, keys) == set()
        assert await registered_groups(link, keys) == {settings.consumer_group}
        assert not await backlog.is_settled(0.0)
        with pytest.raises(EngineFailed, match="there was no group"):
            await backlog.drop_group()
    finally:
        await backlog.close()


async def sent_some(load: Load) -> None:
    """Send until a few requests have been answered, or not."""
    sending = asyncio.create_task(load.run())
    await until(lambda: len(load.requests) >= 4, what="some are sent")
    await until(lambda: load.failing.last_at_s > 0 or load.accepted > 0, what="one has its end")
    load.stop()
    await sending
