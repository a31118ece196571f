"""Findings that somebody has taken note of, and taking note of those that there are now."""

from __future__ import annotations

from evp.errors import LogUnavailable, UsageError
from evp.limits import ACKNOWLEDGED_MAX
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
    """Puts findings into a report: as they are, or as acknowledged."""

    def __init__(self, db: Database, report: Report) -> None:
        self._db = db
        self._report = report
        self._reason = report.scope.acknowledge
        self._known: dict[str, Acknowledgement] = {}
        self._rows: list[tuple[str, str, Acknowledgement]] = []
        self._events = 0

    async def load(self) -> None:
        """Read what is acknowledged. Raises StoreUnavailable."""
        self._known = await acknowledged(self._db)

    def add(self, finding: Finding, unaccounted: int = 0) -> None:
        """Report a finding; `unaccounted` of its recorded events are in no account of a frame.

        What can be mended is not taken note of.
        """
        note = self._known.get(finding.key)
        if self._reason is not None and finding.kind is not _MENDABLE:
            note = note or Acknowledgement(self._reason, self._report.began_at)
            self._events += unaccounted
            if len(self._rows) <= ACKNOWLEDGED_MAX:
                self._rows.append((finding.key, finding.kind, note))
        finding.acknowledged = note
        self._report.add(finding)

    async def write(self, lost_events: int) -> None:
        """Write down what is acknowledged now, if that was asked for.

        `lost_events` are those of frames that are nowhere. Raises LogUnavailable if
        the log was away, as then not all is known; UsageError if there are more findings
        than can be acknowledged; and StoreUnavailable.
        """
        if self._reason is None:
            return
        if self._report.log_error is not None:
            raise LogUnavailable(f"nothing is acknowledged: {self._report.log_error}")
        if len(self._rows) > ACKNOWLEDGED_MAX:
            raise UsageError(
                f"--acknowledge: there are more than {ACKNOWLEDGED_MAX:,} findings; nothing is "
                "acknowledged"
            )
        kept = () if self._report.scope.every_document else _SCANNED
        await acknowledge(self._db, self._rows, kept)
        # A frame whose account counts too much hides losses in the balance, so it is taken off.
        await acknowledge_events(self._db, max(0, lost_events + self._events))
