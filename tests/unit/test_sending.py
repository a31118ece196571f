"""`evp send`'s input: lines, batches, one event by hand."""

from __future__ import annotations

import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.cli.sending import one_event
from evp.errors import UsageError
from evp.http import HttpConnection
from evp.limits import EVENT_BYTES_MAX, SEND_BYTES_MAX, SEND_EVENTS_MAX
from evp.sender import Line, batches, lines_of


def test_lines_are_numbered_as_in_an_editor() -> None:
    """Blank lines are left out and still counted."""
    found = list(lines_of(io.BytesIO(b'{"a":1}\n\n  \r\n {"b":2} \r\n{"c":3}')))
    assert found == [Line(1, b'{"a":1}'), Line(4, b'{"b":2}'), Line(5, b'{"c":3}')]


def test_an_endless_line_takes_bounded_memory() -> None:
    """Of a line that no server would take only the beginning is kept; the next one is whole."""
    long, short = lines_of(io.BytesIO(b"x" * (5 * EVENT_BYTES_MAX) + b'\n{"a":1}\n'))
    assert EVENT_BYTES_MAX < len(long.text) <= EVENT_BYTES_MAX + 2
    assert short == Line(2, b'{"a":1}')


@given(st.lists(st.integers(1, SEND_BYTES_MAX // 3), max_size=30), st.integers(0, 1200))
def test_batches_keep_all_lines_within_the_bounds(sizes: list[int], small: int) -> None:
    """Every line goes out once, in order, in requests of bounded size."""
    lines = [Line(n, b"x" * size) for n, size in enumerate([*sizes, *([10] * small)])]
    made = list(batches(lines))
    assert [line for batch in made for line in batch] == lines
    for batch in made:
        assert 0 < len(batch) <= SEND_EVENTS_MAX
        assert sum(len(line.text) + 1 for line in batch) <= SEND_BYTES_MAX + EVENT_BYTES_MAX


def test_one_event_from_flags() -> None:
    """Flags that are given become members; data is JSON as it stands."""
    made = one_event("signup", '{"plan": 1.50}', None, "7", None, None)
    assert msgspec.json.decode(made) == {"type": "signup", "id": "7", "data": {"plan": 1.5}}


def test_data_that_is_no_json_says_how_to_quote() -> None:
    """A bare word is the usual mistake."""
    with pytest.raises(UsageError, match="--data is not JSON"):
        one_event("signup", "hello", None, None, None, None)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:3001", "ftp://h", "http://", "redis://u:secret@h", "http://h:x"]
)
def test_addresses_that_make_no_sense(url: str) -> None:
    """A wrong --url is a usage error, without its password."""
    with pytest.raises(UsageError) as caught:
        HttpConnection(url)
    assert "secret" not in str(caught.value)
