"""One episode as a value and as a folder, and its replay.

    episode_000003/
        episode.json       settings of the environment, seed, prompt, intrinsics, success, SPL, ...,
                           format 2 and the SHA-256 of the whole folder (format 1, of 0.1, has neither)
        steps.npz          actions, rewards, c2w, terminated, truncated, the task's entries of observations
        frames/000000.png  every pixel frame, lossless; 0 is the start, step k made frames kK+1 .. (k+1)K
        context/           the clip that it was started from, where it was one, as the world took it

The settings and the seed determine an episode on the same machine, so a replay gives the same frames.
A folder appears only when it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wm_env.env import SanaWMEnv
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.kinematics import KEYS
from wm_env.model.storage.array_files import read_arrays
from wm_env.model.storage.atomic import atomic_folder, expanded
from wm_env.model.storage.facts import check_fact, content_sha256, number, read_json, whole
from wm_env.recording import Policy

FORMAT = 2
_STAMP = ("format", "sha256")  # of episode.json alone, not facts of the episode
_CONTEXT = "context"
_VIEW = "image"  # the entry of a Dict observation that repeats the newest frame


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A finished episode of S steps of K pixel frames.

    facts: what `episode.json` holds. frames: uint8 `(1 + S K, h, w, 3)`. c2w: float64 `(1 + S K, 4, 4)`,
    relative to the start. actions: `(S, 8)` int8, keys held in the order of `kinematics.KEYS`. rewards:
    float64 `(S,)`. terminated, truncated: of the last step. extras: the task's entries of the observation,
    each `(S + 1, ...)`. context: the clip that it was started from, None for another start.
    """

    facts: Mapping[str, Any]
    frames: np.ndarray
    c2w: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    extras: Mapping[str, np.ndarray]
    context: PosedClip | None = None

    @property
    def frames_per_step(self) -> int:
        """K."""
        return int(self.facts["frames_per_step"])


