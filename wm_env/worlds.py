"""From the `world=` argument to a `World`: a preset, a checkpoint folder, or an object as it is."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wm_env.model.embedded import embedded_vae, load_world
from wm_env.model.released.presets import (
    RELEASED,
    STEPPABLE,
    ReleasedSettings,
    load_released_world,
    released_name,
)
from wm_env.model.rollout import ABLATIONS, Ablation, LearnedWorld
from wm_env.model.world import World
from wm_env.twin import TwinWorld, twin_like

EMBEDDED = ("tiny", "tiny-pure")
IN_BFLOAT16 = "[bfloat16]"  # at the end of a world's name
REFINERS = ("default", "none", "tiny", "ltx2")
PRESETS = (*EMBEDDED, "twin", *STEPPABLE)


def resolve_world(
    world: Any,
    device: str = "cpu",
    ablate: Ablation | None = None,
    released: ReleasedSettings | None = None,
    latents: bool = False,
    refiner: str = "default",
) -> World:
    """Return the world of a preset name or checkpoint folder (loaded once per process), or `world` itself.

    device: a torch device name. ablate: None, or a part of an embedded world to remove, one of `ABLATIONS`.
    released: where a released world's weights lie and how they are placed; only released worlds take any of
    it but `dtype`, which every learned world takes ("float32" by default, "bfloat16" is faster in batches);
    a name such as "tiny[bfloat16]" says the same.
    latents: the preset `twin` shall have latents too, those of the embedded `tiny`; a learned world always
    has its own. refiner: "default" for what a world comes with (`tiny` has one, `tiny-pure` and the released
    worlds have none), "none", "tiny" or "ltx2".
    """
    if refiner not in REFINERS:
        raise ValueError(f"unknown refiner {refiner!r}; valid are {', '.join(REFINERS)}")
    if ablate is not None and ablate not in ABLATIONS:
        raise ValueError(f"unknown ablate {ablate!r}; valid are None, {', '.join(ABLATIONS)}")
    check_device(device)
    settings = released or ReleasedSettings()
    if isinstance(world, str) and world.endswith(IN_BFLOAT16):
        world, settings = world.removesuffix(IN_BFLOAT16), replace(settings, dtype="bfloat16")
    name = _released_name(world) if isinstance(world, str | Path) else None
    if name is None and replace(settings, dtype=None) != ReleasedSettings():
        raise ValueError("weights, refiner, offload and frame_size belong to released worlds only")
    if settings.dtype is not None and (world == "twin" or not isinstance(world, str | Path)):
        raise ValueError(
            f"dtype={settings.dtype!r} goes with learned worlds by name or folder, not with {world!r}"
        )
    if ablate is not None and (name is not None or world == "twin"):
        raise ValueError(f"ablate={ablate!r} removes a part of a tiny world; world {world!r} has none")
    if name is not None:
        if refiner == "tiny":
            raise ValueError(
                f"refiner='tiny' belongs to tiny worlds; world {str(world)!r} takes none or ltx2"
            )
        if refiner != "default":
            settings = replace(settings, refiner=refiner)
        if name != str(world):
            settings = replace(settings, weights=str(Path(world).resolve()))
        return _released(name, device, settings)
    if refiner == "ltx2":
        raise ValueError(f"refiner='ltx2' belongs to released worlds; world {str(world)!r} is none of them")
    if refiner == "tiny" and (world == "twin" or not isinstance(world, str | Path)):
        raise ValueError(f"refiner='tiny' goes with tiny worlds by name or folder, not with {world!r}")
    if isinstance(world, str | Path):
        if str(world) == "twin":
            return _twin(device, latents)
        return _learned(str(world), device, ablate, settings.dtype or "float32", refiner)
    if not isinstance(world, World):
        raise ValueError(
            f"world is a {type(world).__name__}; expected a preset ({', '.join(PRESETS)}), a checkpoint "
            "folder or an object with spec, begin, step_chunk, set_prompt and set_noise_seed"
        )
    if ablate is not None:
        raise ValueError(f"ablate={ablate!r} goes with a preset or folder, not with a World object")
    return world


@functools.lru_cache(maxsize=8)
def _twin(device: str, latents: bool) -> World:
    return TwinWorld(device=device, codec=embedded_vae("tiny")[0].to(device) if latents else None)


def twin_of(world: World, device: str = "cpu") -> TwinWorld:
    """Return the twin beside a world: its frame size, chunk length and speeds, and its latents if any."""
    codec = world.vae if isinstance(world, LearnedWorld) else None
    return twin_like(world.spec, device, codec)


@functools.lru_cache(maxsize=2)
def _released(name: str, device: str, settings: ReleasedSettings) -> World:
    if name not in STEPPABLE:
        raise ValueError(
            f"world {name!r} needs the whole camera path in advance and cannot be stepped; "
            f"use `wm-env record --world {name} --trajectory FILE`"
        )
    return load_released_world(name, settings, device=device)


def _released_name(world: str | Path) -> str | None:
    """Return the released world that a name or folder means, None where it means another kind of world."""
    if str(world) in RELEASED:
        return str(world)
    folder = Path(world)
    if str(world) in PRESETS or not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    return released_name(folder)


def _learned(name: str, device: str, ablate: Ablation | None, dtype: str, refiner: str) -> World:
    if name not in EMBEDDED and not Path(name).is_dir():
        raise ValueError(
            f"unknown world {name!r}: neither a preset ({', '.join(PRESETS)}) nor a checkpoint folder"
        )
    stamp = 0
    if name not in EMBEDDED:
        name = str(Path(name).resolve())
        stamp = max((file.stat().st_mtime_ns for file in Path(name).iterdir()), default=0)
    return _load_once(name, device, ablate, dtype, refiner, stamp)


@functools.lru_cache(maxsize=8)
def _load_once(
    name: str, device: str, ablate: Ablation | None, dtype: str, refiner: str, stamp: int
) -> World:
    """Load a learned world; `stamp` (newest file time) makes a rewritten folder load afresh."""
    return load_world(name, device=device, ablate=ablate, dtype=dtype, refiner=refiner)


def check_device(device: str) -> None:
    """Raise `ValueError` where torch knows no device of this name or the machine has none."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not a torch device name such as 'cpu' or 'cuda'") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch finds no CUDA device; use device='cpu'")
