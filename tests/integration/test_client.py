"""The Python client: receipts, retries, batches, and that no event is dropped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import bson
import msgspec
import pytest

from evp import AsyncClient, Client
from evp.client import async_client
from evp.client.async_client import encode
from evp.clock import monotonic_s
from evp.errors import (
    BufferFull,
    Failed,
    RequestRefused,
    Undelivered,
    Unsent,
    UsageError,
)
from evp.identity import canonical, event_id
from evp.limits import EVENT_BYTES_MAX
from evp.settings import Settings
from tests.support.answers import Answer, answering, busy, problem, scripted
from tests.support.make import event
from tests.support.server import API_KEY, InProcess, serving
from tests.support.wait import WAIT_S_MAX, until, until_now

NOWHERE = "http://127.0.0.1:1"
RECEIPT: Answer = (202, {}, b'{"event_id": "e", "receipt": "r", "durability": "fsync"}')


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: its HTTP library imports parts of itself late, and it serves nobody."""


@pytest.fixture
async def client(server: InProcess) -> AsyncIterator[AsyncClient]:
    """A client of the module's server."""
    async with AsyncClient(server.url, API_KEY, flush_every_s=0.01) as client:
        yield client


async def logged(server: InProcess, source: str) -> Counter[str]:
    """Return the ids of a source's events in the log, each with how often it is there."""
    return Counter(
        bson.decode(document.raw)["id"]
        for frame in await server.frames(10_000)
        for document in frame.documents
        if bson.decode(document.raw)["source"] == source
    )


def ids(count: int) -> Counter[str]:
    """Return the ids of so many events of `event`, once each."""
    return Counter(f"e{number}" for number in range(count))


async def test_one_event(client: AsyncClient, server: InProcess) -> None:
    """What has no id gets one, and a time, before it is sent; the receipt says where it is."""
    given = {"type": "signup", "data": {"plan": "pro"}}
    receipt = await client.send(given)
    assert receipt.durability == "fsync"
    [document] = await server.documents()
    assert canonical(document["_id"]) == receipt.event_id
    assert document["data"] == {"plan": "pro"}
    assert abs(document["time"].timestamp() - time.time()) < 60
    assert given == {"type": "signup", "data": {"plan": "pro"}}
    assert (await client.send(given)).event_id != receipt.event_id


async def test_an_id_of_its_own(client: AsyncClient) -> None:
    """An event with an id gets no time: whoever sends it again sends the same event."""
    receipt = await client.send({"type": "t", "source": "shop", "id": "order-7"})
    assert receipt.event_id == canonical(event_id("shop", "order-7", 0))


async def test_a_batch(client: AsyncClient, server: InProcess) -> None:
    """A batch is one request, taken whole."""
    receipt = await client.send_batch(event(number, source="batch") for number in range(50))
    assert (receipt.accepted, receipt.rejected) == (50, [])
    assert await logged(server, "batch") == ids(50)


async def test_refusals_are_typed(client: AsyncClient, server: InProcess) -> None:
    """A refusal has the code, the path and the index of the culprit, and nothing was kept."""
    with pytest.raises(RequestRefused, match="invalid_event") as one:
        await client.send({"type": 5})
    assert (one.value.status, one.value.path, one.value.index) == (422, "$.type", None)
    batch = [event(1, source="refused"), event(2, type=None), event(3, source="refused")]
    with pytest.raises(RequestRefused) as many:
        await client.send_batch(batch)
    assert (many.value.code, many.value.index) == ("invalid_event", 1)
    assert await logged(server, "refused") == Counter()


async def test_a_batch_that_skips(client: AsyncClient) -> None:
    """With on_error="skip" the others are taken, and the receipt names the bad one."""
    batch = [event(1), event(2, type=5), event(3)]
    receipt = await client.send_batch(batch, on_error="skip")
    assert (receipt.accepted, receipt.rejected_total) == (2, 1)
    assert [(one.index, one.code) for one in receipt.rejected] == [(1, "invalid_event")]


async def test_a_batch_that_is_too_large(client: AsyncClient) -> None:
    """More than a request may hold is refused at once, though the server does not read it all."""
    async with asyncio.timeout(5):
        with pytest.raises(RequestRefused, match="body_too_large"):
            await client.send_batch([{"type": "t", "data": "x" * 250_000}] * 40)
    assert (await client.send({"type": "t"})).receipt


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "t", "data": object()},
        "text",
        {1: {2, 3}, 2: object()},
    ],
)
async def test_what_is_no_json(client: AsyncClient, wrong: Any) -> None:
    """An event that can't be JSON is told to whoever gave it, also in the background."""
    for give in (client.send, client.enqueue):
        with pytest.raises(UsageError, match="can't be made JSON"):
            await give(wrong)


