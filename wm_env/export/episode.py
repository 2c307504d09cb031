"""One episode as a value and as a folder, and its replay.

    episode_000003/
        episode.json       settings of the environment, seed, prompt, intrinsics, success, SPL, ...
        steps.npz          actions, rewards, c2w, terminated, truncated, the task's entries of observations
        frames/000000.png  every pixel frame, lossless; 0 is the start, step k made frames kK+1 .. (k+1)K
        context/           the clip that it was started from, where it was one, as the world took it

The settings and the seed determine an episode on the same machine, so a replay gives the same frames.
A folder appears only when it is complete.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wm_env.env import SanaWMEnv
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.kinematics import KEYS
from wm_env.model.storage.atomic import atomic_folder
from wm_env.recording import Policy

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
    frames, c2w = [env.state.frames[0, -1:].numpy()], [info["c2w_frames"][-1:]]
    terminated = False
    while len(actions) < steps and not terminated:
        keys = policy(env.state)
        action = np.array([key in keys for key in KEYS], np.int8)
        seen, reward, terminated, _, info = env.step(action)
        observed.append(seen)
        actions.append(action)
        rewards.append(reward)
        frames.append(env.state.frames[0].numpy())
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
    target = Path(folder)
    if target.exists():
        raise FileExistsError(f"{str(target)!r} exists; recorded episodes are never overwritten")
    with atomic_folder(target) as temporary:
        (temporary / "frames").mkdir()
        for index, frame in enumerate(recording.frames):
            Image.fromarray(frame).save(temporary / "frames" / f"{index:06d}.png")
        arrays: dict[str, Any] = {
            "actions": recording.actions,
            "rewards": recording.rewards,
            "c2w": recording.c2w,
            "terminated": recording.terminated,
            "truncated": recording.truncated,
        }
        arrays |= {f"extra.{name}": values for name, values in recording.extras.items()}
        np.savez_compressed(temporary / "steps.npz", **arrays)
        if recording.context is not None:
            recording.context.save(temporary / _CONTEXT)
        (temporary / "episode.json").write_text(json.dumps(dict(recording.facts), indent=2) + "\n")
    return target


def load_recording(folder: str | Path) -> Recording:
    """Return the episode that `save_recording` wrote."""
    source = Path(folder)
    if not (source / "episode.json").is_file():
        raise FileNotFoundError(f"{str(source)!r} is not the folder of a recorded episode: no episode.json")
    try:
        with np.load(source / "steps.npz") as steps:
            arrays = {name: steps[name] for name in steps.files}
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{str(source / 'steps.npz')!r} is corrupted: {error}") from error
    frames = [np.asarray(Image.open(path)) for path in sorted((source / "frames").glob("*.png"))]
    if len(frames) != len(arrays["c2w"]):
        raise ValueError(f"{str(source)!r} holds {len(frames)} frames for {len(arrays['c2w'])} poses")
    return Recording(
        facts=json.loads((source / "episode.json").read_text()),
        frames=np.stack(frames),
        c2w=arrays["c2w"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminated=bool(arrays["terminated"]),
        truncated=bool(arrays["truncated"]),
        extras={name[6:]: values for name, values in arrays.items() if name.startswith("extra.")},
        context=PosedClip.load(source / _CONTEXT) if (source / _CONTEXT).is_dir() else None,
    )


def recordings(folder: str | Path) -> Iterator[Recording]:
    """Yield the episodes in a folder of episode folders, in order of their names."""
    for path in sorted(Path(folder).glob("episode_*")):
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
    frames = [env.state.frames[0, -1:].numpy()]
    for action in recording.actions:
        env.step(action)
        frames.append(env.state.frames[0].numpy())
    return np.concatenate(frames)
