"""/metrics of servers and workers: names as documented, numbers as they happened."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

import pytest

from evp.http import Reply
from evp.metrics.exporter import Exporter
from evp.metrics.families import EACH, FAMILIES, LOG, SERVE, WORK
from evp.metrics.port import tell_metrics
from evp.settings import Settings
from evp.signals import end
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.gauges import LogGauges
from evp.supervise import bind
from evp.worker.run import work
from tests.support.make import event
from tests.support.metrics import names, samples
from tests.support.server import InProcess, Wire, request, serving
from tests.support.servers import Server
from tests.support.streams import append
from tests.support.wait import until
from tests.support.workers import changed, drain

PROCESS = "serve-1"


def family_names(*told_by: str) -> set[str]:
    """Return the names of what somebody tells, as documented."""
    return {family.name for family in FAMILIES if family.told_by in told_by}


@pytest.fixture
async def served(link: Link, settings: Settings) -> AsyncIterator[InProcess]:
    """A server on the test's stream that accepts."""
    assert link.is_open
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        yield server


async def told(server: InProcess) -> dict[tuple[str, ...], float]:
    """Return what a server tells."""
    reply = await server.get("/metrics")
    assert reply.status == 200
    return samples(reply.body)


@pytest.mark.parametrize("chunked", [False, True])
async def test_requests_are_counted(served: InProcess, *, chunked: bool) -> None:
    """Accepted and refused requests, events and their time are counted, on either way in."""
    for _ in range(3):
        assert (await served.ask(request(b'{"type": "t"}', chunked=chunked))).status == 202
    batch = b'[{"type": "t"}, {"type": "t"}]'
    reply = await served.ask(request(batch, path="/events/batch", chunked=chunked))
    assert reply.status == 202
    assert (await served.ask(request(b"{}", chunked=chunked))).status == 422
    assert (await served.ask(request(b"[", chunked=chunked))).status == 400
    found = await told(served)
    assert found["evp_ingest_events_total", PROCESS, "accepted"] == 5
    assert found["evp_ingest_events_total", PROCESS, "refused"] == 0
    assert found["evp_ingest_requests_total", "accepted", PROCESS] == 4
    assert found["evp_ingest_requests_total", "invalid_event", PROCESS] == 1
    assert found["evp_ingest_requests_total", "invalid_json", PROCESS] == 1
    assert found["evp_http_problems_total", "invalid_json", PROCESS] >= 1
    assert found["evp_ingest_seconds_count", PROCESS] == 4
    assert 0 < found["evp_ingest_seconds_sum", PROCESS] < 60
    assert found["evp_ingest_frame_events_sum", PROCESS] == 5
    assert found["evp_log_durable", PROCESS] == found["evp_ingest_ready", PROCESS] == 1
    assert found["evp_stream_accepted_events_total", "0"] == 5
    assert found["evp_stream_memory_bytes", "0"] > 0


async def test_server_tells_what_is_documented(
    served: InProcess, db: Database, settings: Settings
) -> None:
    """With a group on the stream, each metric of a server is there, and no other one."""
    assert db.name
    assert (await served.get("/nothing")).status == 404
    await drain(settings)
    reply = await served.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert names(reply.body) == family_names(SERVE, EACH, LOG)
    other = await served.get("/metrics", {"accept": "application/openmetrics-text; version=1.0.0"})
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert other.body.endswith(b"# EOF\n")
    found = samples(reply.body)
    assert found["evp_stream_lag_events", settings.consumer_group, "0"] == 0


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text; version=x", "text/plain"),
        ("application/openmetrics-text; version=0.0.1, text/plain; version=0.0.4", "text/plain"),
        ("text/plain; version=1.0.0; escaping=allow-utf-8", "text/plain"),
        ("\xfc", "text/plain"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1",
            "application/openmetrics-text",
        ),
    ],
)
async def test_whatever_is_accepted(served: InProcess, accept: str, kind: str) -> None:
    """One of two formats is told, whatever a client would like."""
    reply = await served.get("/metrics", {"accept": accept})
    assert (reply.status, reply.headers["content-type"].partition(";")[0]) == (200, kind)


