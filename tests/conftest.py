"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
from blockbuster import blockbuster_ctx

hypothesis.settings.register_profile(
    "evp", deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("evp")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests on the loop that evp runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """Fail a test in which evp blocks the event loop."""
    with blockbuster_ctx("evp"):
        yield
