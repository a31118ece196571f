"""A disk whose power can be cut: what an engine wrote and did not sync is gone then.

An engine is started through `Disk.under`, with `disk.c` loaded into it. That keeps, beside
the engine's folder, a mirror of what is on the disk. Killing a process loses nothing, since
the system keeps what was written; `cut` puts the mirror in the folder's place.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec

from evp.engines.locate import Binary

_SOURCES = Path(__file__).parent
_COMPILERS = ("cc", "gcc", "clang")
_HEAD_BYTES = 4096
_NS = 1_000_000_000
_US = 1_000_000


class CantCompile(Exception):
    """Raised where a shim can't be built or loaded; the message says why."""


@cache
def built(name: str) -> Path:
    """Return the shim of this name, as a library. Raises CantCompile."""
    if sys.platform != "linux":
        raise CantCompile("the shims are for Linux")
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise CantCompile("no C compiler was found (cc, gcc, clang)")
    library = Path(tempfile.mkdtemp(prefix="evp-shim-")) / f"{name}.so"
    flags = ["-std=gnu11", "-O2", "-shared", "-fPIC", "-o", str(library)]
    source = [str(_SOURCES / f"{name}.c"), "-ldl", "-lpthread"]
    done = subprocess.run([compiler, *flags, *source], capture_output=True, check=False, text=True)
    if done.returncode:
        raise CantCompile(f"{compiler} does not build {name}.c: {done.stderr}")
    return library


def loads_libraries(program: str) -> bool:
    """Return True if a program is linked with glibc at its start; a static one loads no shim."""
    with Path(program).open("rb") as file:
        return b"/ld-linux" in file.read(_HEAD_BYTES)


@dataclass(frozen=True)
class Sync:
    """A sync as the engine saw it: when it began and ended on the monotonic clock, of which file.

    `length` is how long the file was; `error` the number it failed with, or 0.
    """

    began_s: float
    ended_s: float
    error: int
    length: int
    name: str


@dataclass
class Cut:
    """What a cut took: for each file that was not on the disk as it was written, how much."""

    lost_bytes: dict[str, int] = field(default_factory=dict)
    torn_bytes: int = 0
    """How much was written and not synced, and was on the disk all the same."""


class Disk:
    """The disk of one engine, whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._mirror = folder.with_name(f"{folder.name}.mirror")
        self._log = folder.with_name(f"{folder.name}.syncs")
        self._control = folder.with_name(f"{folder.name}.control")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.touch()
        self.well()
        self._settle()

    def under(self, binary: Binary) -> Binary:
        """Return an engine that writes to this disk. Raises CantCompile."""
        if not loads_libraries(binary.command[0]):
            raise CantCompile(f"{binary.label} is a static program: nothing can be loaded into it")
        environ = {
            "LD_PRELOAD": built("disk"),
            "SHIM_ROOT": self.folder,
            "SHIM_MIRROR": self._mirror,
            "SHIM_LOG": self._log,
            "SHIM_CONTROL": self._control,
        }
        given = [f"{name}={value}" for name, value in environ.items()]
        return msgspec.structs.replace(binary, command=["env", *given, *binary.command])

    def slow(self, sync_s: float) -> None:
        """Let each sync take so much longer, from now on."""
        self._steer(int(sync_s * _US), 0)

    def fail(self, number: int = errno.EIO) -> None:
        """Let each sync fail from now on; nothing is on the disk by it."""
        self._steer(0, number)

    def well(self) -> None:
        """Let syncs be as they are."""
        self._steer(0, 0)

    @property
    def on_disk(self) -> Path:
        """The files as they would be found after a cut; only to be looked at."""
        return self._mirror / "tree"

    @property
    def syncs(self) -> list[Sync]:
        """All syncs so far, by their end."""
        return [
            Sync(int(began) / _NS, int(ended) / _NS, int(error), int(length), name)
            for began, ended, error, length, name in (
                line.split(" ", 4) for line in self._lines() if not line.startswith("blind")
            )
        ]

    @property
    def blind(self) -> list[str]:
        """What the engine did that the shim can't follow."""
        return sorted({line for line in self._lines() if line.startswith("blind")})

    def cut(self, dice: random.Random | None = None) -> Cut:
        """Put the folder to what is on the disk; nothing may run on it.

        With `dice` a part of what files have grown by since their last sync, from none to all,
        is there as well: a system may write at any time what nobody asked it to.
        """
        cut, tree = Cut(), self.on_disk
        self._drop_former_names()
        for path in files_of(self.folder):
            name = path.relative_to(self.folder)
            kept, whole = tree / name, path.stat().st_size
            there = kept.stat().st_size if kept.exists() else 0
            if whole <= there:
                continue
            torn = dice.randint(0, whole - there) if dice and kept.exists() else 0
            if torn:
                with path.open("rb") as written, kept.open("ab") as file:
                    written.seek(there)
                    file.write(written.read(torn))
            cut.torn_bytes += torn
            cut.lost_bytes[str(name)] = whole - there - torn
        shutil.rmtree(self.folder)
        tree.rename(self.folder)
        self._settle()
        return cut

    def _drop_former_names(self) -> None:
        """A rename from folder to folder is whole: where the new name is, the former is not."""
        names: dict[int, Path] = {}
        for path in files_of(self.on_disk):
            number = path.stat().st_ino
            other = names.setdefault(number, path)
            if other is not path:
                is_there = (self.folder / other.relative_to(self.on_disk)).exists()
                (path if is_there else other).unlink()
                names[number] = other if is_there else path

    def _settle(self) -> None:
        """Take what is in the folder as being on the disk."""
        shutil.rmtree(self._mirror, ignore_errors=True)
        tree, inodes = self.on_disk, self._mirror / "inodes"
        inodes.mkdir(parents=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.folder, tree)
        for path in files_of(self.folder):
            os.link(tree / path.relative_to(self.folder), inodes / str(path.stat().st_ino))

    def _steer(self, sync_us: int, number: int) -> None:
        # In place: whoever runs has it mapped.
        with self._control.open("r+b" if self._control.exists() else "wb") as file:
            file.write(struct.pack("<qq", sync_us, number))

    def _lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()


def files_of(folder: Path) -> Iterator[Path]:
    """Return the files below a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


class Clock:
    """The wall clock of one or more processes, to be set at will."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.write_bytes(struct.pack("<q", 0))

    @property
    def environ(self) -> dict[str, str]:
        """What a process must have in its environment to go by it. Raises CantCompile."""
        return {"LD_PRELOAD": str(built("clock")), "CLOCK_CONTROL": str(self._path)}

    def set(self, ahead_s: float) -> None:
        """Set it so much ahead of the right time."""
        with self._path.open("r+b") as file:
            file.write(struct.pack("<q", int(ahead_s * 1000)))
