"""`evp users list` as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from evp.storage.users import User
from evp.views.tables import plain_table


def user_table(users: Sequence[User]) -> RenderableType:
    """Return the users as a table."""
    if not users:
        return Text("no users yet; `evp users create NAME` makes one")
    return plain_table([_cells(user) for user in users])


def _cells(user: User) -> dict[str, str]:
    return {
        "user": user.name,
        "scope": ", ".join(user.scopes),
        "state": "disabled" if user.disabled else "enabled",
        "made": f"{user.created_at:%Y-%m-%d %H:%M}",
        "password since": f"{user.password_at:%Y-%m-%d %H:%M}",
    }
