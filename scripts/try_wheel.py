"""Run the `evp` of an environment: `evp up --demo 100` to its account, then Ctrl-C.

    python scripts/try_wheel.py ENVIRONMENT

Prints what it printed. Exit 1 if anything was lost, or if it did not end well.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

EVENTS = 100
RUNS_S_MAX = 120.0
ENDS_S_MAX = 30.0
_SECRETS = re.compile(r"evp_[\w-]{20,}|(?<=admin / )\S+")


def main() -> int:
    """Run it; return the exit code."""
    evp = Path(sys.argv[1]).resolve() / "bin" / "evp"
    # Nothing of this checkout and nobody's settings: what is tried is the wheel alone.
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    with tempfile.TemporaryDirectory(prefix="evp-wheel-") as folder:
        command = [evp, "up", "--port", "0", "--demo", str(EVENTS)]
        up = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True)
        deadline = threading.Timer(RUNS_S_MAX, up.kill)
        deadline.start()
        said = []
        for line in up.stdout or ():
            print(_SECRETS.sub("…", line), end="", flush=True)
            said.append(line.split())
            if line.startswith("running"):
                break
        up.send_signal(signal.SIGINT)
        code = up.wait(ENDS_S_MAX)
        deadline.cancel()
    account = {words[0]: words[-1] for words in said if len(words) == 2}
    wanted = {"sent": EVENTS, "accepted": EVENTS, "stored": EVENTS, "lost": 0, "doubled": 0}
    told = all(account.get(name) == str(count) for name, count in wanted.items())
    print(f"Ctrl-C: exit {code}")
    return 0 if told and code in {0, 130} else 1


if __name__ == "__main__":
    sys.exit(main())