async def test_token_is_asked_for(link: Link, settings: Settings) -> None:
    """Where a token is set, nobody reads without it; a key for events is none."""
    assert link.is_open
    async with serving(changed(settings, metrics_token="s3cret")) as server:
        refused = await server.get("/metrics")
        assert (refused.status, refused.code) == (401, "unauthenticated")
        with_token = {"authorization": "Bearer s3cret"}
        assert (await server.get("/metrics", with_token)).status == 200


async def test_log_that_is_away(own_log_server: Server, settings: Settings) -> None:
    """A log that is away is told as such, and keeps nobody waiting."""
    on_it = changed(settings, redis_url=own_log_server.url)
    async with serving(on_it) as server:
        await until(server.is_ready, what="the server accepts")
        assert (await told(server))["evp_log_up", "0"] == 1
        own_log_server.kill()
        refused = await server.ask(request(b'{"type": "t"}'))
        assert refused.status == 503

        async def is_away() -> bool:
            found = await told(server)
            return found["evp_log_up", "0"] == found["evp_ingest_ready", PROCESS] == 0

        await until(is_away, what="it is told that the log is away")
        found = await told(server)
        assert found["evp_log_durable", PROCESS] == 0
        assert ("evp_stream_memory_bytes", "0") not in found
        assert found["evp_ingest_requests_total", refused.code, PROCESS] == 1


async def test_looks_at_the_log_are_shared(link: Link, settings: Settings) -> None:
    """Many who ask at once cost the log one look."""
    gauges = LogGauges(settings)
    before = await _commands(link)
    found = await asyncio.gather(*(gauges.look() for _ in range(50)))
    assert all(one is found[0] for one in found)
    assert await _commands(link) - before < 20
    await gauges.close()


async def _commands(link: Link) -> int:
    info = await link.call("INFO", "stats")
    return int(info.decode().partition("total_commands_processed:")[2].partition("\r")[0])


async def test_worker_tells_on_a_port(link: Link, db: Database, settings: Settings) -> None:
    """A worker tells what it stored, what was there before, and what is dead, on a port."""
    assert link.is_open
    await append(settings, [event(0), event(1)], [event(1), event(0, data="another")])
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]

    async def tell(exporter: Exporter) -> None:
        await tell_metrics(exporter, listener, "s3cret")

    signals: asyncio.Queue[int] = asyncio.Queue()
    working = asyncio.create_task(work(settings, signals, tell=tell))
    ask = functools.partial(_ask, port)
    try:
        assert (await ask("/metrics")).status == 401

        async def is_done() -> bool:
            found = samples((await ask("/metrics", "Bearer s3cret")).body)
            return found["evp_events_stored_total", "work-1"] == 2 and (
                found["evp_dead_letters_total", "work-1", "id_conflict"] == 1
            )

        await until(is_done, what="the worker has stored everything")
        assert (await ask("/else", "Bearer s3cret")).status == 404

        async def tells_all() -> bool:
            reply = await ask("/metrics", "Bearer s3cret")
            return names(reply.body) == family_names(WORK, EACH, LOG)

        await until(tells_all, what="everything that is documented is told, and nothing else")
        found = samples((await ask("/metrics", "Bearer s3cret")).body)
        assert found["evp_duplicates_total", "work-1"] == 1
        assert found["evp_end_to_end_seconds_count", "work-1"] == 2
        assert found["evp_store_batch_events_sum", "work-1"] == 4
        assert found["evp_store_batch_seconds_sum", "work-1"] > 0
        assert found["evp_dead_letters_total", "work-1", "poison"] == 0
        assert await db["events"].count_documents({}) == 2
    finally:
        signals.put_nowait(15)
        await asyncio.wait([working], timeout=10)
        await end(working)
    working.result()


async def _ask(port: int, path: str, authorization: str = "") -> Reply:
    headers = {"authorization": authorization} if authorization else {}
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    try:
        await wire.send(request(b"", method="GET", path=path, headers=headers))
        return await wire.reply()
    finally:
        await wire.close()
