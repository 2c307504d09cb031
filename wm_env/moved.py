"""Names that 0.1 had elsewhere: importing one says in one line where it is now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "wm_env.snapshot": "wm_env.snapshots (Snapshot, load_snapshot and restore are names of wm_env itself)",
    "wm_env.world": "wm_env.model.world (World, Start, Chunk and WorldSpec are names of wm_env itself)",
    "wm_env.files": "wm_env.model.storage.atomic",
    "wm_env.model.checkpoint": "wm_env.model.storage.checkpoint",
    "wm_env.model.released.folder": "wm_env.model.storage.folder",
    "wm_env.model.released.tensor_files": "wm_env.model.storage.tensor_files",
    "wm_env.model.released.text": "wm_env.model.gemma",
    "wm_env.model.released_names": "wm_env.model.released.names",
    "wm_env.model.spec": "wm_env.model.world",
    "wm_env.model.released.bench": "wm_env.model.released.measure",
}


class Moved(MetaPathFinder):
    """Asked last, for modules that nobody has found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MOVED:
            raise ModuleNotFoundError(f"{fullname} is now {MOVED[fullname]}", name=fullname)
        return None


def tell_where_names_moved() -> None:
    """Let Python say where a module of 0.1 is now; a second call does nothing."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
