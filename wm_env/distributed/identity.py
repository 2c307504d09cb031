"""Whether two processes run the same program: one digest over the package's sources."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import wm_env

SUFFIXES = (".py", ".toml")


@functools.cache
def package_sha256() -> str:
    """Return the hexadecimal SHA-256 over the names and bytes of all sources of the package.

    The folders model/, kernels/ and agents/ belong to it, wherever they lie.
    """
    roots = [Path(root) for root in wm_env.__path__]
    folders = [roots[0]]
    for part in ("model", "kernels", "agents"):
        folders += [root / part for root in roots if (root / part).is_dir()][:1]
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            own = folder != roots[0] or inside.parts[0] not in ("model", "kernels", "agents")
            if own and path.suffix in SUFFIXES and path.is_file():
                digest.update(f"{folder.name}/{inside.as_posix()}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
