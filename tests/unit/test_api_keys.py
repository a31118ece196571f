"""API keys without engines: made, compared, agreed on, granted, and how fast they may send."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from evp.api_keys import SCOPES, ApiKey, agreed, digest_of, is_key, is_name, make_key, news
from evp.errors import Refusal
from evp.limits import API_KEYS_ENDED_MS_KEPT
from evp.scopes import ADMIN, INGEST, READ
from evp.server.bucket import Bucket
from evp.server.keys import Keys
from evp.server.limits import API_KEY_BYTES_MAX

NOW_MS = 1_767_323_045_678

IDS = st.sampled_from(("a", "b", "c"))
TIMES_MS = st.one_of(st.none(), st.integers(NOW_MS - 3, NOW_MS + 3))


def kept(key_id: str = "a", **changes: object) -> ApiKey:
    """Return what is kept of a key."""
    _, key = make_key(key_id, (INGEST,), NOW_MS)
    return replace(key, id=key_id, digest=digest_of(key_id.encode()), **changes)


@st.composite
def accounts(draw: st.DrawFn) -> dict[str, ApiKey]:
    """What somebody may know of three keys: each with some end, or not at all."""
    return {
        key_id: kept(key_id, expires_at_ms=draw(TIMES_MS), revoked_at_ms=draw(TIMES_MS))
        for key_id in draw(st.sets(IDS))
    }


def code(keys: Keys, key: bytes | None) -> str:
    """Return how a key is answered: its name, or the code of the refusal."""
    try:
        return keys.grant_of(key).name
    except Refusal as refusal:
        assert refusal.detail
        return refusal.code


def test_what_is_made() -> None:
    """A key has an id that may be shown and 256 random bits; only its hash is kept."""
    text, key = make_key("app", (INGEST, READ), NOW_MS, rate_per_s=5)
    prefix, key_id, secret = text.split("_")
    assert (prefix, key_id) == ("evp", key.id)
    assert len(bytes.fromhex(secret)) == 32
    assert is_key(text.encode())
    assert len(text) <= API_KEY_BYTES_MAX
    assert key.digest == digest_of(text.encode())
    assert secret not in repr(key)
    assert make_key("app", (INGEST,), NOW_MS)[0] != text


@pytest.mark.parametrize(
    ("text", "may_be"),
    [
        ("shop", True),
        ("Shop-1.eu_west", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("-shop", False),
        ("two words", False),
        ("schlüssel", False),
        ("0123456789", False),
        ("01234abcde", False),
        ("01234abcd", True),
    ],
)
def test_names(text: str, *, may_be: bool) -> None:
    """A name is short and plain, and can't be mistaken for an id."""
    assert is_name(text) is may_be


@given(st.lists(accounts(), max_size=4), st.randoms())
def test_accounts_agree_in_any_order(known: list[dict[str, ApiKey]], chance: object) -> None:
    """However accounts are brought together, and how often: the same keys with the same ends."""
    shuffled = list(known)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    once = agreed(*known)
    assert agreed(*shuffled) == once
    assert agreed(once, *known, once) == once
    assert agreed(agreed(*known[:2]), agreed(*known[2:])) == once


@given(accounts(), accounts(), st.integers(NOW_MS - 5, NOW_MS + 5))
def test_nothing_ends_later_than_anyone_knows(
    one: dict[str, ApiKey], other: dict[str, ApiKey], at_ms: int
) -> None:
    """A key lives only as long as it does in every account that has it, and none is forgotten."""
    together = agreed(one, other)
    assert set(together) == set(one) | set(other)
    for key_id, key in together.items():
        known = [some[key_id] for some in (one, other) if key_id in some]
        assert key.lives(at_ms) == all(some.lives(at_ms) for some in known)


@given(accounts(), accounts())
def test_news_are_all_that_is_needed(one: dict[str, ApiKey], other: dict[str, ApiKey]) -> None:
    """Who is told the news of what both agree on knows as much, and nothing is told twice."""
    together = agreed(one, other)
    told = agreed(other, news(together, other, NOW_MS))
    assert told == together
    assert news(together, told, NOW_MS) == {}


def test_what_was_forgotten_does_not_come_back() -> None:
    """A key that ended long ago is told to nobody who lacks it; one who has it is told its end."""
    long_ago_ms = NOW_MS - API_KEYS_ENDED_MS_KEPT - 1
    for old in (kept(revoked_at_ms=long_ago_ms), kept(expires_at_ms=long_ago_ms)):
        assert old.is_old(NOW_MS)
        assert news({"a": old}, {}, NOW_MS) == {}
        assert news({"a": old}, {"a": kept()}, NOW_MS) == {"a": old}
    recent = kept(revoked_at_ms=long_ago_ms + 1)
    assert news({"a": recent}, {}, NOW_MS) == {"a": recent}


def test_revoked_is_revoked_by_any_clock() -> None:
    """A server whose clock is behind refuses a revoked key all the same."""
    assert not kept(revoked_at_ms=NOW_MS).lives(NOW_MS - 3_600_000)


def test_ends_of_keys() -> None:
    """A key is taken until its very end, and its grant ends with it, for whoever holds it."""
    keys = Keys({})
    ends = kept("a", expires_at_ms=NOW_MS + 10)
    keys.learn({"a": ends, "b": kept("b")}, NOW_MS)
    grant, other = keys.grant_of(b"a"), keys.grant_of(b"b")
    keys.end(NOW_MS + 9)
    assert keys.grant_of(b"a") is grant
    assert grant.lives
    keys.end(NOW_MS + 10)
    assert not grant.lives
    assert code(keys, b"a") == "unauthenticated"
    keys.learn({"b": kept("b", revoked_at_ms=NOW_MS)}, NOW_MS)
    assert not other.lives
    assert code(keys, b"b") == "unauthenticated"


