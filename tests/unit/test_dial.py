"""What an address of the log says: which servers, with which user, with TLS or not."""

from __future__ import annotations

import pytest

from evp.errors import redact_url
from evp.log_address import Address, Node, parse


@pytest.mark.parametrize(
    ("url", "nodes", "first"),
    [
        ("redis://log:6380/2", [Node("log", 6380)], "redis://log:6380/2"),
        ("rediss://u:p@log/0?ssl_ca_certs=/ca", [Node("log", 6379)], None),
        (
            "redis+cluster://u:p@a:1,b:2,c",
            [Node("a", 1), Node("b", 2), Node("c", 6379)],
            "redis://u:p@a:1/",
        ),
        (
            "rediss+cluster://[::1]:1,[::2]?ssl_ca_certs=/ca",
            [Node("::1", 1), Node("::2", 6379)],
            "rediss://[::1]:1/?ssl_ca_certs=%2Fca",
        ),
        (
            "redis+sentinel://u:p@a,b:2/events/3",
            [Node("a", 26379), Node("b", 2)],
            "redis://u:p@a:26379/3",
        ),
        ("redis+sentinel://a/events", [Node("a", 26379)], "redis://a:26379/0"),
    ],
)
def test_servers(url: str, nodes: list[Node], first: str | None) -> None:
    """Each server is dialled with the scheme, user, database and TLS of the whole address."""
    address = parse(url)
    assert list(address.nodes) == nodes
    if first is not None:
        assert address.of(address.nodes[0]) == first


def sentinels(options: str) -> Address:
    """Return the address of a service behind Sentinels."""
    return parse(f"rediss+sentinel://u:p@a,b/events/0{options}")


def test_sentinels_have_users_of_their_own() -> None:
    """User and password of the log are shown to no Sentinel, and the other way round."""
    address = sentinels("?ssl_ca_certs=/ca&sentinel_username=s&sentinel_password=secret")
    assert address.service == "events"
    assert address.of_sentinel(address.nodes[0]) == (
        "rediss://a:26379/0?ssl_ca_certs=%2Fca&username=s&password=secret"
    )
    assert address.of(Node("log", 1)) == "rediss://u:p@log:1/0?ssl_ca_certs=%2Fca"
    assert sentinels("").of_sentinel(Node("b", 2)) == "rediss://b:2/0"


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "redis+other://a",
        "redis+cluster://",
        "redis+cluster://a,,b",
        "redis+cluster://a:port",
        "redis+sentinel://a",
        "redis+sentinel://a/",
    ],
)
def test_no_address(url: str) -> None:
    """What names no server, no service or another kind of thing is refused."""
    with pytest.raises(ValueError, match=r".*"):
        parse(url)


def test_secrets_are_not_shown() -> None:
    """Neither the log's password nor that of the Sentinels is in what people see."""
    shown = redact_url("redis+sentinel://u:hush@a,b/events/0?sentinel_password=hush2&db=1")
    assert "hush" not in shown
    assert "a,b/events/0" in shown
