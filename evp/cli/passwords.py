"""Where a command gets a password from: never its arguments, which everybody on a machine sees."""

from __future__ import annotations

import sys

import typer

from evp.errors import UsageError
from evp.limits import PASSWORD_BYTES_MAX
from evp.passwords import check_password


def ask_password() -> str:
    """Ask for a new password twice, or read a line where nobody can be asked. Raises UsageError."""
    if sys.stdin.isatty():
        password = str(
            typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        )
    else:
        # One more than is allowed, and the end of the line: a longer one is not cut, but refused.
        line = sys.stdin.buffer.readline(PASSWORD_BYTES_MAX + 3)
        try:
            password = line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise UsageError("the password on standard input is not UTF-8") from None
    check_password(password)
    return password
