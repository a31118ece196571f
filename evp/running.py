"""What a running `evp up` tells about itself: `up.json` in its data directory, mode 0600."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
from msgspec import Struct

from evp.errors import UsageError

FILE_NAME = "up.json"
_KEY_PREFIX = "evp_"


class Running(Struct):
    """One `evp up`. `boot` tells whether `pid` is from before the machine was started anew.

    `claim_idle_ms` is the setting of its workers; 0 where an older evp did not tell.
    `stopping` is set as soon as it was told to stop.
    """

    http_url: str
    redis_url: str
    mongo_url: str
    mongo_db: str
    api_key: str
    pid: int
    boot: str
    children: dict[str, int]
    claim_idle_ms: int = 0
    stopping: bool = False


def write(data_dir: Path, running: Running) -> None:
    """Write `up.json` in one step, readable by its owner only."""
    draft = data_dir / (FILE_NAME + ".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(running)) + b"\n")
    draft.replace(data_dir / FILE_NAME)


def read(data_dir: Path) -> Running | None:
    """Return the `evp up` of `data_dir` if it runs now."""
    text = read_text(data_dir / FILE_NAME)
    try:
        found = msgspec.json.decode(text, type=Running)
    except msgspec.MsgspecError:
        return None
    return found if found.boot == boot_id() and _lives(found.pid) else None


def _lives(pid: int) -> bool:
    """Return True if a process runs; one that ended may wait for its parent to take note."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def settings_of(data_dir: Path) -> dict[str, str]:
    """Return settings, as text, under which commands reach the `evp up` of `data_dir`."""
    found = read(data_dir)
    if found is None:
        return {}
    return {
        "redis_url": found.redis_url,
        "mongo_url": found.mongo_url,
        "mongo_db": found.mongo_db,
        "host": str(urlsplit(found.http_url).hostname),
        "port": str(urlsplit(found.http_url).port),
        "api_keys": f"default:{found.api_key}",
    }


def ensure_key(path: Path, prefix: str = _KEY_PREFIX) -> str:
    """Return the development key or secret kept in `path`; make it the first time, mode 0600.

    Raises UsageError if it can't be kept there.
    """
    existing = read_text(path).strip()
    if existing:
        return existing
    key = prefix + secrets.token_urlsafe(32)
    with (
        keeping_data_in(path.parent),
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file,
    ):
        file.write(key + "\n")
    return key


@contextlib.contextmanager
def keeping_data_in(data_dir: Path) -> Iterator[None]:
    """Make a data directory, to write to it. Raises UsageError if that can't be done."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(f"can't keep data in {data_dir}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Return a small file's text, or nothing if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def boot_id() -> str:
    """Return what tells this start of the machine from every other."""
    kernel = read_text(Path("/proc/sys/kernel/random/boot_id")).strip()
    return kernel or str(int(psutil.boot_time()))
