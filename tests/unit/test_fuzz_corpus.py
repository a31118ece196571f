"""Everything that fuzzing has ever come upon is still refused by its code, or kept exactly."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.round_trip import MEDIA, check

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"


def test_corpus_holds() -> None:
    """No input of the corpus breaks the round trip."""
    inputs = sorted(CORPUS.iterdir())
    assert inputs
    for one in inputs:
        check(one.read_bytes())


@given(st.sampled_from(range(len(MEDIA))), st.binary(max_size=200))
def test_any_bytes_hold(media: int, body: bytes) -> None:
    """Nor do bytes that nobody thought of."""
    check(bytes([media]) + body)
