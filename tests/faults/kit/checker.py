"""What a fault run must not have done, as sets of event ids.

    A  invoked        K  answered with 202
    F  refused only: nothing was written       U  unknown: A - K - F
    S  stored, as often as it is there         D  dead letters that count

Ids that were sent with two contents on purpose are `conflicts`: one of the two
is stored, the other one is a dead letter. Everything else must be stored once,
as it was sent, if it was answered with 202, and never be a dead letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.kit.history import History

FIRST_OK_S_MAX = 15.0
DRAINED_S_MAX = 60.0


@dataclass
class Counters:
    """evp's own account: sums over outcomes and frames, and what the log counted."""

    stored: int
    duplicate: int
    dead: int
    in_frames: int
    accepted: int | None = None
    """None where the log was emptied meanwhile."""


@dataclass
class Findings:
    """What was found. `wrong` must be empty, set by set; `sizes` and the rest are told."""

    wrong: dict[str, set[str]]
    sizes: dict[str, int]
    recovered: int
    not_recovered: int
    stale_s: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Sentences about what is wrong and is no event: identities, liveness, the end state."""

    @property
    def clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.complaints and not any(self.wrong.values())


def check(history: History, stored: Iterable[tuple[str, bytes]], dead: Iterable[str]) -> Findings:
    """Compare what was sent with what is there: `stored` are id and digest of each document."""
    invoked, accepted = history.contents, history.ok
    conflicts = {id_ for id_, contents in invoked.items() if len(contents) > 1}
    counts: Counter[str] = Counter()
    corrupted: set[str] = set()
    for id_, digest in stored:
        counts[id_] += 1
        if id_ in invoked and digest not in invoked[id_]:
            corrupted.add(id_)
    letters = set(dead)
    there = counts.keys() | letters
    unknown = invoked.keys() - accepted.keys() - history.refused
    valid_dead = (letters & invoked.keys()) - conflicts
    both_accepted = {id_ for id_ in conflicts if len(accepted.get(id_, ())) > 1}
    wrong = {
        "lost": accepted.keys() - there,
        "lost_to_dlq": valid_dead,
        "duplicated": {id_ for id_, count in counts.items() if count > 1}
        | ((counts.keys() & letters) - conflicts),
        "unexpected": there - invoked.keys(),
        "refused_but_stored": history.refused & there,
        "corrupted": corrupted,
        "conflict_not_kept": both_accepted - (counts.keys() & letters),
        "seen_and_gone": history.seen.keys() - counts.keys(),
    }
    findings = Findings(
        wrong=wrong,
        sizes={
            "A invoked": len(invoked),
            "K accepted": len(accepted),
            "F refused": len(history.refused),
            "U unknown": len(unknown),
            "S stored": counts.total(),
            "D dead letters": len(letters),
            "conflicts sent": len(both_accepted),
        },
        recovered=len(unknown & there),
        not_recovered=len(unknown - there),
        stale_s=sorted(history.seen.values()),
    )
    if findings.clean and len(accepted) + findings.recovered != len(there):
        findings.complaints.append(
            f"{len(accepted)} accepted + {findings.recovered} recovered is not {len(there)} there"
        )
    return findings


def check_counters(counters: Counters, documents: int, letters: int) -> list[str]:
    """Return in what evp's own account differs from what is there, and from itself."""
    pairs = [
        ("outcomes say stored", counters.stored, "documents", documents),
        ("outcomes say dead", counters.dead, "dead letters", letters),
        (
            "outcomes add up to",
            counters.stored + counters.duplicate + counters.dead,
            "events in frames",
            counters.in_frames,
        ),
    ]
    if counters.accepted is not None:
        pairs.append(("the log counted", counters.accepted, "events in frames", counters.in_frames))
    return [
        f"{one} {count}, {other} {other_count}"
        for one, count, other, other_count in pairs
        if count != other_count
    ]


def check_liveness(
    ok_at_s: Iterable[float], healed_at_s: float, drained_at_s: float | None
) -> list[str]:
    """Return what came too late after the last fault was healed."""
    first_s = min((at_s for at_s in ok_at_s if at_s >= healed_at_s), default=None)
    found = []
    if first_s is None or first_s - healed_at_s > FIRST_OK_S_MAX:
        waited = "never" if first_s is None else f"after {first_s - healed_at_s:.1f} s"
        found.append(f"the first 202 after the last fault came {waited}")
    if drained_at_s is None or drained_at_s - healed_at_s > DRAINED_S_MAX:
        waited = "never" if drained_at_s is None else f"after {drained_at_s - healed_at_s:.1f} s"
        found.append(f"the backlog was empty {waited}")
    return found


def quantile_s(sorted_s: list[float], share: float) -> float:
    """Return a quantile of sorted seconds; 0 if there are none."""
    return sorted_s[min(len(sorted_s) - 1, int(len(sorted_s) * share))] if sorted_s else 0.0
