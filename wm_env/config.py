"""Every setting of the environment in one frozen value, shared by all interfaces (Gymnasium, vector, ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from wm_env.actions import ActionSpec
from wm_env.answers import check_spaces
from wm_env.core import EpisodeRules
from wm_env.episodes import ResetOptions, reset_options
from wm_env.model.depth_estimator import DepthOf, load_depth_estimator
from wm_env.model.kinematics import KeyMotion
from wm_env.model.names import did_you_mean
from wm_env.model.released.parts import Offload
from wm_env.model.rollout_state import Ablation
from wm_env.model.storage.atomic import expanded
from wm_env.model.storage.facts import as_integer, number, shown, whole
from wm_env.model.trust_calibration import find_calibration, known_calibration
from wm_env.model.world import World, WorldSpec
from wm_env.observations import ObservationSpec
from wm_env.tasks import make_task
from wm_env.trust import TrustRules
from wm_env.worlds import resolve_world

MAX_TEMPERATURE = 1_000_000
MAX_OBS_SIZE = 8192  # pixels


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The keyword arguments of `gym.make("SanaWM-v0", ...)`; docs/api.md shows them as a table.

    world: preset or checkpoint folder; in Python also a `World` object.
    task: what is rewarded: explore, pointnav, objectnav, imagenav or follow; in Python also a `Task` object.
    scene: scene seed from 0 to 2^63 - 1 that a reset starts from, by default any; in Python also several to
        draw from.
    split: scenes of "val", "train" or "heldout".
    image: path of a start picture instead of a scene; in Python also a PIL image or uint8 (H, W, 3).
    context: pictures of the scene that are committed before the start: "turn" for a full turn on the spot,
        "walk" for a walk that ends there, or the path of a clip that ends at the start; "none" for the start
        picture alone; in Python also a `PosedClip`.
    prompt: what the world is told; by default the caption of the scene.
    intrinsics: (fx, fy, cx, cy) or a 3x3 matrix in pixels of the start picture; by default 90 degrees wide.
    noise_seed: seed from 0 to 2^63 - 1 of the world's noise; by default drawn at reset.
    action_type: "keys", "multikeys", "camera" or "camera_sequence".
    obs_type: "rgb", "rgb_sequence", "rgbd" or "latent".
    obs_size: pixels, one number for a square or (height, width), at most 8192; None is the world's frame
        size.
    max_translation: metres per pixel frame at full deflection of a camera action, at most 10; None is the
        world's speed.
    max_rotation_deg: degrees per pixel frame at full deflection, at most 180; None is the world's speed.
    collision: what walls do to the camera: "block", "terminate", "ignore" or "world", which is "block" and,
        without a scene, lets the surfaces that the world remembers and shows stop the camera.
    depth: give the depth of the newest frame in `info`, float32 (h, w) metres: the world's own, or that of a
        metric depth estimator of transformers, whose folder is given.
    trust: give `info` the probability that the newest frame is within a stated error of the truth, "map" also
        for every pixel; worlds with a calibration have it.
    min_trust: trust from 0 to 1 below which an episode is truncated; None never truncates.
    calibration: file of `wm-env trust calibrate`; None is the one beside the world's weights.
    temperature: factor on the world's noise, from 0 to a million.
    device: torch device of the world.
    output: "numpy", or "torch" for observations, rewards and ends as tensors on the world's device, whose
        frames never visit the host.
    ablate: part of a tiny world to remove: "dit", "gdn_state" or "memory".
    weights: folder of a released world's weights; None is where `wm-env download` puts them.
    refiner: "default" for what the world comes with, "none" for frames as decoded, "tiny" or "ltx2"; in
        Python None is "none".
    dtype: "float32" or "bfloat16" of a learned world's products; None is float32 for the embedded worlds.
    offload: parts of a released world that stay on the CPU and visit the device for their turn.
    frame_size: (height, width) of a released world, multiples of 32; None is 704x1280.
    precision: of a released world's larger weights: "bf16" as `dtype` says, "int8", "fp8" or "nvfp4", or a
        word for some parts as in "refiner=int8,text=int8".
    refiner_history: latent frames that a released world's refiner remembers, 1 to 10.
    window: chunks that a released world's softmax blocks look back on, 1 to 42; None is 2 for the streaming
        model and 10 for the chunk-causal one, which was trained with all, 40 in a minute.
    camera_dtype: "float32", or "bfloat16" to round a released world's cameras as the published code does.
    """

    world: Any = "tiny"
    task: Any = "explore"
    scene: int | Sequence[int] | None = None
    split: str = "val"
    image: Any = None
    context: Any = "none"
    prompt: str | None = None
    intrinsics: Any = None
    noise_seed: int | None = None
    action_type: str = "keys"
    obs_type: str = "rgb"
    obs_size: int | tuple[int, int] | None = None
    max_translation: float | None = None
    max_rotation_deg: float | None = None
    collision: str = "block"
    depth: bool | str | Path = False
    trust: bool | str = False
    min_trust: float | None = None
    calibration: str | Path | None = None
    temperature: float = 1.0
    device: str = "cpu"
    output: str = "numpy"
    ablate: Ablation | None = None
    weights: str | Path | None = None
    refiner: str | None = "default"
    dtype: str | None = None
    offload: tuple[Offload, ...] = ("text",)
    frame_size: tuple[int, int] | None = None
    precision: str = "bf16"
    refiner_history: int = 10
    window: int | None = None
    camera_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not number(self.temperature, 0, MAX_TEMPERATURE):
            raise ValueError(
                f"temperature={shown(self.temperature)} must be a finite number of at least 0 and at most "
                f"{MAX_TEMPERATURE:g}"
            )
        if not isinstance(self.depth, bool | str | Path) or self.depth == "":
            raise ValueError(f"depth={shown(self.depth)} must be True, False or the folder of an estimator")
        if not (isinstance(self.trust, bool) or self.trust == "map"):
            raise ValueError(f"trust={shown(self.trust)} must be True, False or 'map'")
        if self.min_trust is not None and not number(self.min_trust, 0, 1):
            raise ValueError(f"min_trust={shown(self.min_trust)} must be a probability from 0 to 1, or None")
        if self.image is not None and self.scene is not None:
            raise ValueError("give either a scene seed or an image, not both")
        make_task(self.task)  # names are checked before any weight is read

    def keywords(self) -> EnvSettings:
        """Return the settings as keyword arguments, for another interface of the same environment."""
        return EnvSettings(**{field.name: self.__dict__[field.name] for field in fields(self)})  # type: ignore[typeddict-item]

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
            "precision": self.precision,
            "refiner_history": self.refiner_history,
            "window": self.window,
            "camera_dtype": self.camera_dtype,
        }
        plain = {field.name: field.default for field in fields(self)}
        options = {name: value for name, value in asked.items() if value != plain[name]}
        if self.world == "twin" and self.obs_type == "latent":
            options["latents"] = True
        return options

    def rules(self, world: World) -> EpisodeRules:
        """Return the rules of these settings on `world`."""
        spec = world.spec
        task = make_task(self.task)
        check_spaces(task.name, task.spaces(spec.frame_size))
        obs_size = spec.frame_size if self.obs_size is None else _size(self.obs_size)
        known = known_calibration(self.world, spec, self.calibration)
        return EpisodeRules(
            world=world,
            task=task,
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
            depth=self.depth is not False,
            estimator=None if isinstance(self.depth, bool) else self._estimator(self.depth),
            output=self.output,
            trust=self._trust_rules(spec),
            start_limit=None if known is None else known.start_limit,
        )

    def _trust_rules(self, spec: WorldSpec) -> TrustRules | None:
        """Return how the world is trusted, None where nobody asks; raise where it cannot be calibrated."""
        if self.trust is False and self.min_trust is None:
            return None
        return TrustRules(
            calibration=find_calibration(self.world, spec, self.calibration),
            with_map=self.trust == "map",
            least=None if self.min_trust is None else float(self.min_trust),
        )

    def _estimator(self, folder: str | Path) -> DepthOf:
        return load_depth_estimator(Path(expanded(folder)), self.device)

    def reset_options(self, spec: WorldSpec) -> ResetOptions:
        """Return the start conditions that every reset begins from; an image or a clip is read here, once."""
        plain = {
            "scene": self.scene,
            "split": self.split,
            "context": self.context,
            "prompt": self.prompt,
            "noise_seed": self.noise_seed,
            "intrinsics": self.intrinsics,
            "image": self.image,
        }
        return reset_options(ResetOptions(), plain, spec)


