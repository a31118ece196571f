"""A few cuts of the power: what was answered is there, and a control loses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import power_run
from tests.faults.power.disk import CantCompile

CUTS = 4

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("policy", power_run.POLICIES)
async def test_power_is_cut(tmp_path: Path, policy: str) -> None:
    """Under load, again and again: nothing is lost, or, by a control, something."""
    given = ["--cuts", str(CUTS), "--seed", "7", "--policy", policy, "--folder", str(tmp_path)]
    run = power_run.Run(policy, power_run.parse(given))
    try:
        found = await run.go()
    except CantCompile as error:
        pytest.skip(str(error))
    if run.told.refused:
        pytest.skip(run.told.refused)
    assert run.told.cuts == CUTS
    assert found.clean, (found.wrong, found.complaints)
