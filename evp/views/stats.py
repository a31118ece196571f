"""`evp stats` as a person sees it; readable at 80 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from evp.balance import Balance
from evp.stats import Stats
from evp.stream.info import GroupFacts
from evp.views.tables import plain_table


def render(stats: Stats) -> RenderableType:
    """Return one look at everything."""
    log = stats.log
    parts: list[RenderableType] = [
        Text(f"{stats.stream}: {log.length:,} frames, {_size(log.size_bytes)} in the log"),
        Text(
            f"accepted {log.events_accepted:,} ({stats.rates.accepted_per_s:,.0f}/s)   "
            f"{_stored(stats)}"
        ),
    ]
    if stats.balance is not None:
        parts.append(_balance(stats.balance))
    if stats.store_error:
        parts.append(Text(stats.store_error, style="yellow"))
    if log.groups:
        parts.append(plain_table([_group_row(group, stats) for group in log.groups]))
    consumers = [
        {
            "group": group.name,
            "consumer": consumer.name,
            "pending": f"{consumer.pending:,}",
            "idle": f"{consumer.idle_ms / 1000:.1f} s",
        }
        for group in log.groups
        for consumer in group.consumers
    ]
    if consumers:
        parts.append(plain_table(consumers))
    return Group(*parts)


def _stored(stats: Stats) -> str:
    if stats.totals is None:
        return "stored: not known"
    totals = stats.totals
    return (
        f"stored {totals.stored:,} ({stats.rates.stored_per_s:,.0f}/s)   "
        f"duplicate {totals.duplicate:,}   dead {totals.dead:,}"
    )


def _balance(balance: Balance) -> Text:
    settled = balance.stored + balance.duplicate + balance.dead - balance.external
    text = (
        f"balance: {balance.accepted:,} acknowledged, {settled:,} settled, "
        f"{balance.in_log:,} in the log"
    )
    if balance.acknowledged:
        text += f", {balance.acknowledged:,} lost as acknowledged"
    if balance.unaccounted:
        text += f", {balance.unaccounted:,} unaccounted for: run `evp verify`"
        return Text(text, style="red")
    if balance.unaccounted_max:
        text += (
            f"; {balance.unknown:,} of unknown outcome, so up to {balance.unaccounted_max:,} may "
            "be unaccounted for: `evp verify` tells"
        )
    return Text(text)


def _group_row(group: GroupFacts, stats: Stats) -> dict[str, str]:
    return {
        "group": group.name + (" *" if group.name == stats.group else ""),
        "pending": f"{group.pending_events:,} in {group.pending:,} frames",
        "lag": f"{group.lag_events:,} events",
        "oldest": f"{group.lag_s:.1f} s",
        "consumers": str(len(group.consumers)),
    }


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
