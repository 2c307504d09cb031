"""The ground-truth world: a renderer steps the same camera through the true scene.

It meets the same `World` protocol as a learned world, so environments, tasks, agents and recordings cannot
tell them apart. It is the one world that is given the scene (`WorldSpec.sees_scene`).

A latent observation is what an autoencoder makes of the truth: of the start image as in a learned world (with
the depth predicted from it), afterwards of the true frames and depth of each chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.pixels import to_pixels
from wm_env.model.placement import check_device, placed
from wm_env.model.scenes.captions import with_prompt
from wm_env.model.scenes.detail import check_detail
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene
from wm_env.model.state import cat, put, select, tree_map
from wm_env.model.vae.tiny import GROUP, TinyVAE
from wm_env.model.world import Chunk, Start, WorldSpec

TWIN_SPEC = WorldSpec(
    name="twin",
    frames_per_step=4,
    frame_size=(64, 64),
    max_translation=0.0625,
    max_rotation_deg=3.6,
    trained_steps=256,  # nothing is trained; the default episode length
    latent_shape=None,
    sees_scene=True,
    takes_context=True,  # and needs none
    gives_depth=True,
)


class TwinState(NamedTuple):
    """The true scenes, the absolute start poses `(B, 4, 4)` float64 and the intrinsics `(B, 4)` float64."""

    scene: Scene
    start_c2w: Tensor
    intrinsics: Tensor


class TwinWorld:
    """A ray-caster as a world; `spec` may copy another world's frame size, chunk length and speeds.

    codec: the autoencoder of the latent observations, on `device`; None for a world without latents.
    detail: strength in [0, 1] of a fine texture on all surfaces (`wm_env.model.scenes.detail`); with any the
    start picture is rendered as well, instead of the given one, which has none.
    """

    def __init__(
        self,
        spec: WorldSpec = TWIN_SPEC,
        device: str = "cpu",
        codec: TinyVAE | None = None,
        detail: float = 0.0,
    ) -> None:
        check_device(device)
        if codec is not None:
            fits = (GROUP, (codec.config.size, codec.config.size))
            if (spec.frames_per_step, spec.frame_size) != fits:
                raise ValueError(
                    f"the autoencoder of latent observations takes {fits[0]} frames of {fits[1]}, not "
                    f"{spec.frames_per_step} of {spec.frame_size}"
                )
        self._detail = check_detail(detail)
        options = {"detail": f"{self._detail:g}"} if self._detail else {}
        latent_shape = None if codec is None else codec.latent_shape
        self._spec = replace(spec, latent_shape=latent_shape, options={**spec.options, **options})
        self._device = torch.device(device)
        self._codec = codec

    @property
    def spec(self) -> WorldSpec:
        return self._spec

    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, TwinState]:
        told = [start.start_c2w for start in starts if start.start_c2w is not None]
        if len(told) != len(starts):
            raise ValueError("a renderer needs the scene and the absolute start pose of every start")
        poses = np.stack(told)
        told_scenes = cat([start.scene for start in starts])
        scene = tree_map(lambda leaf: leaf.to(self._device), told_scenes)
        state = TwinState(
            scene=scene._replace(counts=told_scenes.counts),  # on the host, which reads them for every view
            start_c2w=torch.from_numpy(poses).double().to(self._device),
            intrinsics=torch.tensor([start.intrinsics for start in starts], dtype=torch.float64).to(
                self._device
            ),
        )
        identity = torch.eye(4, dtype=torch.float64).repeat(len(starts), 1, 1, 1)  # (B, 1, 4, 4)
        seen, depth = self._look(state, identity)
        given = torch.from_numpy(np.stack([start.image for start in starts])).to(self._device)
        images = seen[:, 0] if self._detail else given  # (B, h, w, 3)
        latent = None
        if self._codec is not None:
            with torch.inference_mode():
                latent = self._codec.encode_image(images, state.intrinsics.float()).latent
        return Chunk(frames=images[:, None], latent=latent, depth=depth), state

    def step_chunk(self, state: TwinState, c2w: Tensor) -> tuple[Chunk, TwinState]:
        frames, depth = self._look(state, c2w)
        latent = None
        if self._codec is not None:
            with torch.inference_mode():
                latent = self._codec.encode_groups(to_pixels(frames, depth))  # (B, C, h', w')
        return Chunk(frames=frames, latent=latent, depth=depth), state

    def observe(self, state: TwinState, frames: Tensor, c2w: Tensor) -> tuple[Chunk, TwinState]:
        """Return what the scene itself shows from the last K poses; the frames are not looked at."""
        return self.step_chunk(state, c2w[:, -self._spec.frames_per_step :])

    def _look(self, state: TwinState, c2w: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames uint8 `(B, K, h, w, 3)` and depth `(B, K, h, w)` along poses `(B, K, 4, 4)`."""
        absolute = state.start_c2w[:, None] @ placed(c2w, self._device)  # (B, K, 4, 4)
        return render(state.scene, absolute, state.intrinsics, *self._spec.frame_size, detail=self._detail)

    def set_prompt(self, state: TwinState, prompts: Sequence[str | None]) -> TwinState:
        slots = [slot for slot, prompt in enumerate(prompts) if prompt is not None]
        if not slots:
            return state
        told = [prompt for prompt in prompts if prompt is not None]
        changed = with_prompt(select(state.scene, slots), told)
        return state._replace(scene=put(state.scene, slots, changed))

    def set_noise_seed(self, state: TwinState, noise_seeds: Sequence[int]) -> TwinState:
        return state  # the truth has no noise


def twin_like(
    spec: WorldSpec, device: str = "cpu", codec: TinyVAE | None = None, detail: float = 0.0
) -> TwinWorld:
    """Return the twin at another world's frame size, chunk length and speeds, to compare side by side.

    codec: that world's autoencoder, where its latents are to be compared too. detail: as of `TwinWorld`.
    """
    name, trained = TWIN_SPEC.name, TWIN_SPEC.trained_steps
    twin = replace(
        spec,
        name=name,
        trained_steps=trained,
        sees_scene=True,
        takes_context=True,
        gives_depth=True,
        weights_sha256=None,
    )
    return TwinWorld(twin, device, codec, detail)
