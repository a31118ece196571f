"""What can be asked of a server: sums, pages of events, where one is; and what is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import hypothesis
import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from evp.batch.outcome import ERASED
from evp.http import Reply
from evp.identity import canonical, event_id
from evp.server import reading, waiting
from evp.storage import schema
from evp.storage.client import Database, close, connect, database
from evp.storage.writer import Writer
from evp.stream.keys import Keys
from tests.integration.test_failure_modes import connections_of
from tests.integration.test_retention import OLD_MS, YOUNG_MS, expire_all, taken_at
from tests.support.make import event
from tests.support.server import (
    API_KEY,
    JSON,
    InProcess,
    remove_traces,
    request,
    serving,
    settings_of,
)
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, hanging
from tests.support.sums import erase, fold_all
from tests.support.wait import until
from tests.support.workers import changed, drain

pytestmark = MAY_LEAVE_SOCKETS

TIME = "2026-01-02T03:04:05.678Z"
TIME_MS = 1_767_323_045_678
DAY = {"from": "2026-01-02T00:00:00Z", "to": "2026-01-03T00:00:00Z"}


class Asker:
    """A server, its store, and how to ask it."""

    def __init__(self, server: InProcess, db: Database) -> None:
        self.server = server
        self.db = db

    async def get(self, path: str, key: str | None = API_KEY, **query: str) -> Reply:
        """GET a path with a query."""
        target = f"{path}?{urlencode(query)}" if query else path
        headers = {} if key is None else {"x-api-key": key}
        return await self.server.ask(request(b"", method="GET", path=target, headers=headers))

    async def read(self, path: str, **query: str) -> Any:
        """Return the body of an answer that is a success."""
        reply = await self.get(path, **query)
        assert reply.status == 200, reply.body
        return msgspec.json.decode(reply.body)

    async def send(self, *events: dict[str, Any]) -> Any:
        """Send events as a batch, or one alone; return the body of the 202."""
        body = msgspec.json.encode(list(events) if len(events) > 1 else events[0])
        path = "/events/batch" if len(events) > 1 else "/events"
        reply = await self.server.ask(request(body, path=path, headers=JSON))
        assert reply.status == 202, reply.body
        return msgspec.json.decode(reply.body)


@pytest.fixture
async def asker(
    log_url: str, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Asker]:
    """A server on an empty stream and an empty database."""
    settings = settings_of(log_url, store_url, tmp_path_factory.mktemp("server"))
    client = connect(settings)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        yield Asker(server, database(client, settings.mongo_db))
    await close(client)
    await remove_traces(settings)


async def test_sums_of_a_span(asker: Asker) -> None:
    """Totals, types, sources and steps are those of what was stored, whole steps of it."""
    await asker.send(
        *(event(n, type=f"t{n % 2}", source=f"s{n % 3}") for n in range(6)),
        event(6, time="2026-01-02T05:00:00Z", type="t0"),
        event(7, time="2025-01-02T05:00:00Z"),
    )
    await drain(asker.server.settings)
    found = await asker.read("/analytics/metrics", interval="1h", group_by="type", **DAY)
    assert (found["from"], found["to"]) == (DAY["from"], DAY["to"])
    assert (found["events"], found["by_type"]) == (7, {"t0": 4, "t1": 3})
    assert found["by_source"] == {"s0": 2, "s1": 2, "s2": 2, "test": 1}
    assert len(found["series"]) == 24
    full = [step for step in found["series"] if step["events"]]
    assert full == [
        {"start": "2026-01-02T03:00:00Z", "events": 6, "groups": {"t0": 3, "t1": 3}},
        {"start": "2026-01-02T05:00:00Z", "events": 1, "groups": {"t0": 1}},
    ]
    assert found["accepted"]["stored"] == 0
    by_source = await asker.read("/analytics/metrics", interval="1d", group_by="source", **DAY)
    assert [step["groups"] for step in by_source["series"]] == [found["by_source"]]


async def test_what_became_of_what_was_accepted(asker: Asker) -> None:
    """Duplicates, dead letters and latency are those of what was accepted within the span."""
    await asker.send(event(0), event(1))
    await asker.send(event(0), event(1, data="another"), event(2))
    await drain(asker.server.settings)
    found = await asker.read("/analytics/metrics")
    assert found["interval"] == "1m"
    assert found["events"] == 0
    accepted = found["accepted"]
    assert [accepted[name] for name in ("stored", "duplicates", "dead_letters")] == [3, 1, 1]
    assert accepted["missing"] == 0
    latency_ms = accepted["latency_ms"]
    assert 0 <= latency_ms["p50"] <= latency_ms["p90"] <= latency_ms["p99"] <= latency_ms["p999"]


async def test_pages_of_events(asker: Asker) -> None:
    """Events come as they were sent, the last accepted first, page by page, and filtered."""
    sent = [event(n, type=f"t{n % 2}", note="x", subject=f"user_{n % 3}") for n in range(7)]
    for one in sent:
        await asker.send(one)
    await drain(asker.server.settings)
    found: list[Any] = []
    query: dict[str, str] = {"limit": "3"}
    while True:
        page = await asker.read("/events", **query)
        assert len(page["events"]) <= 3
        found += page["events"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert Counter(one["id"] for one in found) == Counter(one["id"] for one in sent)
    [first] = [one for one in found if one["id"] == "e0"]
    assert first.pop("event_id") == canonical(event_id("test", "e0", TIME_MS))
    assert first.pop("received_at").endswith("Z")
    assert first == sent[0] | {"specversion": "1.0"}
    some = await asker.read("/events", type="t1", subject="user_0", **DAY)
    assert [one["id"] for one in some["events"]] == ["e3"]
    assert (await asker.read("/events", source="nobody"))["events"] == []
    later = {"from": "2026-01-03T00:00:00Z"}
    assert (await asker.read("/events", **later))["events"] == []


async def test_where_an_event_is(asker: Asker) -> None:
    """In the log, then stored; erased, or a dead letter; with a receipt its place is told."""
    answer = await asker.send(event(0))
    path = f"/events/{answer['event_id']}"
    assert (await asker.get(path)).code == "not_found"
    waits = await asker.read(path, receipt=answer["receipt"])
    entry = answer["receipt"].split(".")[1]
    assert (waits["status"], waits["event"]) == ("pending", None)
    assert waits["log"] == {"entry": entry, "events_ahead": 0}
    behind = await asker.send(event(1))
    waits = await asker.read(f"/events/{behind['event_id']}", receipt=behind["receipt"])
    assert waits["log"]["events_ahead"] == 1
    await drain(asker.server.settings)
    for query in ({}, {"receipt": answer["receipt"]}):
        found = await asker.read(path, **query)
        assert (found["status"], found["log"], found["dead_letters"]) == ("stored", None, [])
        assert found["event"]["data"] == {"n": 0}
    assert (await asker.read(path.upper().replace("EVENTS", "events")))["status"] == "stored"
    other = await asker.get(path, receipt=behind["receipt"])
    assert (other.status, other.code) == (422, "invalid_query")
    [stored] = await asker.db[schema.EVENTS].find({"id": "e0"}).to_list()
    await erase(asker.db, stored["_id"])
    found = await asker.read(path)
    assert found["status"] == "erased"
    assert found["event"][ERASED]
    assert "data" not in found["event"]


async def test_dead_letter_of_an_event(asker: Asker) -> None:
    """An event that the store would not take is told as such, with the reason."""
    await asker.db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
    await asker.send(event(0, partitionkey="p"))
    answer = await asker.send(event(1, partitionkey="p"))
    await asker.send(event(0, data="another"))
    # One batch at a time: of two under way at once the later one may be stored first.
    await drain(asker.server.settings, in_flight=1)
    found = await asker.read(f"/events/{answer['event_id']}", receipt=answer["receipt"])
    assert (found["status"], found["event"]) == ("dead_letter", None)
    [letter] = found["dead_letters"]
    assert (letter["reason"], letter["state"]) == ("unique_conflict", "dead")
    found = await asker.read(f"/events/{canonical(event_id('test', 'e0', TIME_MS))}")
    assert found["status"] == "stored"
    assert [one["reason"] for one in found["dead_letters"]] == ["id_conflict"]


async def test_event_between_log_and_store(asker: Asker) -> None:
    """An event that a worker has begun with, or that is lost, is told as that."""
    answer = await asker.send(event(0))
    await drain(asker.server.settings)
    path = f"/events/{answer['event_id']}"
    await asker.db[schema.EVENTS].delete_many({})
    found = await asker.read(path, receipt=answer["receipt"])
    assert found["status"] == "missing"
    await asker.db[schema.OUTCOMES].delete_many({})
    found = await asker.read(path, receipt=answer["receipt"])
    assert found["status"] == "writing"
    await asker.db[schema.FRAMES].update_many({}, {"$set": {"expired": True}, "$unset": {"ids": 1}})
    await asker.db[schema.OUTCOMES].insert_one({"_id": (await the_frame(asker))["_id"]})
    assert (await asker.read(path, receipt=answer["receipt"]))["status"] == "expired"
    await asker.db[schema.FRAMES].delete_many({})
    async with asker.server.log() as link:
        await link.call("DEL", *Keys(asker.server.settings.stream).all())
    gone = await asker.get(path, receipt=answer["receipt"])
    assert (gone.status, gone.code) == (404, "not_found")


async def test_receipt_of_others(asker: Asker) -> None:
    """An id that was not sent with a receipt does not wait there, nor behind its first event."""
    answer = await asker.send(event(0), event(1))
    stranger = canonical(event_id("test", "never sent", TIME_MS))
    reply = await asker.get(f"/events/{stranger}", receipt=answer["receipt"])
    assert (reply.status, reply.code) == (404, "not_found")
    second = f"/events/{canonical(event_id('test', 'e1', TIME_MS))}"
    behind = answer["receipt"].rpartition(".")[0]
    for first, status in ((0, 200), (1, 200), (2, 404), (999_999, 404)):
        reply = await asker.get(second, receipt=f"{behind}.{first}")
        assert reply.status == status
    await drain(asker.server.settings)
    for path, first in ((f"/events/{stranger}", 0), (second, 2)):
        assert (await asker.get(path, receipt=f"{behind}.{first}")).code == "invalid_query"


async def test_entry_of_another_program(asker: Asker) -> None:
    """A plain entry has no receipt, and no event is said to wait there."""
    async with asker.server.log() as link:
        entry = await link.call("XADD", asker.server.settings.stream, "*", "type", "t", "docs", "x")
    reply = await asker.get(EVENT, receipt=f"0.{entry.decode()}.0")
    assert (reply.status, reply.code) == (404, "not_found")


async def test_duplicate_of_what_has_expired(asker: Asker) -> None:
    """A duplicate whose original went with retention is expired; what is lost is missing."""
    await schema.ensure(asker.db)
    writer = Writer(asker.db, WRITE_MS)
    await writer.write([taken_at(OLD_MS, 0)])
    young = taken_at(YOUNG_MS, 0, 1, seq=2)
    await writer.write([young])
    await fold_all(asker.db)
    await expire_all(asker.db)
    path, receipt = f"/events/{canonical(young.ids[0])}", f"0.{young.entry_id}.0"
    assert (await asker.read(path, receipt=receipt))["status"] == "expired"
    assert (await asker.read(path, receipt=f"0.{OLD_MS}-1.0"))["status"] == "expired"
    await asker.db[schema.EVENTS].delete_many({})
    assert (await asker.read(path, receipt=receipt))["status"] == "missing"


async def test_frame_that_is_expiring(asker: Asker) -> None:
    """As long as an expired frame has its ids, others are not said to be expired with it."""
    answer = await asker.send(event(0))
    await drain(asker.server.settings)
    await asker.db[schema.FRAMES].update_many({}, {"$set": {"expired": True}})
    reply = await asker.get(EVENT, receipt=answer["receipt"])
    assert (reply.status, reply.code) == (422, "invalid_query")


async def test_waiting_for_the_group_that_writes(asker: Asker) -> None:
    """How many are ahead goes by the group that stores them, whatever the server's is called."""
    await asker.send(event(0), event(1))
    await drain(changed(asker.server.settings, consumer_group="others"))
    answer = await asker.send(event(2))
    waits = await asker.read(f"/events/{answer['event_id']}", receipt=answer["receipt"])
    assert (waits["status"], waits["log"]["events_ahead"]) == ("pending", 0)