async def test_too_large(client: AsyncClient) -> None:
    """An event that no server takes is refused before it can hold others up."""
    with pytest.raises(RequestRefused, match="event_too_large"):
        await client.enqueue({"type": "t", "data": "x" * EVENT_BYTES_MAX})


@pytest.mark.parametrize(
    ("url", "key", "options"),
    [
        ("localhost:3001", "k", {}),
        (NOWHERE, "", {}),
        (NOWHERE, "a\nb", {}),
        (NOWHERE, "k", {"retry_s": 0}),
        (NOWHERE, "k", {"buffer_events": 0}),
    ],
)
def test_arguments_that_make_no_sense(url: str, key: str, options: dict[str, Any]) -> None:
    """They are told at once, not in the background."""
    with pytest.raises(UsageError):
        Client(url, key, **options)


async def test_waits_as_it_is_asked() -> None:
    """503 and 429 are tried again, never sooner than retry-after says, with the same bytes."""
    bodies: list[bytes] = []
    answer = scripted(busy(0.3), (429, {"retry-after": "0.1"}, b"?"), None, RECEIPT)

    def noted(body: bytes) -> Answer:
        bodies.append(body)
        return answer(body)

    async with answering(noted) as url, AsyncClient(url, "k") as client:
        started_at_s = monotonic_s()
        assert (await client.send({"type": "t"})).receipt == "r"
        assert monotonic_s() - started_at_s >= 0.4
    assert len(bodies) == 4
    assert len(set(bodies)) == 1


async def test_longer_than_it_may_take() -> None:
    """Where retry-after is beyond its time it gives up at once, and gives the events back."""
    async with answering(lambda _body: busy(300)) as url, AsyncClient(url, "k") as client:
        async with asyncio.timeout(5):
            with pytest.raises(Unsent, match="backlog_full: too much; try again in 300 s") as told:
                await client.send_batch([event(1), {"type": "t"}])
    assert told.value.events[0] == event(1)
    assert told.value.events[1]["id"]
    # Sending these again sends the same bytes.
    assert encode(told.value.events[1]) == msgspec.json.encode(told.value.events[1])


async def test_nobody_there() -> None:
    """A connection that is refused is tried for as long as it may; then it is said what to do."""
    async with AsyncClient(NOWHERE, "k", retry_s=0.2) as client:
        with pytest.raises(Unsent, match=r"no answer from evp at http://127\.0\.0\.1:1 .*`evp up`"):
            await client.send({"type": "t"})


@pytest.mark.parametrize("body", [b"{}", b"<html>", b"\xff"])
async def test_nobody_of_evp_there(body: bytes) -> None:
    """A 202 of something else is no receipt."""
    async with answering(lambda _body: (202, {}, body)) as url, AsyncClient(url, "k") as client:
        with pytest.raises(Unsent, match="is no evp"):
            await client.send({"type": "t"})


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"accepted": 2, "receipt": "r", "durability": "fsync"},
        {"accepted": 4, "receipt": "r", "durability": "fsync"},
        {"accepted": 2, "rejected_total": 1, "receipt": "r", "durability": "fsync"},
        {
            "accepted": 2,
            "rejected": [{"index": 3, "code": "c", "detail": "d"}],
            "receipt": "r",
            "durability": "fsync",
        },
    ],
)
async def test_answer_that_does_not_account_for_all(told: dict[str, Any]) -> None:
    """Only if a 202 says of each event what became of it are events let go of."""
    body = msgspec.json.encode(told)
    async with answering(lambda _body: (202, {}, body)) as url:
        client = AsyncClient(url, "k", flush_every_s=0.01)
        for number in range(3):
            await client.enqueue(event(number))
        with pytest.raises(Undelivered) as undelivered:
            await client.close()
    assert [(one.event, one.code) for one in undelivered.value.failed] == [
        (event(number), "unavailable") for number in range(3)
    ]


