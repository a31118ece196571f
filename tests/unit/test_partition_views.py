"""Several partitions in `evp stats`: a compact table, what is away in words, nothing where not."""

from __future__ import annotations

import pytest

from evp.looks import PartitionRow, ServerRow
from evp.state import LogState
from evp.stats import Stats
from tests.unit.test_live_view import SIZES, picture, screen, stats, words

REASON = "can't reach the log at redis+cluster://node-2:6379: refused"


def several(partitions: int, *away: int) -> Stats:
    """Return a look at so many partitions on three servers, some of them away."""
    shown = stats()
    shown.partitions = [
        PartitionRow(
            number,
            f"evp:events:{number}",
            f"node-{number % 3}:6379",
            length=100,
            size_bytes=2**20,
            waiting_events=1_200 + number,
            lag_s=float(number),
            away=REASON if number in away else None,
        )
        for number in range(partitions)
    ]
    shown.log_servers = [
        ServerRow("node-1:6379", [1], LogState("valkey 9.1.2", 1, 2, "fsync")),
        ServerRow("node-0:6379", [0, 2], shown.log_state),
    ]
    return shown


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize("partitions", [3, 200])
def test_every_screen_is_filled(columns: int, rows: int, partitions: int) -> None:
    """With any number of partitions a screen has all its lines, and none is too long."""
    shown = screen(picture(several(partitions, 1)), columns, rows)
    assert len(shown) == rows
    assert max(map(len, shown)) <= columns
    assert shown[-1].startswith("q quit")


def test_a_small_screen() -> None:
    """On 80 by 24 a few partitions are whole lines, beside groups and workers."""
    shown = screen(picture(several(3, 1)))
    text = "\n".join(shown)
    assert [line.split()[:2] for line in shown if "node-" in line and "6379 " in line][-3:] == [
        ["0", "node-0:6379"],
        ["1", "node-1:6379"],
        ["2", "node-2:6379"],
    ]
    assert f"partition 1 is away: {REASON}" in " ".join(text.split())
    assert "node-0:6379, of 2 servers" in text
    assert "1 group" in text
    assert "3 workers" in text


def test_of_many_the_worst_are_shown() -> None:
    """Where not all fit, those that are away come first, then those that are furthest behind."""
    shown = screen(picture(several(200, 7, 8)))
    numbers = [line.split()[0] for line in shown if " node-" in line and "6379 " in line][-2:]
    assert numbers == ["8", "7"]
    assert "198" in words(picture(several(200, 7, 8)))
    assert any("partitions 7, 8 are away" in line for line in shown)


def test_one_partition_shows_no_table() -> None:
    """Where there is one, the word does not come up."""
    assert "partition" not in "\n".join(screen(picture(stats())))
