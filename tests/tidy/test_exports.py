"""How evp is started, what that costs, and what its packages offer."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import evp
from evp.cli.app import main
from tests.tidy.source import Function, Module, constants, functions, modules

HEAVY = {"asyncio", "bson", "httptools", "litestar", "psutil", "pymongo", "redis", "uvicorn"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python and return what it said."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True)


def offered(module: Module) -> list[str] | None:
    """Return the `__all__` of a module, None where it has none."""
    found = [value for target, value in constants(module) if target.id == "__all__"]
    return ast.literal_eval(found[0]) if found else None


def test_it_runs_as_a_module() -> None:
    """`python -m evp` is the command."""
    assert run("-m", "evp", "--version").stdout.startswith(f"evp {evp.__version__} ")


def test_it_is_installed_as_a_script() -> None:
    """The console script `evp` calls the same function."""
    (script,) = entry_points(group="console_scripts", name="evp")
    assert script.load() is main


def test_help_is_quick() -> None:
    """`evp --help` loads none of the libraries that take long to load."""
    told = run("-X", "importtime", "-m", "evp", "--help").stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.splitlines()}
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_clients_are_offered_by_name() -> None:
    """`from evp import Client` works; `import evp` alone loads neither it nor anything else."""
    told = run("-X", "importtime", "-c", "import evp").stderr
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert {name for name in loaded if name.startswith("evp")} == {"evp"}
    assert loaded & (HEAVY | {"typing", "msgspec"}) == set()
    offered = {name: getattr(evp, name).__module__ for name in evp._OFFERED}
    assert offered == evp._OFFERED
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        _ = evp.Clients


def test_packages_offer_what_is_there() -> None:
    """Where a module has `__all__`, it lists the module's public names."""
    for module in modules():
        listed = offered(module)
        if listed is not None:
            there = {
                node.name for node in module.tree.body if isinstance(node, ast.ClassDef | Function)
            }
            there |= {target.id for target, _ in constants(module)}
            assert set(listed) == {name for name in there if not name.startswith("_")}, module.name


def test_every_test_makes_a_claim() -> None:
    """Each test says in one line what holds."""
    found = [
        (module, function)
        for module in modules("tests")
        for function in functions(module)
        if function.name.startswith("test_")
    ]
    assert len(found) > 100
    silent = [
        f"{module.at(one)} {one.name}"
        for module, one in found
        if "\n\n" in (ast.get_docstring(one) or "\n\n")
    ]
    assert silent == []
