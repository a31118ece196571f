"""The source as data: what the tests of this folder look at."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """One Python file. `name` is dotted; that of a package is the package's."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The module or package right below `evp` to which it belongs; "" is `evp` itself."""
        return self.name.partition(".")[2].partition(".")[0]

    def at(self, node: ast.expr | ast.stmt | ast.arg | ast.excepthandler) -> str:
        """Where a node stands, as editors understand it."""
        return f"{self.path.relative_to(ROOT)}:{node.lineno}"


class Import(NamedTuple):
    """One imported module: where, and the function in whose body if it is in one."""

    target: str
    names: tuple[str, ...]
    node: ast.Import | ast.ImportFrom
    function: Function | None

    @property
    def library(self) -> str:
        """The first word of the target."""
        return self.target.partition(".")[0]


@cache
def modules(folder: str = "evp") -> tuple[Module, ...]:
    """Return every Python file below a folder of the project."""
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        found.append(Module(name, path, text, ast.parse(text)))
    return tuple(found)


@cache
def imports(module: Module) -> tuple[Import, ...]:
    """Return what a module imports; `from evp import x` imports `evp.x` where that is a module."""
    known = {one.name for one in modules()}
    found = []
    for node, function in _with_functions(module.tree, None):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, (), node, function) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or "."
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = inner in known
                names = () if is_module else (alias.name,)
                found.append(Import(inner if is_module else base, names, node, function))
    return tuple(found)


def functions(module: Module) -> Iterator[Function]:
    """Return every function and method of a module, at any depth."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            yield node


def constants(module: Module) -> Iterator[tuple[ast.Name, ast.expr]]:
    """Return the names a module sets at its top, and to what."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign):
            yield from ((one, node.value) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            yield node.target, node.value


@cache
def text_files() -> tuple[Path, ...]:
    """Return the files of the project: as git has them, or what a walk finds without git."""
    paths = _known_to_git() or [path for path in ROOT.rglob("*") if _is_kept(path)]
    return tuple(path for path in paths if path.is_file() and _is_text(path))


def _is_text(path: Path) -> bool:
    """Return False for what has NULs, and for what a fuzzer made."""
    return "corpus" not in path.parts and b"\0" not in path.read_bytes()


def _known_to_git() -> list[Path]:
    """Return what is tracked or could be; nothing where this is no checkout that git trusts."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return []
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def _is_kept(path: Path) -> bool:
    made = {"__pycache__", "build", "dist", "htmlcov"}
    parts = path.relative_to(ROOT).parts
    return not any(part.startswith(".") or part in made or ".egg-info" in part for part in parts)


def _with_functions(
    node: ast.AST, function: Function | None
) -> Iterator[tuple[ast.AST, Function | None]]:
    for child in ast.iter_child_nodes(node):
        yield child, function
        yield from _with_functions(child, child if isinstance(child, Function) else function)
