"""Recorded episodes as a Minari dataset (Farama's offline RL format), lossless. Needs the extra `data`.

One Minari step is one env step: the observation is the newest frame (with the task's entries, where there are
any), the action the keys held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from wm_env.env import SanaWMEnv
from wm_env.export.episode import Recording, load_recording
from wm_env.model.storage.atomic import atomic_folder

try:
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
except ImportError as error:
    raise ImportError("the Minari exporter needs minari: pip install 'wm-env[data]'") from error


def export_minari(
    episodes: Sequence[Path],
    out: str | Path,
    name: str = "sana-wm/walk-v0",
    *,
    watch: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> Path:
    """Write the episode folders as the Minari dataset `out`; `minari.MinariDataset(out)` reads it.

    The folder must be new or empty; it appears when it is complete. watch: passes the episodes on one by one,
    for a progress bar.
    """
    if not episodes:
        raise ValueError("there are no episodes to export")
    with atomic_folder(Path(out).absolute()) as temporary:  # Minari resolves a relative path twice
        _write_dataset(episodes, temporary, name, watch)
    return Path(out)


def _write_dataset(
    episodes: Sequence[Path], target: Path, name: str, watch: Callable[[Iterable[Path]], Iterable[Path]]
) -> None:
    settings = load_recording(episodes[0]).facts["settings"]
    env = SanaWMEnv(**settings)
    storage = MinariStorage.new(
        target,
        env.observation_space,
        env.action_space,
        env_spec=EnvSpec("SanaWM-v0", entry_point="wm_env.env:SanaWMEnv", kwargs=_plain(settings)),
        data_format="arrow",
        jpeg_encoding=False,
    )
    storage.update_metadata(
        {
            "dataset_id": name,
            "minari_version": version("minari"),
            "requirements": ["wm-env"],
            "description": f"walks of {env.world.spec.label}, task {settings['task']}",
        }
    )
    storage.update_episodes(_buffer(load_recording(path)) for path in watch(episodes))


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those that are None, which is their default."""
    return {name: value for name, value in settings.items() if value is not None}


def _buffer(recording: Recording) -> EpisodeBuffer:
    view = recording.frames[:: recording.frames_per_step]  # (S + 1, h, w, 3): start and newest frames
    steps = len(recording.actions)
    last = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        seed=int(recording.facts["seed"]),
        observations={"image": view, **recording.extras} if recording.extras else view,
        actions=recording.actions,
        rewards=recording.rewards.tolist(),
        terminations=(last & recording.terminated).tolist(),
        truncations=(last & recording.truncated).tolist(),
    )
