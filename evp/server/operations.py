"""What every route takes and answers, in one table: the source of the OpenAPI document.

Types are those that decode and encode; examples are values of them. The order
is that of the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from evp.dlq.actions import Listing
from evp.dlq.top import Top
from evp.events import Event
from evp.limits import BATCH_EVENTS_MAX
from evp.server.analytics import AnalyticsMetrics
from evp.server.events import EventPlace, EventsPage
from evp.server.health import Health
from evp.server.letters import LetterShown, Replay, ReplayAsked
from evp.server.live import Snapshot
from evp.server.routes.auth import Credentials, Me, Renewal, Tokens
from evp.server.routes.probes import Status
from evp.server.told import BatchAccepted, EventAccepted

_JSON = "application/json"
_EXAMPLE_ID = "0190c2a4-5f00-8b3a-9d1e-6f2a7c4b8e01"

_ONE_TO_MOST = Meta(min_length=1, max_length=BATCH_EVENTS_MAX)
_Batch = Annotated[list[Event], _ONE_TO_MOST]
_REQUIRED = {"required": ["specversion", "id", "source", "type"]}
_CloudEvent = Annotated[Event, Meta(extra_json_schema=_REQUIRED)]
_CloudBatch = Annotated[list[_CloudEvent], _ONE_TO_MOST]

_Health = (Health, Status)

_KEY = ("apiKey",)
_KEY_OR_PERSON = ("apiKey", "bearer")
_OPEN: tuple[str, ...] = ()


TAGS = {
    "events": "Sending events, and reading what is stored.",
    "analytics": "Sums over any range of time.",
    "dashboard": "What the page at `/` shows, for scripts as well.",
    "people": "Logins, for whoever looks: the dashboard, and scripts of people.",
    "health": "For balancers, and for people.",
    "documentation": "This document.",
}


class Said(NamedTuple):
    """A body: its media type, the type that decodes or encodes it, an example.

    No type means text, several mean one of them.
    """

    media_type: str
    type: Any = None
    example: Any = None


def types_of(said: Said) -> tuple[Any, ...]:
    """Return the types of a body."""
    if said.type is None:
        return ()
    return said.type if isinstance(said.type, tuple) else (said.type,)


class Answered(NamedTuple):
    """A success."""

    description: str
    said: Said | None = None


class Operation(NamedTuple):
    """One method of one path. `refusals` are codes of `evp.errors.STATUS_BY_CODE`.

    `security` names ways to say who asks; an empty name among them is nobody.
    """

    tag: str
    summary: str
    answers: Mapping[int, Answered]
    refusals: tuple[str, ...] = ()
    security: tuple[str, ...] = _OPEN
    description: str = ""
    body: tuple[Said, ...] = ()
    body_required: bool = True

    def types(self) -> Iterator[Any]:
        """Give the types of all bodies that go in or out."""
        answers = (answer.said for answer in self.answers.values() if answer.said)
        for said in (*self.body, *answers):
            yield from types_of(said)


_ALWAYS = (
    "invalid_request",
    "request_timeout",
    "headers_too_large",
    "internal_error",
    "server_busy",
    "shutting_down",
)
_OF_A_KEY = ("unauthenticated", "forbidden", "rate_limited", "keys_unavailable")
_OF_A_CALLER = (*_OF_A_KEY, "invalid_token", "store_unavailable")
_OF_A_QUESTION = ("invalid_query", "too_slow")
_OF_A_JSON_BODY = (
    "invalid_json",
    "invalid_utf8",
    "invalid_body",
    "body_too_large",
    "unsupported_media_type",
)
_LOG = ("ack_unknown", "backlog_full", "log_not_durable", "log_unavailable")
_BODY = (
    "invalid_json",
    "invalid_utf8",
    "body_too_large",
    "unsupported_media_type",
    "unsupported_encoding",
    "invalid_encoding",
    "invalid_query",
)
_EVENT_RULES = (
    "event_too_large",
    "invalid_event",
    "invalid_attribute",
    "invalid_id",
    "invalid_key",
    "invalid_timestamp",
    "timestamp_out_of_range",
    "number_out_of_range",
    "too_deep",
    "too_many_fields",
    "empty_batch",
)

_EVENT_EXAMPLE = {
    "type": "order.placed",
    "source": "shop",
    "id": "order-7",
    "time": "2026-01-02T03:04:05Z",
    "subject": "customer-42",
    "data": {"total": 19.9, "currency": "EUR"},
}
_CLOUD_EVENT_EXAMPLE = {"specversion": "1.0", **_EVENT_EXAMPLE}
_FORMATS = (
    "As it is; as a CloudEvent in structured mode; or in binary mode, with `ce-…` headers and "
    "data of any content type. `content-encoding` may be gzip or zstd."
)
_ACCEPTED = {
    "event_id": _EXAMPLE_ID,
    "receipt": "0.1767323045000-0.0",
    "durability": "fsync",
}
_ACCEPTED_BATCH = {
    "accepted": 2,
    "rejected": [],
    "receipt": "0.1767323045000-0.0",
    "durability": "fsync",
}

_TOKENS = {
    "access_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl",
    "refresh_token": "evpr_kuHbV2pZ6lq0Tn3sYx8aWd4mRc7eJf1g",
    "token_type": "Bearer",
    "expires_in": 900,
    "refresh_expires_in": 2592000,
}

_PAGE = {
    "events": [
        {**_EVENT_EXAMPLE, "event_id": _EXAMPLE_ID, "received_at": "2026-01-02T03:04:05.678Z"}
    ],
    "next_cursor": None,
}
_PLACE: dict[str, Any] = {
    "event_id": _EXAMPLE_ID,
    "status": "pending",
    "event": None,
    "dead_letters": [],
    "log": {"entry": "1767323045000-0", "events_ahead": 1200},
}

OPERATIONS: dict[str, Operation] = {
    "POST /events": Operation(
        "events",
        "Send one event",
        {202: Answered("The event is on disk.", Said(_JSON, EventAccepted, _ACCEPTED))},
        (*_OF_A_KEY, *_BODY, *_EVENT_RULES, *_LOG, *_ALWAYS),
        security=_KEY,
        description=_FORMATS,
        body=(
            Said(_JSON, Event, _EVENT_EXAMPLE),
            Said("application/cloudevents+json", _CloudEvent, _CLOUD_EVENT_EXAMPLE),
        ),
    ),
    "POST /events/batch": Operation(
        "events",
        "Send events",
        {202: Answered("All are on disk.", Said(_JSON, BatchAccepted, _ACCEPTED_BATCH))},
        (
            *_OF_A_KEY,
            *_BODY,
            "too_many_events",
            *_EVENT_RULES,
            "duplicate_id",
            *_LOG,
            *_ALWAYS,
        ),
        security=_KEY,
        description="A batch is kept whole or not at all, unless it asks for `on_error=skip`.",
        body=(
            Said(_JSON, _Batch, [_EVENT_EXAMPLE, {"type": "page_view"}]),
            Said("application/x-ndjson"),
            Said("application/cloudevents-batch+json", _CloudBatch, [_CLOUD_EVENT_EXAMPLE]),
        ),
    ),
    "GET /events": Operation(
        "events",
        "List stored events, the last accepted first",
        {200: Answered("A page.", Said(_JSON, EventsPage, _PAGE))},
        (*_OF_A_CALLER, *_OF_A_QUESTION, *_ALWAYS),
        security=_KEY_OR_PERSON,
        description="A page may be short, or empty, and not the last one: go on as long as there "
        "is a `next_cursor`.",
    ),
    "GET /events/{event_id}": Operation(
        "events",
        "Tell where an event is",
        {200: Answered("What became of it.", Said(_JSON, EventPlace, _PLACE))},
        (*_OF_A_CALLER, "not_found", *_OF_A_QUESTION, "log_unavailable", *_ALWAYS),
        security=_KEY_OR_PERSON,
        description="With the `receipt` of the request that sent it, the log is asked as well.",
    ),
    "GET /analytics/metrics": Operation(
        "analytics",
        "Sum up the events of a span of time",
        {200: Answered("In all, by type, by source, and by steps.", Said(_JSON, AnalyticsMetrics))},
        (*_OF_A_CALLER, *_OF_A_QUESTION, *_ALWAYS),
        security=_KEY_OR_PERSON,
    ),
    "GET /live": Operation(
        "dashboard",
        "How everything stands now",
        {200: Answered("One look at all.", Said(_JSON, Snapshot))},
        (*_OF_A_CALLER, "invalid_query", *_ALWAYS),
        security=_KEY_OR_PERSON,
        description="With `accept: text/event-stream` there is no end: one event `history` comes, "
        "and an event `snapshot` each second, until the token that it was asked with ends; some "
        "hours longer while the store is away, which alone could renew it.",
    ),
    "GET /dead-letters": Operation(
        "dashboard",
        "Count dead letters by reason, and show the newest",
        {200: Answered("A page.", Said(_JSON, Listing))},
        (*_OF_A_CALLER, *_OF_A_QUESTION, *_ALWAYS),
        security=_KEY_OR_PERSON,
    ),
    "GET /dead-letters/top": Operation(
        "dashboard",
        "Group dead letters by what they have in common",
        {200: Answered("The largest groups.", Said(_JSON, Top))},
        (*_OF_A_CALLER, *_OF_A_QUESTION, *_ALWAYS),
        security=_KEY_OR_PERSON,
    ),
    "GET /dead-letters/{letter_id}": Operation(
        "dashboard",
        "Show one dead letter with what it holds",
        {200: Answered("The letter.", Said(_JSON, LetterShown))},
        (*_OF_A_CALLER, "not_found", *_OF_A_QUESTION, *_ALWAYS),
        security=_KEY_OR_PERSON,
    ),
    "POST /dead-letters/replay": Operation(
        "dashboard",
        "Count dead letters, or deliver them once more",
        {200: Answered("What was counted, or what became of them.", Said(_JSON, Replay))},
        (*_OF_A_CALLER, *_OF_A_JSON_BODY, *_OF_A_QUESTION, *_ALWAYS),
        security=_KEY_OR_PERSON,
        description="It takes some seconds at most; unless the account is `finished`, the same "
        "request with the `until` and `after` of the answer goes on. Asking again is safe.",
        body=(Said(_JSON, ReplayAsked, {"reason": "document_validation", "dry_run": True}),),
    ),
    "POST /auth/login": Operation(
        "people",
        "Log in",
        {200: Answered("Two tokens, or cookies.", Said(_JSON, Tokens, _TOKENS))},
        (
            *_OF_A_JSON_BODY,
            "invalid_credentials",
            "too_many_logins",
            "store_unavailable",
            *_ALWAYS,
        ),
        body=(Said(_JSON, Credentials, {"username": "anna", "password": "correct horse"}),),
    ),
    "POST /auth/refresh": Operation(
        "people",
        "Exchange a refresh token for two new tokens",
        {200: Answered("Two tokens, or cookies.", Said(_JSON, Tokens, _TOKENS))},
        (*_OF_A_JSON_BODY, "invalid_token", "store_unavailable", *_ALWAYS),
        description="A refresh token is good once; using an old one ends the whole session.",
        body=(Said(_JSON, Renewal, {"refresh_token": _TOKENS["refresh_token"]}),),
        body_required=False,
    ),
    "POST /auth/logout": Operation(
        "people",
        "End a session",
        {204: Answered("No token of the session is good any more.")},
        (*_OF_A_JSON_BODY, "invalid_token", "store_unavailable", *_ALWAYS),
        body=(Said(_JSON, Renewal, {"refresh_token": _TOKENS["refresh_token"]}),),
        body_required=False,
    ),
    "GET /auth/me": Operation(
        "people",
        "Who asks, and what they may do",
        {
            200: Answered(
                "A person or a key.", Said(_JSON, Me, {"name": "anna", "scopes": ["read"]})
            )
        },
        (*_OF_A_CALLER, *_ALWAYS),
        security=_KEY_OR_PERSON,
    ),
    "GET /api/live": Operation(
        "health",
        "Whether the process runs",
        {200: Answered("It runs.", Said(_JSON, dict[str, str], {"status": "live"}))},
        _ALWAYS,
    ),
    "GET /api/ready": Operation(
        "health",
        "Whether events are accepted now",
        {200: Answered("They are.", Said(_JSON, dict[str, str], {"status": "ready"}))},
        ("log_not_durable", "log_unavailable", *_ALWAYS),
    ),
    "GET /api/health": Operation(
        "health",
        "How the server and its engines are; to those who may not read only the status",
        {
            200: Answered("It accepts; `degraded` if something is wrong.", Said(_JSON, _Health)),
            503: Answered("It can't accept.", Said(_JSON, _Health)),
        },
        _ALWAYS,
    ),
    "GET /metrics": Operation(
        "health",
        "What is counted, for Prometheus",
        {200: Answered("Prometheus' or OpenMetrics' text.", Said("text/plain"))},
        ("unauthenticated", *_ALWAYS),
        security=("", "metricsToken"),
        description="All processes of the command are in it. Open unless EVP_METRICS_TOKEN is set.",
    ),
    "GET /openapi.json": Operation(
        "documentation",
        "This document",
        {200: Answered("OpenAPI 3.1.", Said(_JSON, dict[str, Any]))},
        _ALWAYS,
    ),
}
"""By method and path."""
