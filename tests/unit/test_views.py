"""What people see, at the narrowest terminal, without colours where there are none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from evp.balance import Balance
from evp.clock import from_ms
from evp.demo import DemoAccount
from evp.stats import Rates, Stats
from evp.storage.account import Totals
from evp.stream.info import ConsumerFacts, GroupFacts, LogFacts
from evp.views.account import account_table
from evp.views.stats import render
from evp.views.tables import plain_table

GROUP = GroupFacts(
    name="evp-workers-group",
    pending=3,
    pending_events=300,
    lag_events=1200,
    lag_s=4.25,
    consumers=[ConsumerFacts("host-1", 3, 1500)],
)
LOG = LogFacts(
    length=12,
    size_bytes=3 * 1024 * 1024,
    events_accepted=10_000,
    frames_accepted=40,
    requests_accepted=100,
    bytes_accepted=2_000_000,
    groups=[GROUP],
    at_ms=0,
)


def text(renderable: RenderableType, width: int = 80) -> str:
    """Return what would be printed."""
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 60])
def test_stats_fit_the_terminal(width: int) -> None:
    """All that matters is there, in lines that fit, without escape codes."""
    stats = Stats(
        "evp:events", "evp-workers-group", LOG, Rates(500.4, 99.6), totals=Totals(9000, 5, 1, 38)
    )
    shown = text(render(stats), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b" not in shown
    words = shown.split()
    for word in ("10,000", "500/s", "9,000", "100/s", "1,200", "4.2", "host-1"):
        assert word in words, word


def test_stats_without_a_store() -> None:
    """What can't be known is not shown as zero, and it is said why."""
    stats = Stats("evp:events", "g", LOG, Rates(0, 0), store_error="the store can't be used now")
    lines = [line.split() for line in text(render(stats)).splitlines()]
    assert ["stored", "-", "-"] in lines
    assert ["balance", "not", "known", "yet"] in lines
    assert ["store", "away"] in lines
    assert ["the", "store", "can't", "be", "used", "now"] in lines


def test_stats_of_an_empty_log() -> None:
    """Before the first event there is something to see, and no error."""
    empty = LogFacts(0, 0, 0, 0, 0, 0, [], 0)
    assert "0 frames, 0 B" in text(render(Stats("s", "g", empty, Rates(0, 0), totals=Totals())))


def test_stats_tell_the_balance() -> None:
    """It is said whether it adds up, and what to do where it does not."""
    balance = Balance(
        at=from_ms(0),
        accepted=10_000,
        unknown=0,
        source="log and store",
        stored=9_000,
        duplicate=500,
        dead=10,
        in_log=400,
        external=10,
        acknowledged=0,
        unaccounted=0,
        unaccounted_max=0,
    )
    stats = Stats("s", "g", LOG, Rates(0, 0), totals=Totals(), balance=balance)

    def told() -> str:
        return " ".join(text(render(stats), 60).split())

    assert "adds up: accepted + 10 external = stored + duplicate + dead + in the log" in told()
    balance.acknowledged = 7
    assert "in the log + 7 known as lost" in told()
    balance.unknown, balance.unaccounted_max = 20, 15
    assert "20 of unknown outcome, so up to 15 may be nowhere: `evp verify` tells" in told()
    balance.unaccounted = 1_000
    assert "1,000 accepted and nowhere: `evp verify` names them" in told()
    assert "adds up" not in told()


def test_account_names_losses() -> None:
    """The account shows every figure, and its verdict follows from them."""
    account = DemoAccount(10_000, 10_000, 9_999, 1, 0, 2.0, 4999.5, 1, 2, 30, 1234)
    shown = text(account_table(account), 60)
    assert not account.ok
    for part in ("10,000", "9,999", "lost", "1,234 ms"):
        assert part in shown


def test_table_of_nothing() -> None:
    """A table without rows is no error."""
    assert text(plain_table([])).strip() == ""
