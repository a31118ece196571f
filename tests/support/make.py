"""Events and frames for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from evp.codec import Media, decode
from evp.documents import Admission
from evp.frame import Frame, OpenFrame, read_frame

ADMISSION = Admission("evp", time_in_id=True)
SRV = b"\x01" * 8


def event(number: int = 0, **members: Any) -> dict[str, Any]:
    """Return an event with an id of its own."""
    made = {
        "id": f"e{number}",
        "type": "page_view",
        "source": "test",
        "subject": "user_1",
        "time": "2026-01-02T03:04:05.678Z",
        "data": {"n": number},
    }
    return {name: value for name, value in (made | members).items() if value is not None}


def ndjson(*events: dict[str, Any]) -> bytes:
    """Return events, one a line."""
    return b"\n".join(msgspec.json.encode(one) for one in events)


def open_frame(*events: dict[str, Any], admission: Admission = ADMISSION) -> OpenFrame:
    """Return an open frame with one request of these events."""
    frame = OpenFrame()
    join(frame, events, admission)
    return frame


def join(
    frame: OpenFrame, events: Sequence[dict[str, Any]], admission: Admission = ADMISSION
) -> None:
    """Add one request of these events to a frame. Raises Refusal."""
    decoded = decode(msgspec.json.encode(list(events)), Media.ARRAY)
    frame.join(*frame.encode(decoded, admission, batch=True))


def frame_of(*events: dict[str, Any], entry_id: str = "1767323045678-0", seq: int = 1) -> Frame:
    """Return a frame as a worker reads it."""
    fields = open_frame(*events).fields(SRV, seq)
    return read_frame(entry_id, fields)
