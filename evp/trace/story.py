"""What `evp trace` tells: facts alone. What could not be asked is None, and the error says why."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from evp.stream.places import Place


class Fate(StrEnum):
    """What became of the event in one frame, or altogether.

    It is `pending` while it waits in the log, and `writing` once a worker has begun with its
    frame. It has `expired` where retention has deleted it. It is `missing` where its group
    has done with it and the store lacks it, `unreadable` where its entry is damaged and still
    in the log, and `unknown` if neither log nor store has ever heard of it.
    """

    STORED = "stored"
    DUPLICATE = "duplicate"
    ERASED = "erased"
    DEAD_LETTER = "dead_letter"
    EXPIRED = "expired"
    PENDING = "pending"
    WRITING = "writing"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"


FINDINGS = frozenset((Fate.DEAD_LETTER, Fate.MISSING, Fate.UNREADABLE, Fate.UNKNOWN))
"""Fates that somebody should do something about."""


class Arrival(Struct):
    """One frame that holds the event: each time it was sent, it arrived in one.

    `accepted_at` is the log's time. `srv` and `seq` are the server's epoch and the
    frame's number in it; an `external` entry, of another program, has none. `index` is the
    event's place among the `events` of the frame, `size_bytes` that of the frame.
    `in_log` tells whether the log still has the entry, `error` why it can't be read, `places`
    how far each consumer group is with it, `events_ahead` what the writing group has to do
    before it. `begun_at`, `settled_at` and `worker` are about the whole frame: when it was begun
    and settled first, and by whom; `judged_at` when its outcome last changed after that.
    `same_as` is the frame whose event is stored, where this one is a duplicate.
    `partition` is the number of the stream it came by, which has entries from `log_first` to
    `log_last`, if it could be asked.
    """

    entry: str
    accepted_at: datetime
    fate: Fate | None = None
    same_as: str | None = None
    frame_id: str | None = None
    srv: str | None = None
    seq: int | None = None
    external: bool = False
    index: int | None = None
    events: int | None = None
    size_bytes: int | None = None
    in_log: bool | None = None
    error: str | None = None
    places: list[Place] = []
    events_ahead: int | None = None
    begun_at: datetime | None = None
    settled_at: datetime | None = None
    settled_after_ms: int | None = None
    judged_at: datetime | None = None
    worker: str | None = None
    partition: int = 0
    log_first: str | None = None
    log_last: str | None = None


class DeadLetter(Struct):
    """A letter of an event with this id, or of its entry: why it is not stored, and the mend."""

    id: str
    state: str
    reason: str
    mend: str
    detail: str
    attempts: int
    first_at: datetime
    last_at: datetime


class Searched(Struct):
    """A search through the log: `events` looked at; `whole` if it came to the end of it all."""

    events: int
    whole: bool


class Story(Struct):
    """All about one event.

    `event` has its attributes without its data, `erased_at` where it was erased.
    `stored_per_s` is what all workers store now. `log_first` and `log_last` are the entry ids
    between which the log has entries, of an empty log the last one alone; of the `partitions`
    that there are, those that were looked into.
    """

    event_id: str | None = None
    fate: Fate | None = None
    event: dict[str, Any] | None = None
    arrivals: list[Arrival] = []
    dead_letters: list[DeadLetter] = []
    group: str = ""
    stored_per_s: float | None = None
    log_first: str | None = None
    log_last: str | None = None
    partitions: int = 1
    searched: Searched | None = None
    log_error: str | None = None
    store_error: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether log and store could both be asked."""
        return self.log_error is None and self.store_error is None
