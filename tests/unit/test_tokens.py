"""Tokens of people: only those are taken that evp has made."""

from __future__ import annotations

from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.clock import now_ms
from evp.errors import Refusal, SettingsError
from evp.server.limits import ACCESS_TOKEN_S, ACCESS_TOKEN_SKEW_S_MAX
from evp.server.tokens import AccessTokens, RefreshToken, RefreshTokens
from tests.support.tokens import HEADER, PUBLIC_KEY, SECRET, bad_tokens, good_claims, signed

ACCESS = AccessTokens(SECRET)
REFRESH = RefreshTokens(SECRET)
TOKEN = ACCESS.make("anna", 3, ["read", "admin"])


def code_of(text: str) -> str:
    """Return why an access token is refused."""
    with pytest.raises(Refusal) as caught:
        ACCESS.read(text)
    return caught.value.code


def test_what_is_made_is_read() -> None:
    """A token tells user, version and scopes, and lasts fifteen minutes."""
    claims = ACCESS.read(ACCESS.make("anna", 3, ["read", "admin"]))
    assert (claims.sub, claims.ver, claims.scope) == ("anna", 3, "read admin")
    assert abs(claims.exp - now_ms() // 1000 - ACCESS_TOKEN_S) <= 2
    assert len(TOKEN) < 400


def test_the_table_is_of_good_tokens_with_one_fault() -> None:
    """A token made as the table of wrong ones is made is taken as long as nothing is wrong."""
    assert ACCESS.read(signed(HEADER, good_claims())).sub == "anna"


@pytest.mark.parametrize("what", [what for what, _ in bad_tokens()])
def test_wrong_tokens(what: str) -> None:
    """Whatever is wrong about a token, it is refused, and it is not said why."""
    assert code_of(dict(bad_tokens())[what]) == "invalid_token"


def test_a_megabyte_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is too long is refused before anything is decoded."""
    monkeypatch.setattr(jwt, "decode_complete", None)
    assert code_of("x" * 1_000_000) == "invalid_token"


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("aZ9-_.=é"))
def test_no_character_can_be_changed(place: int, character: str) -> None:
    """A token with any character changed is another one, and refused."""
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    if changed != TOKEN:
        assert code_of(changed) == "invalid_token"


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({"exp": -ACCESS_TOKEN_SKEW_S_MAX + 2}, True),
        ({"exp": -ACCESS_TOKEN_SKEW_S_MAX - 2}, False),
        ({"iat": ACCESS_TOKEN_SKEW_S_MAX - 2}, True),
        ({"iat": ACCESS_TOKEN_SKEW_S_MAX + 2}, False),
    ],
)
def test_clocks_may_differ_a_little(changes: dict[str, int], *, is_taken: bool) -> None:
    """Five seconds between the clocks of two servers are allowed, and no more."""
    at_s = now_ms() // 1000
    moved: dict[str, Any] = {claim: at_s + by_s for claim, by_s in changes.items()}
    text = signed(HEADER, good_claims(**moved))
    if is_taken:
        ACCESS.read(text)
    else:
        assert code_of(text) == "invalid_token"


def test_another_secret_makes_other_tokens() -> None:
    """Tokens of a deployment with another secret are no tokens here."""
    other = SECRET + "!"
    assert code_of(AccessTokens(other).make("anna", 3, ["read"])) == "invalid_token"
    token = REFRESH.first()
    assert RefreshTokens(other).following(token) != REFRESH.following(token)


def test_a_public_key_is_no_secret() -> None:
    """A key that others may know is refused as a secret, in words for an operator."""
    with pytest.raises(SettingsError, match="EVP_JWT_SECRET"):
        AccessTokens(PUBLIC_KEY)


def test_refresh_tokens_are_long_and_kept_as_a_hash() -> None:
    """384 random bits, of which 256 are the secret; what is kept does not tell them."""
    first, second = REFRESH.first(), REFRESH.first()
    assert first.family != second.family
    assert (len(first.family), len(first.secret), len(first.text)) == (16, 32, 64)
    assert first.secret not in first.digest
    assert REFRESH.read(first.text) == first


def test_the_token_that_follows_is_always_the_same() -> None:
    """Whoever asks again gets the same token; it is of the same family, and tells nothing back."""
    token = REFRESH.first()
    following = REFRESH.following(token)
    assert following == REFRESH.following(token)
    assert following.family == token.family
    assert following.secret != token.secret
    assert REFRESH.following(following) not in {token, following}


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: RefreshToken(b"", raw).text))
def test_what_is_no_refresh_token(text: str) -> None:
    """Any text is read as the one token that it is, or refused."""
    try:
        assert REFRESH.read(text).text == text
    except Refusal as refusal:
        assert refusal.code == "invalid_token"


def test_claims_are_all_that_is_read() -> None:
    """Claims that evp does not know change nothing."""
    claims = ACCESS.read(signed(HEADER, good_claims(admin=True, jti="1")))
    assert msgspec.structs.asdict(claims).keys() == {"sub", "ver", "scope", "exp"}
