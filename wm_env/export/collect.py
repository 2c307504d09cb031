"""Many episodes, by several processes: each finished one is on disk, whatever happens to the others.

`recording.json` beside the episodes says what they are, so that a recording that was cut off goes on.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wm_env.env import SanaWMEnv
from wm_env.export.by_ray import recorded_by_ray
from wm_env.export.episode import play_episode, save_recording
from wm_env.model.storage.atomic import remove_leftovers, write_atomic
from wm_env.model.storage.facts import read_json
from wm_env.model.workers import Workers
from wm_env.recording import Player, held

RECORDING = "recording.json"
EPISODES = "-episodes"  # what follows the name of a dataset in that of the folder it is made from
_EPISODE = "episode_"
_OURS = rf"{_EPISODE}\d+|recording"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Episodes to record: environment settings, who plays (a picklable function and its argument), length.

    settings: plain values, as JSON holds them; actions are held keys. Episode i has the environment seed and
    the policy seed `seed + i`, however many workers there are. policy_sha256: of trained weights.
    """

    settings: Mapping[str, Any]
    make_player: Callable[[str, int], Player]
    policy: str
    steps: int
    seed: int
    out: Path
    policy_sha256: str | None = None

    def folder(self, index: int) -> Path:
        """Return where episode `index` belongs."""
        return self.out / f"{_EPISODE}{index:06d}"

    def record(self, index: int, env: SanaWMEnv) -> Path:
        """Play and write one episode; return its folder."""
        seed = self.seed + index
        player = self.make_player(self.policy, seed)
        played = play_episode(env, lambda _: held(player(env), "multikeys"), seed, self.steps)
        path = self.out / RECORDING
        if not path.is_file():  # other processes may write the same
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(path, (json.dumps(self.facts(), indent=2) + "\n").encode())
        return save_recording(played, self.folder(index))

    def facts(self) -> dict[str, Any]:
        """Return what `recording.json` holds: all that decides an episode, the weights of the world aside."""
        facts = {
            "settings": dict(self.settings),
            "policy": self.policy,
            "policy_sha256": self.policy_sha256,
            "steps": self.steps,
            "seed": self.seed,
        }
        return json.loads(json.dumps(facts))  # type: ignore[no-any-return]


def collect(job: Job, episodes: int, workers: int, ray: str | None = None) -> Iterator[Path]:
    """Yield the folder of every episode: first those that `job.out` holds, then others as they are finished.

    ray: None for processes of this machine, "local" or an address for Ray actors (`by_ray`). Each worker
    process loads the world once. Left early, by an interruption too, it drops the episodes in work. Raises
    `FileExistsError` where `job.out` holds episodes of another recording, and `ValueError` where the world
    has other weights than the episodes that are there.
    """
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes={episodes} and workers={workers} must be at least 1")
    _check(job)
    missing = [index for index in range(episodes) if not job.folder(index).is_dir()]
    there = [job.folder(index) for index in range(episodes) if index not in set(missing)]
    yield from there
    for path in _recorded(job, missing, workers, ray):
        if there and _weights(path) != _weights(there[0]):
            raise ValueError(
                f"{path.name} in {str(job.out)!r} has weights {_weights(path)}, {there[0].name} has "
                f"{_weights(there[0])}: the world changed in between; record into another folder"
            )
        yield path


def episodes_in(source: Path) -> list[Path]:
    """Return the finished episodes of a recording, in order; `source` may be the dataset made from them.

    Raises `FileNotFoundError` where there are none.
    """
    for home in (source, source.with_name(f"{source.name}{EPISODES}")):
        found = [path for path in sorted(home.glob(f"{_EPISODE}*")) if (path / "episode.json").is_file()]
        if found:
            return found
    raise FileNotFoundError(
        f"{str(source)!r} holds no finished episodes; `wm-env record --format folder` makes some"
    )


def _check(job: Job) -> None:
    """Raise `FileExistsError` where the folder is for something else; remove what killed processes left."""
    path = job.out / RECORDING
    if path.is_file():
        found, now = read_json(path), job.facts()
        odd = [f"{key}: {found.get(key)} there, {now[key]} now" for key in now if found.get(key) != now[key]]
        if odd:
            raise FileExistsError(
                f"{str(job.out)!r} holds episodes of another recording ({'; '.join(odd)}); "
                "give another folder"
            )
    elif any(job.out.glob(f"{_EPISODE}*")):
        raise FileExistsError(
            f"{str(job.out)!r} holds episodes and no {RECORDING} that says of what; give another folder"
        )
    remove_leftovers(job.out, _OURS)


def _recorded(job: Job, indices: list[int], workers: int, ray: str | None) -> Iterator[Path]:
    if not indices:
        return
    if ray is not None:
        away = replace(job, out=job.out.resolve())  # an actor has a working directory of its own
        try:
            record, device = functools.partial(_record, away), str(job.settings.get("device", "cpu"))
            for path in recorded_by_ray(record, indices, workers, ray, device):
                yield job.out / path.name
        finally:
            remove_leftovers(job.out, _OURS)
        return
    if workers == 1:
        env = SanaWMEnv(**job.settings)
        for index in indices:
            yield job.record(index, env)
        return
    try:
        with Workers(workers) as pool:
            for done in as_completed([pool.submit(_record, job, index) for index in indices]):
                yield done.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a recording process was ended from outside; its episode is lost, the same command goes on"
        ) from error
    finally:
        remove_leftovers(job.out, _OURS)  # of processes that were ended


def _weights(episode: Path) -> str | None:
    found: str | None = read_json(episode / "episode.json").get("weights_sha256")
    return found


@functools.cache
def _environment(settings: str) -> SanaWMEnv:
    """Return the one environment of a worker process. settings: as JSON."""
    return SanaWMEnv(**json.loads(settings))


def _record(job: Job, index: int) -> Path:
    return job.record(index, _environment(json.dumps(dict(job.settings))))
