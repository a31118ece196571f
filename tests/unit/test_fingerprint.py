"""Failures that differ by what an event holds are alike; those that differ by rule are not."""

from __future__ import annotations

import pytest

from evp.fingerprint import fingerprint, pattern_of

REQUIRED = (
    "Document failed validation: {'operatorName': '$jsonSchema', 'schemaRulesNotSatisfied': "
    "[{'operatorName': 'required', 'missingProperties': ['%s']}]}"
)
MINIMUM = (
    "Document failed validation: {'operatorName': '$gt', 'specifiedAs': {'a': {'$gt': 5}}, "
    "'reason': 'comparison failed', 'consideredValue': %s}"
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("entry 1767323045678-0: no", "entry 1767323045679-12: no"),
        ("id 0190a3c2-8f00-8abc-9def-0123456789ab", "id abcdefab-8f00-8abc-9def-000000000000"),
        ("ObjectId('65f0c0ffee0ddba11ca7f00d')", "ObjectId('65f0c0ffee0ddba11ca7f00e')"),
        ("value 'x' is wrong", "value 'it is' is wrong"),
        ('key "a b" is wrong', 'key "" is wrong'),
        ("can't take { a: 1 }, index a_1", "can't take { a: { b: 'x' } }, index a_1"),
        ("-1.5 is below 1,000", "-2.5 is below 20"),
        ("Can't take 'x'", "Can't take 'y'"),
        (MINIMUM % 1, MINIMUM % "'some {text'"),
        ("long: " + "x" * 160 + "a", "long: " + "x" * 160 + "b"),
    ],
)
def test_alike(one: str, other: str) -> None:
    """Ids, numbers and values of events don't count, nor does what comes after a long text."""
    assert one != other
    assert pattern_of(one) == pattern_of(other)
    assert fingerprint("r", "e", one) == fingerprint("r", "e", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (REQUIRED % "subject", REQUIRED % "source"),
        (MINIMUM % 1, (MINIMUM % 1).replace("5", "6")),
        ("Can't take 'x' of a", "Can't take 'x' of b"),
        ("", "no"),
    ],
)
def test_different(one: str, other: str) -> None:
    """Another rule, or other words, is another failure."""
    assert fingerprint("r", "e", one) != fingerprint("r", "e", other)


def test_reason_and_error_count() -> None:
    """The same words for another reason, or by another code, are another failure."""
    prints = {fingerprint(*said, "no") for said in (("a", "b"), ("a", "c"), ("b", "b"))}
    assert len(prints) == 3
    assert all(len(one) == 8 for one in prints)


@pytest.mark.parametrize("text", ["\ud800", "'" * 500, "{" * 500, "1" * 500, "a" * 500])
def test_any_text_has_one(text: str) -> None:
    """Whatever was said, there is a fingerprint, at once."""
    assert fingerprint("r", "e", text)
