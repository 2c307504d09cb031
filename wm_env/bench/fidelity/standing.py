"""A camera that stands: does the picture stay, and do events that are told still show?

The camera gets no command for `still_steps` env steps. Then, and right at the start, a prompt tells each
scene an event that changes it ("lights dim", "fog comes", "beacon turns red"); the frame after `EVENT_STEPS`
more is compared with the one of the same state that was told nothing. Its statistic has to move as named:

    lights ...      mean luma, up or down by the level that was
    fog comes       contrast (RMS deviation of luma), down; `fog clears`: up
    beacon turns C  distance of the beacon's chromaticity from C's, down; only where 12 pixels show it
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.walks import Tick, Walks, batches, starts
from wm_env.model.metrics.images import LUMA, psnr
from wm_env.model.scenes.captions import EVENTS, with_prompt
from wm_env.model.scenes.materials import BEACON_COLORS
from wm_env.model.scenes.raycast import surfaces
from wm_env.model.scenes.worlds import BEACON_SURFACES, Scene
from wm_env.model.state import select
from wm_env.model.world import World

EVENT_STEPS = 4
SHOWN = 12  # pixels of a beacon, below which it is not asked to change


def standing_steps(still_steps: int) -> int:
    """Return how many env steps a scene takes."""
    return still_steps + 4 * EVENT_STEPS


def standing(world: World, truth: Walks, still_steps: int, batch: int, tick: Tick) -> dict[str, Any]:
    """Return PSNR to the start picture by env steps, and whether events show, a number a scene each.

    truth: walks, of which only the starts are used. events: 1 where the statistic moves as named, 0 where
    not, by when the event is told.
    """
    marks = sorted({max(1, still_steps // 2), still_steps})
    kept: dict[str, list[float]] = {str(mark): [] for mark in marks}
    shown: dict[str, list[float]] = {"at the start": [], f"after {still_steps} steps": []}
    for part in batches(truth, batch):
        stands = _Stands(world, part, tick)
        _, begun = world.begin(starts(world, part))
        shown["at the start"] += stands.moved(begun)
        state, done = begun, 0
        for mark in marks:
            frame, state = stands.wait(state, mark - done)
            done = mark
            kept[str(mark)] += psnr(frame, part.frames[:, 0]).tolist()
        shown[f"after {still_steps} steps"] += stands.moved(state)
    return {"psnr": kept, "events": shown}


class _Stands:
    """Walks whose cameras stand, with an event for each."""

    def __init__(self, world: World, truth: Walks, tick: Tick) -> None:
        self.world, self.truth, self.tick = world, truth, tick
        self.beacons = beacon_pixels(truth)
        self.scenes = [select(truth.scene, [slot]) for slot in range(len(truth.prompts))]
        self.events = [
            choose_event(scene, seed, int(beacon.sum()) >= SHOWN)
            for scene, seed, beacon in zip(self.scenes, truth.noise_seeds, self.beacons, strict=True)
        ]

    def wait(self, state: Any, steps: int) -> tuple[Tensor, Any]:
        """Return the last frame `(B, h, w, 3)` of at least one step, and the state after it."""
        slots = len(self.events)
        stand = torch.eye(4, dtype=torch.float64).expand(slots, self.world.spec.frames_per_step, 4, 4)
        for _ in range(steps):
            self.tick(slots)
            chunk, state = self.world.step_chunk(state, stand)
        return chunk.frames[:, -1].cpu(), state

    def moved(self, state: Any) -> list[float]:
        """Return 1 for every slot in which its event, told now, moves its statistic as named, else 0."""
        plain, _ = self.wait(state, EVENT_STEPS)
        told, _ = self.wait(self.world.set_prompt(state, self.events), EVENT_STEPS)
        cells = zip(self.events, self.scenes, told, plain, self.beacons, strict=True)
        return [float(shows(*cell)) for cell in cells]


def beacon_pixels(truth: Walks) -> Tensor:
    """Return which pixels of the start pictures show the beacon: `(B, h, w)` bool."""
    found = surfaces(truth.scene, truth.start_c2w[:, None], truth.intrinsics, *truth.frames.shape[2:4])[:, 0]
    return torch.isin(found, torch.tensor(BEACON_SURFACES))


def choose_event(scene: Scene, seed: int, beacon: bool) -> str:
    """Return an event that changes a scene (B=1), the same for a seed; of beacons where one is in view."""
    for index in np.random.default_rng(seed).permutation(len(EVENTS)):
        event = EVENTS[index]
        changed = with_prompt(scene, [event])
        fields = ("light", "air", "beacon_color") if beacon else ("light", "air")
        if any(bool((getattr(changed, name) != getattr(scene, name)).any()) for name in fields):
            return event
    raise AssertionError("the light of every scene can be changed")


def shows(event: str, scene: Scene, frame: Tensor, plain: Tensor, beacon: Tensor) -> bool:
    """Return whether an event moves its statistic as named, from `plain` to `frame`, uint8 `(h, w, 3)`.

    scene: as it was before (B=1). beacon: `(h, w)` bool, the pixels that show it.
    """
    now, before = frame.double(), plain.double()
    weights = torch.tensor(LUMA, dtype=torch.float64)
    if event.startswith("lights"):
        brighter = int(with_prompt(scene, [event]).light) > int(scene.light)
        change = float((now @ weights).mean() - (before @ weights).mean())
        return change > 0 if brighter else change < 0
    if event.startswith("fog"):
        change = float((now @ weights).std() - (before @ weights).std())
        return change < 0 if event == "fog comes" else change > 0
    colour = torch.tensor(BEACON_COLORS[event.split()[-1]], dtype=torch.float64)
    off = [
        float((_chromaticity(x[beacon].mean(0)) - _chromaticity(colour)).norm()) for x in (now, before)
    ]  # (3,) each
    return off[0] < off[1]


def _chromaticity(colour: Tensor) -> Tensor:
    return colour / colour.sum().clamp_min(1e-6)
