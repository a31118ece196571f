"""What a drill looks up, on a real store: what is lost, doubled, or there against its word.

The database is prepared by hand, so that what was told and what is stored differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from bson import Binary

from evp.drill import load, run
from evp.drill.backlog import Backlog
from evp.drill.check import Check, Sent, check
from evp.drill.faults import Fault
from evp.drill.load import Load, Outcome, Request, id_of, source_of
from evp.drill.plan import Plan
from evp.drill.report import Verdict
from evp.drill.run import Drill
from evp.drill.target import Target
from evp.errors import EngineFailed
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.groups import ensure_group, existing_groups, registered_groups
from evp.stream.keys import Keys
from tests.support.server import API_KEY, InProcess, serving
from tests.support.wait import until
from tests.support.workers import working

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
    for sender, outcome in ((good, Outcome.ACCEPTED), (bad, Outcome.REFUSED)):
        await sent_some(sender)
        assert {one.outcome for one in sender.requests} == {outcome}
    assert good.accepted == len(good.requests) * good.batch
    assert good.ok_sent_at_s > 0
    assert bad.failing.again_at_s is None
    assert "401 unauthenticated" in bad.last_refusal


async def test_load_ends_at_its_bound(server: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends no more than can be remembered, and ends by itself."""
    monkeypatch.setattr(load, "DRILL_REQUESTS_MAX", 3)
    bounded = Load(server.url, API_KEY, "bounded", 2_000)
    async with asyncio.timeout(60):
        await bounded.run()
    assert [one.outcome for one in bounded.requests] == [Outcome.ACCEPTED] * 3


async def test_nobody_is_there() -> None:
    """Without an answer nobody knows, neither of what is sent again nor of what is not."""
    sender = Load("http://127.0.0.1:1", "key", "run", 100)
    await sent_some(sender)
    assert {one.outcome for one in sender.requests} == {Outcome.UNKNOWN}
    assert "no answer" in sender.last_refusal


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


@pytest.mark.slow
async def test_answers_that_do_not_stay_202(
    settings: Settings, link: Link, keys: Keys, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault is not overcome where the server goes for good, though all was stored before."""
    monkeypatch.setattr(run, "DRILL_BACK_S_MAX", 1.0)
    plan = Plan([Fault.DROP_GROUP], times=1, duration_s=1.0, eps=100)
    await ensure_group(link, keys, settings.consumer_group)
    async with serving(settings) as server, working(settings):
        target = Target(settings, server.url, None, settings.claim_idle_ms)
        drill = Drill(target, plan, next(iter(settings.api_keys.values())), db)
        gone = asyncio.Event()
        monkeypatch.setattr(drill, "_rest", lambda _until_s: gone.wait())
        drilling = asyncio.create_task(drill.run())
        await until(
            lambda: drilling.done() or drill.stage.endswith("a pause"),
            what="all is stored",
            within_s=60,
        )
        assert not drilling.done(), drill.report()
        server.stop()
        await server.task
        gone.set()
        await drilling
    [turn] = drill.report().turns
    assert turn.drained_s is not None
    assert turn.failure.startswith("answers did not stay 202: ")
    assert turn.verdict is Verdict.NOT_BACK
    assert (turn.lost, drill.report().exit_code) == (0, 1)


async def sent_some(sender: Load) -> None:
    """Send until a few requests have been answered, or not."""
    sending = asyncio.create_task(sender.run())
    await until(lambda: len(sender.requests) >= 4, what="some are sent")
    await until(lambda: sender.failing.last_at_s > 0 or sender.accepted > 0, what="one has its end")
    sender.stop()
    await sending
