"""Every error evp raises on purpose.

    EvpError
    ├── UsageError                     a flag or a file makes no sense                 exit 2
    │   ├── SettingsError              settings are wrong; lists every problem         exit 2
    │   ├── WritingGroupTaken          another group writes to this database           exit 2
    │   └── WrongShardKey              `_id`s would be unique on each shard only       exit 2
    ├── NoSuchLetter                   no dead letter has this id                      exit 1
    ├── NotChecked                     a check of `evp doctor` can't be made
    ├── Refusal                        a request is refused, nothing of it was kept    HTTP 4xx, 503
    ├── RequestRefused                 the client was answered so: again won't help
    ├── BufferFull                     the client holds as many events as it may
    ├── Undelivered                    what the client could not send in the background
    ├── FrameError                     a log entry can't be read as a frame
    │   ├── CorruptFrame               it never can: its events go to the dead letters
    │   │   └── InvalidEntry           a plain entry of another program, never accepted by evp
    │   ├── UnknownFrameVersion        a newer evp wrote it: it stays pending
    │   └── EntryDeleted               somebody deleted it from the log before it was acked
    └── Unavailable                    an engine can't be used now; try again          exit 3
        ├── LogUnavailable             Redis/Valkey
        │   ├── LogNotDurable          it answers, but would lose what it accepts
        │   ├── AckUnknown             an append was sent; whether it took effect is unknown
        │   └── GroupLost              the consumer group or the stream is gone
        ├── StoreUnavailable           MongoDB
        │   └── StoreTooSlow           a question took longer than it may
        ├── ServerUnavailable          evp's own server, for the commands that talk to it
        │   └── Unsent                 what the client tried in vain; hands the events back
        ├── PortTaken                  the port to listen on
        └── EngineFailed               an engine or child of evp does not start or stay up

Texts are written for an operator: what happened, then what to do. None holds a
secret: addresses go through `redact_url` first.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

EXIT_OK = 0
EXIT_FINDING = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_THRESHOLD = 99

STATUS_BY_CODE: dict[str, int] = {
    "invalid_json": 400,
    "invalid_utf8": 400,
    "invalid_request": 400,
    "invalid_encoding": 400,
    "unauthenticated": 401,
    "invalid_credentials": 401,
    "invalid_token": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "body_too_large": 413,
    "event_too_large": 413,
    "too_many_events": 413,
    "unsupported_media_type": 415,
    "unsupported_encoding": 415,
    "empty_batch": 422,
    "invalid_body": 422,
    "invalid_event": 422,
    "invalid_attribute": 422,
    "invalid_id": 422,
    "invalid_key": 422,
    "invalid_query": 422,
    "invalid_timestamp": 422,
    "timestamp_out_of_range": 422,
    "number_out_of_range": 422,
    "too_deep": 422,
    "too_many_fields": 422,
    "duplicate_id": 422,
    "rate_limited": 429,
    "too_many_logins": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "ack_unknown": 503,
    "backlog_full": 503,
    "keys_unavailable": 503,
    "log_not_durable": 503,
    "log_unavailable": 503,
    "server_busy": 503,
    "shutting_down": 503,
    "store_unavailable": 503,
    "too_slow": 503,
}
"""The stable `code` of every problem+json answer, and its HTTP status."""


class EvpError(Exception):
    """Base of the tree. `exit_code` is what a command ends with when nothing catches it."""

    exit_code = EXIT_FINDING


class UsageError(EvpError):
    """Raised when a flag, an argument or a file makes no sense."""

    exit_code = EXIT_USAGE


class SettingsProblem(NamedTuple):
    """One wrong setting: its key, the value as given (masked if secret), what was wanted."""

    key: str
    value: str
    wanted: str


class SettingsError(UsageError):
    """Raised once for all settings that are wrong; `problems` lists them."""

    def __init__(self, problems: list[SettingsProblem]) -> None:
        self.problems = problems
        lines = [f"{p.key} = {p.value!r}: wanted {p.wanted}" for p in problems]
        super().__init__("wrong settings:\n  " + "\n  ".join(lines))


class WritingGroupTaken(UsageError):
    """Raised when another consumer group is the one that writes to this database."""


class NoSuchLetter(EvpError):
    """Raised when no dead letter has the id that was asked for."""


class NotChecked(EvpError):
    """Raised when a check of `evp doctor` can't be made, since what it needs is not told."""


class WrongShardKey(UsageError):
    """Raised when one of evp's collections is sharded by something else than `_id`."""