@pytest.mark.parametrize("accepted", [0, 2, 4])
async def test_batch_of_another_size(accepted: int) -> None:
    """A receipt that is not of so many events as were sent is none."""
    told = {"accepted": accepted, "receipt": "r", "durability": "fsync"}
    body = msgspec.json.encode(told)
    async with answering(lambda _body: (202, {}, body)) as url, AsyncClient(url, "k") as client:
        with pytest.raises(Unsent, match=f"no evp: of 3 events it tells {accepted}"):
            await client.send_batch(event(number) for number in range(3))


async def test_in_the_background(client: AsyncClient, server: InProcess) -> None:
    """What was enqueued goes out in batches; after flush it is all on disk, each event once."""
    entries = await server.entries()
    for number in range(2_000):
        await client.enqueue(event(number, source="background"))
    await client.flush()
    assert client.held == 0
    assert await server.entries() - entries <= 20
    assert await logged(server, "background") == ids(2_000)


async def test_alone_in_the_background(client: AsyncClient, server: InProcess) -> None:
    """An event to which none is added goes out by itself after a while."""
    await client.enqueue(event(0, source="alone"))
    await until(lambda: client.held == 0, what="it has left")
    assert await logged(server, "alone") == ids(1)


async def test_as_it_was(client: AsyncClient, server: InProcess) -> None:
    """What is changed after it was enqueued is sent as it was."""
    given = event(0, source="as it was", data={"n": 1})
    await client.enqueue(given)
    given["data"]["n"] = 2
    await client.flush()
    [document] = await server.documents()
    assert document["data"] == {"n": 1}


async def test_server_that_is_restarted(settings: Settings) -> None:
    """A server that stops and comes back in the middle costs no event, and doubles none."""
    async with serving(settings) as first:
        client = AsyncClient(first.url, API_KEY, flush_every_s=0.01)
        for number in range(1_500):
            await client.enqueue(event(number, source="restarted"))
        await until(lambda: client.held < 1_500, what="some are sent")
        first.stop()
        await first.task
    await client.enqueue(event(1_500, source="restarted"))
    async with serving(settings, first.port) as second:
        await client.close()
        assert await logged(second, "restarted") == ids(1_501)


async def test_answer_that_was_lost() -> None:
    """A batch whose answer got lost is sent again as it was: the ids are the same."""
    bodies: list[bytes] = []
    answers = scripted(None)

    def noted(body: bytes) -> Answer:
        bodies.append(body)
        return answers(body)

    async with answering(noted) as url, AsyncClient(url, "k") as client:
        await client.enqueue({"type": "t"})
        await client.flush()
    first, second = bodies
    assert first == second


async def test_bad_one_in_the_background(server: InProcess) -> None:
    """Of a batch with a bad event the others are taken; the bad one is handed back, with why."""
    told: list[Failed] = []
    async with AsyncClient(server.url, API_KEY, on_failed=told.extend) as client:
        for number in range(3):
            await client.enqueue(event(number, source="bad", type=5 if number == 1 else "t"))
    assert [(one.event["id"], one.code) for one in told] == [("e1", "invalid_event")]
    assert await logged(server, "bad") == Counter(["e0", "e2"])


async def test_only_bad_ones(server: InProcess) -> None:
    """A batch of which nothing is good is handed back, each event for its own reason."""
    client = AsyncClient(server.url, API_KEY)
    await client.enqueue({"type": 5})
    await client.enqueue({"type": "t", "id": 5})
    with pytest.raises(Undelivered, match="2 events were not sent; the first: invalid") as told:
        await client.close()
    assert {one.code for one in told.value.failed} == {"invalid_event", "invalid_id"}


async def test_wrong_key(server: InProcess) -> None:
    """With a key that is no good everything is handed back, once, and nothing is tried again."""
    client = AsyncClient(server.url, "wrong")
    for number in range(3):
        await client.enqueue(event(number))
    with pytest.raises(Undelivered) as told:
        await client.flush()
    assert [one.code for one in told.value.failed] == ["unauthenticated"] * 3
    await client.close()


async def test_callback_that_fails(server: InProcess) -> None:
    """Events that `on_failed` could not take are still handed back, with its error as the cause."""

    def fail(_failed: list[Failed]) -> None:
        raise LookupError("no table")

    client = AsyncClient(server.url, API_KEY, on_failed=fail)
    await client.enqueue({"type": 5})
    with pytest.raises(Undelivered) as told:
        await client.close()
    assert isinstance(told.value.__cause__, LookupError)


