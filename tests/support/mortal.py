"""A worker that does not survive one kind of event: `python -m tests.support.mortal TYPE`.

Stands for a fault that ends the whole process, as a crash in a codec or a lack
of memory does. Everything else is `evp work --burst`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from bson.raw_bson import RawBSONDocument

from evp.cli.app import main
from evp.storage import isolation
from evp.storage.writer import Writer

_insert: Any = Writer._insert


async def _insert_or_die(self: Writer, documents: list[RawBSONDocument]) -> Any:
    if any(one["type"] == deadly for one in documents):
        os.kill(os.getpid(), signal.SIGKILL)
    return await _insert(self, documents)


if __name__ == "__main__":
    deadly = sys.argv.pop()
    setattr(Writer, "_insert", _insert_or_die)  # noqa: B010 - a method is not to be assigned
    setattr(isolation, "KILLED_CONFIRM_S", 0.0)  # noqa: B010 - as above
    sys.argv[1:] = ["work", "--burst"]
    main()
