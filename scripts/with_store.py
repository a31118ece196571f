"""Run a command beside a store that it is told of, in a container where Docker answers.

    EVP_REQUIRE_DOCKER=1 python scripts/with_store.py python scripts/bench/run.py

The store is the one that tests with a store of their own get (`tests/support/ladder.py`):
with EVP_REQUIRE_DOCKER=1 a MongoDB as a replica set of one. It ends with the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.servers import own_store


def main() -> int:
    """Run the command; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="evp-store-") as folder:
        store = own_store(Path(folder))
        store.start()
        told = {"EVP_BENCH_MONGO_URL": store.url, "EVP_BENCH_MONGO_PID": str(store.pid)}
        try:
            return subprocess.run(sys.argv[1:], env={**os.environ, **told}, check=False).returncode
        finally:
            store.stop()


if __name__ == "__main__":
    sys.exit(main())
