"""Sending events from Python: `from evp import AsyncClient, Client`; docs/CLIENT.md says more.

`send` and `send_batch` return when the events are on disk. `enqueue` returns at once:

    enqueue ──_queue──▶ _gather: a batch ──_deliver──▶ _leave: on disk, or handed back as Failed

Every event has an id before it is first sent, so that trying again can't double it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, TypeVar
from uuid import uuid4

import msgspec

from evp.client.delivery import (
    ACCEPTED,
    JSON,
    NDJSON,
    BatchReceipt,
    Receipt,
    post,
    post_lines,
    read,
    read_batch,
)
from evp.clock import monotonic_s, now
from evp.errors import (
    BufferFull,
    Failed,
    RequestRefused,
    ServerUnavailable,
    Undelivered,
    Unsent,
    UsageError,
)
from evp.http import HttpConnection, Reply
from evp.limits import (
    CLIENT_BACKGROUND_RETRY_S,
    CLIENT_BUFFER_BYTES_MAX,
    CLIENT_BUFFER_EVENTS,
    CLIENT_CLOSE_S,
    CLIENT_CONNECTIONS_MAX,
    CLIENT_FLUSH_EVERY_S,
    CLIENT_RETRY_S,
    EVENT_BYTES_MAX,
    HTTP_ANSWER_S_MAX,
    SEND_BYTES_MAX,
    SEND_EVENTS_MAX,
)

T = TypeVar("T")
Event = Mapping[str, Any]
"""`type`, and what else docs/API_DOCS.md lists; `data` is whatever msgspec can make JSON of."""
OnFailed = Callable[[list[Failed]], None]

_HINT = "`evp up` starts one; the address is the client's first argument"


class _Line(NamedTuple):
    text: bytes
    at_s: float


class _Failure(NamedTuple):
    """What becomes a Failed when it is handed back; until then it is the text that was counted."""

    text: bytes
    code: str
    detail: str

    def told(self) -> Failed:
        return Failed(msgspec.json.decode(self.text), self.code, self.detail)


class AsyncClient:
    """Sends events to one server; belongs to the loop in which it is first used.

    `send` and `send_batch` try for `retry_s`; what is enqueued waits `flush_every_s` for more,
    and is tried for `background_retry_s`. While `buffer_events` are held, `enqueue` waits, or
    raises BufferFull if `when_full` is "raise". `on_failed` is called, in the loop, with what
    can't be sent. Raises UsageError if an argument makes no sense.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        retry_s: float = CLIENT_RETRY_S,
        background_retry_s: float = CLIENT_BACKGROUND_RETRY_S,
        flush_every_s: float = CLIENT_FLUSH_EVERY_S,
        buffer_events: int = CLIENT_BUFFER_EVENTS,
        when_full: Literal["wait", "raise"] = "wait",
        on_failed: OnFailed | None = None,
    ) -> None:
        if min(retry_s, background_retry_s, flush_every_s, buffer_events) <= 0:
            raise UsageError("the times and the size of the buffer must be more than 0")
        if not (key and key.isascii() and key.isprintable()):
            raise UsageError("the API key must be printable ASCII")
        self._connection = HttpConnection(url, connections_max=CLIENT_CONNECTIONS_MAX, hint=_HINT)
        self._key = key
        self._retry_s = retry_s
        self._background_retry_s = background_retry_s
        self._flush_every_s = flush_every_s
        self._buffer_events = buffer_events
        # Of a small buffer one half gathers while the other one is under way.
        self._batch_events = min(SEND_EVENTS_MAX, max(1, buffer_events // 2))
        self._when_full = when_full
        self._on_failed = on_failed
        self._queue: asyncio.Queue[_Line | asyncio.Future[None]] = asyncio.Queue()
        self._in_flight: dict[int, _Line] = {}
        self._failed: list[_Failure] = []
        self._fault: Exception | None = None
        self._lock = threading.Lock()
        self._held = self._held_bytes = 0
        self._left = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @property
    def held(self) -> int:
        """How many events were enqueued and are neither on disk nor handed back yet."""
        return self._held

    async def send(self, event: Event) -> Receipt:
        """Send one event, and return once it is on disk.

        Raises RequestRefused, UsageError if it is no JSON, and Unsent after `retry_s`.
        """
        return await self._post(
            "/events", JSON, [encode(event)], lambda reply: read(reply, Receipt)
        )

    async def send_batch(
        self, events: Iterable[Event], *, on_error: Literal["refuse", "skip"] = "refuse"
    ) -> BatchReceipt:
        """Send up to 10,000 events in one request, and return once they are on disk.

        One that the server refuses is a reason to refuse all or, with "skip", is named in
        the receipt. Raises as `send`.
        """
        path = "/events/batch?on_error=skip" if on_error == "skip" else "/events/batch"
        texts = [encode(one) for one in events]
        return await self._post(path, NDJSON, texts, lambda reply: read_batch(reply, len(texts)))

    async def enqueue(self, event: Event) -> None:
        """Take an event, as it is now, to send it in the background.

        Raises UsageError or RequestRefused if no server would take it; where there is no
        room BufferFull, or Undelivered if some of what fills it could not be sent: the event
        itself is then the last one in `failed`.
        """
        await self.enqueue_text(encode(event))

    async def flush(self) -> None:
        """Wait until what was enqueued before has left. Raises Undelivered."""
        await self._drain()
        self._raise_failed()

    async def close(self, within_s: float = CLIENT_CLOSE_S) -> None:
        """Flush for so long at most, hand back what is left, disconnect. Raises Undelivered."""
        with self._lock:
            self._closed = True
        await asyncio.sleep(0)  # What other threads have put comes before the mark.
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._drain()
        finally:
            # Nothing is awaited before all is handed back: this may be cancelled once more.
            if self._task is not None:
                self._task.cancel()
            queued = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            rest = [*self._in_flight.values(), *(one for one in queued if isinstance(one, _Line))]
            self._in_flight = {}
            self._hand_back([_Failure(x.text, "closed", "the client was closed") for x in rest])
            await self._connection.close()
        self._raise_failed()

    async def _post(
        self, path: str, media: str, texts: Sequence[bytes], receipt_of: Callable[[Reply], T]
    ) -> T:
        headers = {"content-type": media, "x-api-key": self._key}
        body = b"\n".join(texts)
        try:
            reply = await post(self._connection, path, body, headers, within_s=self._retry_s)
            if reply.status == ACCEPTED:
                return receipt_of(reply)
        except ServerUnavailable as error:
            raise Unsent(str(error), [msgspec.json.decode(text) for text in texts]) from error
        raise RequestRefused(reply.status, reply.code, reply.detail, reply.path, reply.culprit)

    async def enqueue_text(self, text: bytes) -> None:
        """Do what `enqueue` does with what `encode` returned."""
        while not self.offer(text, self.put):
            self._raise_failed(_Failure(text, "not_taken", "there was no room for it"))
            if self._when_full == "raise":
                raise BufferFull(f"{self.held} events wait to be sent: evp is slow, or away")
            self._left.clear()
            await self._left.wait()

    def offer(self, text: bytes, put: Callable[[bytes], object]) -> bool:
        """Have an event `put`, if there is room for it; any thread may do so."""
        with self._lock:
            if self._closed:
                raise UsageError("this client is closed: nothing more can be sent by it")
            held_bytes = self._held_bytes + len(text)
            if self._held >= self._buffer_events or held_bytes > CLIENT_BUFFER_BYTES_MAX:
                return False
            self._held += 1
            self._held_bytes = held_bytes
            put(text)
            return True

    def put(self, text: bytes) -> None:
        """Queue an event for which there is room; in the loop."""
        self._queue.put_nowait(_Line(text, monotonic_s()))
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _drain(self) -> None:
        if self._task is not None and not self._task.done():
            mark: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.put_nowait(mark)
            await asyncio.wait({mark, self._task}, return_when=asyncio.FIRST_COMPLETED)

    async def _run(self) -> None:
        """Send one batch after the other; while one is under way the next one gathers."""
        while True:
            mark = await self._gather()
            await self._deliver()
            if mark is not None and not mark.done():
                mark.set_result(None)

    async def _gather(self) -> asyncio.Future[None] | None:
        """Gather a batch until it is full, it is time, or somebody waits for it: the mark."""
        batch: dict[int, _Line] = {}
        self._in_flight = batch
        size_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                while len(batch) < self._batch_events and size_bytes < SEND_BYTES_MAX:
                    item = await self._queue.get()
                    if not isinstance(item, _Line):
                        return item
                    if not batch:
                        limit.reschedule(asyncio.get_running_loop().time() + self._flush_every_s)
                    batch[len(batch)] = item
                    size_bytes += len(item.text)
        return None

    async def _deliver(self) -> None:
        flying, batch = self._in_flight, list(self._in_flight.values())
        if not batch:
            return
        left_s = batch[-1].at_s + self._background_retry_s - monotonic_s()
        # However long it waited for its turn, it is tried.
        within_s = max(left_s, min(self._background_retry_s, HTTP_ANSWER_S_MAX))
        texts = [one.text for one in batch]
        try:
            async for settled in post_lines(self._connection, self._key, texts, within_s=within_s):
                failed = [
                    _Failure(flying.pop(one.index).text, one.code, one.detail)
                    for one in settled.rejected
                ]
                self._count(-1, [flying.pop(x) for x in settled.indexes if x in flying])
                self._hand_back(failed)
        except Exception as error:  # noqa: BLE001 - whatever it is, its events are handed back
            rest = [flying.pop(index) for index in list(flying)]
            self._hand_back([_Failure(one.text, "unavailable", str(error)) for one in rest])

    def _hand_back(self, failed: list[_Failure]) -> None:
        """Give to `on_failed` what could not be sent; what it can't take is held on to."""
        if not failed:
            return
        if self._on_failed is None:
            self._keep(failed)
            return
        # Before it is called: it may enqueue them again.
        self._count(-1, failed)
        try:
            self._on_failed([one.told() for one in failed])
        except Exception as error:  # noqa: BLE001 - it is the caller's: flush or close tells it
            self._fault = error
            self._count(+1, failed)
            self._keep(failed)

    def _keep(self, failed: list[_Failure]) -> None:
        self._failed += failed
        self._left.set()  # There may be no more room; who waits for some has them handed back.

    def _raise_failed(self, *not_taken: _Failure) -> None:
        failed, self._failed = self._failed, []
        if failed:
            self._count(-1, failed)
            raise Undelivered([one.told() for one in (*failed, *not_taken)]) from self._fault

    def _count(self, times: Literal[-1, 1], held: Sequence[_Line | _Failure]) -> None:
        """Hold these events, or hold them no longer."""
        with self._lock:
            self._held += times * len(held)
            self._held_bytes += times * sum(len(one.text) for one in held)
        self._left.set()


def encode(event: Event) -> bytes:
    """Return an event as JSON; one without an `id` gets one, and a time if it has none.

    One with an `id` keeps its time, or none: then the id alone says which event it is, whoever
    sends it again. Raises UsageError if it is no JSON, RequestRefused if it is too large.
    """
    try:
        members = dict(event)
        if members.get("id") is None:
            members["id"] = str(uuid4())
            if members.get("time") is None and members.get("timestamp") is None:
                members["time"] = now()
        text = msgspec.json.encode(members)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"the event can't be made JSON: {error}") from error
    if len(text) > EVENT_BYTES_MAX:
        raise RequestRefused(413, "event_too_large", f"it has more than {EVENT_BYTES_MAX} bytes")
    return text
