"""What the routes of one server process share, and how they answer."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, Response
from litestar.datastructures import State
from msgspec import Struct

from evp.metrics.exporter import Exporter
from evp.server.accept import Acceptor
from evp.server.answer import Answer
from evp.server.health import HealthCheck
from evp.server.keys import Keys
from evp.server.letters import Letters
from evp.server.live import Live
from evp.server.people import People
from evp.server.problem import note
from evp.server.reading import Reading
from evp.server.request import Bodies
from evp.settings import Settings

AnyRequest = Request[Any, Any, State]


class Parts(Struct, frozen=True):
    """Made once by `evp.server.run`; the app's state holds it as `parts`."""

    settings: Settings
    acceptor: Acceptor
    keys: Keys
    bodies: Bodies
    health: HealthCheck
    people: People
    reading: Reading
    exporter: Exporter
    live: Live
    letters: Letters
    draining: asyncio.Event
    """Set when the server is about to stop."""


def parts_of(request: AnyRequest) -> Parts:
    """Return what the routes share."""
    parts: Parts = request.app.state.parts
    return parts


def response(answer: Answer) -> Response[bytes]:
    """Return an answer as Litestar takes it."""
    if answer.error is not None:
        note(answer)
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(
        answer.body,
        status_code=answer.status,
        media_type=headers.pop("content-type"),
        headers=headers,
    )
