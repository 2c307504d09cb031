"""The ground-truth world: a renderer steps the same camera through the true scene.

It meets the same `World` protocol as a learned world, so environments, tasks, agents and recordings cannot
tell them apart. It is the one world that is given the scene (`WorldSpec.sees_scene`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.scenes.captions import with_prompt
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene
from wm_env.model.state import cat, put, select, tree_map
from wm_env.world import Chunk, Start, WorldSpec

TWIN_SPEC = WorldSpec(
    name="twin",
    frames_per_step=4,
    frame_size=(64, 64),
    max_translation=0.0625,
    max_rotation_deg=3.6,
    trained_steps=256,  # nothing is trained; the default episode length
    latent_shape=None,
    sees_scene=True,
)


class TwinState(NamedTuple):
    """The true scenes, the absolute start poses `(B, 4, 4)` float64 and the intrinsics `(B, 4)` float64."""

    scene: Scene
    start_c2w: Tensor
    intrinsics: Tensor


class TwinWorld:
    """A ray-caster as a world; `spec` may copy another world's frame size, chunk length and speeds."""

    def __init__(self, spec: WorldSpec = TWIN_SPEC, device: str = "cpu") -> None:
        self._spec = spec
        self._device = torch.device(device)

    @property
    def spec(self) -> WorldSpec:
        return self._spec

    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, TwinState]:
        told = [start.start_c2w for start in starts if start.start_c2w is not None]
        if len(told) != len(starts):
            raise ValueError("a renderer needs the scene and the absolute start pose of every start")
        poses = np.stack(told)
        scene = tree_map(lambda leaf: leaf.to(self._device), cat([start.scene for start in starts]))
        state = TwinState(
            scene=scene,
            start_c2w=torch.from_numpy(poses).double().to(self._device),
            intrinsics=torch.tensor([start.intrinsics for start in starts], dtype=torch.float64).to(
                self._device
            ),
        )
        identity = torch.eye(4, dtype=torch.float64).repeat(len(starts), 1, 1, 1)  # (B, 1, 4, 4)
        seen, state = self.step_chunk(state, identity)
        images = torch.from_numpy(np.stack([start.image for start in starts]))  # (B, h, w, 3)
        return seen._replace(frames=images[:, None]), state

    def step_chunk(self, state: TwinState, c2w: Tensor) -> tuple[Chunk, TwinState]:
        absolute = state.start_c2w[:, None] @ c2w.to(self._device)  # (B, K, 4, 4)
        frames, depth = render(state.scene, absolute, state.intrinsics, *self._spec.frame_size)
        return Chunk(frames=frames, latent=None, depth=depth), state

    def set_prompt(self, state: TwinState, prompts: Sequence[str | None]) -> TwinState:
        slots = [slot for slot, prompt in enumerate(prompts) if prompt is not None]
        if not slots:
            return state
        told = [prompt for prompt in prompts if prompt is not None]
        changed = with_prompt(select(state.scene, slots), told)
        return state._replace(scene=put(state.scene, slots, changed))

    def set_noise_seed(self, state: TwinState, noise_seeds: Sequence[int]) -> TwinState:
        return state  # the truth has no noise


def twin_like(spec: WorldSpec, device: str = "cpu") -> TwinWorld:
    """Return the twin at another world's frame size, chunk length and speeds, to compare side by side."""
    return TwinWorld(
        WorldSpec(
            name="twin",
            frames_per_step=spec.frames_per_step,
            frame_size=spec.frame_size,
            max_translation=spec.max_translation,
            max_rotation_deg=spec.max_rotation_deg,
            trained_steps=TWIN_SPEC.trained_steps,
            latent_shape=None,
            fps=spec.fps,
            sees_scene=True,
        ),
        device,
    )