def play_episode(env: SanaWMEnv, policy: Policy, seed: int, steps: int) -> Recording:
    """Return the episode of `seed` as `policy` plays it, at most `steps` long; `env` acts in multikeys."""
    if env.config.action_type != "multikeys":
        raise ValueError(
            f"episodes are recorded with action_type 'multikeys', not {env.config.action_type!r}"
        )
    if env.config.obs_size is not None or env.config.obs_type != "rgb":
        raise ValueError("episodes are recorded with obs_type 'rgb' at the world's own size")
    context = env.start_clip
    kept = {} if context is None else {"context": _CONTEXT}
    settings = _plain({**env.config.keywords(), **kept})
    seen, info = env.reset(seed=seed)
    observed, actions, rewards = [seen], list[np.ndarray](), list[float]()
    frames, c2w = [env.state.frames[0, -1:].cpu().numpy()], [info["c2w_frames"][-1:]]
    terminated = False
    while len(actions) < steps and not terminated:
        keys = policy(env.state)
        action = np.array([key in keys for key in KEYS], np.int8)
        seen, reward, terminated, _, info = env.step(action)
        observed.append(seen)
        actions.append(action)
        rewards.append(reward)
        frames.append(env.state.frames[0].cpu().numpy())
        c2w.append(info["c2w_frames"])
    extras = [
        {k: v for k, v in seen.items() if k != _VIEW} if isinstance(seen, dict) else {} for seen in observed
    ]
    spec = env.world.spec
    facts = {
        "settings": settings,
        "world": spec.label,
        "weights_sha256": spec.weights_sha256,
        "seed": seed,
        "scene": int(env.state.scene_seed[0]),
        "noise_seed": int(env.state.noise_seed[0]),
        "prompt": env.prompt,
        "context_frames": info["context_frames"],
        "fps": spec.fps,
        "frames_per_step": spec.frames_per_step,
        "intrinsics": env.state.intrinsics[0].tolist(),
        "start_c2w": env.state.start_c2w[0].tolist(),
        "steps": len(actions),
        "reward": float(sum(rewards)),
        "is_success": info["is_success"],
        "spl": info["spl"],
        "keys": KEYS,
    }
    return Recording(
        facts=facts,
        frames=np.concatenate(frames),
        c2w=np.concatenate(c2w),
        actions=np.stack(actions),
        rewards=np.array(rewards),
        terminated=terminated,
        truncated=not terminated,
        extras={name: np.stack([each[name] for each in extras]) for name in extras[0]},
        context=context,
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they come back from JSON; raise `ValueError` where an object cannot be written."""
    try:
        return json.loads(json.dumps(dict(settings)))
    except TypeError as error:
        raise ValueError(
            f"settings of a recorded episode must be plain values; name the world ({error})"
        ) from error


def save_recording(recording: Recording, folder: str | Path) -> Path:
    """Write the episode's folder; it appears when it is complete, and an existing one is never touched."""
    target = expanded(folder)
    if target.exists():
        raise FileExistsError(f"{str(target)!r} exists; recorded episodes are never overwritten")
    arrays = _arrays(recording)
    facts = {**recording.facts, "format": FORMAT}
    stamped = {**facts, "sha256": _digest(facts, arrays, recording.frames, recording.context)}
    with atomic_folder(target) as temporary:
        (temporary / "frames").mkdir()
        for index, frame in enumerate(recording.frames):
            Image.fromarray(frame).save(temporary / "frames" / f"{index:06d}.png")
        np.savez_compressed(temporary / "steps.npz", **arrays)
        if recording.context is not None:
            recording.context.save(temporary / _CONTEXT)
        text = json.dumps(stamped, indent=2, allow_nan=False) + "\n"
        (temporary / "episode.json").write_text(text, encoding="utf-8")
    return target


def _arrays(recording: Recording) -> dict[str, Any]:
    """Return what `steps.npz` holds."""
    arrays: dict[str, Any] = {
        "actions": np.asarray(recording.actions),
        "rewards": np.asarray(recording.rewards),
        "c2w": np.asarray(recording.c2w),
        "terminated": np.asarray(recording.terminated),
        "truncated": np.asarray(recording.truncated),
    }
    return arrays | {f"extra.{name}": np.asarray(values) for name, values in recording.extras.items()}


def _digest(
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    frames: np.ndarray,
    context: PosedClip | None,
) -> str:
    """Return the SHA-256 over all that an episode's folder holds."""
    everything, told = {**arrays, "frames": frames}, dict(facts)
    if context is not None:
        everything |= {f"context.{name}": vars(context)[name] for name in ("frames", "c2w", "intrinsics")}
        told |= {f"context.{name}": vars(context)[name] for name in ("fps", "caption")}
    return content_sha256({name: torch.from_numpy(np.array(each)) for name, each in everything.items()}, told)


def load_recording(folder: str | Path) -> Recording:
    """Return the episode that `save_recording` wrote.

    Raises `FileNotFoundError` where the folder is none of an episode, `ValueError` naming the file and the
    entry where it is not as it was written.
    """
    source = expanded(folder)
    if not (source / "episode.json").is_file():
        raise FileNotFoundError(f"{str(source)!r} is not the folder of a recorded episode: no episode.json")
    facts = read_json(source / "episode.json")
    arrays = read_arrays(source / "steps.npz")
    frames = [_picture(path) for path in sorted((source / "frames").glob("[0-9]*.png"))]
    context = PosedClip.load(source / _CONTEXT) if (source / _CONTEXT).is_dir() else None
    try:
        _check(facts, arrays, frames)
        stacked = np.stack(frames)
        if "sha256" in facts or facts.get("format", 1) > 1:
            claimed = facts.pop("sha256", None)
            if claimed != _digest(facts, arrays, stacked, context):
                raise ValueError("its SHA-256 is not the one that was written; it was damaged or changed")
    except ValueError as error:
        raise ValueError(f"{str(source)!r} is not a usable episode: {error}") from error
    return Recording(
        facts={name: value for name, value in facts.items() if name not in _STAMP},
        frames=stacked,
        c2w=arrays["c2w"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminated=bool(arrays["terminated"]),
        truncated=bool(arrays["truncated"]),
        extras={name[6:]: values for name, values in arrays.items() if name.startswith("extra.")},
        context=context,
    )


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            return np.asarray(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} is not a picture that can be read: {error}") from error


def _check(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], frames: list[np.ndarray]) -> None:
    """Raise `ValueError` naming the first entry of an episode that cannot be."""
    if "format" in facts:
        check_fact(facts, "format", lambda value: whole(value, 1, FORMAT), f"1 to {FORMAT}, what this reads")
    check_fact(facts, "settings", lambda value: isinstance(value, dict), "an object")
    check_fact(facts, "seed", lambda value: whole(value, 0, 2**4096), "an integer from 0")
    check_fact(facts, "prompt", lambda value: isinstance(value, str), "a text")
    per_step = check_fact(facts, "frames_per_step", lambda value: whole(value, 1, 1024), "1 to 1024")
    if "fps" in facts:
        check_fact(facts, "fps", lambda value: number(value, 0.001, 1e4), "0.001 to 10000")
    digest = "None or a text"
    check_fact(facts, "weights_sha256", lambda value: value is None or isinstance(value, str), digest)
    camera = facts.get("intrinsics")
    if not (isinstance(camera, list) and len(camera) == 4 and all(number(x, -1e9, 1e9) for x in camera)):
        raise ValueError("intrinsics are not four finite numbers fx, fy, cx, cy")
    missing = {"actions", "rewards", "c2w", "terminated", "truncated"} - arrays.keys()
    if missing:
        raise ValueError(f"steps.npz lacks {', '.join(sorted(missing))}")
    steps = len(arrays["actions"]) if arrays["actions"].ndim else 0
    total = 1 + steps * per_step
    shapes = {"actions": (steps, len(KEYS)), "rewards": (steps,), "c2w": (total, 4, 4)}
    shapes |= {"terminated": (), "truncated": ()}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}; expected {shape}")
    if len(frames) != total:
        raise ValueError(f"it holds {len(frames)} frames for {total} poses")
    for name, values in arrays.items():
        if values.dtype.kind not in "biuf" or (name in shapes and not np.isfinite(values).all()):
            raise ValueError(f"{name} of steps.npz holds values that are not finite numbers")
    for index, frame in enumerate(frames):
        if frame.shape != (*frames[0].shape[:2], 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame {index} is {frame.dtype} {frame.shape}; expected uint8 RGB of one size")


def recordings(folder: str | Path) -> Iterator[Recording]:
    """Yield the episodes in a folder of episode folders, in order of their names."""
    for path in sorted(Path(folder).glob("episode_*")):
        if path.is_dir():
            yield load_recording(path)


def replay(recording: Recording) -> np.ndarray:
    """Return the frames uint8 `(1 + S K, h, w, 3)` that the recorded actions give from the recorded seed.

    Raises `ValueError` where the world's weights are no longer those of the recording.
    """
    settings = dict(recording.facts["settings"])
    if recording.context is not None:
        settings["context"] = recording.context
    env = SanaWMEnv(**settings)
    if env.world.spec.weights_sha256 != recording.facts["weights_sha256"]:
        raise ValueError(
            f"the episode was recorded with weights {recording.facts['weights_sha256']}; "
            f"world {env.config.world!r} now has {env.world.spec.weights_sha256}"
        )
    env.reset(seed=recording.facts["seed"])
    frames = [env.state.frames[0, -1:].cpu().numpy()]
    for action in recording.actions:
        env.step(action)
        frames.append(env.state.frames[0].cpu().numpy())
    return np.concatenate(frames)
