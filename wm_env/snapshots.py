"""A moment of an episode as an immutable value, in memory or in one safetensors file (no pickle).

A snapshot holds references to the tensors of a `core.State` with one slot, and a few JSON facts: the prompt,
the generator, what configuration it belongs to. It restores into any environment of equal configuration, in
another process too.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import TimeLimit
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from wm_env.core import EpisodeRules, State, initial
from wm_env.episodes import ResetOptions, draw_episode
from wm_env.model.isolation import undisturbed
from wm_env.model.state import leaves, tree_map, unflatten
from wm_env.model.storage.atomic import expanded, write_atomic
from wm_env.model.storage.facts import (
    brief,
    check_fact,
    check_finite,
    content_sha256,
    parse_json,
    shown,
    whole,
)

_METADATA_KEY = "wm_env.snapshot"
FORMAT = 2  # 1 had no digest
_INFINITY_IN = "task."  # a task's distance to what cannot be reached


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

    @undisturbed()
    def save(self, path: str | Path) -> None:
        """Write one safetensors file; an existing file stays whole until the new one is complete."""
        write_atomic(path, self.to_bytes())

    @undisturbed()
    def to_bytes(self) -> bytes:
        """Return the content of that file, which `snapshot_from_bytes` reads."""
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.tensors.items()}
        content = {"format": FORMAT, "config": dict(self.config), "facts": dict(self.facts)}
        return sealed(tensors, content, _METADATA_KEY)


def sealed(tensors: Mapping[str, Tensor], content: Mapping[str, Any], key: str) -> bytes:
    """Return safetensors with a description as JSON under `key`, and in it the SHA-256 over both."""
    text = json.dumps({**content, "sha256": content_sha256(tensors, content)}, allow_nan=False)
    return save_bytes(dict(tensors), {key: text})


YOUNGER = ("context_frames",)  # counts that snapshots of 0.1 lack, and that were 0


class Moment:
    """What a snapshot unpacks to: the one-slot state, its prompt and its generator."""

    def __init__(self, state: State, prompt: str, generator: np.random.Generator, seed: int | None) -> None:
        self.state, self.prompt, self.generator, self.seed = state, prompt, generator, seed


@undisturbed()
def load_snapshot(path: str | Path) -> Snapshot:
    """Return the snapshot that `Snapshot.save` wrote; nothing that happens to the file later changes it.

    Raises `ValueError` naming the file and the entry where the file is none, or not as it was written: its
    SHA-256 covers all tensors and facts. Files of format 1 (version 0.1) have none: they are read with a
    warning.
    """
    source = repr(str(path))
    if not expanded(path).is_file():
        raise FileNotFoundError(f"the snapshot file {source} does not exist")
    return snapshot_from_bytes(expanded(path).read_bytes(), source)


@undisturbed()
def snapshot_from_bytes(data: bytes, source: str = "the snapshot's bytes") -> Snapshot:
    """Return the snapshot that `Snapshot.to_bytes` gave. source: what errors call the bytes.

    Raises `ValueError` as `load_snapshot` does.
    """
    try:
        tensors = load_bytes(data)  # copies of their own, no map of the file
    except SafetensorError as error:
        raise ValueError(f"{source} is not a readable snapshot: {brief(error)}") from error
    text = metadata_of(data).get(_METADATA_KEY)
    if text is None:
        raise ValueError(f"{source} is a safetensors file but not a snapshot of wm_env")
    content = parse_json(text, f"the description in {source}")
    try:
        check_fact(
            content, "format", lambda value: whole(value, 1, FORMAT), f"1 to {FORMAT}, what this reads"
        )
        config, facts = (
            check_fact(content, name, lambda value: isinstance(value, dict), "an object")
            for name in ("config", "facts")
        )
        check_fact(config, "world", lambda value: isinstance(value, str), "the name of a world")
        check_facts(facts)
        if content["format"] > 1 or "sha256" in content:
            claimed = content.pop("sha256", None)
            if claimed != content_sha256(tensors, content):
                raise ValueError(
                    "its SHA-256 is not the one that was written; the file was damaged or changed"
                )
        check_finite(tensors, _INFINITY_IN)
    except ValueError as error:
        raise ValueError(f"{source} is not a usable snapshot: {error}") from error
    if content["format"] == 1:
        warnings.warn(
            f"{source} is a snapshot of format 1, which has no SHA-256: damage cannot be seen; save it again",
            stacklevel=3,
        )
    return Snapshot(config=_with_options(config), facts=facts, tensors=tensors)


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raise `ValueError` naming the first of a snapshot's facts that cannot be."""
    check_fact(facts, "steps", whole, "an integer from 0 to 2^63 - 1")
    check_fact(facts, "prompt", lambda value: isinstance(value, str), "a text")
    seed = "None or an integer from 0"
    check_fact(facts, "seed", lambda value: value is None or whole(value, 0, 2**4096), seed)
    generator = check_fact(facts, "generator", lambda value: isinstance(value, dict), "an object")
    try:
        check_fact(generator, "bit_generator", lambda value: value == "PCG64", "'PCG64'")
        check_fact(generator, "has_uint32", lambda value: whole(value, 0, 1), "0 or 1")
        check_fact(generator, "uinteger", lambda value: whole(value, 0, 2**32 - 1), "0 to 2^32 - 1")
        words = check_fact(generator, "state", lambda value: isinstance(value, dict), "an object")
        check_fact(words, "state", lambda value: whole(value, 0, 2**128 - 1), "0 to 2^128 - 1")
        odd = "an odd number up to 2^128 - 1"
        check_fact(words, "inc", lambda value: whole(value, 1, 2**128 - 1) and value % 2 == 1, odd)
    except ValueError as error:
        raise ValueError(f"generator: {error}") from error


def metadata_of(data: bytes) -> dict[str, Any]:
    """Return the metadata of safetensors that have been read."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]).get("__metadata__") or {}


def _with_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as this version writes it; 0.1 wrote options into the world's name."""
    if "options" in config:
        return config
    name, *parts = config["world"].replace("]", "").split("[")
    pairs = [part.split("=", 1) if "=" in part else ("dtype", part) for part in parts]
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
        f"{key}: snapshot {shown(snapshot.config.get(key))}, here {value!r}"
        for key, value in wanted.items()
        if snapshot.config.get(key) != value
    ]
    if differences:
        raise ValueError("the snapshot belongs to another configuration; " + "; ".join(differences))
    template = _any_state(rules) if like is None else like
    tensors = {**{name: torch.zeros(1, dtype=torch.int64) for name in YOUNGER}, **snapshot.tensors}
    kept = tensors.get("world.memory.valid")
    if kept is not None and "world.memory.drawn" not in tensors:  # 0.1 kept one true frame, the first
        tensors["world.memory.drawn"] = kept & (torch.arange(kept.shape[1]) > 0)
    expected, found = (
        {n: (tuple(x.shape), x.dtype) for n, x in pairs} for pairs in (leaves(template), tensors.items())
    )
    if expected != found:
        names = expected.keys() | found.keys()
        odd = sorted(name for name in names if expected.get(name) != found.get(name))
        raise ValueError(f"the snapshot and this environment differ in the tensors {odd}")
    try:
        check_facts(snapshot.facts)
        chunk = int(tensors["chunk"][0])
        check_fact(snapshot.facts, "steps", lambda value: value == chunk, f"{chunk}, as its tensors say")
    except ValueError as error:
        raise ValueError(f"the snapshot is not usable: {error}") from error
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
