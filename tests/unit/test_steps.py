"""Steps of a series: what they count, and that names without end do not fill the memory."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from evp.limits import STEPS_NAMES_HELD_MAX, STEPS_NAMES_KEPT
from evp.server.limits import SERIES_NAMES_MAX, SERIES_POINTS_MAX
from evp.storage.steps import NamedSteps, Steps

STEP_MS = 60_000

cells = st.lists(
    st.tuples(
        st.integers(0, 5 * STEP_MS),
        st.dictionaries(st.text("abc", max_size=2), st.integers(1, 9), max_size=4),
    ),
    max_size=20,
)


@given(cells)
def test_steps_add_up(given_cells: list[tuple[int, dict[str, int]]]) -> None:
    """Every event is counted once: in all, by name, by step, and by the group that is asked for."""
    steps, wanted = Steps(STEP_MS, ["source"]), Counter[tuple[int, str]]()
    for at_ms, names in given_cells:
        steps.add(at_ms, names.items(), names.items())
        for name, count in names.items():
            wanted[at_ms // STEP_MS * STEP_MS, name] += count
    assert steps.by_type is None
    assert steps.by_source is not None
    found = steps.by_source.steps.items()
    assert {(at, name): n for at, counts in found for name, n in counts.items()} == wanted
    assert steps.stored.total() == steps.types.total() == steps.sources.total() == wanted.total()


def test_names_without_end() -> None:
    """Rare names are left out of all steps; what is said of the others is all there was."""
    steps = Steps(STEP_MS, ["type"])
    steps.by_type = NamedSteps(steps.types, held_max=1_000)
    often = {f"often{n}": 100 + n for n in range(20)}
    for step in range(10):
        rare = {f"rare{step % 2}_{n}": 1 for n in range(500)}
        steps.add(step * STEP_MS, (often | rare).items(), ())
        assert sum(map(len, steps.by_type.steps.values())) <= 1_000
    assert len(steps.by_type.steps) == 10
    for counts in steps.by_type.steps.values():
        assert {name: counts[name] for name in often} == often
    assert steps.stored.total() == 10 * (sum(often.values()) + 500)
    for name in {name for counts in steps.by_type.steps.values() for name in counts}:
        assert sum(one[name] for one in steps.by_type.steps.values()) == steps.types[name]


def test_what_is_kept_fits() -> None:
    """Names that are kept leave room in the largest series, so that leaving out is rare."""
    assert STEPS_NAMES_KEPT * SERIES_POINTS_MAX <= STEPS_NAMES_HELD_MAX * 3 // 4
    assert STEPS_NAMES_KEPT > SERIES_NAMES_MAX