async def test_one_connection_for_all_who_ask_with_a_receipt(
    own_log_server: Server, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The log is looked into over one connection that is kept, and dialled anew if it is lost."""
    settings = settings_of(own_log_server.url, store_url, tmp_path_factory.mktemp("server"))
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        asker = Asker(server, None)  # type: ignore[arg-type]
        answer = await asker.send(event(0))
        path = f"/events/{answer['event_id']}"
        before = await connections_of(own_log_server.url)
        for _ in range(3):
            asking = [asker.read(path, receipt=answer["receipt"]) for _ in range(20)]
            assert {one["status"] for one in await asyncio.gather(*asking)} == {"pending"}
        # This look has dialled once itself, and the ledger dials now and then.
        assert await connections_of(own_log_server.url) - before in range(2, 7)
        async with server.log() as link:
            await link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await asker.read(path, receipt=answer["receipt"]))["status"] == "pending"


async def test_log_that_hangs(
    own_log_server: Server,
    store_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All who ask with a receipt are told soon that the log can't be asked, not one by one."""
    monkeypatch.setattr(waiting, "LOG_LOOK_S_MAX", 0.3)
    settings = settings_of(own_log_server.url, store_url, tmp_path_factory.mktemp("server"))
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        asker = Asker(server, None)  # type: ignore[arg-type]
        answer = await asker.send(event(0))
        path = f"/events/{answer['event_id']}"
        with hanging(own_log_server):
            async with asyncio.timeout(3):
                asking = [asker.get(path, receipt=answer["receipt"]) for _ in range(20)]
                replies = await asyncio.gather(*asking)
            assert {(one.status, one.code) for one in replies} == {(503, "log_unavailable")}
        assert (await asker.read(path, receipt=answer["receipt"]))["status"] == "pending"


async def the_frame(asker: Asker) -> Any:
    """Return the only header there is."""
    return await asker.db[schema.FRAMES].find_one()


METRICS, EVENTS, EVENT = "/analytics/metrics", "/events", f"/events/{canonical(bytes(16))}"

BAD_QUERIES = [
    (METRICS, "field=$where"),
    (METRICS, "field[$ne]=1"),
    (METRICS, "type[$ne]=x"),
    (METRICS, "sort=__x"),
    (METRICS, "regex=(a%2B)%2B$"),
    (METRICS, "group_by=$where"),
    (METRICS, "group_by=subject"),
    (METRICS, "interval=1s"),
    (METRICS, "interval[$gt]=1m"),
    (METRICS, "from=now&to=now-1h"),
    (METRICS, "from=now-3650d&interval=1m"),
    (METRICS, "from=now-3650d"),
    (METRICS, "from=2026-01-01T00:00:00"),
    (METRICS, "from=yesterday"),
    (METRICS, "from="),
    (METRICS, "limit=1"),
    (METRICS, "interval=1m&interval=1h"),
    (EVENTS, "limit=1e9"),
    (EVENTS, "limit=1000000000"),
    (EVENTS, "limit=0"),
    (EVENTS, "limit=-1"),
    (EVENTS, "limit=x"),
    (EVENTS, "type[$ne]="),
    (EVENTS, "type[$ne]=x"),
    (EVENTS, "$where=1"),
    (EVENTS, "subject[$regex]=(a%2B)%2B$"),
    (EVENTS, "data.secret=1"),
    (EVENTS, "sort=__x"),
    (EVENTS, "type=a&type=b"),
    (EVENTS, "type="),
    (EVENTS, "type=" + "x" * 2_001),
    (EVENTS, "from=now&to=now"),
    (EVENTS, "to=never"),
    (EVENTS, "to=9999-12-31T23:59:59-14:00"),
    (EVENTS, "from=9999-12-31T23:59:59-14:00"),
    (EVENTS, "from=0001-01-01T00:00:00%2B14:00"),
    (METRICS, "to=9999-12-31T23:59:59-14:00"),
    (EVENTS, "cursor=x"),
    (EVENTS, "cursor=" + "A" * 40),
    (EVENTS, "cursor=%ff%fe"),
    (EVENT, "receipt=256.1-1.1"),
    (EVENT, "receipt=0.$gt-1.1"),
    (EVENT, "receipt=0.18446744073709551616-0.0"),
    (EVENT, "receipt=0.1-18446744073709551616.0"),
    (EVENT, "limit=1"),
]


@pytest.fixture(scope="module")
async def reader(server: InProcess) -> InProcess:
    """The server of this module that nothing is stored by."""
    await until(server.is_ready, what="the server accepts")
    return server


@pytest.mark.parametrize(("path", "query"), BAD_QUERIES, ids=lambda one: one[:40])
async def test_bad_queries(reader: InProcess, path: str, query: str) -> None:
    """Rows 57 and 58: unknown names, operators, wrong values and too large spans are refused."""
    headers = {"x-api-key": API_KEY}
    target = f"{path}?{query}"
    reply = await reader.ask(request(b"", method="GET", path=target, headers=headers))
    assert (reply.status, reply.code) == (422, "invalid_query"), reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    sent = query.rpartition("=")[2]
    assert len(sent) < 4 or sent.encode() not in reply.body


@pytest.mark.parametrize(
    "value", ["$where", "{'$ne': 1}", "(a+)+$", "a\0b", "é✓", "%", "__proto__"]
)
async def test_odd_values_are_only_values(reader: InProcess, value: str) -> None:
    """Row 57: what looks like an operator or a pattern is compared as the text that it is."""
    headers = {"x-api-key": API_KEY}
    for name in ("type", "source", "subject"):
        target = f"/events?{name}={quote(value, safe='')}"
        reply = await reader.ask(request(b"", method="GET", path=target, headers=headers))
        assert (reply.status, reply.body) == (200, b'{"events":[],"next_cursor":null}')


names = st.sampled_from(["type", "source", "subject", "from", "to", "limit", "cursor", "interval"])
offsets = st.sampled_from(["Z", "+00:00", "+14:00", "-14:00", "+23:59", "-23:59"])
dates = st.datetimes().map(datetime.isoformat) | st.sampled_from(
    ["0001-01-01T00:00:00", "1970-01-01T00:00:00", "9999-12-31T23:59:59.999999"]
)
moments = st.builds(str.__add__, dates, offsets)
words = st.sampled_from(["now", "now-1h", "1m", "1", "t"])
texts = st.text(max_size=20) | moments | words
parameters = st.tuples(names | st.text(max_size=8), texts)
raw_queries = st.binary(max_size=40).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw))


