"""One look of `evp stats` as a person sees it; readable at 80 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from evp.stats import Stats
from evp.views import units
from evp.views.members import group_table, groups_of, member_table, members_of
from evp.views.partitions import partition_table
from evp.views.stats_parts import Headline, Seen, balance_line, engine_lines, latency_line
from evp.views.untrusted import printable


def render(stats: Stats) -> RenderableType:
    """Return one look at everything."""
    log = stats.log
    parts: list[RenderableType] = [
        Text(
            f"{printable(stats.stream)}: {log.length:,} frames, "
            f"{units.size(log.size_bytes)} in the log"
        ),
        Text(),
        Headline(Seen(stats, (), 0.0)),
        Text(),
        balance_line(stats),
        latency_line(stats),
        engine_lines(stats),
    ]
    if stats.partitions:
        parts += [Text(), partition_table(stats)]
    if groups := groups_of(stats):
        parts += [Text(), group_table(stats, groups)]
    if members := members_of(stats):
        parts += [Text(), member_table(stats, members)]
    return Group(*parts)
