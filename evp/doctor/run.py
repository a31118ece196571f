"""Going through the table of checks, and through the mends of what they found.

Each check has its own time and its own end: one that is refused, or whose engine is
away, is told as not made, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from evp import logs
from evp.doctor.checks import CHECKS, EACH_PARTITION, LOG, ONCE, STORE, Check
from evp.doctor.deployment import Deployment
from evp.doctor.findings import SEVERITIES, Finding, Mended, Report, Unchecked
from evp.doctor.limits import CHECK_S_MAX, MEND_S_MAX
from evp.doctor.log_settings import Fix
from evp.errors import EvpError, LogUnavailable, NotChecked, StoreUnavailable
from evp.settings import Settings
from evp.storage.client import opened, ping
from evp.storage.failures import was_refused
from evp.storage.partitions import known_partitions
from evp.stream.client import LogRefused
from evp.stream.partitions import known

_log = logs.get("evp.doctor")

Progress = Callable[[str], None]
"""Is told the name of the check, or the mend, that begins."""


async def examine(settings: Settings, progress: Progress) -> Report:
    """Make all checks; none leaves anything behind. An engine that is away is in the report."""
    report = Report(settings.stream, settings.mongo_db, len(CHECKS))
    async with _opened(settings, report.away) as all_at:
        for check in CHECKS:
            progress(check.name)
            made = (_make(check, at, where, report) for where, at in _places(check, all_at))
            await asyncio.gather(*made)
    report.findings.sort(key=lambda one: SEVERITIES.index(one.severity))
    return report


async def mend(settings: Settings, found: Sequence[Finding], progress: Progress) -> list[Mended]:
    """Mend what was found and can be mended; return what was done. Doing it again is right."""
    mended: list[Mended] = []
    begun: set[tuple[Fix, str]] = set()
    async with _opened(settings, {}) as all_at:
        for check in CHECKS:
            for where, at in _places(check, all_at):
                mine = [one for one in found if (one.check, one.where) == (check.name, where)]
                fixable = [one for one in mine if one.fixable]
                if not fixable or check.fix is None or (check.fix, where) in begun:
                    continue
                begun.add((check.fix, where))
                progress(check.name)
                mended.append(await _mend(check.name, where, check.fix(at, fixable)))
    return mended


def _places(check: Check, all_at: Sequence[Deployment]) -> list[tuple[str, Deployment]]:
    """Return where a check is made; each with its name, which is empty if it is the only one."""
    if check.made == ONCE:
        # Of the log it is as good as any other that is there.
        return [("", next((at for at in all_at if at.has_link), all_at[0]))]
    if check.made == EACH_PARTITION:
        named = {at.log_name: at for at in all_at}
    else:
        named = {at.server_name: at for at in reversed(all_at) if at.has_link}
    if len(named) > 1:
        return list(named.items())
    return [("", next(iter(named.values()), all_at[0]))]


async def _make(check: Check, at: Deployment, where: str, report: Report) -> None:
    away = [name for engine in check.asks if (name := _name(engine, at)) in report.away]
    if away:
        report.not_checked.append(Unchecked(check.name, _is_away(away[0])))
        return
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            found = await check.look(at)
    except NotChecked as error:
        why = str(error)
    except (LogUnavailable, StoreUnavailable, TimeoutError) as error:
        why = str(error) or f"no answer within {CHECK_S_MAX:g} s"
        engine = await _lost(check, at, error)
        if engine is not None:
            name = _name(engine, at)
            report.away[name], where, why = why, "", _is_away(name)
    except Exception as error:  # noqa: BLE001 - a fault of ours in one check must not end the others
        _log.error("unexpected error in a check", check=check.name, exc_info=error)
        why = _fault(error)
    else:
        for one in found:
            one.check, one.where = check.name, where
            one.fixable = one.fixable and check.fix is not None
        report.findings += found
        return
    report.not_checked.append(Unchecked(check.name, f"{where}: {why}" if where else why))


def _name(engine: str, at: Deployment) -> str:
    """Return by which name an engine is told to be away."""
    return at.log_name if engine == LOG else engine


def _is_away(name: str) -> str:
    return f"the {name} is away" if name in {LOG, STORE} else f"{name} is away"


async def _lost(check: Check, at: Deployment, error: Exception) -> str | None:
    """Return which engine is away, by the error of a check; None if it only refused."""
    if isinstance(error, StoreUnavailable):
        return None if was_refused(error) else STORE
    if isinstance(error, LogRefused):
        return None if await at.reopen() else LOG
    if isinstance(error, LogUnavailable):
        return None if at.has_link else LOG
    # It was cancelled while it waited for one of the two; a link does not outlive that.
    return LOG if LOG in check.asks and not at.has_link else STORE


async def _mend(name: str, where: str, fixing: Awaitable[list[str]]) -> Mended:
    at = f"{where}: " if where else ""
    try:
        async with asyncio.timeout(MEND_S_MAX):
            done = await fixing
    except EvpError as error:
        return Mended(name, failed=f"{at}{error}")
    except TimeoutError:
        return Mended(name, failed=f"{at}not done within {MEND_S_MAX:g} s")
    except Exception as error:  # noqa: BLE001 - what was mended before must still be told
        _log.error("unexpected error in a mend", check=name, exc_info=error)
        return Mended(name, failed=f"{at}{_fault(error)}")
    return Mended(name, [f"{at}{one}" for one in done])


def _fault(error: Exception) -> str:
    return f"evp failed with {type(error).__name__}; its log on stderr has more"


@contextlib.asynccontextmanager
async def _opened(settings: Settings, away: dict[str, str]) -> AsyncIterator[list[Deployment]]:
    """Give the partitions; what can't be reached of it all is added to `away`, with the reason."""
    async with opened(settings, connections_max=2) as db:
        first = Deployment(settings, db)
        why, count = await _open_first(first)
        try:
            await ping(db)
            count = max(count, await known_partitions(db))
        except StoreUnavailable as error:
            away[STORE] = str(error)
        first.partitions = count
        if why is not None:
            away[first.log_name] = why
        others = [Deployment(settings, db, number, count) for number in range(1, count)]
        try:
            await asyncio.gather(*(_open(at, away) for at in others))
            yield [first, *others]
        finally:
            for at in (first, *others):
                await at.close()


async def _open_first(at: Deployment) -> tuple[str | None, int]:
    """Dial partition 0; return why it is away, if so, and how many partitions it knows."""
    count = at.settings.partitions
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            await at.open()
            count = max(count, await known(at.link, at.keys))
    except LogUnavailable as error:
        return (None if at.has_link else str(error)), count
    except TimeoutError:
        return f"no answer within {CHECK_S_MAX:g} s", count
    return None, count


async def _open(at: Deployment, away: dict[str, str]) -> None:
    try:
        await at.open()
    except LogUnavailable as error:
        away[at.log_name] = str(error)
