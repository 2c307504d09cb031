"""The worlds that a benchmark compares: several side by side, and one with its parts removed."""

from __future__ import annotations

from collections.abc import Sequence

from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import ABLATIONS
from wm_env.model.world import World
from wm_env.worlds import resolve_world


def side_by_side(names: Sequence[str], device: str) -> dict[str, World]:
    """Return worlds by their names, by folder where two have the same name."""
    if not names or len(set(names)) != len(names):
        raise ValueError(f"--world {' '.join(names)} must be one or more different worlds")
    found = [resolve_world(name, device=device) for name in names]
    own = [world.spec.label for world in found]
    told = own if len(set(own)) == len(own) else list(names)
    return dict(zip(told, found, strict=True))


def with_ablations(world: str, device: str) -> dict[str, World]:
    """Return the world by its name, and its ablations as `ablate=PART` where it has parts to remove."""
    whole = resolve_world(world, device=device)
    worlds: dict[str, World] = {whole.spec.label: whole}
    if isinstance(whole, LearnedWorld):
        parts = [part for part in ABLATIONS if part != "memory" or whole.refiner is not None]
        worlds |= {f"ablate={part}": resolve_world(world, device=device, ablate=part) for part in parts}
    return worlds
