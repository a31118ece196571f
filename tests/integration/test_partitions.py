"""Servers spread requests over partitions, note them, and pass over one that can't be written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import msgspec
import pytest

from evp.codec import Media
from evp.errors import LogUnavailable, Refusal
from evp.log_address import Node
from evp.server.accept import Acceptor
from evp.server.answer import Answer
from evp.server.neighbours import Neighbours
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.partitions import known_partitions, note_partitions
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.ledger import Record, record_epochs, recorded_epochs
from evp.stream.partitions import Partitions, known, note
from tests.support.server import JSON, InProcess, request, serving, settings_of
from tests.support.wait import until
from tests.support.workers import changed

EVENT = b'{"type": "t"}'
AWAY = Refusal("log_unavailable", "no server has it")


@pytest.fixture
def three(settings: Settings) -> Settings:
    """Settings of a server that writes to three partitions."""
    given = settings_of(settings.redis_url, settings.mongo_url, settings.data_dir)
    names = {"stream": settings.stream, "mongo_db": settings.mongo_db}
    return changed(given, partitions=3, **names)


@pytest.fixture
async def server(three: Settings, link: Link, db: Database) -> AsyncIterator[InProcess]:
    """A server that accepts on all three."""
    async with serving(three) as server:
        await until(server.is_ready, what="the server accepts")
        yield server


async def post(server: InProcess, body: bytes = EVENT) -> str:
    """Send a request that is accepted; return the partition of its receipt."""
    reply = await server.ask(request(body, headers=JSON))
    assert reply.status == 202
    receipt: str = msgspec.json.decode(reply.body)["receipt"]
    return receipt.partition(".")[0]


async def test_requests_take_turns(server: InProcess, link: Link) -> None:
    """Whole requests go to one partition after the other; receipts tell which."""
    assert [await post(server) for _ in range(6)] == ["0", "1", "2", "0", "1", "2"]
    stream = server.settings.stream
    names = [Keys(stream, number).stream for number in range(3)]
    assert names == [stream, f"{stream}:1", f"{stream}:2"]
    assert [await link.call("XLEN", name) for name in names] == [2, 2, 2]


async def test_number_is_noted(server: InProcess, link: Link) -> None:
    """Before the first event is accepted the log knows how many partitions there are."""
    keys = Keys(server.settings.stream)
    assert await known(link, keys) == 3
    found = Partitions(changed(server.settings, partitions=1))
    assert len(found) == 1
    await found.look()
    assert [one.keys.stream for one in found] == [Keys(keys.stream, n).stream for n in range(3)]
    await found.close()


async def test_fewer_later(three: Settings, server: InProcess, link: Link) -> None:
    """A server with fewer of them leaves the number as it was, and writes to its own only."""
    async with serving(changed(three, partitions=1)) as fewer:
        await until(fewer.is_ready, what="the other one accepts")
        assert {await post(fewer) for _ in range(4)} == {"0"}
    assert await known(link, Keys(three.stream)) == 3


async def test_epochs_are_recorded_where_they_are(server: InProcess, link: Link) -> None:
    """Each partition has its own numbers, and its own record of them."""
    for _ in range(6):
        await post(server)
    server.stop()
    await server.task
    found = [await recorded_epochs(link, Keys(server.settings.stream, n)) for n in range(3)]
    assert [[one.seq for one in some if one.seq] for some in found] == [[2], [2], [2]]
    assert len({one.srv for some in found for one in some if one.seq}) == 3


async def test_records_of_former_partitions(
    three: Settings, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server that is gone left in a stream nobody writes to any more reaches the store."""
    monkeypatch.setattr("evp.server.ledger.LEDGER_CARRY_S", 0.05)
    await record_epochs(link, Keys(three.stream, 2), [Record(b"12345678", 7, 70)])
    await link.call("SET", Keys(three.stream).partitions, 3)
    async with serving(changed(three, partitions=1)):

        async def is_carried() -> bool:
            return await db["servers"].find_one({"_id": b"12345678", "seq": 7}) is not None

        await until(is_carried, what="the store has the record")


