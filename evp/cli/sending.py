"""The parts of `evp send`: its input, its progress, its report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from evp.errors import UsageError
from evp.http import HttpConnection
from evp.sender import Account, Line, Sender


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


def open_input(stack: ExitStack, file: str) -> tuple[BinaryIO, int | None]:
    """Return a file or standard input, and how many bytes it has if that is known."""
    if file == "-":
        return sys.stdin.buffer, None
    path = Path(file)
    try:
        return stack.enter_context(path.open("rb")), path.stat().st_size
    except OSError as error:
        raise UsageError(f"can't read {file}: {error.strerror}") from error


async def send_all(url: str, key: str, lines: Iterator[Line], size_bytes: int | None) -> Account:
    """Send all lines, with a bar on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=size_bytes)
        done_bytes = 0

        def counted() -> Iterator[Line]:
            nonlocal done_bytes
            for line in lines:
                done_bytes += len(line.text) + 1
                yield line

        def progress(account: Account) -> None:
            text = f"{account.accepted} accepted, {account.refused_count} refused"
            bar.update(task, completed=done_bytes, description=text)

        async with HttpConnection(url) as connection:
            return await Sender(connection, key, progress).send(counted())


def report(account: Account, *, json: bool) -> None:
    """Print what became of the events."""
    if json:
        print(msgspec.json.encode(account).decode())
        return
    print(f"{account.accepted} accepted, {account.refused_count} refused")
    for code, count in sorted(account.refused.items()):
        print(f"  {count} {code}")
    for one in account.examples:
        print(f"  line {one.line}: {one.code}: {one.detail}")
    rest = account.refused_count - len(account.examples)
    if rest > 0:
        print(f"  and {rest} more")
