"""How often somebody may try to log in, and who somebody is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.errors import Refusal
from evp.server import attempts
from evp.server.attempts import LoginLimit
from evp.server.limits import LOGIN_TRIES_MAX, LOGIN_WINDOW_S
from evp.server.person import site_of


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.at_s


def refused(limit: LoginLimit, account: str, address: str) -> int | None:
    """Try to log in; return how long to wait if that is refused."""
    try:
        limit.take(account, address)
    except Refusal as refusal:
        assert refusal.code == "too_many_logins"
        return refusal.retry_after_s
    return None


@pytest.mark.parametrize("same", ["account", "address"])
def test_eleven_tries_in_a_minute(same: str) -> None:
    """Ten are allowed, by account and by address; the next one is told when to come back."""
    clock = Time()
    limit = LoginLimit(clock)

    def take(number: int) -> int | None:
        other = f"n{number}"
        return refused(limit, *(("a", other) if same == "account" else (other, "a")))

    for number in range(LOGIN_TRIES_MAX):
        assert take(number) is None
        clock.at_s += 1
    assert take(99) == LOGIN_WINDOW_S - LOGIN_TRIES_MAX
    clock.at_s += LOGIN_WINDOW_S - LOGIN_TRIES_MAX
    assert take(99) is None
    assert take(99) == 1
    assert refused(limit, "b", "c") is None


@given(st.lists(st.floats(0, 30), max_size=60))
def test_no_minute_has_more(pauses_s: list[float]) -> None:
    """However tries come, in no window are more allowed than may be."""
    clock = Time()
    limit = LoginLimit(clock)
    taken_s: list[float] = []
    for pause_s in pauses_s:
        clock.at_s += pause_s
        wait_s = refused(limit, "a", "b")
        recent = [at_s for at_s in taken_s if clock.at_s - at_s < LOGIN_WINDOW_S]
        assert (wait_s is not None) == (len(recent) == LOGIN_TRIES_MAX)
        if wait_s is None:
            taken_s.append(clock.at_s)
        else:
            assert 1 <= wait_s <= LOGIN_WINDOW_S


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many names the one that was quiet longest is forgotten."""
    monkeypatch.setattr(attempts, "LOGIN_NAMES_MAX", 3)
    limit = LoginLimit(Time())
    for number in range(LOGIN_TRIES_MAX):
        limit.take("busy", f"address {number}")
        limit.take(f"other {number}", f"other address {number}")
    assert refused(limit, "busy", "address") is not None
    assert len(limit._by_account._tries_s) == len(limit._by_address._tries_s) == 3


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "site"),
    [
        ("192.0.2.1", [], 0, "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], 0, "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], 1, "198.51.100.7"),
        ("192.0.2.1", ["203.0.113.9, 198.51.100.7"], 1, "198.51.100.7"),
        ("192.0.2.1", ["203.0.113.9", "198.51.100.7, 192.0.2.2"], 2, "198.51.100.7"),
        ("192.0.2.1", ["garbage"], 1, "unknown"),
        ("192.0.2.1", [], 1, "192.0.2.1"),
        ("", [], 0, "unknown"),
        ("::ffff:192.0.2.1", [], 0, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", [], 0, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", [], 0, "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], 0, "fe80::/64"),
    ],
)
def test_where_a_request_comes_from(
    peer: str, forwarded: list[str], proxies: int, site: str
) -> None:
    """The peer, or what the outermost trusted proxy saw; what clients claim does not count."""
    assert site_of(peer, forwarded, proxies) == site
