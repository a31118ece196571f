"""What a run of the tests says about a mutant. Pure.

A mutant is caught if every test that its patch names complained, or was skipped, and one
at least complained. A test that broke otherwise proves nothing: an import that fails
catches any bug, and none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from tests.mutants.witness import Phase


class Verdict(Struct):
    """What became of the tests that a patch names.

    `caught_after_s` has those that complained, by name: after how many seconds of the run.
    `why_not` has a sentence for each that did not complain although it ran, or should have.
    """

    caught_after_s: dict[str, float] = field(default_factory=dict)
    why_not: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def is_caught(self) -> bool:
        """True if the mutant did not survive."""
        return bool(self.caught_after_s) and not self.why_not

    @property
    def after_s(self) -> float:
        """When the first test complained."""
        return min(self.caught_after_s.values(), default=0.0)


def judge(tests: Sequence[str], phases: Sequence[Phase], began_at_s: float) -> Verdict:
    """Return what a run on a mutant says; it began at `began_at_s`, in seconds since 1970."""
    verdict = Verdict()
    for name in tests:
        mine = [one for one in phases if is_of(name, one.test)]
        complaints = [one for one in mine if one.when == "call" and one.is_complaint]
        if complaints:
            verdict.caught_after_s[name] = min(one.at_s for one in complaints) - began_at_s
        elif broken := [one for one in mine if one.outcome == "failed"]:
            verdict.why_not.append(f"{name} broke: {broken[0].error}")
        elif any(one.when == "call" and one.outcome == "passed" for one in mine):
            verdict.why_not.append(f"{name} passed")
        elif mine:
            verdict.skipped.append(name)
        else:
            verdict.why_not.append(f"{name} was not run")
    return verdict


def failing(tests: Iterable[str], phases: Sequence[Phase]) -> list[str]:
    """Return why a run without a mutant is not good: tests that failed, or did not run."""
    wrong = [f"{one.test}: {one.error}" for one in phases if one.outcome == "failed"]
    ran = {one.test for one in phases}
    return wrong + [f"{name} was not run" for name in tests if not any(is_of(name, r) for r in ran)]


def is_of(name: str, test: str) -> bool:
    """Return whether a test, by its whole name with its case, is one of those that `name` names."""
    return test == name or test.startswith((f"{name}[", f"{name}::"))
