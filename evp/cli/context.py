"""What every command needs from the outside: settings, logs, a loop, a console."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evp.configuration import API_KEY_FILE, JWT_SECRET_FILE, Loaded, load
from evp.settings import Settings, as_environ

if TYPE_CHECKING:
    from evp.signals import Signals

T = TypeVar("T")
EXIT_INTERRUPTED = 130
_SILENT_S_MAX = 1.0


def load_settings(*, serves: bool = False, **flags: object) -> Loaded:
    """Return the settings of this process. Raises SettingsError and UsageError."""
    hostname = socket.gethostname()
    return load(os.environ, flags, cwd=Path.cwd(), hostname=hostname, serves=serves)


def start(*, serves: bool = False, **flags: object) -> Settings:
    """Return the settings, with the logs configured by them. Raises as load_settings does."""
    settings = load_settings(serves=serves, **flags).settings
    configure_logs(settings.log_level)
    return settings


def configure_logs(level: str) -> None:
    """Send logs to stderr: coloured on a terminal, JSON everywhere else."""
    from evp import logs

    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    logs.configure(level, sys.stderr, colour=colour)


def with_secrets(settings: Settings) -> Settings:
    """Return settings with a key to send with, and a secret; development has them made and kept."""
    import msgspec

    from evp import running

    api_keys, jwt_secret = settings.api_keys, settings.jwt_secret
    if not api_keys:
        api_keys = {"default": running.ensure_key(settings.data_dir / API_KEY_FILE)}
    if jwt_secret is None:
        jwt_secret = running.ensure_key(settings.data_dir / JWT_SECRET_FILE, prefix="")
    return msgspec.structs.replace(settings, api_keys=api_keys, jwt_secret=jwt_secret)


def child_environ(settings: Settings, **overrides: object) -> dict[str, str]:
    """Return the environment of a child process: this one's, with these settings."""
    return {**os.environ, **as_environ(settings, overrides)}


def run(work: Coroutine[Any, Any, T], *, asking: str | None = None) -> T:
    """Run a coroutine on uvloop; Ctrl-C ends the process with 130.

    Where it takes more than a second, a terminal is told that `asking` is what takes long.
    """
    import uvloop

    try:
        return uvloop.run(work if asking is None else _told(work, f"asking {asking}"))
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


async def _told(work: Coroutine[Any, Any, T], what: str) -> T:
    import asyncio

    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return await work
    status = console.status(what)
    later = asyncio.get_running_loop().call_later(_SILENT_S_MAX, status.start)
    try:
        return await work
    finally:
        later.cancel()
        status.stop()


def run_until_told(work: Callable[[Signals], Coroutine[Any, Any, None]]) -> None:
    """Run something that ends well when this process is told to stop."""
    from evp.signals import own_signals

    async def told() -> None:
        await work(own_signals())

    run(told())


def server_url(settings: Settings, url: str | None) -> str:
    """Return the address of the server a command talks to."""
    from evp.http import http_url

    if url:
        return url
    return http_url(settings.host, settings.port)


def sending_key(settings: Settings, key: str | None) -> str:
    """Return the API key a command sends with: the one given, or the first one set."""
    from evp.errors import UsageError

    if key:
        return key
    if settings.api_keys:
        return next(iter(settings.api_keys.values()))
    raise UsageError(
        "no API key: give --key, or set EVP_API_KEYS, or start `evp up`; "
        "`evp keys create NAME` makes one"
    )
