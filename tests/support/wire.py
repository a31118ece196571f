"""As much of the two engines' protocols as it takes to tell one message from the next.

`Resp` is what Redis and Valkey speak: replies come in the order of the requests.
`OpMsg` is what MongoDB speaks: a reply names the request that it answers.
`Pieces` is anything else, in whatever pieces it comes.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

_CRLF = b"\r\n"
_OP_MSG_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013
_OP_MSG_BODY_AT = 21
"""Header, flags, and the byte that says that a document follows."""


class Message(NamedTuple):
    """A whole request or reply, and the name of the request: `XACK`, `insert events`."""

    name: str
    content: bytes


class Conversation(Protocol):
    """One connection: bytes of either side in, whole messages out."""

    def requests(self, data: bytes) -> Iterator[Message]:
        """Return the requests that are complete with these bytes."""

    def replies(self, data: bytes) -> Iterator[Message]:
        """Return the replies that are complete with these bytes, named after their requests."""


class Resp:
    """A connection to a log. A script's name is `EVALSHA` and its digest."""

    def __init__(self) -> None:
        self._requests = _RespReader()
        self._replies = _RespReader()
        self._unanswered: deque[str] = deque()

    def requests(self, data: bytes) -> Iterator[Message]:
        """Return the requests that are complete with these bytes."""
        for content in self._requests.feed(data):
            name = _command_of(content)
            self._unanswered.append(name)
            yield Message(name, content)

    def replies(self, data: bytes) -> Iterator[Message]:
        """Return the replies that are complete with these bytes, named after their requests."""
        for content in self._replies.feed(data):
            yield Message(self._unanswered.popleft() if self._unanswered else "", content)


class _RespReader:
    """Cuts a stream of bytes into values. What was looked through is not looked at again."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._values_left = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while self._step():
            if self._values_left == 0:
                yield bytes(self._buffer[: self._at])
                del self._buffer[: self._at]
                self._at, self._values_left = 0, 1

    def _step(self) -> bool:
        """Go over one line, and over the bytes that belong to it; False if they are not there."""
        line_end = self._buffer.find(_CRLF, self._at)
        if line_end < 0:
            return False
        kind, after = bytes(self._buffer[self._at : self._at + 1]), line_end + len(_CRLF)
        size = int(self._buffer[self._at + 1 : line_end]) if kind in {b"*", b"$"} else 0
        if kind == b"$" and size >= 0:
            after += size + len(_CRLF)
            if len(self._buffer) < after:
                return False
        self._at = after
        self._values_left += max(0, size) - 1 if kind == b"*" else -1
        return True


def _command_of(request: bytes) -> str:
    parts = request.split(_CRLF, 5)
    if not request.startswith(b"*") or len(parts) < 3:
        return parts[0].decode(errors="replace")
    name = parts[2].decode(errors="replace").upper()
    is_script = name == "EVALSHA" and len(parts) > 4
    return f"{name} {parts[4].decode(errors='replace')}" if is_script else name


class Pieces:
    """A connection of which nothing is understood."""

    def requests(self, data: bytes) -> Iterator[Message]:
        """Return what came as it is."""
        yield Message("", data)

    replies = requests


class OpMsg:
    """A connection to a store. A name is the command, and the collection if it has one."""

    def __init__(self) -> None:
        self._from_client = bytearray()
        self._from_store = bytearray()
        self._unanswered: dict[int, str] = {}

    def requests(self, data: bytes) -> Iterator[Message]:
        """Return the requests that are complete with these bytes."""
        for request_id, _, content in _op_messages(self._from_client, data):
            name = _store_command_of(content)
            self._unanswered[request_id] = name
            yield Message(name, content)

    def replies(self, data: bytes) -> Iterator[Message]:
        """Return the replies that are complete with these bytes, named after their requests."""
        for _, answers, content in _op_messages(self._from_store, data):
            yield Message(self._unanswered.pop(answers, ""), content)


def conversation(scheme: str) -> Conversation:
    """Return what speaks the protocol of an address."""
    if scheme.startswith("redis"):
        return Resp()
    return OpMsg() if scheme.startswith("mongodb") else Pieces()


def _op_messages(buffer: bytearray, data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Return request id, id of the request that is answered, and content of whole messages."""
    buffer += data
    while len(buffer) >= _OP_MSG_HEADER.size:
        size, request_id, answers, _ = _OP_MSG_HEADER.unpack_from(buffer)
        if len(buffer) < size:
            return
        content = bytes(buffer[:size])
        del buffer[:size]
        yield request_id, answers, content


def _store_command_of(message: bytes) -> str:
    if _OP_MSG_HEADER.unpack_from(message)[3] != _OP_MSG:
        return "hello"
    first_at = _OP_MSG_BODY_AT + 4
    name_end = message.index(b"\0", first_at)
    name = message[first_at + 1 : name_end].decode()
    if message[first_at] != 2:  # Not a text.
        return name
    size = int.from_bytes(message[name_end + 1 : name_end + 5], "little")
    value = message[name_end + 5 : name_end + 4 + size].decode()
    return f"{name} {value}"