async def test_store_is_told_the_number(
    three: Settings, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers note in the store as well how many partitions there are: a log can forget it."""
    monkeypatch.setattr("evp.server.ledger.LEDGER_RECORD_S", 0.05)

    async def is_told() -> bool:
        return await known_partitions(db) == 3

    async with serving(three):
        await until(is_told, what="the store knows")


async def test_partition_that_is_away(three: Settings, link: Link) -> None:
    """While one can't be written the others take its requests; the server is ready, and says so."""
    acceptor = Acceptor(three)
    await acceptor.start()
    try:
        acceptor.lanes[1].log.refusal = AWAY
        assert acceptor.refusal is None
        assert acceptor.troubles == ["partition 1: no server has it"]
        taken = []
        for _ in range(4):
            assert acceptor.refusal_of(10) is None
            taken.append(acceptor._lane.keys.partition)
            acceptor._lane = next(acceptor._turns)
        assert 1 not in taken
        assert set(taken) == {0, 2}
        for lane in acceptor.lanes:
            lane.log.refusal = AWAY
        assert acceptor.refusal == AWAY
        assert acceptor.refusal_of(10) == AWAY
    finally:
        await acceptor.close()


async def fails(*_: object) -> int:
    """Answer for a log that is gone."""
    raise LogUnavailable("it is gone")


async def test_nothing_is_accepted_that_nobody_would_read(
    three: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the number can't be noted nothing is accepted; once it was, that is no reason."""
    monkeypatch.setattr("evp.server.lane.ANNOUNCED_S_MAX", 0.2)
    monkeypatch.setattr("evp.server.lane.note", fails)
    acceptor = Acceptor(three)
    await acceptor.start()
    try:
        assert acceptor.refusal is not None
        assert "the partitions can't be noted: it is gone" in acceptor.refusal.detail
        monkeypatch.setattr("evp.server.lane.note", note)
        await until(lambda: acceptor.refusal is None, what="it accepts")
        monkeypatch.setattr("evp.server.lane.note", fails)
        await acceptor.announcer.announced()
    finally:
        await acceptor.close()


async def test_word_of_the_store_will_do(
    three: Settings, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While partition 0 is away, a server starts if the store knows as many partitions."""
    monkeypatch.setattr("evp.server.lane.note", fails)
    await note_partitions(db, 3)
    acceptor = Acceptor(three, partial(known_partitions, db))
    await acceptor.start()
    try:
        await until(lambda: acceptor.refusal is None, what="it accepts")
    finally:
        await acceptor.close()


async def test_documents_that_have_no_room(three: Settings, link: Link) -> None:
    """What fits as JSON and not as documents goes to a partition that has room for it."""
    acceptor = Acceptor(three)
    await acceptor.start()
    try:
        await until(lambda: acceptor.refusal is None, what="it accepts")
        await until(lambda: all(one.flusher.room_bytes > 0 for one in acceptor.lanes), what="room")
        # Between two looks a lane's room is what is left of its share.
        acceptor.lanes[1].flusher.allow(acceptor.lanes[1].flusher.added_bytes + len(EVENT))
        answers: list[Answer] = []
        for _ in range(6):
            assert acceptor.accept(EVENT, Media.EVENT, answers.append) == 1
        await until(lambda: len(answers) == 6, what="all are answered")
        told = [msgspec.json.decode(one.body)["receipt"] for one in answers]
        assert {one.status for one in answers} == {202}
        assert "1" not in {one.partition(".")[0] for one in told}
    finally:
        await acceptor.close()


def test_what_is_free_is_shared_on_each_server() -> None:
    """Partitions on one server share its memory; who is not known yet may be there too."""
    neighbours = Neighbours(3)
    assert neighbours.on_same(0) == 3
    neighbours.note(0, Node("a", 1))
    neighbours.note(1, Node("b", 1))
    assert neighbours.on_same(0) == 2
    neighbours.note(2, Node("a", 1))
    assert [neighbours.on_same(number) for number in range(3)] == [2, 1, 2]
