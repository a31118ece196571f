"""Passwords: which are taken, and how they are kept."""

from __future__ import annotations

import pytest

from evp import passwords
from evp.errors import UsageError
from evp.limits import PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN
from evp.passwords import (
    check_password,
    hash_password,
    is_outdated,
    make_password,
    verify_password,
)

GOOD = "correct horse battery"


def test_what_is_kept_fits_one_password() -> None:
    """A hash is argon2id, differs each time, and fits the password that it was made of alone."""
    first, second = hash_password(GOOD), hash_password(GOOD)
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert first != second
    assert GOOD not in first
    assert verify_password(first, GOOD)
    assert not verify_password(first, GOOD + " ")
    assert not verify_password(second, "")


def test_the_same_letters_from_another_keyboard() -> None:
    """An accent as one character or as two is the same password."""
    assert verify_password(hash_password("caf\u00e9 creme brulee"), "cafe\u0301 creme brulee")


def test_nobody_has_no_password() -> None:
    """Where there is no user, the same work is done, and no password fits."""
    kept = hash_password(GOOD).split("$")
    assert passwords._NOBODY.split("$")[:4] == kept[:4]
    assert [len(part) for part in passwords._NOBODY.split("$")] == [len(part) for part in kept]
    assert not verify_password(None, GOOD)
    assert not verify_password(None, "")


def test_hashes_of_other_parameters_are_outdated() -> None:
    """What was hashed with less work than today is known."""
    assert not is_outdated(hash_password(GOOD))
    assert is_outdated(hash_password(GOOD).replace("t=3", "t=2"))


@pytest.mark.parametrize(
    "password",
    ["", "x" * (PASSWORD_CHARS_MIN - 1), "x" * (PASSWORD_BYTES_MAX + 1), "é" * PASSWORD_BYTES_MAX],
)
def test_short_and_long_ones_are_refused(password: str) -> None:
    """A password has a least number of characters and a largest number of bytes."""
    with pytest.raises(UsageError, match="a password has at"):
        check_password(password)


@pytest.mark.parametrize("password", ["x" * PASSWORD_CHARS_MIN, "x" * PASSWORD_BYTES_MAX])
def test_the_bounds_belong_to_it(password: str) -> None:
    """The shortest and the longest that are allowed are allowed."""
    check_password(password)


def test_made_ones_are_good_and_differ() -> None:
    """A password that evp makes follows its own rules."""
    made = {make_password() for _ in range(10)}
    assert len(made) == 10
    for password in made:
        check_password(password)