@hypothesis.settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([METRICS, EVENTS, EVENT]), st.lists(parameters) | raw_queries)
async def test_any_query_is_answered(
    reader: InProcess, path: str, query: list[tuple[str, str]] | str
) -> None:
    """Whatever stands behind the question mark, it is answered, or refused by a code."""
    encoded = query if isinstance(query, str) else urlencode(query)
    target = f"{path}?{encoded}"
    sent = request(b"", method="GET", path=target, headers={"x-api-key": API_KEY})
    reply = await reader.ask(sent)
    assert reply.status in {200, 404, 422}, reply.body
    if reply.status != 200:
        assert reply.code in {"invalid_query", "not_found"}


@pytest.mark.parametrize(
    "path",
    [METRICS, EVENTS, EVENT, f"{EVENTS}?limit=0", f"{METRICS}?interval=1s", f"{EVENT}?receipt=x"],
)
async def test_reading_needs_a_key(reader: InProcess, path: str) -> None:
    """Without a key, or with a wrong one, nothing is told, of the query neither."""
    for headers in ({}, {"x-api-key": "wrong"}):
        reply = await reader.ask(request(b"", method="GET", path=path, headers=headers))
        assert (reply.status, reply.code) == (401, "unauthenticated")


@pytest.mark.parametrize("id_", ["x", "batch1", "00000000", "%00", "$gt", "a" * 500])
async def test_ids_that_are_none(reader: InProcess, id_: str) -> None:
    """What is no UUID is no event."""
    headers = {"x-api-key": API_KEY}
    reply = await reader.ask(request(b"", method="GET", path=f"/events/{id_}", headers=headers))
    assert (reply.status, reply.code) == (404, "not_found")


