"""A moment of an episode as an immutable value, in memory or in one safetensors file (no pickle).

A snapshot holds references to the tensors of a `core.State` with one slot, and a few JSON facts: the prompt,
the generator, what configuration it belongs to. It restores into any environment of equal configuration, in
another process too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import TimeLimit
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wm_env.core import EpisodeRules, State, initial
from wm_env.episodes import ResetOptions, draw_episode
from wm_env.model.state import leaves, tree_map, unflatten
from wm_env.model.storage.atomic import atomic_path

_METADATA_KEY = "wm_env.snapshot"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One moment. config: what environments must share. facts: prompt, steps, generator. tensors by name."""

    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def steps(self) -> int:
        """Steps taken in the episode."""
        return int(self.facts["steps"])

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; an existing file stays whole until the new one is complete."""
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.tensors.items()}
        text = json.dumps({"format": FORMAT, "config": dict(self.config), "facts": dict(self.facts)})
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: text})


YOUNGER = ("context_frames",)  # counts that snapshots of 0.1 lack, and that were 0


class Moment:
    """What a snapshot unpacks to: the one-slot state, its prompt and its generator."""

    def __init__(self, state: State, prompt: str, generator: np.random.Generator, seed: int | None) -> None:
        self.state, self.prompt, self.generator, self.seed = state, prompt, generator, seed


def load_snapshot(path: str | Path) -> Snapshot:
    """Return the snapshot that `Snapshot.save` wrote; raise `ValueError` where the file is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"the snapshot file {str(path)!r} does not exist")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a readable snapshot: {error}") from error
    if text is None:
        raise ValueError(f"{str(path)!r} is a safetensors file but not a snapshot of wm_env")
    content = json.loads(text)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{str(path)!r} is a snapshot of format {content.get('format')}; this version reads {FORMAT}"
        )
    return Snapshot(config=_with_options(content["config"]), facts=content["facts"], tensors=tensors)


def _with_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as this version writes it; 0.1 wrote options into the world's name."""
    if "options" in config:
        return config
    name, *parts = config["world"].replace("]", "").split("[")
    pairs = [part.split("=") if "=" in part else ("dtype", part) for part in parts]
    return {**config, "world": name, "options": dict(pairs)}


def snapshot(env: gym.Env[Any, Any]) -> Snapshot:
    """Return this moment of an environment, wrapped or not, as an immutable value; nothing large is copied.

    Raises `TypeError` for another kind of environment, `ResetNeeded` before the first reset.
    """
    return _own(env).snapshot()


def restore(env: gym.Env[Any, Any], snapshot: Snapshot) -> None:
    """Make an environment, wrapped or not, go on from a snapshot, and rewind TimeLimit.

    Wrappers that were never reset are reset first. Raises `ValueError` naming every difference where the
    snapshot belongs to another configuration.
    """
    inner = _own(env)
    if not isinstance(snapshot, Snapshot):
        raise TypeError(
            f"restore takes a Snapshot, as snapshot(env) or load_snapshot(path) returns it, not a "
            f"{type(snapshot).__name__}"
        )
    if not inner.in_progress:
        env.reset()
    inner.restore(snapshot)
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, TimeLimit):
            layer._elapsed_steps = snapshot.steps  # type: ignore[assignment]  # (annotated None)
        layer = layer.env


def branch(env: gym.Env[Any, Any], num_envs: int, noise: str = "independent", **settings: Any) -> Any:
    """Return a `SanaWMVectorEnv` of `num_envs` futures of this moment of an environment, wrapped or not.

    noise: "independent", or "shared" for equal futures of equal actions. settings: max_episode_steps,
    autoreset_mode, render_mode and threads of `SanaWMVectorEnv`.
    """
    return _own(env).branch(num_envs, noise, **settings)


def _own(env: Any) -> Any:
    """Return the innermost environment, or raise `TypeError` where it is none of ours."""
    inner = getattr(env, "unwrapped", None)
    if not all(hasattr(inner, name) for name in ("snapshot", "restore", "branch")):
        raise TypeError(
            f"a {type(env).__name__} has no snapshots; give an environment of gym.make('SanaWM-v0') "
            "(of a vector environment, see SanaWMVectorEnv.snapshot)"
        )
    return inner


def pack(rules: EpisodeRules, moment: Moment) -> Snapshot:
    """Return the snapshot of a one-slot moment; tensors are shared, not copied."""
    return Snapshot(
        config=configuration(rules),
        facts={
            "steps": int(moment.state.chunk[0]),
            "prompt": moment.prompt,
            "seed": moment.seed,
            "generator": json.loads(json.dumps(moment.generator.bit_generator.state)),
        },
        tensors=dict(leaves(moment.state)),
    )


def unpack(rules: EpisodeRules, snapshot: Snapshot, like: State | None) -> Moment:
    """Return the moment of a snapshot; `like` is any state of these rules, None has one made.

    Raises `ValueError` naming every difference where the snapshot belongs to another configuration.
    """
    wanted = configuration(rules)
    differences = [
        f"{key}: snapshot {snapshot.config.get(key)!r}, here {value!r}"
        for key, value in wanted.items()
        if snapshot.config.get(key) != value
    ]
    if differences:
        raise ValueError("the snapshot belongs to another configuration; " + "; ".join(differences))
    template = _any_state(rules) if like is None else like
    tensors = {**{name: torch.zeros(1, dtype=torch.int64) for name in YOUNGER}, **snapshot.tensors}
    expected, found = (
        {n: (tuple(x.shape), x.dtype) for n, x in pairs} for pairs in (leaves(template), tensors.items())
    )
    if expected != found:
        names = expected.keys() | found.keys()
        odd = sorted(name for name in names if expected.get(name) != found.get(name))
        raise ValueError(f"the snapshot and this environment differ in the tensors {odd}")
    state = unflatten(template, tensors)
    state = tree_map(lambda mine, theirs: mine.to(theirs.device), state, template)
    generator = np.random.Generator(np.random.PCG64())
    generator.bit_generator.state = json.loads(json.dumps(snapshot.facts["generator"]))
    return Moment(state, snapshot.facts["prompt"], generator, snapshot.facts["seed"])


def configuration(rules: EpisodeRules) -> dict[str, Any]:
    """Return what two environments must share for a state of one to mean the same in the other."""
    spec = rules.world.spec
    return {
        "world": spec.name,
        "options": dict(spec.options),
        "weights_sha256": spec.weights_sha256,
        "frames_per_step": spec.frames_per_step,
        "frame_size": list(spec.frame_size),
        "max_translation": spec.max_translation,
        "max_rotation_deg": spec.max_rotation_deg,
        "task": rules.task.name,
        "collision": rules.collision,
    }


def _any_state(rules: EpisodeRules) -> State:
    """Return some state of these rules, for its structure."""
    episode = draw_episode(np.random.default_rng(0), ResetOptions(), rules.world.spec, 1.0)
    return initial(rules, [episode])
