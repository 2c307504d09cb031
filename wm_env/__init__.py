"""wm_env: the world model as an environment.

Importing this package registers the Gymnasium ids (where Gymnasium is installed), keeps processes that are
forked from now on to one thread (see `wm_env.forks`), and nothing else: no torch, no model, no weights.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path

from wm_env.forks import watch_forks

__version__ = "0.1.0"

# A bare checkout (not installed) keeps `model/`, `kernels/` and `agents/` beside this folder.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir() and str(_root) not in __path__:
    __path__.append(str(_root))

watch_forks()

if find_spec("gymnasium") is not None:
    from wm_env.registration import register_ids

    register_ids()


def __getattr__(name: str) -> object:
    """Public functions are loaded on first use, so that `import wm_env` stays free of torch."""
    homes = {"load_snapshot": "wm_env.snapshot", "restore": "wm_env.snapshot", "Snapshot": "wm_env.snapshot"}
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    raise AttributeError(f"module 'wm_env' has no attribute {name!r}")
