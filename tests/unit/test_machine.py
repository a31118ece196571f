"""How much memory a process may have is found in either version of cgroups."""

from __future__ import annotations

from pathlib import Path

import psutil

from evp.machine import cgroup_limits_bytes, memory_limit_bytes

GIB = 2**30


def write(path: Path, text: str) -> Path:
    """Write a file where there may be no folder yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_limits_of_all_groups_above_count(tmp_path: Path) -> None:
    """A group has no more than those above it allow; "max" is no limit."""
    membership = write(tmp_path / "proc", "0::/a/b/c\n")
    root = tmp_path / "cgroup"
    write(root / "a/b/c/memory.max", "max\n")
    write(root / "a/b/memory.max", f"{2 * GIB}\n")
    write(root / "a/memory.max", f"{4 * GIB}\n")
    assert cgroup_limits_bytes(membership, root) == [2 * GIB, 4 * GIB]


def test_version_one_has_a_tree_of_its_own(tmp_path: Path) -> None:
    """The older version keeps memory apart from the other controllers."""
    membership = write(tmp_path / "proc", "4:memory:/a\n3:cpu,cpuacct:/b\n0::/\n")
    root = tmp_path / "cgroup"
    write(root / "memory/a/memory.limit_in_bytes", f"{GIB}\n")
    write(root / "memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert min(cgroup_limits_bytes(membership, root)) == GIB


def test_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """A path that is that of the host is not there; the limit stands at the root."""
    membership = write(tmp_path / "proc", "0::/docker/0123\n")
    root = tmp_path / "cgroup"
    write(root / "memory.max", f"{GIB}\n")
    assert cgroup_limits_bytes(membership, root) == [GIB]


def test_without_groups_the_machine_decides(tmp_path: Path) -> None:
    """Where there are none, as on macOS, the memory of the machine is the limit."""
    assert cgroup_limits_bytes(tmp_path / "none", tmp_path / "none") == []
    assert 0 < memory_limit_bytes() <= psutil.virtual_memory().total
