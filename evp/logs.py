"""Logs: one JSON object a line on stderr, readable colour on a terminal.

No secret gets out: fields with a secret's name are masked, and addresses in any
text, tracebacks included, lose their credentials.
"""

from __future__ import annotations

import logging
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from evp.errors import redact_url

MASK = "***"
_SECRET_NAMES = (
    *("secret", "password", "api_key", "api_keys", "token", "authorization", "x-api-key"),
    *("jwt_secret", "access_token", "refresh_token", "cookie", "set-cookie"),
)
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def get(name: str) -> FilteringBoundLogger:
    """Return the logger of one part of evp, such as `evp.accept`."""
    logger: FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def of_request(request_id: str) -> None:
    """Name the request that the running task is for in all that it logs from now on."""
    structlog.contextvars.bind_contextvars(request_id=request_id)


def configure(level: str, stream: TextIO, *, colour: bool) -> None:
    """Send everything at or above `level` to `stream`, the libraries' logs included."""
    steps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    render: Processor = (
        structlog.dev.ConsoleRenderer(timestamp_key="ts", pad_event_to=36)
        if colour
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    structlog.configure(
        processors=[*steps, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
            foreign_pre_chain=[_add_part, *steps],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up only when something is wrong, unless everything is asked for.
    root.setLevel(_LEVELS[level] if level == "debug" else max(_LEVELS[level], logging.WARNING))


def _add_part(logger: logging.Logger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord | None = event.get("_record")
    event["part"] = record.name if record is not None else logger.name
    return event


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Mask secrets in one log event; a structlog processor."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:
    if name.lower() in _SECRET_NAMES and value is not None:
        return MASK
    if isinstance(value, str):
        return redact_url(value)
    if isinstance(value, dict):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", inner) for inner in value]
    if isinstance(value, BaseException):
        return redact_url(repr(value))
    return value


def _to_json(event: EventDict, **_options: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
