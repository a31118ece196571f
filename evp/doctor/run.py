"""Going through the table of checks, and through the mends of what they found.

Each check has its own time and its own end: one that is refused, or whose engine is
away, is told as not made, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from evp import logs
from evp.doctor.checks import CHECKS, LOG, STORE, Check
from evp.doctor.deployment import Deployment
from evp.doctor.findings import SEVERITIES, Finding, Mended, Report, Unchecked
from evp.doctor.limits import CHECK_S_MAX, MEND_S_MAX
from evp.doctor.log_settings import Fix
from evp.errors import EvpError, LogUnavailable, NotChecked, StoreUnavailable
from evp.settings import Settings
from evp.storage.client import opened, ping
from evp.storage.failures import was_refused
from evp.stream.client import LogRefused

_log = logs.get("evp.doctor")

Progress = Callable[[str], None]
"""Is told the name of the check, or the mend, that begins."""


async def examine(settings: Settings, progress: Progress) -> Report:
    """Make all checks; none leaves anything behind. An engine that is away is in the report."""
    report = Report(settings.stream, settings.mongo_db, len(CHECKS))
    async with _opened(settings, report.away) as at:
        for check in CHECKS:
            progress(check.name)
            away = [engine for engine in check.asks if engine in report.away]
            if away:
                report.not_checked.append(Unchecked(check.name, f"the {away[0]} is away"))
            else:
                await _make(check, at, report)
    report.findings.sort(key=lambda one: SEVERITIES.index(one.severity))
    return report


async def mend(settings: Settings, found: Sequence[Finding], progress: Progress) -> list[Mended]:
    """Mend what was found and can be mended; return what was done. Doing it again is right."""
    mended: list[Mended] = []
    begun: set[Fix] = set()
    async with _opened(settings, {}) as at:
        for check in CHECKS:
            mine = [one for one in found if one.check == check.name and one.fixable]
            if not mine or check.fix is None or check.fix in begun:
                continue
            begun.add(check.fix)
            progress(check.name)
            mended.append(await _mend(check.name, check.fix(at, mine)))
    return mended


async def _make(check: Check, at: Deployment, report: Report) -> None:
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            found = await check.look(at)
    except NotChecked as error:
        report.not_checked.append(Unchecked(check.name, str(error)))
    except (LogUnavailable, StoreUnavailable, TimeoutError) as error:
        why = str(error) or f"no answer within {CHECK_S_MAX:g} s"
        engine = await _lost(check, at, error)
        if engine is not None:
            report.away[engine], why = why, f"the {engine} is away"
        report.not_checked.append(Unchecked(check.name, why))
    except Exception as error:  # noqa: BLE001 - a fault of ours in one check must not end the others
        _log.error("unexpected error in a check", check=check.name, exc_info=error)
        report.not_checked.append(Unchecked(check.name, _fault(error)))
    else:
        for one in found:
            one.check = check.name
            one.fixable = one.fixable and check.fix is not None
        report.findings += found


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


async def _mend(name: str, fixing: Awaitable[list[str]]) -> Mended:
    try:
        async with asyncio.timeout(MEND_S_MAX):
            return Mended(name, await fixing)
    except EvpError as error:
        return Mended(name, failed=str(error))
    except TimeoutError:
        return Mended(name, failed=f"not done within {MEND_S_MAX:g} s")
    except Exception as error:  # noqa: BLE001 - what was mended before must still be told
        _log.error("unexpected error in a mend", check=name, exc_info=error)
        return Mended(name, failed=_fault(error))


def _fault(error: Exception) -> str:
    return f"evp failed with {type(error).__name__}; its log on stderr has more"


@contextlib.asynccontextmanager
async def _opened(settings: Settings, away: dict[str, str]) -> AsyncIterator[Deployment]:
    """Give the deployment; what can't be reached of it is added to `away`, with the reason."""
    async with opened(settings, connections_max=2) as db:
        at = Deployment(settings, db)
        try:
            await at.open()
        except LogUnavailable as error:
            away[LOG] = str(error)
        try:
            await ping(db)
        except StoreUnavailable as error:
            away[STORE] = str(error)
        try:
            yield at
        finally:
            await at.close()
