"""Epochs, number by number: which of their frames were acknowledged, and which were seen.

A server numbers its frames 1, 2, 3, … and sends one only when the one before was
acknowledged. So every number up to the recorded one was acknowledged, and so was
every number below one that was seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from evp.limits import CLOCK_SKEW_MS_MAX
from evp.verify.intervals import Gap, IntervalSet


class Hole(Struct, frozen=True):
    """Acknowledged frames of an epoch that were not seen.

    `partition` is the number of the stream that the epoch is of.
    """

    srv: bytes
    gap: Gap
    partition: int = 0

    @property
    def frames(self) -> int:
        """How many frames."""
        return self.gap.last - self.gap.first + 1


class _Epoch(Struct):
    """What is known of one epoch. Nothing up to `floor` is looked at."""

    partition: int = 0
    recorded_seq: int = 0
    recorded_events: int = 0
    upto: int = 0
    floor: int = 0
    events_seen: int = 0
    """Events of the frames seen up to the recorded one."""
    mendable_events: int = 0
    """Of the others, those that the log has still."""
    last_said_ms: int | None = None
    """No frame up to `recorded_seq`, nor one that is expected, is younger; None: not known."""


class Epochs:
    """All epochs. `record` what is recorded, then tell what was `seen`, then ask for `holes`."""

    def __init__(self) -> None:
        self._epochs: dict[bytes, _Epoch] = {}
        self._seen: dict[bytes, IntervalSet] = {}
        self._frozen = False

    def __len__(self) -> int:
        return len(self._epochs)

    @property
    def recorded(self) -> tuple[int, int]:
        """Frames and events of all epochs as recorded."""
        every = self._epochs.values()
        return sum(one.recorded_seq for one in every), sum(one.recorded_events for one in every)

    @property
    def lost_events(self) -> int:
        """Recorded events of frames that were not seen and can't be mended."""
        return sum(
            max(0, one.recorded_events - one.events_seen - one.mendable_events)
            for one in self._epochs.values()
        )

    def recorded_upto(self, srv: bytes) -> int:
        """Return the largest number of an epoch that is recorded; 0 if none is."""
        epoch = self._epochs.get(srv)
        return 0 if epoch is None else epoch.recorded_seq

    def record(
        self, srv: bytes, seq: int, events: int, said_ms: int | None, *, partition: int = 0
    ) -> None:
        """Take a record of an epoch; it may be recorded in two places, and the larger counts.

        `said_ms` is when it was last recorded, if that is known.
        """
        epoch = self._epochs.setdefault(srv, _Epoch(partition))
        if seq > epoch.recorded_seq:
            # When a smaller number was recorded says nothing about this one.
            epoch.last_said_ms = said_ms
        elif seq == epoch.recorded_seq and said_ms is not None:
            epoch.last_said_ms = max(epoch.last_said_ms or 0, said_ms)
        epoch.recorded_seq = max(epoch.recorded_seq, seq)
        epoch.recorded_events = max(epoch.recorded_events, events)
        epoch.upto = max(epoch.upto, seq)

    def saw(
        self, srv: bytes, seq: int, events: int, at_ms: int, *, early: bool, partition: int = 0
    ) -> None:
        """Take note of a frame that is in the log or in the store.

        `early` says that it was appended before the log was looked at: then so
        were those before it.
        """
        epoch = self._epochs.setdefault(srv, _Epoch())
        epoch.partition = partition
        if self._seen.setdefault(srv, IntervalSet()).add(seq, at_ms) and seq <= epoch.recorded_seq:
            epoch.events_seen += events
        if early and not self._frozen:
            epoch.upto = max(epoch.upto, seq)

    def expect(self, srv: bytes, seq: int, at_ms: int, *, partition: int = 0) -> None:
        """Take note of a frame that the log has and the store must have, which is yet to be seen.

        After `freeze` it says nothing new.
        """
        epoch = self._epochs.setdefault(srv, _Epoch())
        epoch.partition = partition
        if not self._frozen:
            epoch.upto = max(epoch.upto, seq)
            if epoch.last_said_ms is not None:
                epoch.last_said_ms = max(epoch.last_said_ms, at_ms)

    def can_mend(self, srv: bytes, events: int) -> None:
        """Take note of events of recorded frames that were not seen and are not lost."""
        self._epochs[srv].mendable_events += events

    def nowhere_events(self, srv: bytes, last: int) -> int | None:
        """Return the events of all frames of an epoch that were not seen and can't be mended.

        `last` is the last of them. None if that can't be told: it was not recorded, or the
        epoch's beginning was not looked at.
        """
        epoch = self._epochs[srv]
        if epoch.floor or last > epoch.recorded_seq:
            return None
        return max(0, epoch.recorded_events - epoch.events_seen - epoch.mendable_events)

    def freeze(self) -> None:
        """From now on what is seen fills holes only, and says nothing of others."""
        self._frozen = True

    def without_beginning(self, since_ms: int) -> set[bytes]:
        """Return the epochs of which what was seen does not tell where they stood at a moment.

        One that was last recorded well before it has ended, and needs no look: a record has
        the time of a server, and a frame that of the log.
        """
        unclear = set()
        for srv, epoch in self._epochs.items():
            seen = self._seen.get(srv)
            if seen is not None:
                if seen.intervals[0].first > 1:
                    unclear.add(srv)
            elif (
                epoch.last_said_ms is not None and epoch.last_said_ms < since_ms - CLOCK_SKEW_MS_MAX
            ):
                epoch.floor = epoch.upto
            elif epoch.upto:
                unclear.add(srv)
        return unclear

    def stood(self, srv: bytes, seq: int) -> None:
        """Say that an epoch had come to `seq` when the time began that is looked at."""
        self._epochs[srv].floor = seq

    def holes(self) -> Iterator[Hole]:
        """Give what is missing, epoch by epoch.

        Of one of which nothing is left it is only known when it was last recorded.
        """
        for srv, epoch in self._epochs.items():
            for gap in self._seen.get(srv, IntervalSet()).gaps(epoch.floor, epoch.upto):
                before_ms = gap.before_ms
                if gap.after_ms is None and gap.last <= epoch.recorded_seq:
                    before_ms = before_ms or epoch.last_said_ms
                yield Hole(srv, replace(gap, before_ms=before_ms), epoch.partition)
