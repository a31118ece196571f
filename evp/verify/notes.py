"""Findings that somebody has taken note of, and taking note of those that there are now."""

from __future__ import annotations

from collections import Counter

from evp.errors import StoreUnavailable
from evp.limits import ACKNOWLEDGED_MAX, VERIFY_FINDINGS_MAX
from evp.storage.acknowledged import (
    Acknowledgement,
    acknowledge,
    acknowledge_events,
    acknowledged,
)
from evp.storage.client import Database
from evp.verify.report import Finding, Kind, Report

_MENDABLE = Kind.ACKED_NOT_STORED
_SCANNED = (Kind.FRAME_UNKNOWN, Kind.EVENT_UNLISTED)


class Notes:
    """Puts findings into a report: as they are, or as acknowledged.

    New ones that are to be acknowledged are held back until it is clear that they are.
    """

    def __init__(self, db: Database, report: Report) -> None:
        self._db = db
        self._report = report
        self._reason = report.scope.acknowledge
        self._known: dict[str, Acknowledgement] = {}
        self._rows: list[tuple[str, str, Acknowledgement]] = []
        self._events = 0
        self._held: list[tuple[Finding, Acknowledgement]] = []
        self._more: Counter[Kind] = Counter()

    async def load(self) -> None:
        """Read what is acknowledged. Raises StoreUnavailable."""
        self._known = await acknowledged(self._db)

    def add(self, finding: Finding, unaccounted: int = 0) -> None:
        """Report a finding; `unaccounted` of its recorded events are in no account of a frame.

        What can be mended is not taken note of.
        """
        known = self._known.get(finding.key)
        if self._reason is None or finding.kind is _MENDABLE:
            finding.acknowledged = known
            self._report.add(finding)
            return
        note = known or Acknowledgement(self._reason, self._report.began_at)
        self._events += unaccounted
        if len(self._rows) <= ACKNOWLEDGED_MAX:
            self._rows.append((finding.key, finding.kind, note))
        if known is not None:
            finding.acknowledged = known
            self._report.add(finding)
        elif len(self._held) < VERIFY_FINDINGS_MAX:
            self._held.append((finding, note))
        else:
            self._more[finding.kind] += 1

    async def write(self, lost_events: int) -> None:
        """Write down what is acknowledged now, if that was asked for, and report it.

        `lost_events` are those of frames that are nowhere. If that can't be done, the
        report says why, and what is new is reported as it is.
        """
        if self._reason is None:
            return
        error = await self._written(lost_events)
        self._report.acknowledge_error = error
        for finding, note in self._held:
            finding.acknowledged = None if error else note
            self._report.add(finding)
        for kind, count in self._more.items():
            self._report.count(kind, count, acknowledged=error is None)

    async def _written(self, lost_events: int) -> str | None:
        """Write down what is acknowledged now; return why not, if that can't be done."""
        if self._report.log_error is not None:
            # Not all is known.
            return f"nothing is acknowledged: {self._report.log_error}"
        if len(self._rows) > ACKNOWLEDGED_MAX:
            return f"nothing is acknowledged: there are more than {ACKNOWLEDGED_MAX:,} findings"
        kept = () if self._report.scope.every_document else _SCANNED
        try:
            await acknowledge(self._db, self._rows, kept)
            # A frame whose account counts too much hides losses in the balance; it is taken off.
            await acknowledge_events(self._db, max(0, lost_events + self._events))
        except StoreUnavailable as error:
            return f"not all is acknowledged: {error}"
        return None
