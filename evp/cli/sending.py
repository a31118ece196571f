"""The parts of `evp send`: its input, its progress, its report."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from evp.cli.output import Output
from evp.cli.progress import progress
from evp.errors import UsageError
from evp.http import HttpConnection
from evp.sender import Account, Line, Sender

_LOOK_S = 0.2


def one_event(
    type_: str,
    data: str | None,
    source: str | None,
    id_: str | None,
    subject: str | None,
    time: str | None,
) -> bytes:
    """Return the event that the flags describe. Raises UsageError if data is no JSON."""
    given = {"type": type_, "source": source, "id": id_, "subject": subject, "time": time}
    event: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if data is not None:
        try:
            event["data"] = msgspec.Raw(msgspec.json.format(data, indent=-1).encode())
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise UsageError(f"--data is not JSON: {error}; quote it, as in '\"text\"'") from None
    return msgspec.json.encode(event)


class Input(io.RawIOBase):
    """A file to read from, without ever waiting so deeply in it that Ctrl-C is not heard."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there; wait if there is nothing."""
        while not select.select([self._fd], [], [], _LOOK_S)[0]:
            pass
        text = os.read(self._fd, len(buffer))
        buffer[: len(text)] = text
        return len(text)


def open_input(stack: ExitStack, file: str) -> tuple[BinaryIO, int | None]:
    """Return a file or standard input, and how many bytes it has if that is known."""
    if file == "-":
        return io.BufferedReader(Input(sys.stdin.fileno())), None
    path = Path(file)
    try:
        opened = stack.enter_context(path.open("rb", buffering=0))
        size_bytes = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise UsageError(f"can't read {file}: {error.strerror}") from error
    return io.BufferedReader(Input(opened.fileno())), size_bytes


def end_at_ctrl_c() -> None:
    """Let Ctrl-C end the command between two looks for input: asyncio would only note it."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


async def send_all(
    url: str, key: str, lines: Iterator[Line], size_bytes: int | None, account: Account
) -> None:
    """Send all lines, with a bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with progress(*columns, transient=False) as bar:
        task = bar.add_task("sending", total=size_bytes)
        done_bytes = 0

        def counted() -> Iterator[Line]:
            nonlocal done_bytes
            for line in lines:
                done_bytes += len(line.text) + 1
                yield line

        def notify(account: Account) -> None:
            text = f"{account.accepted} accepted, {account.refused_count} refused"
            bar.update(task, completed=done_bytes, description=text)

        async with HttpConnection(url) as connection:
            await Sender(connection, key, account, notify).send(counted())


def report(account: Account, *, json: bool) -> None:
    """Print what became of the events."""
    output = Output()
    if json:
        output.say_json(account)
        return
    output.say(f"{account.accepted} accepted, {account.refused_count} refused")
    for code, count in sorted(account.refused.items()):
        output.say(f"  {count} {code}")
    for one in sorted(account.examples, key=lambda one: one.line):
        output.say(f"  line {one.line}: {one.code}: {one.detail}")
    rest = account.refused_count - len(account.examples)
    if rest > 0:
        output.say(f"  and {rest} more")
