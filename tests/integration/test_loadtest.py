"""The generator of a load test, whatever the server does; every request ends as one of four."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from evp.clock import monotonic_s
from evp.errors import ServerUnavailable
from evp.loadtest import generator as module
from evp.loadtest.counts import Counts, Sample
from evp.loadtest.generator import Generator
from evp.loadtest.plan import shares
from tests.support.loads import ACCEPTED, Answering, answering, plan_of, problem, share_of
from tests.support.wait import until

REQUESTS = 30
EVENTS = 10 * REQUESTS
NO_ANSWER = b""


async def ran(
    url: str, *, watch: Callable[[Sample], None] = lambda _sample: None, **changes: Any
) -> tuple[Counts, Generator]:
    """Run a generator to its end; its sum must be right. By default it has 30 requests."""
    generator = Generator(share_of(url=url, **changes), watch)
    await generator.connect()
    await generator.run(monotonic_s())
    counts = generator.counts()
    unsent = counts.asked - counts.sent
    assert unsent >= 0
    rejected = sum(counts.rejected.values())
    assert counts.asked == counts.accepted + rejected + counts.unanswered + unsent
    return counts, generator


def assert_all_accepted(counts: Counts, server: Answering) -> None:
    """Fail unless every request was accepted once."""
    assert (counts.asked, counts.sent, counts.accepted) == (REQUESTS,) * 3
    assert (counts.unanswered, counts.rejected) == (0, {})
    assert len(set(server.ids)) == EVENTS


async def test_all_are_accepted() -> None:
    """All that is due is sent once, and known by number, time and answer."""
    async with answering(lambda _number, _body: ACCEPTED) as server:
        counts, generator = await ran(server.url)
        assert_all_accepted(counts, server)
        assert len(server.bodies) == REQUESTS
        assert counts.retried == {}
        assert generator.latency.count == REQUESTS
        assert generator.ledger.accepted == b"\1" * REQUESTS
        assert len(generator.ledger.times_ms) == REQUESTS


async def test_warm_up() -> None:
    """Requests of the warm-up are sent, and known, but count nowhere."""
    samples: list[Sample] = []
    async with answering(lambda _number, _body: ACCEPTED) as server:
        changes = {"warmup_s": 0.1, "duration_s": 0.2}
        counts, generator = await ran(server.url, watch=samples.append, **changes)
        assert len(server.bodies) == REQUESTS
        assert (counts.asked, counts.accepted, generator.latency.count) == (20, 20, 20)
        assert len(generator.ledger.accepted) == REQUESTS
        assert [sample.number for sample in samples] == list(range(10, REQUESTS))


async def test_without_a_ledger() -> None:
    """Where nothing is looked up, nothing is kept of single requests."""
    async with answering(lambda _number, _body: ACCEPTED) as server:
        counts, generator = await ran(server.url, verify=False)
        assert_all_accepted(counts, server)
        assert (len(generator.ledger.accepted), len(generator.ledger.times_ms)) == (0, 0)


@pytest.mark.parametrize(
    ("status", "code"), [(503, "backlog_full"), (429, "rate_limited"), (503, "http_503")]
)
async def test_refused_for_the_moment(status: int, code: str) -> None:
    """The same events are sent again after Retry-After, and no connection sends until then."""
    text = problem(status, code, "retry-after: 0.2")
    if code.startswith("http"):
        text = text.replace(b"code", b"cold")
    async with answering(lambda number, _body: text if number == 5 else ACCEPTED) as server:
        counts, generator = await ran(server.url)
        assert_all_accepted(counts, server)
        assert counts.retried == {code: 1}
        assert server.bodies.count(server.bodies[5]) == 2
        # Those that were under way when it came are at most one for each other connection.
        assert server.times_s[5 + 4] - server.times_s[5] > 0.19
        found = generator.latency.quantiles()
        assert found is not None
        assert found.max > 190


async def test_refused_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never accepted stays unanswered or unsent once the time is up."""
    monkeypatch.setattr(module, "LOADTEST_FINISH_S_MAX", 0.3)
    text = problem(503, "log_unavailable", "retry-after: 0.1")
    async with answering(lambda _number, _body: text) as server:
        counts, _ = await ran(server.url)
        assert (counts.asked, counts.accepted, counts.rejected) == (REQUESTS, 0, {})
        assert counts.unanswered == counts.sent > 0
        assert counts.retried["log_unavailable"] == len(server.bodies)


@pytest.mark.parametrize("text", [None, b"no HTTP at all\r\n\r\n"], ids=["hangs up", "nonsense"])
async def test_lost_connections(text: bytes | None) -> None:
    """A connection that is lost is dialled anew; its request is sent again, and counted once."""
    async with answering(lambda number, _body: text if number in {3, 9} else ACCEPTED) as server:
        counts, _ = await ran(server.url)
        assert_all_accepted(counts, server)
        assert counts.retried == {"connection_lost": 2}
        assert len(server.bodies) == REQUESTS + 2


