"""The account of a demo run."""

from __future__ import annotations

from rich.table import Table

from evp.demo import DemoAccount
from evp.views.facts import fact_table


def account_table(account: DemoAccount) -> Table:
    """Return the account as a table of two columns."""
    rows = (
        ("sent", f"{account.sent:,}"),
        ("accepted", f"{account.accepted:,}"),
        ("stored", f"{account.stored:,}"),
        ("lost", f"{account.lost:,}"),
        ("doubled", f"{account.doubled:,}"),
        ("events/s, to the store", f"{account.events_per_s:,.0f}"),
        ("accepted within, p50 / p99", _pair(account.accept_ms_p50, account.accept_ms_p99)),
        ("stored after, p50 / p99", _pair(account.stored_ms_p50, account.stored_ms_p99)),
    )
    wrong = {"lost", "doubled"}
    return fact_table(
        (name, value, "red" if name in wrong and value != "0" else None) for name, value in rows
    )


def _pair(p50_ms: float, p99_ms: float) -> str:
    return f"{p50_ms:,.0f} / {p99_ms:,.0f} ms"
