"""Keys of a real terminal: heard one by one, and the terminal is left as it was found."""

from __future__ import annotations

import asyncio
import os
import pty
import termios
from collections.abc import Iterator
from functools import partial

import pytest
import uvloop

from evp.cli.keyboard import Keyboard, keys_in
from tests.support.wait import until

NO_TERMINAL = -1


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The two ends of a terminal: the person's and the program's."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(theirs)
    os.close(ours)


def test_keys_are_heard(ends: tuple[int, int]) -> None:
    """Each key is told as it is pressed, those of several bytes as well; nothing else changes."""
    ours, theirs = ends
    before = termios.tcgetattr(theirs)
    heard: list[str] = []

    async def press() -> None:
        keyboard = Keyboard(theirs, heard.append)
        for wanted in (3, 6):
            keyboard.take()
            keyboard.take()
            # Otherwise whatever is printed to a slow terminal would fail.
            assert os.get_blocking(theirs)
            for key in (b"q", "ä".encode(), b"\x1b[A", b"\x1b"):
                os.write(ours, key)
                await asyncio.sleep(0.01)
            await until(partial(_are_there, heard, wanted), what="the keys are heard")
            keyboard.give_back()
            keyboard.give_back()
            assert termios.tcgetattr(theirs) == before

    uvloop.run(press())
    assert heard == ["q", "ä", "esc"] * 2


def _are_there(heard: list[str], wanted: int) -> bool:
    return len(heard) == wanted


def test_a_terminal_that_can_not_be_opened_again(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has no name, as in some containers, there are no keys, and no error."""
    monkeypatch.setattr(os, "open", _refuse)

    async def take() -> None:
        keyboard = Keyboard(ends[1], lambda _key: None)
        assert keyboard.is_there
        keyboard.take()
        assert not keyboard.is_there
        keyboard.give_back()

    uvloop.run(take())


def _refuse(*_arguments: object) -> int:
    raise OSError("no such device")


def test_a_terminal_that_goes_away() -> None:
    """Nobody is heard any more, and giving back what is gone is no error."""
    ours, theirs = pty.openpty()
    heard: list[str] = []

    async def leave() -> None:
        keyboard = Keyboard(theirs, heard.append)
        keyboard.take()
        os.close(ours)
        await asyncio.sleep(0.02)
        keyboard.give_back()

    uvloop.run(leave())
    os.close(theirs)
    assert heard == []


def test_no_terminal() -> None:
    """Without a terminal nothing is heard, and nothing fails."""

    async def take() -> bool:
        keyboard = Keyboard(NO_TERMINAL, lambda _: None)
        keyboard.take()
        keyboard.give_back()
        return keyboard.is_there

    assert not asyncio.run(take())


def test_what_keys_send() -> None:
    """Arrows and the like are no characters; pasted text is."""
    assert keys_in("\x1b[A") == keys_in("\x1bOP") == []
    assert keys_in("\x1b") == ["esc"]
    assert keys_in("äq") == ["ä", "q"]
