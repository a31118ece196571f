"""A board on which processes that were started together put what they have counted.

It is a file without a name that the parent makes and its children inherit: so it
is gone with them. Each has a place of its own on it, which whoever comes after it
under the same name takes over. What is read while it is being written is known by
its checksum, and left out.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from typing import Self

import msgspec
from msgspec import Struct

from evp.clock import monotonic_s
from evp.errors import UsageError
from evp.limits import METRICS_BOARD_PLACES_MAX, METRICS_PLACE_BYTES, METRICS_STALE_S

_HEAD = struct.Struct("<II")
_READS_MAX = 3


class Reading(Struct, array_like=True):
    """One value that a process tells of a family: a number, or a histogram's counts and sum."""

    family: str
    label: str
    value: float
    counts: list[int] = []


class Note(Struct, array_like=True):
    """What one process put on the board; `at_s` by the machine's monotonic clock."""

    process: str
    at_s: float
    readings: list[Reading]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Note).decode


class Board:
    """The parent's side: makes the file and gives out places."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="evp-metrics-")  # noqa: SIM115 - lives as long
        self._names: list[str] = []

    @property
    def fd(self) -> int:
        """The file, to be inherited by the children."""
        return self._file.fileno()

    def close(self) -> None:
        """Let go of it; the children keep what they inherited."""
        self._file.close()

    def place(self, process: str) -> str:
        """Return the flag by which a child learns its place. Raises UsageError if none is left."""
        if len(self._names) == METRICS_BOARD_PLACES_MAX:
            raise UsageError(f"there can be {METRICS_BOARD_PLACES_MAX} processes at most")
        self._names.append(process)
        return f"{self.fd}:{len(self._names) - 1}:{process}"


class Place:
    """A child's side: where it puts its own note, and reads all others."""

    def __init__(self, fd: int, number: int, process: str) -> None:
        self._fd = fd
        self._number = number
        self.process = process

    @classmethod
    def of_flag(cls, flag: str) -> Self:
        """Return the place that `Board.place` told. Raises UsageError."""
        fd, _, rest = flag.partition(":")
        number, _, process = rest.partition(":")
        if not (fd.isdigit() and number.isdigit() and process):
            raise UsageError(f"{flag!r} is no place on a board")
        return cls(int(fd), int(number), process)

    def write(self, readings: list[Reading]) -> None:
        """Put a note in the place of the one before. Raises OSError and ValueError."""
        note = _encode(Note(self.process, monotonic_s(), readings))
        if _HEAD.size + len(note) > METRICS_PLACE_BYTES:
            raise ValueError(f"a note of {len(note)} bytes is too large for the board")
        head = _HEAD.pack(len(note), zlib.crc32(note))
        os.pwrite(self._fd, head + note, self._number * METRICS_PLACE_BYTES)

    def others(self) -> list[Note]:
        """Return the notes of all other processes that live. Raises OSError."""
        places = os.fstat(self._fd).st_size // METRICS_PLACE_BYTES + 1
        found = [self._read(number) for number in range(places) if number != self._number]
        fresh_s = monotonic_s() - METRICS_STALE_S
        return [note for note in found if note is not None and note.at_s >= fresh_s]

    def _read(self, number: int) -> Note | None:
        for _ in range(_READS_MAX):
            data = os.pread(self._fd, METRICS_PLACE_BYTES, number * METRICS_PLACE_BYTES)
            if len(data) < _HEAD.size:
                return None
            size, crc = _HEAD.unpack_from(data)
            note = data[_HEAD.size : _HEAD.size + size]
            if size and zlib.crc32(note) == crc:
                return _decode(note)
        return None