async def test_away_for_too_long() -> None:
    """After its time an event is handed back, with the id to send it again by."""
    client = AsyncClient(NOWHERE, "k", background_retry_s=0.2, flush_every_s=0.01)
    await client.enqueue({"type": "t"})
    with pytest.raises(Undelivered) as told:
        await client.flush()
    [failed] = told.value.failed
    assert failed.code == "unavailable"
    assert failed.event["id"]
    await client.close()


async def test_full_buffer_raises() -> None:
    """A full buffer raises where that is wanted; close hands back what it holds."""
    client = AsyncClient(NOWHERE, "k", buffer_events=2, when_full="raise")
    for number in range(2):
        await client.enqueue(event(number))
    with pytest.raises(BufferFull, match="2 events wait"):
        await client.enqueue(event(2))
    with pytest.raises(Undelivered) as told:
        await client.close(within_s=0.05)
    assert [(one.event, one.code) for one in told.value.failed] == [
        (event(0), "closed"),
        (event(1), "closed"),
    ]
    assert client.held == 0
    await client.close()
    for give in (client.send, client.enqueue):
        with pytest.raises(UsageError, match="closed"):
            await give(event(3))


async def test_full_buffer_waits(server: InProcess) -> None:
    """Otherwise whoever enqueues waits until some have left: no more are held than may be."""
    held = []
    async with AsyncClient(server.url, API_KEY, buffer_events=10, flush_every_s=0.01) as client:
        for number in range(100):
            await client.enqueue(event(number, source="waits"))
            held.append(client.held)
    assert max(held) == 10
    assert await logged(server, "waits") == ids(100)


async def test_full_of_failures() -> None:
    """A buffer full of what could not be sent is handed back, and what found no room with it."""
    refuse = problem(401, "unauthenticated")
    async with (
        answering(lambda _body: refuse) as url,
        AsyncClient(url, "k", buffer_events=1, flush_every_s=0.01) as client,
    ):
        await client.enqueue(event(0))
        with pytest.raises(Undelivered) as told:
            await client.enqueue(event(1))
        assert client.held == 0
    assert [(one.event, one.code) for one in told.value.failed] == [
        (event(0), "unauthenticated"),
        (event(1), "not_taken"),
    ]


async def test_bytes_that_could_not_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed takes its room until it is handed back, also of the bytes."""
    monkeypatch.setattr(async_client, "CLIENT_BUFFER_BYTES_MAX", len(encode(event(0))))
    refuse = problem(401, "unauthenticated")
    async with (
        answering(lambda _body: refuse) as url,
        AsyncClient(url, "k", flush_every_s=0.01) as client,
    ):
        await client.enqueue(event(0))
        with pytest.raises(Undelivered):
            await client.enqueue(event(1))
        await client.enqueue(event(2))
        with pytest.raises(Undelivered):
            await client.flush()


async def test_closed_while_others_wait() -> None:
    """Whoever waits for room, or for a flush, when the client is closed is not left waiting."""
    client = AsyncClient(NOWHERE, "k", buffer_events=1)
    await client.enqueue(event(0))
    waiting = asyncio.create_task(client.enqueue(event(1)))
    flushing = asyncio.create_task(client.flush())
    await asyncio.sleep(0)
    with pytest.raises(Undelivered):
        await client.close(within_s=0.05)
    async with asyncio.timeout(5):
        with pytest.raises(UsageError, match="closed"):
            await waiting
        await flushing


async def test_close_that_is_broken_off() -> None:
    """A close that is cancelled has handed everything back before it ends."""
    told: list[Failed] = []
    client = AsyncClient(NOWHERE, "k", on_failed=told.extend)
    await client.enqueue(event(0))
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.05)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert [one.event for one in told] == [event(0)]


async def test_threads_share_a_client(server: InProcess) -> None:
    """Any thread may send by a Client; its own ends with it."""

    def use() -> int:
        with Client(server.url, API_KEY, buffer_events=100) as client:
            assert client.send(event(0, source="threads")).receipt
            assert client.send_batch([event(1, source="threads")]).accepted == 1

            async def enqueue_all() -> None:
                async with asyncio.TaskGroup() as group:
                    for first in (2, 252, 502, 752):
                        group.create_task(asyncio.to_thread(enqueue_from, client, first))

            asyncio.run(enqueue_all())
            client.flush()
            held = client.held
        assert not client._thread.is_alive()
        client.close()
        with pytest.raises(UsageError, match="closed"):
            client.send(event(1))
        return held

    def enqueue_from(client: Client, first: int) -> None:
        for number in range(first, first + 250):
            client.enqueue(event(number, source="threads"))

    assert await asyncio.to_thread(use) == 0
    assert await logged(server, "threads") == ids(1_002)


async def test_callback_that_waits_for_its_client(server: InProcess) -> None:
    """What would wait for ever is an error; enqueuing again from there is none."""
    errors: list[str] = []
    again: list[str] = []

    def use() -> None:
        sender: Client

        def on_failed(failed: list[Failed]) -> None:
            again.extend(one.event["id"] for one in failed)
            try:
                sender.send(event(0))
            except UsageError as error:
                errors.append(str(error))
            sender.enqueue(failed[0].event | {"type": "mended"})

        sender = Client(server.url, API_KEY, on_failed=on_failed, flush_every_s=0.01)
        sender.enqueue(event(0, source="mended", type=5))
        sender.flush()
        sender.close()

    await asyncio.to_thread(use)
    assert (again, errors) == (["e0"], ["on_failed must not wait for the client that calls it"])
    assert await logged(server, "mended") == ids(1)


def test_after_a_fork() -> None:
    """A child can't use what its parent has begun to use, and does not send it a second time."""
    client = Client(NOWHERE, "k", background_retry_s=0.1, flush_every_s=0.01)
    client.enqueue(event(0))
    client._pid = os.getpid() + 1
    with pytest.raises(UsageError, match="used before the fork"):
        client.send(event(1))
    client._pid = os.getpid()
    with pytest.raises(Undelivered):
        client.close()


