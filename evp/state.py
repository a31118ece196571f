"""How the engines are: versions, memory against the mark, durability, how long the store takes."""

from __future__ import annotations

from msgspec import Struct

from evp.clock import monotonic_s
from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.storage.client import Database, ping
from evp.storage.failures import told
from evp.stream.client import Link, LogRefused
from evp.stream.durability import examine
from evp.stream.memory import info_fields, memory


class LogState(Struct):
    """The log. `mark_bytes` is above what evp accepts nothing more; null where nobody knows.

    `durability` is what a 202 is worth (fsync, declared or memory), empty if the log
    does not keep what it acknowledges: then `detail` says why, and the mend.
    """

    version: str = ""
    used_bytes: int | None = None
    mark_bytes: int | None = None
    durability: str = ""
    detail: str = ""


class StoreState(Struct):
    """The store, and how long it took to answer the least question."""

    version: str = ""
    answer_ms: float | None = None


async def log_state(link: Link, settings: Settings) -> LogState:
    """Return how the log is. Raises LogUnavailable if it can't be reached."""
    state = LogState(version=await _log_version(link))
    found = await memory(link)
    if found is not None:
        state.used_bytes, state.mark_bytes = found.used_bytes, found.mark_bytes
    try:
        durability = await examine(link, settings.durability, settings.durability_replicas)
        state.durability = durability.label
    except LogUnavailable as error:
        if not link.is_open:
            raise
        state.detail = str(error)
    return state


async def store_state(db: Database, version: str) -> StoreState:
    """Return how the store is; its version is asked for if it is not given.

    Raises StoreUnavailable.
    """
    if not version:
        with told():
            version = str((await db.command("buildInfo"))["version"])
    started_at_s = monotonic_s()
    await ping(db)
    return StoreState(version, 1000 * (monotonic_s() - started_at_s))


async def _log_version(link: Link) -> str:
    """Return name and version, empty where the log hides them. Raises LogUnavailable."""
    try:
        fields = info_fields(await link.call("INFO", "server"))
    except LogRefused:
        if not link.is_open:
            raise
        return ""
    if "valkey_version" in fields:
        return f"valkey {fields['valkey_version']}"
    return f"redis {fields['redis_version']}" if "redis_version" in fields else ""
