"""`evp --version`: what is to be known first where something went wrong."""

from __future__ import annotations

import evp
from evp.cli.output import Output
from evp.engines.versions import look
from evp.views.versions import version_text


def tell_version(*, json: bool) -> None:
    """Print the versions of evp, Python and the engines that are found here."""
    versions, output = look(evp.__version__), Output()
    if json:
        output.say_json(versions)
    else:
        output.say(version_text(versions))
