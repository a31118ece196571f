"""What `evp doctor` tells: findings, what it could not check, what it mended."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from evp.doctor.limits import NAMED_MAX

ERROR = "error"
WARNING = "warning"
NOTE = "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""From the worst on: events are refused or can be lost; they may be some day; to be known."""


class Finding(Struct, kw_only=True):
    """Something wrong: what, what it means, what to do, and a command for that if there is one.

    `fixable` ones are mended by `--fix`. `check` is the name of the check that found it, `where`
    the partition of the log, or the server, if there are several.
    """

    severity: str
    what: str
    meaning: str
    mend: str
    command: str = ""
    fixable: bool = False
    check: str = ""
    where: str = ""


class Unchecked(Struct):
    """A check that could not be made, and why."""

    check: str
    why: str


class Mended(Struct):
    """What a mend did, and why it did not do all, if so.

    Each begins with the place, if there are several.
    """

    check: str
    done: list[str] = field(default_factory=list)
    failed: str | None = None


class Report(Struct):
    """One examination. `away` are the engines that could not be reached, each with the reason.

    That is `log` and `store`, and of a log that has several partitions `partition 2`.
    """

    stream: str
    database: str
    checks: int
    findings: list[Finding] = field(default_factory=list)
    not_checked: list[Unchecked] = field(default_factory=list)
    away: dict[str, str] = field(default_factory=dict)
    mended: list[Mended] = field(default_factory=list)

    def count(self, severity: str) -> int:
        """Return how many findings are of a severity."""
        return sum(one.severity == severity for one in self.findings)

    @property
    def clean(self) -> bool:
        """False if somebody should do something; notes don't count."""
        return not (self.count(ERROR) or self.count(WARNING))

    @property
    def fixable(self) -> list[Finding]:
        """The findings that `--fix` mends."""
        return [one for one in self.findings if one.fixable]


def listed(names: Sequence[str]) -> str:
    """Return names one after the other, and of more than NAMED_MAX how many more there are."""
    more = f" and {len(names) - NAMED_MAX:,} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
