"""The parts of `evp init`: its patience, its progress, its report."""

from __future__ import annotations

import msgspec
from rich.console import Console

from evp.cli.output import Output
from evp.cli.storing import with_store
from evp.errors import EXIT_FINDING, EXIT_OK
from evp.limits import PROVISION_STEP_S_MAX
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.provision import Provision, Step, provision
from evp.views.provision import provision_view


def provision_and_tell(settings: Settings, *, dry_run: bool, json: bool) -> int:
    """Make the store ready, or look, and report; return the exit code.

    Raises StoreUnavailable and WrongShardKey.
    """
    # An index of a large collection takes longer than any answer that workers wait for.
    patient = msgspec.structs.replace(settings, mongo_socket_timeout_ms=PROVISION_STEP_S_MAX * 1000)
    with Console(stderr=True).status("looking") as status:

        def notify(step: Step) -> None:
            status.update(f"making {step.what} {step.name} of {step.collection}")

        async def work(db: Database) -> Provision:
            return await provision(db, dry_run=dry_run, notify=notify)

        made = with_store(patient, work, asking=None)
    output = Output()
    if json:
        output.say_json(made)
    else:
        output.print(provision_view(made), soft_wrap=True)
    return EXIT_FINDING if made.wrong else EXIT_OK
