"""Settings: one typed object, checked as a whole before anything starts.

Everything about a setting stands in one row of `ROWS`; loading it
(`evp.configuration`), `evp config show` and `docs/SETTINGS.md` follow from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from evp.errors import redact_url
from evp.limits import PARTITIONS_MAX
from evp.log_address import parse as parse_log_address
from evp.logs import MASK

PREFIX = "EVP_"
#: Names of partitions end like this.
_LIKE_A_PARTITION = re.compile(r":[0-9]+$")
PRODUCTION = "production"
ID_FROM_TIME_TOO = "source+id+time"
JWT_SECRET_BYTES_MIN = 32
API_KEY_SECRET_BYTES_MIN = 16


class Settings(Struct, frozen=True, kw_only=True):
    """Every setting of evp; `ROWS` says what each is for, and its unit."""

    env: str
    host: str
    port: int
    redis_url: str
    mongo_url: str
    mongo_db: str
    mongo_max_pool_size: int
    mongo_min_pool_size: int
    mongo_max_idle_ms: int
    mongo_connect_timeout_ms: int
    mongo_socket_timeout_ms: int
    stream: str
    partitions: int
    log_retention_s: int
    log_retention_bytes: int
    backlog_max: int | None
    consumer_group: str
    consumer_name: str
    worker_batch_size: int
    read_count: int | None
    read_block_ms: int
    claim_idle_ms: int
    max_deliveries: int
    write_timeout_ms: int
    shutdown_timeout_s: float
    drain_delay_ms: int
    rss_log_events: int
    durability: str
    durability_replicas: int
    id_from: str
    default_source: str
    api_keys: dict[str, str]
    jwt_secret: str | None
    trusted_proxies: int
    cors_origins: tuple[str, ...]
    data_dir: Path
    log_level: str
    metrics_port: int | None
    metrics_token: str | None
    retention_days: int | None

    @property
    def time_in_id(self) -> bool:
        """False where the same `id` is the same event whatever its time."""
        return self.id_from == ID_FROM_TIME_TOO


class Row(NamedTuple):
    """One setting: how it is named, where else it is read, what it is by default and for."""

    name: str
    default: str
    purpose: str
    wanted: str
    parse: Callable[[str], Any]
    also: tuple[str, ...] = ()
    secret: bool = False
    empty: Any = None

    @property
    def key(self) -> str:
        """The name in the environment."""
        return PREFIX + self.name.upper()


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return parse


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError(text)
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return parse


def _name(text: str) -> str:
    if not 0 < len(text) <= 200 or any(char.isspace() or char in "{}" for char in text):
        raise ValueError(text)
    return text


def _token(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError(text)
    return text


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if urlsplit(text).scheme not in schemes or not urlsplit(text).netloc:
            raise ValueError(text)
        return text

    return parse


def _log_url(text: str) -> str:
    parse_log_address(text)
    return text


def _stream(text: str) -> str:
    if _LIKE_A_PARTITION.search(text):
        raise ValueError(text)
    return _name(text)


def parse_api_keys(text: str) -> dict[str, str]:
    """Return name → secret of `name:secret,…`; a bare secret is named "default".

    Raises ValueError if a name is there twice or a part is empty.
    """
    keys: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, secret = part.partition(":")
        if not colon:
            name, secret = "default", part
        if not name or not secret or name in keys:
            raise ValueError("a name is there twice or a part is empty")
        keys[name] = secret
    return keys


_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def parse_origins(text: str) -> tuple[str, ...]:
    """Return the origins of `https://app.example.com,…`, as browsers write them.

    Raises ValueError if one is no origin, such as an address with a path.
    """
    origins = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError(text)
    return origins


_MINUTE_MS = 60_000

ROWS: tuple[Row, ...] = (
    Row("env", "development", "production requires addresses and secrets to be set",
        "development or production", _one_of("development", PRODUCTION)),
    Row("host", "127.0.0.1", "address to listen on (0.0.0.0 in production)", "an address", _name),
    Row("port", "3001", "port to listen on; 0 takes any free one", "0 to 65535",
        _number(0, 65535), ("PORT",)),
    Row("redis_url", "redis://127.0.0.1:6379/0", "the log: Redis 7.2 or Valkey 8, or newer",
        "redis://…, redis+cluster://… or redis+sentinel://…, with TLS rediss", _log_url,
        ("REDIS_URL",)),
    Row("mongo_url", "mongodb://127.0.0.1:27017", "the store: MongoDB 6 or newer",
        "mongodb://… or mongodb+srv://…", _url("mongodb", "mongodb+srv"),
        ("MONGO_URL", "MONGODB_URI", "MONGO_URI")),
    Row("mongo_db", "evp", "database of the store", "a name", _name),
    Row("mongo_max_pool_size", "100", "connections a process may hold to the store", "1 to 10000",
        _number(1, 10_000)),
    Row("mongo_min_pool_size", "10", "connections kept open", "0 to 10000", _number(0, 10_000)),
    Row("mongo_max_idle_ms", "30000", "an idle connection is closed after this",
        "milliseconds", _number(0, 24 * 60 * _MINUTE_MS)),
    Row("mongo_connect_timeout_ms", "10000", "a dial to the store may take this long",
        "milliseconds", _number(1, 10 * _MINUTE_MS)),
    Row("mongo_socket_timeout_ms", "45000", "an answer of the store may take this long",
        "milliseconds", _number(1, 60 * _MINUTE_MS)),
    Row("stream", "evp:events", "key of the stream",
        "a name without spaces or braces, and without a number after a colon at its end", _stream),
    Row("partitions", "1", "streams that servers spread requests over, for more than one log "
        "server can take", f"1 to {PARTITIONS_MAX}", _number(1, PARTITIONS_MAX)),
    Row("log_retention_s", "600", "entries that are done stay in the log this long at most, to "
        "be read again", "0 to 31536000 seconds", _number(0, 365 * 24 * 3600)),
    Row("log_retention_bytes", str(256 * 1024 * 1024), "entries that are done hold at most this "
        "much of the log's memory", "bytes", _number(0, 2**40)),
    Row("backlog_max", "", "events that may wait for the workers, in each partition an equal "
        "share of them (default: the log's memory decides)", "1 or more", _number(1, 10**12)),
    Row("consumer_group", "evp-workers-group", "the group of the workers, in every command",
        "a name without spaces or braces", _name, ("CONSUMER_GROUP",)),
    Row("consumer_name", "", "base of this host's consumer names (default: the host's name)",
        "a name without spaces or braces", _name,
        ("CONSUMER_NAME", "RAILWAY_REPLICA_ID", "HOSTNAME")),
    Row("worker_batch_size", "1000", "events a worker writes at once: whole frames, at least one",
        "1 to 100000", _number(1, 100_000), ("WORKER_BATCH_SIZE",)),
    Row("read_count", "", "frames asked for in one read (default: from their mean size)",
        "1 to 1000", _number(1, 1_000), ("READ_COUNT",)),
    Row("read_block_ms", "1000", "how long a read waits for new frames", "1 to 60000",
        _number(1, _MINUTE_MS), ("READ_BLOCK_MS",)),
    Row("claim_idle_ms", "60000", "an entry that nobody has worked on for so long is taken over "
        "by another worker", "more than 3 times WRITE_TIMEOUT_MS",
        _number(100, 24 * 60 * _MINUTE_MS)),
    Row("max_deliveries", "5", "an entry that was delivered more often is written alone, to find "
        "out whether it kills workers", "1 to 1000", _number(1, 1_000)),
    Row("write_timeout_ms", "15000", "a write to the store may take this long",
        "100 to 600000 milliseconds", _number(100, 10 * _MINUTE_MS)),
    Row("shutdown_timeout_s", "5", "a process that was told to stop has this long", "seconds",
        _seconds),
    Row("drain_delay_ms", "500", "readiness is false this long before a server stops to accept",
        "milliseconds", _number(0, 10 * _MINUTE_MS)),
    Row("rss_log_events", "500", "a worker logs its memory every so many events", "1 or more",
        _number(1, 10**9)),
    Row("durability", "auto", "auto verifies that the log keeps what it acknowledges; "
        "declared: you vouch for it; memory: a crash may lose what was accepted",
        "auto, declared or memory", _one_of("auto", "declared", "memory")),
    Row("durability_replicas", "0", "replicas of the log whose disks must have it too", "0 to 10",
        _number(0, 10)),
    Row("id_from", ID_FROM_TIME_TOO, "what makes two events the same",
        "source+id+time or source+id", _one_of(ID_FROM_TIME_TOO, "source+id")),
    Row("default_source", "evp", "source of events that name none", "a name", _name),
    Row("api_keys", "", "keys that may do everything, for the start; `evp keys` makes others "
        "(development: one is made once)", "name:secret,…", parse_api_keys, ("API_KEYS",),
        secret=True, empty={}),
    Row("jwt_secret", "", "signs people's tokens; `evp serve` must have it in production, nothing "
        "else needs it (development: made once)", f"{JWT_SECRET_BYTES_MIN} bytes or more", str,
        ("JWT_SECRET",), secret=True),
    Row("trusted_proxies", "0", "proxies before the server that add to X-Forwarded-For: logins "
        "are limited by the address that the outermost one saw", "0 to 10", _number(0, 10)),
    Row("cors_origins", "", "pages of these origins may use the event routes from a browser",
        "https://app.example.com,… or *", parse_origins, empty=()),
    Row("data_dir", ".evp", "where evp keeps what it makes on this machine", "a path", Path),
    Row("log_level", "info", "least severity that is logged",
        "debug, info, warning, error or critical",
        _one_of("debug", "info", "warning", "error", "critical"), ("LOG_LEVEL",)),
    Row("metrics_port", "", "port on which `evp work` tells /metrics (default: none; `evp serve` "
        "tells them on its own port)", "1 to 65535", _number(1, 65535)),
    Row("metrics_token", "", "who asks for /metrics must send it: authorization: Bearer … "
        "(default: anyone may ask)", "a text without spaces", _token, secret=True),
    Row("retention_days", "", "workers delete events that the log accepted longer ago than this "
        "(default: events are kept)", "1 to 36500 days", _number(1, 36_500)),
)  # fmt: skip
"""All settings. An empty default means none."""


def shown(row: Row, settings: Settings) -> str:
    """Return a setting's value as people may see it: secrets masked, addresses redacted."""
    value = getattr(settings, row.name)
    if row.name == "api_keys":
        return ",".join(f"{name}:{MASK}" for name in value)
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    return MASK if row.secret else redact_url(str(value))


def as_environ(settings: Settings, overrides: Mapping[str, object]) -> dict[str, str]:
    """Return settings as environment variables for a child process."""
    merged = msgspec.structs.asdict(settings) | dict(overrides)
    keys = merged["api_keys"]
    merged["api_keys"] = ",".join(f"{name}:{secret}" for name, secret in keys.items())
    merged["cors_origins"] = ",".join(merged["cors_origins"])
    return {row.key: str(merged[row.name]) for row in ROWS if merged[row.name] not in {None, ""}}
