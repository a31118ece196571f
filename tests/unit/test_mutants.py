"""What counts as catching a planted bug, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.__main__ import HEADING, table, write
from tests.mutants.planted import Mutant, mutants
from tests.mutants.verdict import Verdict, failing, judge
from tests.mutants.witness import Phase, complains
from tests.support.wait import NotInTime

ONE = "tests/unit/test_x.py::test_one"
TWO = "tests/unit/test_x.py::test_two"
BEGAN_AT_S = 100.0


def phase(test: str, outcome: str, when: str = "call", *, is_complaint: bool = False) -> Phase:
    """Return what a test did, two seconds after the run began."""
    error = "why" if outcome == "failed" else ""
    return Phase(test, when, outcome, BEGAN_AT_S + 2, is_complaint, error)


def judged(*phases: Phase, tests: tuple[str, ...] = (ONE,)) -> Verdict:
    """Return what these say of a bug."""
    return judge(tests, phases, BEGAN_AT_S)


def test_one_case_that_complains_catches() -> None:
    """Of a test with many cases one must complain; when it did is told."""
    passed, complained = phase(f"{ONE}[a]", "passed"), phase(f"{ONE}[b]", "failed")
    complained.is_complaint = True
    verdict = judged(passed, complained)
    assert (verdict.is_caught, verdict.after_s) == (True, 2.0)
    assert verdict.caught_after_s == {ONE: 2.0}


@pytest.mark.parametrize(
    "phases",
    [
        [phase(ONE, "passed")],
        [phase(ONE, "failed")],
        [phase(ONE, "failed", "setup", is_complaint=True)],
        [phase(ONE, "skipped", "setup")],
        [phase(TWO, "failed", is_complaint=True)],
        [phase(f"{ONE}_more", "failed", is_complaint=True)],
        [],
    ],
    ids=["passed", "broke", "broke early", "skipped", "another", "a longer name", "not run"],
)
def test_what_catches_nothing(phases: list[Phase]) -> None:
    """A test that passes, breaks, is skipped or is another one than was named proves nothing."""
    assert not judged(*phases).is_caught


def test_every_test_that_is_named_must_catch() -> None:
    """What a patch promises is held: one that passes is told, one that can't run here is let go."""
    caught = phase(ONE, "failed", is_complaint=True)
    both = (ONE, TWO)
    assert not judged(caught, phase(TWO, "passed"), tests=both).is_caught
    assert judged(caught, phase(TWO, "passed"), tests=both).why_not == [f"{TWO} passed"]
    skipped = judged(caught, phase(TWO, "skipped", "setup"), tests=both)
    assert (skipped.is_caught, skipped.skipped) == (True, [TWO])


def test_tests_must_pass_without_a_bug() -> None:
    """Before anything is planted a failure, or a test that is not there, is told."""
    assert failing([ONE], [phase(ONE, "passed")]) == []
    assert failing([ONE, TWO], [phase(ONE, "failed")]) == [f"{ONE}: why", f"{TWO} was not run"]


def raised(error: type[BaseException], *args: object) -> BaseException:
    """Return an error as if a test had raised it."""
    return error(*args)


def test_what_is_a_complaint() -> None:
    """An assertion, or an error that did not come; no import, no time-out, no other error."""
    missing = raised(pytest.fail.Exception, "DID NOT RAISE <class 'ValueError'>")
    for complaint in (AssertionError("1 == 2"), missing):
        assert complains(complaint)
        assert complains(BaseExceptionGroup("several", [complaint]))
    late = raised(pytest.fail.Exception, "Timeout (>60.0s) from pytest-timeout.")
    never = NotInTime("not within 20 s: it is stored")
    for other in (ImportError("x"), SyntaxError("x"), TimeoutError(), ValueError("x"), late, never):
        assert not complains(other)
        assert not complains(BaseExceptionGroup("several", [AssertionError(), other]))


def test_patch_must_say_what_it_is(tmp_path: Path) -> None:
    """A patch without a sentence, or without a test, is refused by name."""
    path = tmp_path / "01-bug.patch"
    diff = "--- a/evp/x.py\n+++ b/evp/x.py\n@@ -1 +1 @@\n-a\n+b\n"
    here = "tests/unit/test_mutants.py::test_patch_must_say_what_it_is"
    head = f"Must fail: {ONE}\nMust fail: {TWO}\nAlso: {ONE}\nAlso: {here}\n"
    path.write_text(f"Planted: it is wrong.\n{head}\n{diff}")
    [read] = mutants(tmp_path)
    assert read == Mutant(1, "bug", "it is wrong.", [ONE, TWO], [here], ["evp/x.py"], path)
    for head in ("Planted: it is wrong.\n", f"Must fail: {ONE}\n"):
        path.write_text(f"{head}\n{diff}")
        with pytest.raises(ValueError, match=r"01-bug\.patch"):
            mutants(tmp_path)


def test_table_is_written_in_its_place(tmp_path: Path) -> None:
    """A new table takes the place of the old one, and nothing else changes."""
    bug = Mutant(1, "bug", "It is wrong.", [ONE], [], ["evp/x.py"], tmp_path)
    rows = table([(bug, Verdict({ONE: 2.04})), (bug, Verdict(why_not=[f"{ONE} passed"]))])
    assert rows[2:] == [
        f"| 1 | It is wrong. | `{ONE}` | 2.0 s |",
        f"| 1 | It is wrong. | **survived**: {ONE} passed |  |",
    ]
    document = tmp_path / "document.md"
    around = f"# T\n\n| a |\n\n{HEADING}\nWhat it is.\n\n%s\n\nMore.\n\n## Next\n\n| b |\n"
    document.write_text(around % "| old |\n|---|")
    write(document, rows)
    assert document.read_text() == around % "\n".join(rows)