@pytest.mark.slow
async def test_store_that_is_away(
    own_store_server: Server,
    log_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Questions are refused with 503 while the store is away; events are accepted on."""
    monkeypatch.setattr(reading, "READ_REACH_S_MAX", 0.3)
    settings = settings_of(log_url, own_store_server.url, tmp_path_factory.mktemp("server"))
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        own_store_server.kill()
        asker = Asker(server, None)  # type: ignore[arg-type]
        replies = await asyncio.gather(*(asker.get(path) for path in (METRICS, EVENTS, EVENT)))
        assert [reply.code for reply in replies] == ["store_unavailable"] * 3
        assert {reply.status for reply in replies} == {503}
        assert all(reply.headers["retry-after"] for reply in replies)
        assert (await asker.send(event(0)))["event_id"]


async def test_store_that_hangs(
    own_store_server: Server,
    log_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A question has a time limit; whoever asked for it learns that it took too long."""
    monkeypatch.setattr(reading.Reading.__init__, "__kwdefaults__", {"within_s": 0.3})
    settings = settings_of(log_url, own_store_server.url, tmp_path_factory.mktemp("server"))
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        asker = Asker(server, None)  # type: ignore[arg-type]
        assert (await asker.get(METRICS)).status == 200
        with hanging(own_store_server):
            reply = await asker.get(EVENT)
            assert (reply.status, reply.code) == (503, "too_slow")
            assert (await asker.send(event(0)))["event_id"]
    await remove_traces(settings)


async def test_many_who_ask_do_not_hold_up_ingest(asker: Asker) -> None:
    """A crowd that asks all kinds of things is answered or turned away; events are accepted."""
    spans = [f"now-{1 + n}h" for n in range(60)]
    asking = [asyncio.create_task(asker.get(METRICS, **{"from": span})) for span in spans]
    await asker.send(event(0))
    replies = await asyncio.gather(*asking)
    assert {reply.status for reply in replies} <= {200, 503}
    assert {reply.code for reply in replies if reply.status == 503} <= {"server_busy"}
    assert sum(reply.status == 200 for reply in replies) >= 30
