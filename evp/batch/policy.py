"""How much makes a batch: by events and by bytes. What is there is not kept waiting for more.

Frames are never split, and a batch has at least one, so the bounds are targets
that one frame may pass. Reading is done in frames; how many make a batch is
learnt from the frames seen so far. The next ones may be far bigger, so a batch is
written in portions: what the store must take at once stays bounded, whatever
was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evp.frame import Frame
from evp.limits import READ_BYTES_TARGET, READ_FRAMES_MAX

#: The weight of the newest frame in the mean.
_NEWEST = 0.1


class ReadSize:
    """How many frames to ask for, so that a batch is about `events_target` events."""

    def __init__(self, events_target: int, fixed_frames: int | None = None) -> None:
        self._events_target = events_target
        self._fixed_frames = fixed_frames
        self._mean_events = 1.0
        self._mean_bytes = 1.0
        self._seen = False

    def saw(self, events: int, size_bytes: int) -> None:
        """Take one frame into account."""
        weight = _NEWEST if self._seen else 1.0
        self._seen = True
        self._mean_events += weight * (events - self._mean_events)
        self._mean_bytes += weight * (size_bytes - self._mean_bytes)

    def frames(self) -> int:
        """Return how many frames to ask for now: READ_COUNT, or by count and bytes."""
        if self._fixed_frames is not None:
            return self._fixed_frames
        if not self._seen:
            # One frame may be 9 MB; find out before asking for many.
            return 1
        by_events = self._events_target / max(self._mean_events, 1.0)
        by_bytes = READ_BYTES_TARGET / max(self._mean_bytes, 1.0)
        return max(1, min(round(by_events), int(by_bytes), READ_FRAMES_MAX))

    def portions(self, frames: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
        """Return the frames by portions of `events_target` events at most, or of one frame."""
        first = events = 0
        for place, frame in enumerate(frames):
            if place > first and events + frame.count > self._events_target:
                yield frames[first:place]
                first, events = place, 0
            events += frame.count
        if frames:
            yield frames[first:]
