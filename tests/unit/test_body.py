"""Small JSON bodies: understood, or refused with the reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.errors import Refusal
from evp.server.body import decode_json
from evp.server.routes.auth import Credentials

JSON = "application/json"
GOOD = b'{"username": "anna", "password": "secret", "cookies": false}'


def refused(body: bytes, content_type: str = JSON) -> Refusal:
    """Return the refusal of a body."""
    with pytest.raises(Refusal) as caught:
        decode_json(body, content_type, Credentials)
    return caught.value


@pytest.mark.parametrize("content_type", [JSON, "Application/JSON; charset=UTF-8"])
def test_what_is_taken(content_type: str) -> None:
    """JSON in UTF-8; members that nobody asked for are left out."""
    more = GOOD.replace(b"{", b'{"more": [1], ')
    assert decode_json(more, content_type, Credentials) == Credentials("anna", "secret")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json; charset=latin-1"])
def test_other_types(content_type: str) -> None:
    """Whatever else a body is said to be is 415."""
    assert refused(GOOD, content_type).code == "unsupported_media_type"


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"", "invalid_json", None),
        (GOOD + b"x", "invalid_json", None),
        (GOOD.replace(b"anna", b"\xff"), "invalid_utf8", None),
        (GOOD.replace(b'"anna"', b"1"), "invalid_body", "$.username"),
        (GOOD.replace(b"username", b"user"), "invalid_body", "$"),
        (b"[]", "invalid_body", "$"),
        (b'{"x": ' + b"[" * 100_000, "invalid_json", None),
    ],
)
def test_what_is_wrong_is_told(body: bytes, code: str, path: str | None) -> None:
    """Each kind of fault has its code, and the place where it is."""
    refusal = refused(body)
    assert (refusal.code, refusal.path) == (code, path)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["username", "password", "cookies", "x"]), inner)
        ),
    )
)
def test_any_json(value: Any) -> None:
    """Whatever JSON comes is credentials, or refused."""
    try:
        found = decode_json(msgspec.json.encode(value), JSON, Credentials)
    except Refusal as refusal:
        assert refusal.code == "invalid_body"
    else:
        assert found.username
        assert found.password


@given(st.binary() | st.integers(0, len(GOOD)).map(lambda end: GOOD[:end]))
def test_any_bytes(body: bytes) -> None:
    """Whatever bytes come are credentials, or refused."""
    try:
        decode_json(body, JSON, Credentials)
    except Refusal as refusal:
        assert refusal.status in {400, 422}
