"""An outage of the store, step by step: what waits in the log, and how long it takes to drain.

A discrete-event simulation of one deployment. What comes in passes a server and the log;
each worker has one loop a partition, as in `evp/worker/loop.py`: read, carry, ack, with one
batch read ahead while it is behind. A batch is a share of a worker's processor, a wait, and a
share of each shard. While the store is away a batch is tried again as workers do it, with the
same waits between attempts.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from capacity_model import (
    IN_FLIGHT,
    MEMORY_FACTOR,
    STORE_WRITES,
    US,
    Costs,
    Deployment,
    Load,
    document_bytes,
    event_us,
    frame_events,
)
from evp.limits import (
    BACKOFF_FIRST_S,
    BACKOFF_LONGEST_S,
    BUCKET_CLOSE_MS,
    MEMORY_MARK_SHARE,
    READ_AGAIN_S,
)

#: Load before the outage, so that everything is under way.
WARM_S = 2.0
#: Frames that arrive within so long in a partition count as arriving together.
GRAIN_S = 0.01
#: How long a write to a store that does not answer is waited for: WRITE_TIMEOUT_MS.
ATTEMPT_S = 15.0
#: Sums are kept by buckets of so long, which are closed so long after their end.
BUCKET_S = 10.0
BUCKET_CLOSE_S = BUCKET_CLOSE_MS / 1000
#: A driver that has lost its server looks for it so often; then it dials.
LOOK_S = 0.5
#: It never drains where no less waits than at the store's return after so long, and half an outage.
GIVE_UP_S = 10.0
#: Drained: no more waits than comes in within this.
DRAINED_S = 1.0
RESUME_SHARE = 0.8
"""Of the mark: below it a log that was full accepts again."""


class Outage(Struct, frozen=True):
    """What an outage does. `drain_s` counts from the store's return; None if it never drains.

    `refused_events` met a log that was full. `oldest_s` is how long the event that waited
    longest was in the log.
    """

    backlog_events_max: int
    drain_s: float | None
    drained_per_s: float | None
    oldest_s: float
    refused_events: int


class _Line:
    """Servers of one kind that take from one queue, in order: processors, or lanes of a shard."""

    def __init__(self, count: int = 1) -> None:
        self._free_at_s = [0.0] * count

    def take(self, at_s: float, service_s: float) -> float:
        """Return when something that comes now is done; nothing that comes later is done before."""
        done_s = max(at_s, self._free_at_s[0]) + service_s
        heapq.heapreplace(self._free_at_s, done_s)
        return done_s


class _Partition:
    """Frames of one partition that no worker was given yet, by when each was appended."""

    def __init__(self) -> None:
        self.frames: deque[float] = deque()
        self.idle: deque[_Loop] = deque()
        """Loops that found nothing, and wait in a read."""


class _Loop:
    """A worker's loop for one partition."""

    def __init__(self, processor: _Line, partition: _Partition) -> None:
        self.processor = processor
        self.partition = partition
        self.under_way = 0
        self.behind = False
        self.read_at_s = 0.0
        self.reads = False
        """It is about to read, or waits in a read."""


class _Batch(Struct, gc=False):
    """Frames that a loop has in its hands."""

    loop: _Loop
    frames: int
    oldest_s: float
    attempts: int = 0


