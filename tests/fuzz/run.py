"""Fuzz the accept path with atheris: `make fuzz FUZZ_S=3600`.

What is found lands beside the corpus as `crash-…`; give it as an argument to see it again.
The corpus is kept in the repository, so that the next run begins where this one ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped,unused-ignore]

with atheris.instrument_imports(include=["evp", "tests.fuzz"]):
    from tests.fuzz.round_trip import check

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Fuzz until libFuzzer's flags say to stop."""
    atheris.Setup([*sys.argv, str(CORPUS)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
