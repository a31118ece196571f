"""A terminal of 60 columns: what is drawn fits, and Ctrl-C leaves it as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.commands import Terminal, terminal
from tests.support.up import EVP, STOP_S_MAX, Up

COLUMNS = 60
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def assert_left_in_order(screen: Terminal) -> None:
    """Fail if something went wrong, or the cursor is still hidden."""
    assert "Traceback" not in screen.text
    assert screen.raw.rfind(SHOW_CURSOR) >= screen.raw.rfind(HIDE_CURSOR)


def test_up(light: dict[str, str], tmp_path: Path) -> None:
    """The bar and the account fit; only what is there to be copied is longer; Ctrl-C ends all."""
    command = [*EVP, "up", "--port", "0", "--demo", "1000"]
    with terminal(command, environ=light, cwd=tmp_path, columns=COLUMNS) as screen:
        screen.wait_shows("running; Ctrl-C stops it")
        screen.press_ctrl_c()
        stopped = screen.wait_ended()
    assert stopped.code == 0
    assert stopped.seconds < STOP_S_MAX
    assert re.search(r"demo ━+ 1,000 stored", screen.text)
    assert re.search(r"stored +1,000", screen.text)
    to_copy = ("curl ", "API key: ", "data ", "store ")
    lines = [line for line in screen.lines if not line.startswith(to_copy)]
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert screen.lines[-2].endswith("stopping")
    assert_left_in_order(screen)


@pytest.mark.parametrize("command", ["stats --watch 0.2", "config show"])
def test_tables(up: Up, command: str) -> None:
    """Tables fold what is too long for a column; a look that renews itself ends by Ctrl-C."""
    words = [*EVP, *command.split()]
    with terminal(words, environ=up.environ, cwd=up.folder, columns=COLUMNS) as screen:
        if "--watch" in command:
            screen.wait_shows("evp-workers-group")
            screen.press_ctrl_c()
            assert screen.wait_ended().code == 130
        else:
            assert screen.wait_ended().code == 0
    assert max(map(len, screen.lines)) <= COLUMNS
    assert_left_in_order(screen)


def test_watch_of_more_than_fits(up: Up) -> None:
    """On a terminal of six lines the look is cut, not scrolled away."""
    words = [*EVP, "stats", "--watch", "0.2"]
    with terminal(words, environ=up.environ, cwd=up.folder, columns=COLUMNS, rows=6) as screen:
        screen.wait_shows(" ... ")
        screen.press_ctrl_c()
        assert screen.wait_ended().code == 130
    assert_left_in_order(screen)


def test_ctrl_c_while_it_starts(light: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C before everything is up stops what is there, too."""
    command = [*EVP, "up", "--port", "0"]
    with terminal(command, environ=light, cwd=tmp_path, columns=COLUMNS) as screen:
        screen.wait_shows("data ")
        screen.press_ctrl_c()
        stopped = screen.wait_ended()
    assert stopped.code == 0
    assert "accepts events" not in screen.text
    assert not (tmp_path / "data" / "up.json").exists()
    assert_left_in_order(screen)


def test_ctrl_c_in_a_large_demo(light: dict[str, str], tmp_path: Path) -> None:
    """The largest demo starts at once, and Ctrl-C ends it at any time."""
    command = [*EVP, "up", "--port", "0", "--demo", "1000000"]
    with terminal(command, environ=light, cwd=tmp_path, columns=COLUMNS) as screen:
        screen.wait_shows("curl")
        screen.wait_shows("00 stored")
        screen.press_ctrl_c()
        stopped = screen.wait_ended()
    assert stopped.code == 0
    assert stopped.seconds < STOP_S_MAX
    assert_left_in_order(screen)


def test_colours_can_be_switched_off(clean: dict[str, str], tmp_path: Path) -> None:
    """Help has colours on a terminal, and none where NO_COLOR is set."""
    coloured = re.compile(r"\x1b\[(\d+;)*(3[1-6]|9[1-6]|38;.*?)m")
    for switch, expected in ((["env", "NO_COLOR=1"], False), ([], True)):
        with terminal([*switch, *EVP, "--help"], environ=clean, cwd=tmp_path, columns=80) as screen:
            assert screen.wait_ended().code == 0
        assert bool(coloured.search(screen.raw)) == expected
        assert max(map(len, screen.lines)) <= 80


def test_a_store_that_takes_long(clean: dict[str, str], tmp_path: Path) -> None:
    """A command that waits for more than a second says for what, and Ctrl-C ends it."""
    environ = clean | {"EVP_MONGO_URL": "mongodb://127.0.0.1:1"}
    with terminal([*EVP, "users", "list"], environ=environ, cwd=tmp_path, columns=60) as screen:
        screen.wait_shows("asking the store")
        screen.press_ctrl_c()
        assert screen.wait_ended().code == 130
    assert_left_in_order(screen)