class Simulation:
    """One deployment under one load; the store is away from `away_s` until `back_s`."""

    def __init__(self, costs: Costs, load: Load, deployment: Deployment, seed: int = 1) -> None:
        self._load, self._deployment = load, deployment
        self._answer_s, self._waiting_s = costs.answer_ms / 1000, costs.waiting_ms / 1000
        self._sync_s = costs.sync_ms / 1000
        self._frame = frame_events(costs, load, deployment.lanes)
        self._cost_s = {
            role: us * US * self._frame
            for role, us in event_us(costs, load, deployment.lanes).items()
        }
        self._batch_frames = max(1, round(deployment.batch_events / self._frame))
        self.away_s, self.back_s = WARM_S, WARM_S + load.outage_s
        self._draw = random.Random(seed).random  # noqa: S311 - waits, not secrets
        self._servers = itertools.cycle([_Line() for _ in range(deployment.servers)])
        self._logs = [_Line() for _ in range(deployment.partitions)]
        self._shards = _Line(deployment.shards * deployment.shard_cores)
        self._partitions = [_Partition() for _ in range(deployment.partitions)]
        processors = [_Line() for _ in range(deployment.workers)]
        for processor, partition in itertools.product(processors, self._partitions):
            partition.idle.append(_Loop(processor, partition))
            partition.idle[-1].reads = True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_s = 0.0
        self._waiting = 0
        self._waiting_max = 0
        self._refused = 0
        self._full = False
        self._oldest_s = 0.0
        self._settled_since = 0
        self._full_at, self._resume_at = self._marks()

    def run(self) -> Outage:
        """Simulate until the outage is over and drained."""
        gap_s = self._frame * self._deployment.partitions / self._load.eps
        together = max(1, math.ceil(GRAIN_S / gap_s))
        for number, partition in enumerate(self._partitions):
            # Servers take turns, so partitions do not all get theirs at once.
            start_s = gap_s * together * number / len(self._partitions)
            self._at(start_s, self._arrive, number, partition, gap_s * together, together)
        drained_s = None
        gives_up_s = self.back_s + GIVE_UP_S + self._load.outage_s / 2
        waited_at_return = 0
        while drained_s is None:
            self._now_s, _, step = heapq.heappop(self._events)
            step()
            if self._now_s <= self.back_s:
                waited_at_return = self._waiting
            elif self._settled_since and self._drained:
                drained_s = self._now_s - self.back_s
            elif self._now_s > gives_up_s and self._waiting >= waited_at_return:
                break
        settled = self._settled_since * self._frame
        return Outage(
            backlog_events_max=round(self._waiting_max * self._frame),
            drain_s=drained_s,
            drained_per_s=settled / drained_s if drained_s else None,
            oldest_s=self._oldest_s,
            refused_events=round(self._refused * self._frame),
        )

    @property
    def _drained(self) -> bool:
        return self._waiting * self._frame <= self._load.eps * DRAINED_S

    def _marks(self) -> tuple[float, float]:
        """Return at how many frames the log is full, and below how many it accepts again."""
        memory = self._deployment.log_memory_bytes
        if memory is None:
            return math.inf, math.inf
        entry = document_bytes(self._load) * MEMORY_FACTOR * self._frame
        full = memory * MEMORY_MARK_SHARE * self._deployment.partitions / entry
        return full, full * RESUME_SHARE

    def _at(self, at_s: float, step: Callable[..., None], *given: object) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), lambda: step(*given)))

    def _arrive(self, number: int, partition: _Partition, gap_s: float, frames: int) -> None:
        """Let some frames come in: a server encodes them, the log appends them."""
        self._at(self._now_s + gap_s, self._arrive, number, partition, gap_s, frames)
        self._full = self._waiting >= (self._resume_at if self._full else self._full_at)
        if self._full:
            self._refused += frames
            return
        done_s = next(self._servers).take(self._now_s, frames * self._cost_s["serve"])
        done_s = self._logs[number].take(done_s, frames * self._cost_s["log"])
        self._at(done_s, self._appended, partition, frames)

    def _appended(self, partition: _Partition, frames: int) -> None:
        partition.frames.extend([self._now_s] * frames)
        self._waiting += frames
        self._waiting_max = max(self._waiting_max, self._waiting)
        for _ in range(min(len(partition.idle), math.ceil(frames / self._batch_frames))):
            loop = partition.idle.popleft()
            self._at(max(self._now_s, loop.read_at_s), self._read, loop)

    def _read(self, loop: _Loop) -> None:
        """Have a loop read what is there, whole frames up to a batch, for its processor to take."""
        partition = loop.partition
        frames = min(len(partition.frames), self._batch_frames)
        if frames == 0:
            partition.idle.append(loop)
            return
        loop.reads = False
        oldest_s = partition.frames[0]
        for _ in range(frames):
            partition.frames.popleft()
        loop.under_way += 1
        loop.behind = frames == self._batch_frames
        if not loop.behind:
            loop.read_at_s = self._now_s + READ_AGAIN_S
        done_s = loop.processor.take(self._now_s, frames * self._cost_s["work"])
        self._at(done_s, self._write, _Batch(loop, frames, oldest_s))
        self._read_again(loop)

    def _write(self, batch: _Batch) -> None:
        """Give the store a batch: it is written, or tried again once the store is back."""
        if self.away_s <= self._now_s < self.back_s:
            self._at(self._next_attempt_s(batch), self._write, batch)
            return
        # Frames of buckets that are closed mark them: one write more, one after the other.
        late = BUCKET_S * (batch.oldest_s // BUCKET_S + 1) + BUCKET_CLOSE_S <= self._now_s
        writes, waits_s = STORE_WRITES, self._waiting_s
        if late:
            writes, waits_s = writes + 1, waits_s + self._answer_s / STORE_WRITES
        each_s = batch.frames * self._cost_s["store"] / self._deployment.shards
        each_s += writes * self._sync_s
        shards = range(self._deployment.shards)
        done_s = max(self._shards.take(self._now_s, each_s) for _ in shards) + waits_s
        if self._now_s < self.away_s < done_s:
            self._at(self.away_s, self._write, batch)
            return
        self._at(done_s, self._settled, batch)

    def _next_attempt_s(self, batch: _Batch) -> float:
        """Return when this attempt or a later one meets a store that is back, or waits again."""
        gives_up_s = self._now_s + ATTEMPT_S
        if gives_up_s >= self.back_s:
            return self.back_s + self._draw() * LOOK_S + self._answer_s
        bound_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0**batch.attempts)
        batch.attempts += 1
        return gives_up_s + self._draw() * bound_s

    def _settled(self, batch: _Batch) -> None:
        """Note that a batch is written and acked."""
        loop = batch.loop
        loop.under_way -= 1
        self._waiting -= batch.frames
        self._oldest_s = max(self._oldest_s, self._now_s - batch.oldest_s)
        if self._now_s > self.back_s:
            self._settled_since += batch.frames
        self._read_again(loop)

    def _read_again(self, loop: _Loop) -> None:
        """Let a loop read on: with nothing under way, or one batch while it is behind."""
        if not loop.reads and loop.under_way < (IN_FLIGHT if loop.behind else 1):
            loop.reads = True
            self._at(max(self._now_s, loop.read_at_s), self._read, loop)
