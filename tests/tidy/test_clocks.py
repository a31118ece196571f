"""Two clocks, and one place where they are read: what waits can't be moved by setting the time."""

from __future__ import annotations

import ast
import time

from evp import clock
from tests.tidy.source import modules

WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}


def test_wall_clock_is_read_in_one_place() -> None:
    """Only `evp.clock` asks for the time of day, by functions whose names say so."""
    found = [
        module.at(node)
        for module in modules()
        if module.name != "evp.clock"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCK
    ]
    assert found == []


def test_timers_do_not_follow_the_wall_clock() -> None:
    """What evp waits by is the clock that nobody can set."""
    assert clock.monotonic_s is time.monotonic
