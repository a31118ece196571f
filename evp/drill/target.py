"""What a drill may hurt: the `evp up` of this data directory, and nothing else by mistake."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from evp.drill.faults import VICTIM, Fault
from evp.drill.processes import Processes
from evp.errors import UsageError, redact_url
from evp.http import http_url
from evp.running import Running, read
from evp.settings import PRODUCTION, Settings
from evp.storage.client import Database
from evp.storage.groups import writer

_ENGINES = ("log", "store")


class Target(Struct, frozen=True):
    """What is drilled; `processes` is None where no `evp up` is known to run it."""

    settings: Settings
    url: str
    processes: Processes | None
    claim_idle_ms: int


def find(settings: Settings, url: str, *, yes_really: bool) -> Target:
    """Return what the settings lead to.

    Raises UsageError in production; and, unless `yes_really`, if that is not an `evp up` on
    this machine with engines of its own.
    """
    if settings.env == PRODUCTION:
        raise UsageError(
            "EVP_ENV is production, and there nothing is broken on purpose: make the drill on a "
            "machine that nobody needs"
        )
    found = read(settings.data_dir)
    why = _why_not(settings, found)
    if why and not yes_really:
        raise UsageError(
            f"{why}. A drill breaks things and stores its events, so it wants an `evp up` with "
            "engines of its own; give --yes-really if it is to be this one all the same"
        )
    if found is None or not _is_meant(settings, found):
        return Target(settings, url, None, settings.claim_idle_ms)
    idle_ms = found.claim_idle_ms or settings.claim_idle_ms
    return Target(settings, url, Processes(settings.data_dir), idle_ms)


def require(target: Target, faults: Sequence[Fault]) -> None:
    """Raise UsageError if one of these can't be done here, with those that can."""
    missing = [fault for fault in dict.fromkeys(faults) if not _can(target, fault)]
    if missing:
        told = ", ".join(f"{fault} (nothing here runs `{VICTIM[fault]}`)" for fault in missing)
        raise UsageError(f"can't do {told}; {_what_can_be_done(target)}")


async def require_group(target: Target, db: Database) -> None:
    """Raise UsageError if another group writes to the store than the settings name.

    Raises StoreUnavailable.
    """
    mine = (target.settings.stream, target.settings.consumer_group)
    found = await writer(db)
    if found not in {None, mine}:
        stream, group = found or mine
        raise UsageError(
            f"{target.settings.mongo_db} is written by group {group} of the stream {stream}: set "
            "EVP_CONSUMER_GROUP and EVP_STREAM as the workers have them"
        )


def _what_can_be_done(target: Target) -> str:
    if target.processes is None:
        # Nobody is talked into hurting what no `evp up` can mend.
        return "no `evp up` is known that runs these; --fault names the faults that are meant"
    return "what can be done: " + " ".join(f"--fault {one}" for one in Fault if _can(target, one))


def _can(target: Target, fault: Fault) -> bool:
    if fault not in VICTIM:
        return True
    return target.processes is not None and bool(target.processes.names(VICTIM[fault]))


def _why_not(settings: Settings, found: Running | None) -> str:
    """Return why these settings don't lead to an `evp up` that may be hurt; nothing if they do."""
    if found is None:
        return f"no `evp up` runs in {settings.data_dir}"
    if not _is_meant(settings, found):
        log, store = redact_url(settings.redis_url), redact_url(settings.mongo_url)
        return (
            f"the settings lead to the log at {log} and the database {settings.mongo_db} at "
            f"{store}, and not to those of the `evp up` in {settings.data_dir}"
        )
    foreign = [name for name in _ENGINES if name not in found.children]
    if foreign:
        return (
            f"the `evp up` in {settings.data_dir} does not run its {' and '.join(foreign)} itself"
        )
    children = Processes(settings.data_dir)
    dead = [name for name in _ENGINES if children.find(name) is None]
    if dead:
        return f"the {' and '.join(dead)} of the `evp up` in {settings.data_dir} does not run now"
    return ""


def _is_meant(settings: Settings, found: Running) -> bool:
    mine = (settings.redis_url, settings.mongo_url, settings.mongo_db)
    its = (found.redis_url, found.mongo_url, found.mongo_db)
    return mine == its and http_url(settings.host, settings.port) == found.http_url
