"""A stream of events that goes on while things break: each is sent again until it is accepted."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from tests.support.wait import until_now

LANES = 3
FINISH_S_MAX = 20.0
_AGAIN_S = 0.05
_ANSWER_S_MAX = 15.0


class Pace(NamedTuple):
    """How many events at most, how many a request, and the pause after each request."""

    events_max: int = 30_000
    batch_events: int = 10
    pause_s: float = 0.0


STEADY = Pace()


class Feed:
    """Sends numbered events of one source over a few connections until it is told otherwise."""

    def __init__(self, url: str, key: str, source: str, pace: Pace) -> None:
        self.source = source
        self._pace = pace
        self.failed_requests = 0
        self._netloc = urlsplit(url).netloc
        self._headers = {"content-type": "application/json", "x-api-key": key}
        self._accepted: list[str] = []
        self._enough = threading.Event()
        self._at_once = threading.Event()
        self._refusals: list[bytes] = []
        self._lanes = [threading.Thread(target=self._run, args=(lane,)) for lane in range(LANES)]

    def start(self) -> None:
        """Begin."""
        for lane in self._lanes:
            lane.start()

    @property
    def accepted(self) -> int:
        """How many events were answered with 202."""
        return len(self._accepted)

    def wait_more(self, count: int) -> None:
        """Wait until so many more events are accepted."""
        self.wait_accepted(self.accepted + count)

    def wait_accepted(self, count: int, within_s: float = FINISH_S_MAX) -> None:
        """Wait until so many events are accepted."""
        until_now(
            lambda: self.accepted >= count or bool(self._refusals),
            what=f"{count} events are accepted",
            within_s=within_s,
        )

    def finish(self) -> Counter[str]:
        """Stop when what was begun is accepted; return each id that was, once."""
        self._enough.set()
        for lane in self._lanes:
            lane.join(FINISH_S_MAX)
        unfinished = any(lane.is_alive() for lane in self._lanes)
        accepted = self.stop()
        assert not unfinished, "events are not accepted any more"
        return accepted

    def stop(self) -> Counter[str]:
        """Stop at once; return each id that was accepted, once."""
        self._enough.set()
        self._at_once.set()
        for lane in self._lanes:
            lane.join()
        assert not self._refusals, self._refusals[0]
        return Counter(self._accepted)

    def _run(self, lane: int) -> None:
        each = self._pace.batch_events
        for start in range(lane * each, self._pace.events_max, LANES * each):
            if self._enough.wait(self._pace.pause_s):
                return
            last = min(start + each, self._pace.events_max)
            self._send([f"{number}" for number in range(start, last)])

    def _send(self, ids: list[str]) -> None:
        members = {"type": "fed", "source": self.source, "time": "2026-01-02T03:04:05Z"}
        body = msgspec.json.encode([members | {"id": id_, "data": {"n": id_}} for id_ in ids])
        while not self._at_once.is_set():
            status, answer = self._post(body)
            if status == 202:
                self._accepted += ids
                return
            if status not in {0, 503}:
                self._refusals.append(answer)
                self._at_once.set()
                return
            self.failed_requests += 1
            self._at_once.wait(_AGAIN_S)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """Return status and answer; 0 if there was none."""
        connection = http.client.HTTPConnection(self._netloc, timeout=_ANSWER_S_MAX)
        with contextlib.closing(connection):
            try:
                connection.request("POST", "/events/batch", body, self._headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                return 0, b""


@contextlib.contextmanager
def feeding(url: str, key: str, source: str, pace: Pace = STEADY) -> Iterator[Feed]:
    """Send events in the background; no thread is left at the end."""
    feed = Feed(url, key, source, pace)
    feed.start()
    try:
        yield feed
    finally:
        with contextlib.suppress(AssertionError):
            feed.stop()
