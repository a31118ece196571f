"""Where settings come from, and whether they fit together.

Each comes from the first place that has it: flag, environment, `evp.toml`, a
running `evp up` of the same data directory (never in production), default. All
problems are found before anything starts, and told at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evp import running
from evp.errors import SettingsError, SettingsProblem, UsageError, redact_url
from evp.logs import MASK
from evp.settings import (
    API_KEY_SECRET_BYTES_MIN,
    JWT_SECRET_BYTES_MIN,
    PREFIX,
    PRODUCTION,
    ROWS,
    Row,
    Settings,
)

FILE_NAME = "evp.toml"
API_KEY_FILE = "api_key"
JWT_SECRET_FILE = "jwt_secret"  # noqa: S105 - is its name

_OPTIONAL = {
    "read_count",
    "jwt_secret",
    "backlog_max",
    "metrics_port",
    "metrics_token",
    "retention_days",
}
_REQUIRED_IN_PRODUCTION = ("redis_url", "mongo_url")
_REQUIRED_OF_SERVERS = "jwt_secret"


class Loaded(NamedTuple):
    """Settings and, for each, where it came from: `flag`, `env EVP_PORT`, `default`."""

    settings: Settings
    origins: dict[str, str]


def load(
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    cwd: Path,
    hostname: str = "localhost",
    serves: bool = False,
) -> Loaded:
    """Return the settings and their origins.

    `flags` are by attribute name; None means not given. What `serves` in production must
    have the secret that signs tokens; others need not be able to. Raises SettingsError with
    every problem at once, UsageError if `evp.toml` can't be read.
    """
    path = Path(environ.get("EVP_CONFIG") or cwd / FILE_NAME)
    file = _read_file(path, required=bool(environ.get("EVP_CONFIG")))
    env = _first_text("env", flags, environ, file) or "development"
    data_dir = Path(cwd, _first_text("data_dir", flags, environ, file) or ".evp")
    live = {} if env == PRODUCTION else running.settings_of(data_dir)
    defaults = _defaults(env, data_dir, hostname)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems = [
        SettingsProblem(f"{path.name}: {name}", str(value), "no such setting")
        for name, value in file.items()
        if name not in Settings.__struct_fields__
    ]
    for row in ROWS:
        text, origin = _find(row, flags, environ, file, path.name, live, defaults)
        origins[row.name] = origin
        try:
            values[row.name] = row.parse(text) if text else row.empty
        except (ValueError, TypeError):
            given = MASK if row.secret else redact_url(text)
            problems.append(SettingsProblem(_spoken(row, origin), given, row.wanted))
            continue
        if values[row.name] is None and row.name not in _OPTIONAL:
            problems.append(SettingsProblem(row.key, "", row.wanted))
    problems += _check_relations(values, origins, serves=serves)
    if problems:
        raise SettingsError(problems)
    values["data_dir"] = data_dir
    return Loaded(Settings(**values), origins)


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise UsageError(f"EVP_CONFIG names {path}, which does not exist") from None
        return {}
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return {name.lower(): value for name, value in tables.items()}


def _defaults(env: str, data_dir: Path, hostname: str) -> dict[str, str]:
    defaults = {row.name: row.default for row in ROWS}
    defaults["consumer_name"] = hostname
    if env == PRODUCTION:
        defaults["host"] = "0.0.0.0"  # noqa: S104 - in production the platform routes to it
    else:
        defaults["api_keys"] = running.read_text(data_dir / API_KEY_FILE)
        defaults["jwt_secret"] = running.read_text(data_dir / JWT_SECRET_FILE).strip()
    return defaults


def _first_text(
    name: str, flags: Mapping[str, object], environ: Mapping[str, str], file: Mapping[str, Any]
) -> str:
    """Return `env` or `data_dir`, which decide where the others are looked for."""
    flag = flags.get(name)
    return str(flag or environ.get(PREFIX + name.upper()) or file.get(name) or "")


def _find(
    row: Row,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: Mapping[str, Any],
    file_name: str,
    live: Mapping[str, str],
    defaults: Mapping[str, str],
) -> tuple[str, str]:
    flag = flags.get(row.name)
    if flag is not None:
        return str(flag), "flag"
    for key in (row.key, *row.also):
        if environ.get(key):
            return environ[key], f"env {key}"
    if row.name in file:
        return str(file[row.name]), f"file {file_name}"
    if row.name in live:
        return live[row.name], "running evp up"
    return defaults[row.name], "default"


def _spoken(row: Row, origin: str) -> str:
    """Return the name under which the user gave a value."""
    return origin.removeprefix("env ") if origin.startswith("env ") else f"{row.key} ({origin})"


def _check_relations(
    values: Mapping[str, Any], origins: Mapping[str, str], *, serves: bool
) -> list[SettingsProblem]:
    """Return what is wrong between settings that are right by themselves."""
    problems = []

    def must(key: str, value: object, wanted: str, *, holds: bool) -> None:
        if not holds:
            problems.append(SettingsProblem(PREFIX + key.upper(), str(value), wanted))

    if values.get("env") == PRODUCTION:
        required = (*_REQUIRED_IN_PRODUCTION, *([_REQUIRED_OF_SERVERS] if serves else ()))
        for name in required:
            missing = origins[name] == "default"
            must(name, "", "to be set in production", holds=not missing)
        for name, secret in (values.get("api_keys") or {}).items():
            enough = len(secret.encode()) >= API_KEY_SECRET_BYTES_MIN
            wanted = f"secrets of {API_KEY_SECRET_BYTES_MIN} bytes or more in production"
            must("api_keys", f"{name}:{MASK}", wanted, holds=enough)
    secret = values.get("jwt_secret")
    if secret is not None:
        enough = len(secret.encode()) >= JWT_SECRET_BYTES_MIN
        must("jwt_secret", MASK, f"{JWT_SECRET_BYTES_MIN} bytes or more", holds=enough)
    for name, limit, limit_name in (
        ("mongo_min_pool_size", values.get("mongo_max_pool_size"), "MONGO_MAX_POOL_SIZE"),
        ("write_timeout_ms", values.get("mongo_socket_timeout_ms"), "MONGO_SOCKET_TIMEOUT_MS"),
        # A worker that waits in a read does not hear that it should stop.
        ("read_block_ms", _ms(values.get("shutdown_timeout_s")), "SHUTDOWN_TIMEOUT_S in ms"),
    ):
        value = values.get(name)
        if value is not None and limit is not None:
            must(name, value, f"at most {limit_name}, {limit}", holds=value <= limit)
    idle_ms, write_ms = values.get("claim_idle_ms"), values.get("write_timeout_ms")
    if idle_ms is not None and write_ms is not None:
        # Otherwise a worker that is merely slow would have its entries taken away.
        wanted = f"more than 3 times WRITE_TIMEOUT_MS, {3 * write_ms}"
        must("claim_idle_ms", idle_ms, wanted, holds=idle_ms > 3 * write_ms)
    return problems


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
