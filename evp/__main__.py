"""`python -m evp` is `evp`."""

from __future__ import annotations

from evp.cli.app import main

main()
