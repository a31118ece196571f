"""What a load test is asked to do, and what each of its processes does of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from msgspec import Struct

from evp.errors import UsageError, redact_url
from evp.limits import BATCH_BODY_BYTES_MAX
from evp.loadtest.limits import (
    LOADTEST_SAMPLE_EVERY,
    LOADTEST_SAMPLES_PER_S,
    LOADTEST_SATURATED_EPS_MAX,
    LOADTEST_SATURATED_REQUESTS_PER_S_MAX,
    LOADTEST_VERIFIED_EVENTS_MAX,
    LOADTEST_VERIFIED_REQUESTS_MAX,
)


class Shape(Struct, frozen=True):
    """What made events are like.

    `types` and `users` are how many different ones there are; `skew` is the exponent
    of Zipf's law by which some are more frequent (0: all alike). `payload_bytes` is
    about the length of `data` as JSON.
    """

    types: int = 8
    users: int = 1_000
    skew: float = 1.0
    payload_bytes: int = 100


class Plan(Struct, frozen=True):
    """One load test, as the flags have it; `eps` is None where the load saturates.

    `lines` are the events of a file, used again and again; without them, events are
    made by `shape`.
    """

    url: str
    eps: float | None
    duration_s: float
    warmup_s: float
    batch: int
    connections: int
    processes: int
    shape: Shape
    lines: list[bytes] = []
    verify: bool = False


class Share(Struct, frozen=True):
    """What one generator process does of a plan.

    `requests_per_s` is the rate of all processes together. With `keeps_ledger` it
    notes every request, so that each event can be looked up.
    """

    process: int
    processes: int
    run: str
    host: str
    port: int
    tls: bool
    target: str
    key: str
    requests_per_s: float | None
    warmup_s: float
    duration_s: float
    batch: int
    connections: int
    shape: Shape
    lines: list[bytes]
    keeps_ledger: bool = True

    @property
    def sample_every(self) -> int:
        """Of how many requests one is watched until it is stored.

        Chosen by number and not by time: of the requests that a stall made late,
        as many are watched as of all others.
        """
        if self.requests_per_s is None:
            return LOADTEST_SAMPLE_EVERY
        return max(1, round(self.requests_per_s / LOADTEST_SAMPLES_PER_S))


def check_size(plan: Plan) -> None:
    """Raise UsageError where requests are too large, or more than can be looked up afterwards."""
    payload_bytes = max(map(len, plan.lines), default=plan.shape.payload_bytes)
    if plan.batch * payload_bytes > BATCH_BODY_BYTES_MAX:
        raise UsageError(
            f"a request of {plan.batch:,} events of {payload_bytes:,} bytes has more than "
            f"{BATCH_BODY_BYTES_MAX:,}, which servers refuse: give a smaller --batch"
        )
    eps = plan.eps or min(
        LOADTEST_SATURATED_EPS_MAX, LOADTEST_SATURATED_REQUESTS_PER_S_MAX * plan.batch
    )
    events = eps * (plan.warmup_s + plan.duration_s)
    requests = events / plan.batch
    too_many = events > LOADTEST_VERIFIED_EVENTS_MAX or requests > LOADTEST_VERIFIED_REQUESTS_MAX
    if plan.verify and too_many:
        raise UsageError(
            f"this may be {events:,.0f} events in {requests:,.0f} requests; of "
            f"{LOADTEST_VERIFIED_EVENTS_MAX:,} and {LOADTEST_VERIFIED_REQUESTS_MAX:,} each can be "
            "looked up: give a shorter --duration, or run `evp verify` instead of --verify"
        )


def shares(plan: Plan, run: str, key: str) -> list[Share]:
    """Return what each process does; connections are shared as evenly as it goes.

    Raises UsageError if address or key can't be used.
    """
    try:
        address = urlsplit(plan.url)
        port = address.port
    except ValueError:
        address, port = urlsplit(""), None
    target = address.path.rstrip("/") + ("/events/batch" if plan.batch > 1 else "/events")
    if address.scheme not in {"http", "https"} or not address.hostname or not _is_plain(target):
        raise UsageError(
            f"--url {redact_url(plan.url)!r}: wanted an address such as http://127.0.0.1:3001"
        )
    if not _is_plain(key):
        raise UsageError("an API key has only printable characters of ASCII, and no blank")
    tls = address.scheme == "https"
    rest, more = divmod(plan.connections, plan.processes)
    return [
        Share(
            process=number,
            processes=plan.processes,
            run=run,
            host=address.hostname,
            port=port or (443 if tls else 80),
            tls=tls,
            target=target,
            key=key,
            requests_per_s=plan.eps and plan.eps / plan.batch,
            warmup_s=plan.warmup_s,
            duration_s=plan.duration_s,
            batch=plan.batch,
            connections=rest + (number < more),
            shape=plan.shape,
            lines=plan.lines,
            keeps_ledger=plan.verify,
        )
        for number in range(plan.processes)
    ]


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
