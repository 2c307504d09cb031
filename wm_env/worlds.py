"""From the `world=` argument to a `World`: a preset, a checkpoint folder, or an object as it is."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from wm_env.model.embedded import load_world
from wm_env.model.rollout import ABLATIONS, Ablation
from wm_env.twin import TwinWorld
from wm_env.world import World

EMBEDDED = ("tiny", "tiny-pure")
RELEASED = ("sana-wm-streaming", "sana-wm-chunk-causal")
WHOLE_PATH = "sana-wm-bidirectional"
PRESETS = (*EMBEDDED, "twin", *RELEASED)


def resolve_world(world: Any, device: str = "cpu", ablate: Ablation | None = None) -> World:
    """Return the world of a preset name or checkpoint folder (loaded once per process), or `world` itself.

    device: a torch device name. ablate: None, or a part of an embedded world to remove, one of `ABLATIONS`.
    """
    if ablate is not None and ablate not in ABLATIONS:
        raise ValueError(f"unknown ablate {ablate!r}; valid are None, {', '.join(ABLATIONS)}")
    _check_device(device)
    if isinstance(world, str) and world in ("twin", *RELEASED, WHOLE_PATH):
        if ablate is not None:
            raise ValueError(f"ablate={ablate!r} removes a part of a tiny world; world {world!r} has none")
        return _preset(world, device)
    if isinstance(world, str | Path):
        return _learned(str(world), device, ablate)
    if not isinstance(world, World):
        raise ValueError(
            f"world is a {type(world).__name__}; expected a preset ({', '.join(PRESETS)}), a checkpoint "
            "folder or an object with spec, begin, step_chunk, set_prompt and set_noise_seed"
        )
    if ablate is not None:
        raise ValueError(f"ablate={ablate!r} goes with a preset or folder, not with a World object")
    return world


@functools.lru_cache(maxsize=8)
def _preset(name: str, device: str) -> World:
    if name == "twin":
        return TwinWorld(device=device)
    if name == WHOLE_PATH:
        raise ValueError(
            f"world {name!r} needs the whole camera path in advance and cannot be stepped; "
            f"use `wm-env record --world {name} --trajectory FILE`"
        )
    raise FileNotFoundError(
        f"world {name!r} needs its released weights, which this version cannot load yet: no weight file is "
        f"present and `wm-env download {name}` is not available in this version; use world 'tiny' meanwhile"
    )


def _learned(name: str, device: str, ablate: Ablation | None) -> World:
    if name not in EMBEDDED and not Path(name).is_dir():
        raise ValueError(
            f"unknown world {name!r}: neither a preset ({', '.join(PRESETS)}) nor a checkpoint folder"
        )
    stamp = 0
    if name not in EMBEDDED:
        name = str(Path(name).resolve())
        stamp = max((file.stat().st_mtime_ns for file in Path(name).iterdir()), default=0)
    return _load_once(name, device, ablate, stamp)


@functools.lru_cache(maxsize=8)
def _load_once(name: str, device: str, ablate: Ablation | None, stamp: int) -> World:
    """Load a learned world; `stamp` (newest file time) makes a rewritten folder load afresh."""
    return load_world(name, device=device, ablate=ablate)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not a torch device name such as 'cpu' or 'cuda'") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch finds no CUDA device; use device='cpu'")
