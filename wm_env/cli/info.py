"""`wm-env info`: what is installed, which worlds are here and what they are."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from wm_env import __version__
from wm_env.worlds import PRESETS, resolve_world

OPTIONAL = ("stable-baselines3", "sb3-contrib", "pettingzoo", "diffusers", "transformers", "minari", "triton")


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print versions, hardware and the worlds with their facts and weight digests."""

    world: str | None = None
    """One preset or checkpoint folder; all presets by default."""
    device: str = "cpu"
    """Torch device the worlds are loaded to."""
    seed: int = 0
    """Accepted for uniformity; nothing is random here."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "wm_env": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gymnasium": version("gymnasium"),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "optional": {name: _version(name) for name in OPTIONAL},
            "worlds": {},
        }
        for name in PRESETS if self.world is None else (self.world,):
            if self.world is None:
                result["worlds"][name] = _facts_or_reason(name, self.device)
            else:
                result["worlds"][name] = asdict(resolve_world(name, self.device).spec)
        _print(result)
        return result


def _facts_or_reason(name: str, device: str) -> dict[str, Any]:
    try:
        return asdict(resolve_world(name, device).spec)
    except (ValueError, OSError) as error:
        return {"unavailable": str(error)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _print(result: dict[str, Any]) -> None:
    for key in ("wm_env", "python", "torch", "gymnasium", "threads", "cuda"):
        print(f"{key:<12}{result[key]}")
    present = [f"{name} {number}" for name, number in result["optional"].items() if number]
    print(f"{'optional':<12}{', '.join(present) or 'none installed'}")
    for name, facts in result["worlds"].items():
        if "unavailable" in facts:
            print(f"world {name}: not available ({facts['unavailable']})")
            continue
        height, width = facts["frame_size"]
        print(
            f"world {name}: {width}x{height}, {facts['frames_per_step']} frames a step, {facts['fps']} fps, "
            f"{facts['max_translation']} m and {facts['max_rotation_deg']} deg per frame, "
            f"trained to {facts['trained_steps']} steps, weights sha256 {facts['weights_sha256'] or 'none'}"
        )
