"""wm_env: the world model as an environment.

    import gymnasium as gym, wm_env
    env = gym.make("SanaWM-v0")              # the embedded world `tiny`: no GPU, no download

ids: SanaWM-v0, SanaWM-PointNav-v0, SanaWM-ObjectNav-v0, SanaWM-ImageNav-v0, SanaWM-Explore-v0,
SanaWM-Follow-v0 and SanaWM-Twin-v0, the renderer of the same scenes; with downloaded weights
SanaWM-Streaming-v0 and SanaWM-ChunkCausal-v0.

snapshot, restore, branch    a moment of an episode as a value, of a wrapped environment too
load_snapshot, load_world    from a file; from a preset or a folder
SanaWMEnv, SanaWMVectorEnv   the environments that gym.make and gym.make_vec return, and EnvConfig, all their
                             settings
PosedClip                    a place you filmed: frames, poses and camera, loaded from what your tools write
annotate                     poses and clips of a film that has none
check_context                whether its poses fit its pictures, and what is wrong with them if not
surprise_of                  how unexpected every chunk of a film is to a world
World, Start, Chunk, WorldSpec, Task      what a world or a task of your own has to be

Importing this package registers the ids (where Gymnasium is installed), keeps processes that are forked later
to one thread (`wm_env.forks`) and does nothing else: no torch, no model, no weights. Everything above is
loaded on first use.
"""

from __future__ import annotations

import importlib as _importlib
from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path
from typing import TYPE_CHECKING

from wm_env.forks import watch_forks as _watch_forks
from wm_env.moved import tell_where_names_moved as _tell_where_names_moved

if TYPE_CHECKING:
    from wm_env.annotation.pipeline import annotate as annotate
    from wm_env.config import EnvConfig as EnvConfig
    from wm_env.context_check import check_context as check_context
    from wm_env.env import SanaWMEnv as SanaWMEnv
    from wm_env.model.data.posed_clip import PosedClip as PosedClip
    from wm_env.model.world import Chunk as Chunk
    from wm_env.model.world import Start as Start
    from wm_env.model.world import World as World
    from wm_env.model.world import WorldSpec as WorldSpec
    from wm_env.snapshots import Snapshot as Snapshot
    from wm_env.snapshots import branch as branch
    from wm_env.snapshots import load_snapshot as load_snapshot
    from wm_env.snapshots import restore as restore
    from wm_env.snapshots import snapshot as snapshot
    from wm_env.surprises import surprise_of as surprise_of
    from wm_env.tasks import Task as Task
    from wm_env.vector import SanaWMVectorEnv as SanaWMVectorEnv
    from wm_env.worlds import load_world as load_world

__version__ = "0.1.0"

_HOMES = {
    "Chunk": "wm_env.model.world",
    "EnvConfig": "wm_env.config",
    "PosedClip": "wm_env.model.data.posed_clip",
    "SanaWMEnv": "wm_env.env",
    "SanaWMVectorEnv": "wm_env.vector",
    "Snapshot": "wm_env.snapshots",
    "Start": "wm_env.model.world",
    "Task": "wm_env.tasks",
    "World": "wm_env.model.world",
    "WorldSpec": "wm_env.model.world",
    "annotate": "wm_env.annotation.pipeline",
    "branch": "wm_env.snapshots",
    "check_context": "wm_env.context_check",
    "load_snapshot": "wm_env.snapshots",
    "load_world": "wm_env.worlds",
    "restore": "wm_env.snapshots",
    "snapshot": "wm_env.snapshots",
    "surprise_of": "wm_env.surprises",
}
__all__ = [
    "Chunk",
    "EnvConfig",
    "PosedClip",
    "SanaWMEnv",
    "SanaWMVectorEnv",
    "Snapshot",
    "Start",
    "Task",
    "World",
    "WorldSpec",
    "annotate",
    "branch",
    "check_context",
    "load_snapshot",
    "load_world",
    "restore",
    "snapshot",
    "surprise_of",
]

# A bare checkout (not installed) keeps `model/`, `kernels/` and `agents/` beside this folder.
_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir() and str(_root) not in __path__:
    __path__.append(str(_root))

_watch_forks()
_tell_where_names_moved()
if _find_spec("gymnasium") is not None:
    from wm_env.registration import register_ids as _register_ids

    _register_ids()


def __getattr__(name: str) -> object:
    """Public names are loaded on first use, so that `import wm_env` stays free of torch."""
    if name in _HOMES:
        return getattr(_importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'wm_env' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
