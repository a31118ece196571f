"""What is asked for: where to begin, and which events."""

from __future__ import annotations

from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from evp.batch.paths import has_text
from evp.batch.raw import text_of


class Start(Struct, frozen=True):
    """Where to begin: now, unless `earliest` or at a moment of the log's clock.

    That is `at_ms`, milliseconds since 1970, or `ago_s` seconds ago.
    """

    earliest: bool = False
    at_ms: int | None = None
    ago_s: float | None = None

    @property
    def is_now(self) -> bool:
        """Whether nothing that is in the log already is wanted."""
        return not self.earliest and self.at_ms is None and self.ago_s is None


class Wanted(Struct, frozen=True):
    """Which events, by texts that must be equal; and every how manieth of those.

    `where` are paths into the event as JSON (`data.order.id`, `data.items.0.sku`) and the
    text there: a text as it is, anything else as JSON writes it (`17`, `true`, `null`).
    """

    type: str | None = None
    source: str | None = None
    subject: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    every: int = 1

    @property
    def is_all(self) -> bool:
        """Whether any event will do, so that not all of them need be read."""
        return self == Wanted()

    def holds(self, document: RawBSONDocument) -> bool:
        """Return whether an event is as it should be, `every` apart."""
        for name in ("type", "source", "subject"):
            wanted = getattr(self, name)
            if wanted is not None and text_of(document, name) != wanted:
                return False
        return all(has_text(document, path, text) for path, text in self.where)
