"""What the flags of `evp keys` mean, and which make no sense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evp.cli.keying import end_of, grace_ms_of, require_name, scopes_of
from evp.clock import now_ms, to_ms
from evp.errors import UsageError
from evp.keybook import KeyRow
from evp.scopes import INGEST, READ
from evp.views.keys import key_table
from tests.unit.test_views import text


def test_flags() -> None:
    """Scopes come in one order, ends are spans or times to come, grace is a span."""
    assert scopes_of(["read", "ingest", "read"]) == (INGEST, READ)
    assert grace_ms_of("0s") == 0
    assert grace_ms_of("7d") == 7 * 24 * 3600 * 1000
    assert end_of(None) is None
    end_ms = end_of("90d")
    assert end_ms is not None
    assert abs(end_ms - now_ms() - 90 * 24 * 3600 * 1000) < 60_000
    later = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    assert end_of(later.isoformat()) == to_ms(later)


@pytest.mark.parametrize("text", ["", "soon", "2020-01-01T00:00:00Z", "0s", "2030-01-01", "-1d"])
def test_ends_that_make_no_sense(text: str) -> None:
    """An end that is none, has no zone, or is past is wrong use."""
    with pytest.raises(UsageError, match="--expires"):
        end_of(text)


def test_other_flags_that_make_no_sense() -> None:
    """An unknown scope and a grace that is no span are wrong use."""
    with pytest.raises(UsageError, match="--scope 'write': wanted ingest, read or admin"):
        scopes_of(["ingest", "write"])
    with pytest.raises(UsageError, match="--grace"):
        grace_ms_of("tomorrow")
    require_name("shop")
    with pytest.raises(UsageError, match="no name for a key"):
        require_name("two words")


def test_table() -> None:
    """The table has each key on a line, and says how many are not shown, or how to make one."""
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    rows = [
        KeyRow("0123456789", "shop", "live", (INGEST, READ), 5000, at, at + timedelta(90), None),
        KeyRow("abcdef0123", "dash", "revoked", (READ,), None, at, None, at),
    ]
    shown = text(key_table(rows, ended=1_200), 100) + text(key_table([], ended=0))
    told = [" ".join(line.split()) for line in shown.splitlines() if line.strip(" ─")]
    assert told == [
        "name id state may events/s made ends",
        "shop 0123456789 live ingest, read 5,000 2026-01-02 2026-04-02 03:04",
        "dash abcdef0123 revoked read 2026-01-02 2026-01-02 03:04",
        "1,200 have ended; --all shows them",
        "no keys; `evp keys create NAME` makes one",
    ]