def _size(obs_size: Any) -> tuple[int, int]:
    """Return (height, width) of one number or two, or raise `ValueError`."""
    one = as_integer(obs_size)
    pair = (one, one) if one is not None else obs_size
    if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2:
        raise ValueError(f"obs_size={shown(obs_size)} must be one number or (height, width)")
    height, width = as_integer(pair[0]), as_integer(pair[1])
    if not (whole(height, 1, MAX_OBS_SIZE) and whole(width, 1, MAX_OBS_SIZE)):
        raise ValueError(
            f"obs_size={shown(obs_size)} must be positive (height, width), integers of at most {MAX_OBS_SIZE}"
        )
    return height, width


class EnvSettings(TypedDict, total=False):
    """The fields of `EnvConfig` as keyword arguments, for editors and type checkers."""

    world: Any
    task: Any
    scene: int | Sequence[int] | None
    split: str
    image: Any
    context: Any
    prompt: str | None
    intrinsics: Any
    noise_seed: int | None
    action_type: str
    obs_type: str
    obs_size: int | tuple[int, int] | None
    max_translation: float | None
    max_rotation_deg: float | None
    collision: str
    depth: bool | str | Path
    trust: bool | str
    min_trust: float | None
    calibration: str | Path | None
    temperature: float
    device: str
    output: str
    ablate: Ablation | None
    weights: str | Path | None
    refiner: str | None
    dtype: str | None
    offload: tuple[Offload, ...]
    frame_size: tuple[int, int] | None
    precision: str
    refiner_history: int
    window: int | None
    camera_dtype: str


def configured(settings: Mapping[str, Any], others: Sequence[str]) -> EnvConfig:
    """Return the settings as one value. others: keyword arguments that are taken beside them.

    Raises `TypeError` for a setting that there is not, with the nearest and all that there are.
    """
    known = [field.name for field in fields(EnvConfig)]
    odd = sorted(set(settings) - set(known))
    if odd:
        meant = did_you_mean(odd[0], (*known, *others), 3) or "."
        raise TypeError(
            f"unknown setting {', '.join(odd)}{meant} Settings are {', '.join(known)}; beside them "
            f"{', '.join(others)}"
        )
    return EnvConfig(**settings)
