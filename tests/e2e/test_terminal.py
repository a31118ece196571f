"""In a terminal: what is drawn fits, and however a command ends, it leaves it as it was."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Terminal, terminal
from tests.support.up import EVP, STOP_S_MAX, Up

COLUMNS = 60
OTHER_SCREEN, FIRST_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
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


@pytest.mark.parametrize("command", ["stats --once", "config show"])
def test_tables(up: Up, command: str) -> None:
    """Tables fold what is too long for a column, or leave columns out."""
    words = [*EVP, *command.split()]
    with terminal(words, environ=up.environ, cwd=up.folder, columns=COLUMNS) as screen:
        assert screen.wait_ended().code == 0
    assert max(map(len, screen.lines)) <= COLUMNS
    assert_left_in_order(screen)


@contextlib.contextmanager
def live_stats(up: Up, *command: str) -> Iterator[Terminal]:
    """Run the live view; at its end the terminal must be as it was found."""
    words = command or (*EVP, "stats", "--watch", "0.2")
    with terminal(words, environ=up.environ, cwd=up.folder, columns=80) as screen:
        before = screen.modes
        yield screen
        assert screen.modes == before
    assert screen.raw.count(OTHER_SCREEN) == screen.raw.count(FIRST_SCREEN)
    assert screen.raw.rindex(FIRST_SCREEN) > screen.raw.rindex(OTHER_SCREEN)
    assert_left_in_order(screen)


def test_stats_hears_keys_and_follows_the_size(up: Up) -> None:
    """Keys sort, filter, pause, explain and quit; another size is another picture."""
    with live_stats(up) as screen:
        screen.wait_drawn("sort: name")
        screen.type(b"s")
        screen.wait_drawn("sort: rate")
        screen.type(b"/nobody\n")
        screen.wait_drawn("1 group, 0 shown")
        screen.type(b"\x1b")
        screen.wait_drawn("evp-workers-group *")
        screen.type(b" ")
        screen.wait_drawn("PAUSED")
        screen.type(b"?")
        screen.wait_drawn("`evp verify` is the proof")
        screen.type(b"x")
        screen.resize(120, 40)
        screen.wait_drawn("peak")
        screen.resize(60, 6)
        screen.wait_gone("peak")
        screen.wait_drawn("q quit")
        screen.type(b"q")
        assert screen.wait_ended().code == 0


def test_stats_is_suspended_and_told_to_end(up: Up) -> None:
    """Ctrl-Z gives the terminal back until the view goes on; SIGTERM ends it, and is not hidden."""
    with live_stats(up) as screen:
        found = screen.modes
        screen.wait_drawn("q quit")
        assert screen.modes != found
        screen.type(b"\x1a")
        screen.wait_stopped()
        assert screen.modes == found
        screen.wait_ends_with(FIRST_SCREEN)
        screen.process.send_signal(signal.SIGCONT)
        screen.raw = ""
        screen.wait_drawn("q quit")
        assert screen.modes != found
        screen.process.terminate()
        assert screen.wait_ended().code == -signal.SIGTERM


def test_stats_without_keys(up: Up) -> None:
    """Where standard input is no terminal there are no keys, and Ctrl-C is 130 all the same."""
    command = ("sh", "-c", f"exec {EVP[0]} -m evp stats < /dev/null")
    with live_stats(up, *command) as screen:
        screen.wait_drawn("no keys")
        screen.press_ctrl_c()
        assert screen.wait_ended().code == 130


def test_stats_survives_the_log(up: Up) -> None:
    """A log that goes away is told, what was seen last stays, and the view heals by itself."""
    with live_stats(up) as screen:
        screen.wait_drawn("fsync")
        pid = up.kill_child("log")
        screen.wait_drawn("the log is away since")
        assert "fsync" in screen.drawn
        up.wait_restarted("log", pid)
        screen.wait_gone("the log is away since")
        screen.press_ctrl_c()
        assert screen.wait_ended().code == 130


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


@pytest.mark.slow
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
