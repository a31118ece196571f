"""Logs are one JSON object a line, and no secret gets into them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from evp import logs
from evp.errors import redact_url

SECRET = "hunter2hunter2"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """Return the log's lines as objects."""
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


def test_one_json_object_a_line() -> None:
    """Level, time, part and facts stand in one object; what is below the level is left out."""
    stream = io.StringIO()
    logs.configure("info", stream, colour=False)
    logs.get("evp.x").debug("hidden")
    logs.get("evp.x").warning("two\nlines", count=3, raw=b"\xff")
    [line] = lines(stream)
    assert line["event"] == "two\nlines"
    assert (line["level"], line["part"], line["count"]) == ("warning", "evp.x", 3)
    assert str(line["ts"]).endswith("Z")


def test_libraries_log_alike() -> None:
    """What a library logs has the same shape; it is heard only when something is wrong."""
    stream = io.StringIO()
    logs.configure("info", stream, colour=False)
    logging.getLogger("pymongo").info("chatter")
    logging.getLogger("pymongo").error("lost mongodb://u:%s@h", SECRET)
    [line] = lines(stream)
    assert (line["part"], line["event"]) == ("pymongo", "lost mongodb://***@h")


def test_colour_is_for_people() -> None:
    """On a terminal lines are readable, with escape codes."""
    stream = io.StringIO()
    logs.configure("info", stream, colour=True)
    logs.get("evp.x").info("hello", url=f"redis://u:{SECRET}@h")
    assert "\x1b[" in stream.getvalue()
    assert SECRET not in stream.getvalue()


places = st.sampled_from(
    [
        {"api_key": SECRET},
        {"Authorization": f"Bearer {SECRET}"},
        {"url": f"redis://:{SECRET}@host:1/0"},
        {"nested": {"token": SECRET, "list": [f"mongodb://u:{SECRET}@h/?x=1"]}},
        {"error": ValueError(f"can't reach redis://u:{SECRET}@h")},
        {"pair": (f"mongodb://h/?password={SECRET}&x=1", 1)},
    ]
)


@given(places, places)
def test_no_secret_in_any_line(one: dict[str, object], other: dict[str, object]) -> None:
    """A secret in a named field, an address, an error or a traceback never gets out."""
    stream = io.StringIO()
    logs.configure("debug", stream, colour=False)
    logger = logs.get("evp.x")
    logger.error("failed", **(one | other))
    try:
        int(f"redis://u:{SECRET}@h")
    except ValueError:
        logger.exception("failed")
    assert len(lines(stream)) == 2
    assert SECRET not in stream.getvalue()


@given(
    st.text(st.characters(categories=["L", "N"]), min_size=8, max_size=20),
    st.sampled_from(["redis://{}@h", "redis://u:{}@h/0", "mongodb+srv://u:{}@a,b/?w=1",
                     "mongodb://h/?PASSWORD={}", "see redis://:{}@h and http://x",
                     "redis://:half/{}@h", "mongodb://u:half@{}@h/?w=1"]),
)  # fmt: skip
def test_addresses_lose_their_credentials(secret: str, address: str) -> None:
    """Whatever the password is, it does not survive."""
    assert redact_url(address.format(secret)) == redact_url(address.format("another-secret"))
