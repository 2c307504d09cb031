"""`wm-env info`: what is installed, which worlds are here and what they are."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from wm_env import __version__
from wm_env.cli.options import Device
from wm_env.cli.provenance import card_lines, find_card, provenance
from wm_env.kernels.frame_gdn import resolve_impl
from wm_env.model.released.plan import BUS, Plan, plans
from wm_env.model.released.presets import ReleasedSettings, folder_of
from wm_env.model.released.report import describe, lines
from wm_env.model.released.variants import RELEASED
from wm_env.worlds import PRESETS, resolve_world

OPTIONAL = (
    "stable-baselines3",
    "sb3-contrib",
    "pettingzoo",
    "diffusers",
    "transformers",
    "minari",
    "triton",
    "torchao",
)
EXTRAS = {  # a package of each extra
    "rl": "stable-baselines3",
    "marl": "pettingzoo",
    "gpu": "fla-core",
    "released": "diffusers",
    "web": "starlette",
    "bench": "matplotlib",
    "data": "minari",
    "annotate": "pycolmap",
    "quant": "torchao",
}


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print versions, hardware and worlds in a dozen lines; --verbose adds all facts and weight digests."""

    path: Annotated[Path | None, tyro.conf.Positional] = None
    """A world (tiny, a folder), a training's folder or its .safetensors: where it comes from, part by part.
    Or a folder of released weights: what it holds and whether it fits, without loading it."""
    world: str | None = None
    """One preset or checkpoint folder; all presets by default."""
    verify: bool = False
    """With PATH: compare every downloaded file with its recorded SHA-256."""
    plan: bool = False
    """Say how each released preset is best run on a GPU and what that gives up; nothing is loaded."""
    vram: float = 24.0
    """With --plan: GPU memory in GiB."""
    verbose: bool = False
    """All facts of every world, whole digests, and why a world is not there."""
    device: Device = "cpu"
    seed: int = 0
    """Accepted for uniformity; nothing is random here."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if self.plan:
            return self._plan()
        card_file = None if self.path is None else find_card(self.path)
        if card_file is not None:
            card = provenance(card_file)
            try:
                shown = card_lines(card)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{card_file} is no whole card: {error!r}") from error
            print("\n".join(shown))
            return card
        if self.path is not None:
            description = describe(self.path, verify=self.verify)
            print("\n".join(lines(description)))
            return description
        result: dict[str, Any] = {
            "wm_env": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gymnasium": version("gymnasium"),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "kernels": {device: resolve_impl("auto", device) for device in ("cpu", "cuda")},
            "optional": {name: _version(name) for name in OPTIONAL},
            "worlds": {},
        }
        for name in PRESETS if self.world is None else (self.world,):
            if self.world is None:
                result["worlds"][name] = _facts_or_reason(name, self.device)
            else:
                result["worlds"][name] = asdict(resolve_world(name, device=self.device).spec)
        if self.verbose or self.world is not None:
            _print(result)
        else:
            print("\n".join(summary(result)))
        return result

    def _plan(self) -> dict[str, Any]:
        if not self.vram > 0:
            raise ValueError(f"--vram {self.vram} must be a positive number of GiB")
        names = tuple(RELEASED) if self.world is None else (self.world,)
        result: dict[str, Any] = {"vram": self.vram, "worlds": {}}
        print(
            f"GPU memory {self.vram:g} GiB, a twelfth of it left free; 704x1280, one slot. Weights and "
            "states are counted; activations and seconds, of a usual card of this size with "
            f"{BUS / 1e9:g} GB/s over the bus, are estimates"
        )
        for name in names:
            ways = plans(name, self.vram)
            chosen = next((way for way in ways if way.fits(self.vram)), None)
            result["worlds"][name] = {
                "fits": chosen is not None,
                "chosen": None if chosen is None else _written(chosen),
                "ways": [_written(way) for way in ways],
            }
            for refiner in ("ltx2", "none"):
                print(_best(name, [way for way in ways if way.refiner == refiner], self.vram))
        return result


def _written(plan: Plan) -> dict[str, Any]:
    return {**asdict(plan), "peak": plan.peak}


def _best(name: str, ways: list[Plan], vram: float) -> str:
    """Return the line of the best of some ways to run a world; all have the refiner, or none has."""
    what = f"{name} {'without' if ways[0].refiner == 'none' else 'with'} refiner"
    best = next((way for way in ways if way.fits(vram)), None)
    if best is None:
        least = min(ways, key=lambda way: way.peak)
        return f"{what}: nothing fits; the smallest needs {least.peak:.1f} GiB ({least.settings()})"
    time = "" if best.seconds is None else f"about {best.seconds:.1f} s a step, "
    host = f" and {best.host:.1f} GiB of host memory" if best.host >= 0.05 else ""
    return (
        f"{what}: {best.settings()}\n    {best.peak:.1f} GiB{host}, {time}"
        f"{best.operations / 1e12:.0f} TFLOP, {best.moved / 2**30:.0f} GiB over the bus; "
        f"gives up: {best.gives_up}"
    )


def summary(facts: Mapping[str, Any]) -> list[str]:
    """Return at most twelve short lines: versions, hardware, extras, and which worlds are here."""
    here = [extra for extra, package in EXTRAS.items() if _version(package)]
    absent = [extra for extra in EXTRAS if extra not in here]
    more = f"; not installed: {', '.join(absent)}" if absent else ""
    auto = ", ".join(f"{kernel} on {device}" for device, kernel in facts["kernels"].items())
    lines = [
        f"wm-env    {facts['wm_env']}, Python {facts['python']}, torch {facts['torch']}, Gymnasium "
        f"{facts['gymnasium']}",
        f"hardware  {facts['cuda'] or 'no CUDA'}, {os.cpu_count()} CPU cores, torch uses {facts['threads']}; "
        f"kernels: {auto}",
        f"extras    {', '.join(here) or 'none'}{more}",
        "worlds",
    ]
    width = max(len(name) for name in facts["worlds"])
    lines += [f"  {name:<{width}}  {_in_short(name, world)}" for name, world in facts["worlds"].items()]
    return [*lines, "more      wm-env info tiny: where a world comes from; wm-env info --verbose: all facts"]


def _in_short(name: str, world: Mapping[str, Any]) -> str:
    if "unavailable" in world:
        return f"not here; wm-env download {name}" if name in RELEASED else "broken; --verbose says why"
    if "folder" in world:
        missing = world["folder"]["missing"]
        return f"{world['folder']['path']}{', without ' + ', '.join(missing) if missing else ''}"
    height, width = world["frame_size"]
    weights = world["weights_sha256"]
    kind = "renders the true scenes" if weights is None else f"weights {weights[:8]}"
    return f"{width}x{height} pixels, {world['frames_per_step']} frames a step; {kind}"


def _facts_or_reason(name: str, device: str) -> dict[str, Any]:
    try:
        if name in RELEASED:
            return {"folder": describe(folder_of(name, ReleasedSettings()))}
        return asdict(resolve_world(name, device=device).spec)
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
    chosen = [f"{impl} on {device}" for device, impl in result["kernels"].items()]
    print(f"{'kernels':<12}auto is {', '.join(chosen)}")
    present = [f"{name} {number}" for name, number in result["optional"].items() if number]
    print(f"{'optional':<12}{', '.join(present) or 'none installed'}")
    for name, facts in result["worlds"].items():
        if "unavailable" in facts:
            print(f"world {name}: not available ({facts['unavailable']})")
            continue
        if "folder" in facts:
            print(f"world {name}: " + "\n".join(lines(facts["folder"])))
            continue
        height, width = facts["frame_size"]
        print(
            f"world {name}: {width}x{height}, {facts['frames_per_step']} frames a step, {facts['fps']} fps, "
            f"{facts['max_translation']} m and {facts['max_rotation_deg']} deg per frame, "
            f"trained to {facts['trained_steps']} steps, weights sha256 {facts['weights_sha256'] or 'none'}"
        )
