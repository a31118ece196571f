"""The event, as server and worker check it, and the stream."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

STREAM = os.environ["STREAM"]

Attribute = Annotated[str, Field(min_length=1, max_length=2000)]


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class Event(BaseModel):
    """An event as a client sends it."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        default_factory=lambda: str(uuid4())
    )
    type: Attribute
    source: Attribute = "bench"
    subject: Attribute | None = None
    time: AwareDatetime = Field(default_factory=now)
    data: Any = None


class Accepted(BaseModel):
    """The events of one request: one message."""

    received_at: AwareDatetime
    events: list[Event]
