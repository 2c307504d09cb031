"""Every setting of the environment in one frozen value, shared by all faces (Gymnasium, vector, SB3, ...)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wm_env.actions import ActionSpec
from wm_env.core import Rules
from wm_env.episodes import Wishes, wishes
from wm_env.images import parse_intrinsics, start_image
from wm_env.model.kinematics import KeyMotion
from wm_env.model.released.rollout import Offload
from wm_env.model.rollout import Ablation
from wm_env.model.world import World
from wm_env.observations import ObservationSpec
from wm_env.tasks import make_task
from wm_env.worlds import resolve_world


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The keyword arguments of `gym.make("SanaWM-v0", ...)`.

    world: preset, checkpoint folder or `World` object. task: name or `Task` object.
    scene, split, image, prompt, intrinsics, noise_seed: defaults of the reset options of the same names;
    several scene seeds are drawn from at every reset.
    action_type, obs_type: see `wm_env.actions` and `wm_env.observations`. obs_size: pixels, one number for a
    square or `(height, width)`; None is the world's frame size.
    max_translation (m), max_rotation_deg (deg): full deflection of the camera actions per pixel frame; None
    is the world's speed. collision: "block", "terminate" or "ignore".
    temperature: factor on the world's noise. device: where the world computes.
    ablate: removes a part of a tiny world, for honest baselines.
    dtype: "float32" or "bfloat16", in which a learned world computes its products; None is float32 for the
    embedded worlds, on a CPU and elsewhere.
    refiner: "default" for what the world comes with, None or "none" for frames as they are decoded, "tiny"
    (the world `tiny` and what is distilled from it) or "ltx2" (released worlds).
    weights, offload, frame_size: of released worlds only, see
    `wm_env.model.released.presets.ReleasedSettings`, whose `dtype` this is too.
    """

    world: Any = "tiny"
    task: Any = "explore"
    scene: int | Sequence[int] | None = None
    split: str = "val"
    image: Any = None
    prompt: str | None = None
    intrinsics: Any = None
    noise_seed: int | None = None
    action_type: str = "keys"
    obs_type: str = "rgb"
    obs_size: int | tuple[int, int] | None = None
    max_translation: float | None = None
    max_rotation_deg: float | None = None
    collision: str = "block"
    temperature: float = 1.0
    device: str = "cpu"
    ablate: Ablation | None = None
    weights: str | Path | None = None
    refiner: str | None = "default"
    dtype: str | None = None
    offload: tuple[Offload, ...] = ("text",)
    frame_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature={self.temperature} must be a finite number of at least 0")
        if self.image is not None and self.scene is not None:
            raise ValueError("give either a scene seed or an image, not both")
        make_task(self.task)  # names are checked before any weight is read

    def keywords(self) -> dict[str, Any]:
        """Return the settings as keyword arguments, for another face of the same environment."""
        return {field.name: self.__dict__[field.name] for field in fields(self)}

    def load_world(self) -> World:
        """Return the world of these settings, loaded once per process."""
        return resolve_world(self.world, device=self.device, **self.world_options())

    def world_options(self) -> dict[str, Any]:
        """Return what is asked of the world beyond its defaults, by the names that `load_world` takes."""
        asked: dict[str, Any] = {
            "weights": None if self.weights is None else str(self.weights),
            "refiner": "none" if self.refiner is None else self.refiner,
            "dtype": self.dtype,
            "ablate": self.ablate,
            "offload": tuple(self.offload),
            "frame_size": None if self.frame_size is None else tuple(self.frame_size),
        }
        plain = {field.name: field.default for field in fields(self)}
        options = {name: value for name, value in asked.items() if value != plain[name]}
        if self.world == "twin" and self.obs_type == "latent":
            options["latents"] = True
        return options

    def rules(self, world: World) -> Rules:
        """Return the rules of these settings on `world`."""
        spec = world.spec
        if self.obs_size is None:
            obs_size = spec.frame_size
        elif isinstance(self.obs_size, int):
            obs_size = (self.obs_size, self.obs_size)
        elif len(self.obs_size) == 2:
            obs_size = (int(self.obs_size[0]), int(self.obs_size[1]))
        else:
            raise ValueError(f"obs_size={self.obs_size} must be one number or (height, width)")
        return Rules(
            world=world,
            task=make_task(self.task),
            actions=ActionSpec(
                kind=self.action_type,
                frames_per_step=spec.frames_per_step,
                max_translation=spec.max_translation
                if self.max_translation is None
                else self.max_translation,
                max_rotation_deg=spec.max_rotation_deg
                if self.max_rotation_deg is None
                else self.max_rotation_deg,
            ),
            views=ObservationSpec(kind=self.obs_type, obs_size=obs_size, world=spec),
            motion=KeyMotion(
                translation_speed=spec.max_translation, rotation_speed_deg=spec.max_rotation_deg, fps=spec.fps
            ),
            collision=self.collision,
        )

    def wishes(self, frame_size: tuple[int, int]) -> Wishes:
        """Return the start conditions that every reset begins from; the image is read here, once."""
        picture = None
        intrinsics = None
        if self.image is not None:
            picture = start_image(self.image, self.intrinsics, frame_size)
        elif self.intrinsics is not None:
            intrinsics = parse_intrinsics(self.intrinsics, frame_size)
        plain = {
            "scene": self.scene,
            "split": self.split,
            "prompt": self.prompt,
            "noise_seed": self.noise_seed,
        }
        start = wishes(Wishes(), plain, frame_size)
        return Wishes(
            scene=start.scene,
            split=start.split,
            image=picture,
            prompt=start.prompt,
            intrinsics=intrinsics,
            noise_seed=start.noise_seed,
        )
