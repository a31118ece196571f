"""What one process counts while it works. Nothing here waits, and nothing is done per event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from evp.metrics.families import Values
from evp.metrics.histogram import EVENTS, LONG_SECONDS, SECONDS, Histogram

ACCEPTED = "accepted"
REFUSED = "refused"
UNKNOWN = "unknown"


class IngestCounts:
    """Of a server process. A frame is counted when it is answered, a refusal when it is made."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter({ACCEPTED: 0, REFUSED: 0, UNKNOWN: 0})
        self.requests: Counter[str] = Counter({ACCEPTED: 0})
        self.seconds = Histogram(SECONDS)
        self.frame_events = Histogram(EVENTS)

    def answered(self, result: str, events: int, requests: int, waited_s: float) -> None:
        """Count a frame: what became of it, and how long its first request waited.

        Requests that were not accepted are counted by code, when each is refused.
        """
        self.events[result] += events
        if result == ACCEPTED:
            self.requests[ACCEPTED] += requests
            self.seconds.add(waited_s, requests)
            self.frame_events.add(events)

    def values(self) -> Values:
        """Return what was counted, by family."""
        return {
            "evp_ingest_events_total": dict(self.events),
            "evp_ingest_requests_total": dict(self.requests),
            "evp_ingest_seconds": self.seconds,
            "evp_ingest_frame_events": self.frame_events,
        }


class WorkCounts:
    """Of a worker process, beside its totals (`evp.worker.journal`).

    `reasons` are those that dead letters may have: each is told from the beginning.
    """

    def __init__(self, reasons: Iterable[str]) -> None:
        self.batch_seconds = Histogram(SECONDS)
        self.batch_events = Histogram(EVENTS)
        self.end_to_end_seconds = Histogram(LONG_SECONDS)
        self.dead_letters: Counter[str] = Counter(dict.fromkeys(reasons, 0))
        self.store_failures = 0
        self.expired = 0

    def values(self) -> Values:
        """Return what was counted, by family."""
        return {
            "evp_store_batch_seconds": self.batch_seconds,
            "evp_store_batch_events": self.batch_events,
            "evp_end_to_end_seconds": self.end_to_end_seconds,
            "evp_dead_letters_total": dict(self.dead_letters),
            "evp_store_failures_total": self.store_failures,
            "evp_events_expired_total": self.expired,
        }