def test_old_news_revive_nothing() -> None:
    """A log that comes back with an old copy does not bring a revoked key back."""
    keys = Keys({})
    keys.learn({"a": kept(revoked_at_ms=NOW_MS)}, NOW_MS)
    keys.learn({"a": kept()}, NOW_MS)
    assert code(keys, b"a") == "unauthenticated"


def test_grants_stay_the_same() -> None:
    """Who is told again what is known keeps grants and their buckets: the pace is not reset."""
    keys = Keys({})
    keys.learn({"a": kept(rate_per_s=1)}, NOW_MS)
    grant = keys.grant_of(b"a")
    grant.spend(100)
    keys.learn({"a": kept(rate_per_s=1), "b": kept("b")}, NOW_MS)
    assert keys.grant_of(b"a") is grant
    with pytest.raises(Refusal, match="rate_limited"):
        grant.require_pace()


@pytest.mark.parametrize("given_key", [None, b"", b"wrong", b"evp_", b"\xff" * 10, b"k" * 10_000])
def test_all_wrong_keys_are_answered_alike(given_key: bytes | None) -> None:
    """Missing, unknown, odd, huge, revoked and expired keys have one answer."""
    keys = Keys({"set": "secret"})
    revoked, expired = kept("r", revoked_at_ms=NOW_MS), kept("e", expires_at_ms=NOW_MS)
    keys.learn({"r": revoked, "e": expired}, NOW_MS)
    told = []
    for key in (given_key, b"r", b"e"):
        with pytest.raises(Refusal) as caught:
            keys.grant_of(key)
        told.append((caught.value.code, caught.value.detail, caught.value.status))
    assert set(told) == {("unauthenticated", "send a valid key in the x-api-key header", 401)}


def test_keys_that_nobody_can_tell() -> None:
    """While keys are not read, one that may be right gets 503; others 401; those set work."""
    text, key = make_key("app", (INGEST,), NOW_MS)
    keys = Keys({"set": "secret"}, complete=False)
    assert code(keys, b"secret") == "set"
    assert code(keys, text.encode()) == "keys_unavailable"
    assert code(keys, b"wrong") == "unauthenticated"
    assert code(keys, None) == "unauthenticated"
    keys.learn({key.id: key}, NOW_MS)
    assert code(keys, text.encode()) == "app"
    keys.complete = True
    assert code(keys, make_key("x", (INGEST,), NOW_MS)[0].encode()) == "unauthenticated"


def test_scopes() -> None:
    """A key is good for its scopes; an administrator's reads as well; a set one does all."""
    keys = Keys({"set": "secret"})
    keys.learn({"i": kept("i"), "a": kept("a", scopes=(ADMIN,))}, NOW_MS)

    def may(key: bytes) -> set[str]:
        grant = keys.grant_of(key)
        allowed = set()
        for scope in SCOPES:
            try:
                grant.require(scope)
            except Refusal as refusal:
                assert (refusal.code, refusal.status) == ("forbidden", 403)
            else:
                allowed.add(scope)
        return allowed

    assert may(b"i") == {INGEST}
    assert may(b"a") == {ADMIN, READ}
    assert may(b"secret") == set(SCOPES)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@given(
    st.integers(1, 1_000),
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5_000)), min_size=1, max_size=40),
)
def test_pace(rate_per_s: int, requests: list[tuple[float, int]]) -> None:
    """Over any time there passes what the rate allows, a second's worth and one request more."""
    clock = Clock()
    bucket = Bucket(rate_per_s, clock)
    passed: list[tuple[float, int]] = []
    for pause_s, events in requests:
        clock.now_s += pause_s
        if bucket.refusal() is None:
            bucket.spend(events)
            passed.append((clock.now_s, max(1, events)))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span_s = passed[last][0] - passed[first][0]
            events = sum(count for _, count in passed[first:last])
            assert events <= rate_per_s * (span_s + 1) + 1e-3


@given(st.integers(1, 1_000), st.lists(st.integers(1, 10_000), min_size=1, max_size=10))
def test_pace_is_not_too_slow(rate_per_s: int, requests: list[int]) -> None:
    """Whoever waits as long as it is told may send; a large batch waits for what it has taken."""
    clock = Clock()
    bucket = Bucket(rate_per_s, clock)
    for events in requests:
        refusal = bucket.refusal()
        if refusal is not None:
            assert refusal.retry_after_s is not None
            assert refusal.retry_after_s - bucket.wait_s() < 1
            clock.now_s += refusal.retry_after_s
        assert bucket.refusal() is None
        bucket.spend(events)


def test_refused_requests_count() -> None:
    """A request of which no event was taken counts as one: nonsense is not free."""
    bucket = Bucket(3, Clock())
    for _ in range(3):
        assert bucket.refusal() is None
        bucket.spend(0)
    assert bucket.refusal() is not None


def test_pace_of_single_events() -> None:
    """Ten events a second are ten events a second."""
    clock = Clock()
    bucket = Bucket(10, clock)
    passed = []
    for step in range(1_000):
        clock.now_s = 1_000 + step / 100
        if bucket.refusal() is None:
            bucket.spend(1)
            passed.append(clock.now_s)
    assert len(passed) == pytest.approx(10 * 10 + 10, abs=1)
    # The clock of this test moves by hundredths.
    assert all(later - earlier > 0.085 for earlier, later in pairwise(passed[12:]))