async def test_server_that_closes_after_each_answer() -> None:
    """Connections that end after their answer are dialled at once, and nothing is called lost."""
    text = ACCEPTED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with answering(lambda _number, _body: text) as server:
        counts, _ = await ran(server.url, eps=None)
        assert counts.asked == counts.sent == counts.accepted == len(server.bodies)
        # Each of the four would have two if it waited before it dials.
        assert counts.accepted > 12
        assert counts.retried == {}


async def test_server_that_goes_away_and_comes_back() -> None:
    """While nobody listens requests wait; once somebody does all are sent, and each counts once."""
    async with answering(lambda _number, _body: ACCEPTED) as server:
        generator = Generator(share_of(url=server.url), lambda _sample: None)
        await generator.connect()
        running = asyncio.create_task(generator.run(monotonic_s()))
        await until(lambda: len(server.bodies) > 5, what="some requests")
    before = len(server.bodies)
    assert before < REQUESTS
    async with await asyncio.start_server(server.serve, "127.0.0.1", server.port):
        await running
        server.hang_up()
    counts = generator.counts()
    assert_all_accepted(counts, server)
    lost = counts.retried.get("connection_lost", 0)
    assert len(server.bodies) <= REQUESTS + lost
    assert generator.latency.count == REQUESTS


async def test_no_server() -> None:
    """Where nobody listens it says so, and what to do."""
    generator = Generator(share_of(), lambda _sample: None)
    with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1 .*`evp up` starts it"):
        await generator.connect()


async def test_host_that_is_no_name() -> None:
    """A host that can't be looked up at all is told like one that does not answer."""
    generator = Generator(share_of(url="http://a..b"), lambda _sample: None)
    with pytest.raises(ServerUnavailable, match=r"a\.\.b:80"):
        await generator.connect()


@pytest.mark.parametrize("warmup_s", [0.0, 60.0])
async def test_nothing_is_accepted(warmup_s: float) -> None:
    """A load whose first answers all refuse for good ends soon, and says what they say."""
    async with answering(lambda _number, _body: problem(401, "unauthenticated")) as server:
        counts, _ = await ran(server.url, duration_s=60.0, warmup_s=warmup_s)
        assert 20 <= len(server.bodies) < 100
        assert counts.accepted == 0
        assert counts.rejected == ({} if warmup_s else {"unauthenticated": len(server.bodies)})
        assert counts.gave_up == "401 unauthenticated: about unauthenticated"


async def test_some_are_refused_for_good() -> None:
    """What is refused for good is counted by code and not sent again; the load goes on."""
    text = problem(422, "invalid_event")
    async with answering(lambda number, _body: text if number else ACCEPTED) as server:
        counts, generator = await ran(server.url)
        assert len(server.bodies) == REQUESTS
        assert (counts.asked, counts.accepted) == (REQUESTS, 1)
        assert counts.rejected == {"invalid_event": REQUESTS - 1}
        assert sum(generator.ledger.accepted) == 1
        assert counts.gave_up == ""


async def test_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes out over the connections there are stays unanswered, all else unsent."""
    monkeypatch.setattr(module, "LOADTEST_FINISH_S_MAX", 0.1)
    async with answering(lambda _number, _body: NO_ANSWER) as server:
        counts, _ = await ran(server.url)
        assert (counts.asked, counts.sent, counts.unanswered) == (REQUESTS, 4, 4)
        assert counts.retried == {}


async def test_interim_answers() -> None:
    """An answer such as 102 is none yet."""
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    async with answering(lambda _number, _body: interim + ACCEPTED) as server:
        assert_all_accepted((await ran(server.url))[0], server)


@pytest.mark.parametrize("eps", [1_000.0, None])
async def test_stopped(eps: float | None) -> None:
    """A load that is stopped sends what was due by then, and no more."""
    async with answering(lambda _number, _body: ACCEPTED) as server:
        generator = Generator(share_of(url=server.url, eps=eps, duration_s=60.0), lambda _one: None)
        await generator.connect()
        running = asyncio.create_task(generator.run(monotonic_s()))
        await until(lambda: len(server.bodies) > 5, what="some requests")
        generator.stop()
        await running
        counts = generator.counts()
        assert counts.asked == counts.sent == counts.accepted == len(server.bodies)


async def test_two_processes_take_turns() -> None:
    """Two processes have the requests of one rate between them, with ids of their own."""
    async with answering(lambda _number, _body: ACCEPTED) as server:
        parts = shares(plan_of(url=server.url, processes=2), "run", "key")
        generators = [Generator(share, lambda _sample: None) for share in parts]
        for one in generators:
            await one.connect()
        start_s = monotonic_s()
        await asyncio.gather(*(one.run(start_s) for one in generators))
        assert [one.counts().accepted for one in generators] == [15, 15]
        assert len(set(server.ids)) == EVENTS


async def test_events_one_by_one() -> None:
    """With batches of one each event is a request of its own, and a JSON object."""
    async with answering(lambda _number, _body: ACCEPTED) as server:
        counts, _ = await ran(server.url, batch=1, eps=100.0)
        assert counts.accepted == REQUESTS
        ids = {msgspec.json.decode(body)["id"] for body in server.bodies}
        assert ids == {f"0.{number}-0" for number in range(REQUESTS)}
