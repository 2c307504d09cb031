"""Recorded episodes as a Minari dataset (Farama's offline RL format), lossless. Needs the extra `data`.

One Minari step is one env step: the observation is the newest frame (with the task's entries, where there are
any), the action the keys held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from wm_env.env import SanaWMEnv
from wm_env.export.episode import Recording, load_recording
from wm_env.model.storage.atomic import atomic_folder, expanded
from wm_env.model.storage.facts import read_json

try:
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
except ImportError as error:
    raise ImportError("the Minari exporter needs minari: pip install 'wm-env[data]'") from error


NAME = "sana-wm/walk-v0"


def export_minari(
    episodes: Sequence[Path],
    out: str | Path,
    name: str | None = None,
    *,
    watch: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> Path:
    """Write the episode folders as the Minari dataset `out`; `minari.MinariDataset(out)` reads it.

    The folder must be new or empty; it appears when it is complete. name: its id; by default the one under
    which Minari finds `out`, where that is `NAMESPACE/NAME-vN/data` in the folder of its datasets, else
    sana-wm/walk-v0. watch: passes the episodes on one by one, for a progress bar.
    """
    if not episodes:
        raise ValueError("there are no episodes to export")
    with atomic_folder(Path(out).absolute()) as temporary:  # Minari resolves a relative path twice
        _write_dataset(episodes, temporary, name or _id_of(Path(out)) or NAME, watch)
    return Path(out)


def _write_dataset(
    episodes: Sequence[Path], target: Path, name: str, watch: Callable[[Iterable[Path]], Iterable[Path]]
) -> None:
    first = load_recording(episodes[0])
    settings = dict(first.facts["settings"])
    if first.context is not None:
        settings["context"] = "none"  # the clip lies with the episodes, not with the dataset
    env = SanaWMEnv(**settings)
    limit = max(int(read_json(path / "episode.json").get("steps", 0)) for path in episodes)
    storage = MinariStorage.new(
        target,
        env.observation_space,
        env.action_space,
        env_spec=EnvSpec(
            "SanaWM-v0",
            entry_point="wm_env.env:SanaWMEnv",
            kwargs=_plain(settings),
            max_episode_steps=limit or None,
        ),
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


def _id_of(out: Path) -> str | None:
    """Return the id under which Minari loads the dataset `out`, None where it does not find it."""
    place = expanded(out).absolute()
    default = os.path.join(os.path.expanduser("~"), ".minari", "datasets")
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or default)
    if place.name != "data" or not place.parent.is_relative_to(root.absolute()):
        return None
    return place.parent.relative_to(root.absolute()).as_posix()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those that are None, which is their default."""
    return {name: value for name, value in settings.items() if value is not None}


def _buffer(recording: Recording) -> EpisodeBuffer:
    every = recording.frames_per_step
    view = recording.frames[::every]  # (S + 1, h, w, 3): start and newest frames
    steps = len(recording.actions)
    last = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        seed=int(recording.facts["seed"]),
        observations={"image": view, **recording.extras} if recording.extras else view,
        actions=recording.actions,
        rewards=recording.rewards.tolist(),
        terminations=(last & recording.terminated).tolist(),
        truncations=(last & recording.truncated).tolist(),
        infos={
            "c2w": recording.c2w[::every],  # (S + 1, 4, 4)
            "chunk_index": list(range(steps + 1)),
            "frame_index": [every * index for index in range(steps + 1)],
            "is_success": [False] * steps + [bool(recording.facts.get("is_success"))],
        },
    )
