"""The account of a demo run."""

from __future__ import annotations

from rich.table import Table

from evp.demo import DemoAccount


def account_table(account: DemoAccount) -> Table:
    """Return the account as a table of two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="right")
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
    for name, value in rows:
        style = "red" if name in {"lost", "doubled"} and value != "0" else None
        table.add_row(name, value, style=style)
    return table


def _pair(p50_ms: float, p99_ms: float) -> str:
    return f"{p50_ms:,.0f} / {p99_ms:,.0f} ms"