def test_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times hold while an address is looked up; it is looked up once at a time."""
    asked = []
    answered = threading.Event()

    def look_up(host: str | bytes, *_rest: object, **_hints: object) -> list[Any]:
        asked.append(str(host, "ascii") if isinstance(host, bytes) else host)
        answered.wait(WAIT_S_MAX)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    client = Client("http://evp.example", "k", retry_s=0.1)
    started_at_s = monotonic_s()
    client.enqueue(event(0))
    for _ in range(2):
        with pytest.raises(Unsent):
            client.send(event(1))
    with pytest.raises(Undelivered) as told:
        client.close(within_s=0.1)
    took_s = monotonic_s() - started_at_s
    answered.set()
    assert [one.code for one in told.value.failed] == ["closed"]
    assert took_s < WAIT_S_MAX / 2
    assert asked == ["evp.example"]


def test_closed_by_another_thread() -> None:
    """Whoever waits in one thread when another one closes the client is told so."""
    client = Client(NOWHERE, "k")
    errors: list[BaseException] = []

    def send() -> None:
        try:
            client.send(event(0))
        except UsageError as error:
            errors.append(error)

    sending = threading.Thread(target=send)
    sending.start()
    until_now(lambda: client._pid is not None, what="it has begun")
    client.close()
    sending.join(WAIT_S_MAX)
    assert len(errors) == 1
    assert "closed" in str(errors[0])


@pytest.mark.parametrize("is_told", [True, False])
def test_ctrl_c_while_it_closes(is_told: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """Ctrl-C ends a close that takes long; what is left is handed back, or at least counted."""
    told: list[Failed] = []
    client = Client(NOWHERE, "k", on_failed=told.extend if is_told else None)
    client.enqueue(event(0))
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as ended:
        client.close()
    assert not client._thread.is_alive()
    if is_told:
        assert [(one.event, one.code) for one in told] == [(event(0), "closed")]
    else:
        assert ended.value.__notes__ == ["evp: 1 events were not sent"]


AT_EXIT = """
import sys, time
from evp import Client

client = Client(sys.argv[1], sys.argv[2], flush_every_s=60)
for number in range(10):
    client.enqueue({"type": "t", "source": "exit", "id": f"e{number}"})
print("enqueued", flush=True)
time.sleep(60)
"""


async def test_ctrl_c_and_the_end_of_a_program(server: InProcess) -> None:
    """A program that ends, also by Ctrl-C, sends what it has enqueued; close need not be called."""
    url = server.url.replace("127.0.0.1", "localhost")
    command = [sys.executable, "-c", AT_EXIT, url, API_KEY]
    program = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert program.stdout is not None
    async with asyncio.timeout(WAIT_S_MAX):
        assert await program.stdout.readline() == b"enqueued\n"
        program.send_signal(signal.SIGINT)
        _, told = await program.communicate()
    assert told.decode().splitlines()[-1] == "KeyboardInterrupt"
    assert await logged(server, "exit") == ids(10)
