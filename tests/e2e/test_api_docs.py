"""Every example in docs/API_DOCS.md works as it is printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import evp
from tests.support.examples import ANY, Example, differences, examples
from tests.support.up import Up

PASSWORD = "correct horse battery"
PAGE = Path(__file__).parents[2] / "docs" / "API_DOCS.md"


@pytest.fixture(scope="module")
def answers(up: Up, tmp_path_factory: pytest.TempPathFactory) -> dict[Example, str]:
    """What each command printed, run in the order of the page in one shell."""
    missing = [tool for tool in ("curl", "gzip", "jq") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("docs")
    evp("users", "create", "anna", environ=up.environ, cwd=folder, stdin=PASSWORD.encode())
    found = examples(PAGE)
    mark = "--- next example ---"
    script = "".join(f"{one.command}\necho\necho '{mark}'\n" for one in found)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "EVP_URL": up.http_url,
            "EVP_KEY": up.api_key,
            "EVP_PASSWORD": PASSWORD,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(zip(found, done.stdout.split(f"{mark}\n"), strict=False))


@pytest.mark.parametrize("example", examples(PAGE), ids=lambda one: one.heading)
def test_example_answers_as_shown(example: Example, answers: dict[Example, str]) -> None:
    """The answer is the one that is printed below the command."""
    printed = answers[example].strip()
    if example.kind == "json":
        assert differences(json.loads(example.answer), json.loads(printed)) == []
    elif example.kind == "text":
        pattern = ".*".join(re.escape(part) for part in example.answer.strip().split(ANY))
        assert re.fullmatch(pattern, printed.replace("\r", ""), re.DOTALL), printed