class Refusal(EvpError):
    """Raised when a request can't be accepted; nothing of it was kept.

    `code` is a key of STATUS_BY_CODE, `path` points at the culprit (`$[3].data.a`),
    `index` is the place of the event in its batch, `retry_after_s` a hint for a 429 or a 503.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        path: str | None = None,
        index: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.status = STATUS_BY_CODE[code]
        self.detail = detail
        self.path = path
        self.index = index
        self.retry_after_s = retry_after_s

    def within(self, index: int) -> Refusal:
        """Return this refusal of an event that was judged alone, for its place in a batch."""
        path = None if self.path is None else f"$[{index}]{self.path[1:]}"
        return Refusal(self.code, self.detail, path=path, index=index)


class RequestRefused(EvpError):
    """Raised by the client when a server refuses what is sent; sending it again won't help.

    `status`, `code`, `detail`, `path` and `index` are those of the answer (docs/ERRORS.md);
    `index` is the place of the event in its batch, None if it is about the whole request.
    """

    def __init__(
        self, status: int, code: str, detail: str, path: str | None = None, index: int | None = None
    ) -> None:
        at = "" if path is None else f" at {path}"
        super().__init__(f"{code}{at}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.path = path
        self.index = index


class BufferFull(EvpError):
    """Raised by a client that raises when its buffer is full; the event was not taken."""


class Failed(NamedTuple):
    """An event that the client could not send in the background: whole, with its id, and why.

    `code` is the server's; `unavailable` if there was no answer for too long, `closed` if the
    client was closed before. After these two it may have been accepted: send it again as it is.
    `not_taken` is the event given to an `enqueue` that raises, to hand back others.
    """

    event: dict[str, Any]
    code: str
    detail: str


class Undelivered(EvpError):
    """Raised by a client that nobody gave an `on_failed`; hands back in `failed` what it has.

    Raised by `enqueue`, that includes the event it was given, as the last one.
    """

    def __init__(self, failed: list[Failed]) -> None:
        what = "1 event was" if len(failed) == 1 else f"{len(failed):,} events were"
        first = failed[0]
        super().__init__(f"{what} not sent; the first: {first.code}: {first.detail}")
        self.failed = failed


class FrameError(EvpError):
    """Base: a log entry can't be read as a frame."""


class CorruptFrame(FrameError):
    """Raised when an entry is damaged or malformed; reading it again won't help."""


class InvalidEntry(CorruptFrame):
    """Raised when a plain entry of another program breaks the rules for events."""


class UnknownFrameVersion(FrameError):
    """Raised when an entry has a version this evp doesn't know: upgrade the workers."""


class EntryDeleted(FrameError):
    """Raised when an entry is pending but no longer in the log: what it held may be lost."""


class Unavailable(EvpError):
    """Base: an engine can't be used now. Trying again later is right."""

    exit_code = EXIT_UNAVAILABLE


class LogUnavailable(Unavailable):
    """Raised when Redis/Valkey can't be reached, refuses, or answered too late."""


class LogNotDurable(LogUnavailable):
    """Raised when the log answers but its settings would lose what was accepted."""


class AckUnknown(LogUnavailable):
    """Raised when an append was sent but its outcome is unknown: the client must send again."""


class GroupLost(LogUnavailable):
    """Raised on NOGROUP: the group or the stream is gone; recreate it at 0."""


class StoreUnavailable(Unavailable):
    """Raised on a transient MongoDB error: keep the batch, back off, write it again."""


class StoreTooSlow(StoreUnavailable):
    """Raised when the store would need longer for a question than it may take: ask for less."""


class ServerUnavailable(Unavailable):
    """Raised when a command can't reach the evp server."""


class Unsent(ServerUnavailable):
    """Raised by the client when it has tried for as long as it may.

    The `events` may have been accepted. They have their ids: sending them again is safe.
    """

    def __init__(self, why: str, events: list[dict[str, Any]]) -> None:
        super().__init__(why)
        self.events = events


class PortTaken(Unavailable):
    """Raised when the address to listen on can't be had."""


class EngineFailed(Unavailable):
    """Raised when an engine or a child process can't be found, doesn't start or doesn't stay up."""


#: Up to the last @: a password may hold one, or a slash, that its owner did not escape.
_URL_CREDENTIALS = re.compile(r"(?<=://)[^\s\"'<>]*@")
_URL_SECRET_OPTION = re.compile(
    r"(?i)\b(\w*password|passwd|secret|token|authMechanismProperties)=[^&\s]*"
)


def redact_url(text: str) -> str:
    """Return `text` with the credentials of every address in it replaced by `***`."""
    return _URL_SECRET_OPTION.sub(r"\1=***", _URL_CREDENTIALS.sub("***@", text))
