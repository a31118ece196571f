"""What each key does in the live view."""

from __future__ import annotations

from evp.limits import FILTER_CHARS_MAX
from evp.views.live import Steering
from evp.views.members import ORDERS

_BACKSPACE = ("\x7f", "\b")
_CLEAR_LINE = "\x15"
_ENTER = ("\r", "\n")


def press(steering: Steering, key: str) -> bool:
    """Do what a key means; return False if it means to quit."""
    if steering.is_typing:
        _type(steering, key)
    elif steering.is_help:
        steering.is_help = False
    elif key in {"q", "Q"}:
        return False
    elif key in {"?", "h"}:
        steering.is_help = True
    elif key == "s":
        steering.order = ORDERS[(ORDERS.index(steering.order) + 1) % len(ORDERS)]
    elif key == " ":
        steering.is_paused = not steering.is_paused
    elif key == "/":
        steering.is_typing = True
    elif key == "esc":
        steering.filter = ""
    return True


def _type(steering: Steering, key: str) -> None:
    if key in _ENTER:
        steering.is_typing = False
    elif key == "esc":
        steering.is_typing, steering.filter = False, ""
    elif key in _BACKSPACE:
        steering.filter = steering.filter[:-1]
    elif key == _CLEAR_LINE:
        steering.filter = ""
    elif key.isprintable() and len(steering.filter) < FILTER_CHARS_MAX:
        steering.filter += key
