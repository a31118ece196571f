"""The same client for code without a loop: one thread behind it runs an AsyncClient.

Any thread may use a `Client`. What it holds belongs to the process that enqueued it:
after a fork the child needs a client of its own, unless this one was not used yet.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, Literal, ParamSpec, Self, TypedDict, TypeVar, Unpack

from evp.client.async_client import AsyncClient, Event, OnFailed, encode
from evp.client.delivery import BatchReceipt, Receipt
from evp.errors import UsageError
from evp.limits import CLIENT_CLOSE_S

P = ParamSpec("P")
T = TypeVar("T")


class Options(TypedDict, total=False):
    """What AsyncClient takes by name."""

    retry_s: float
    background_retry_s: float
    flush_every_s: float
    buffer_events: int
    when_full: Literal["wait", "raise"]
    on_failed: OnFailed | None


class Client:
    """Sends events to one server; see AsyncClient for `options`, and what each method raises.

    `on_failed` is called in the client's own thread, and must not wait for the client.
    """

    def __init__(self, url: str, key: str, **options: Unpack[Options]) -> None:
        self._client = AsyncClient(url, key, **options)
        self._lock = threading.Lock()
        self._closed = False
        self._pid: int | None = None
        self._loop: _Loop
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="evp-client", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def held(self) -> int:
        """How many events were enqueued and are neither on disk nor handed back yet."""
        return self._client.held

    def send(self, event: Event) -> Receipt:
        """Send one event, and return once it is on disk."""
        return self._wait(self._client.send, event)

    def send_batch(
        self, events: Iterable[Event], *, on_error: Literal["refuse", "skip"] = "refuse"
    ) -> BatchReceipt:
        """Send up to 10,000 events in one request, and return once they are on disk."""
        return self._wait(self._client.send_batch, list(events), on_error=on_error)

    def enqueue(self, event: Event) -> None:
        """Take an event to send it in the background, as it is now."""
        text = encode(event)
        self._start()
        if not self._client.offer(text, self._put_soon):
            self._wait(self._client.enqueue_text, text)

    def flush(self) -> None:
        """Wait until what was enqueued before is on disk."""
        self._wait(self._client.flush)

    def close(self, within_s: float = CLIENT_CLOSE_S) -> None:
        """Flush for so long at most, and end the thread. At exit this is done by itself."""
        if self._closed or self._pid != os.getpid():
            self._closed = True  # It was not used, or its thread is that of another process.
            return
        self._forbid_own_thread()
        try:
            self._wait(self._client.close, within_s)
        except KeyboardInterrupt as error:
            self._end()
            if self.held:
                error.add_note(f"evp: {self.held:,} events were not sent")
            raise
        finally:
            self._end()

    def _end(self) -> None:
        self._closed = True
        atexit.unregister(self.close)
        with self._lock:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._ended.set)
                self._thread.join()

    def _wait(
        self, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self._start()
        self._forbid_own_thread()
        future = asyncio.run_coroutine_threadsafe(work(*args, **kwargs), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise UsageError("this client was closed by another thread") from None
        finally:
            future.cancel()  # Where Ctrl-C ended the wait.

    def _put_soon(self, text: bytes) -> None:
        self._loop.call_soon_threadsafe(self._client.put, text)

    def _forbid_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise UsageError("on_failed must not wait for the client that calls it")

    def _start(self) -> None:
        """Have the thread run. Raises UsageError where it can't."""
        if self._closed:
            raise UsageError("this client is closed: nothing more can be sent by it")
        if self._pid not in {None, os.getpid()}:
            raise UsageError("this client was used before the fork: make one in each process")
        with self._lock:
            if self._pid is None:
                self._loop = _Loop()
                self._pid = os.getpid()
                self._thread.start()
                atexit.register(self.close)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._ended.wait())


class _Loop(asyncio.SelectorEventLoop):
    """Has a thread of its own to look an address up: nobody needs to wait for it to end.

    One at a time for an address, however often it is asked for: it can take a minute.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lookups: dict[object, Future[Any]] = {}

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        """Return what `socket.getaddrinfo` does."""
        key = (host, port, *sorted(hints.items()))
        found = self._lookups.get(key)
        if found is None or found.done():
            found = self._lookups[key] = _look_up(host, port, hints)
        return await asyncio.wrap_future(found, loop=self)


def _look_up(host: Any, port: Any, hints: dict[str, Any]) -> Future[Any]:
    found: Future[Any] = Future()
    found.set_running_or_notify_cancel()  # It goes on though somebody ceases to wait for it.

    def look_up() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, **hints))
        except Exception as error:  # noqa: BLE001 - whoever waits for it has it
            found.set_exception(error)

    try:
        threading.Thread(target=look_up, name="evp-client-lookup", daemon=True).start()
    except RuntimeError:  # At exit no thread starts.
        look_up()
    return found
