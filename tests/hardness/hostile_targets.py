"""What is attacked: environments, vectors, snapshot files, cards, clip folders, messages of the play page."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from hostile_values import anything, json_value

import wm_env
from wm_env.episodes import RESET_OPTIONS
from wm_env.model.config import tiny
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.dit import DiT
from wm_env.model.embedded import EmbeddedConfig, load_embedded
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.storage.checkpoint import save_checkpoint
from wm_env.model.vae.tiny import TinyVAE, TinyVAEConfig
from wm_env.parallel import parallel_env
from wm_env.play.messages import read_message
from wm_env.play.session import COMMANDS, PlaySettings, Session

ID = "SanaWM-Twin-v0"
Attempt = tuple[str, Callable[[], Any]]


def words_of(name: str, value: Any) -> str:
    """Return a few words about an input."""
    try:
        return f"{name} {type(value).__name__} {value!r}"[:160]
    except Exception:  # a repr of the value's own
        return f"{name} {type(value).__name__}"


def write_random_world(folder: Path) -> None:
    """Write a small world of random weights with every part of the plain path."""
    torch.manual_seed(0)
    narrow = dataclasses.replace(tiny(0), hidden=32, heads=2, depth=2)
    config = EmbeddedConfig(
        dit=narrow, vae=TinyVAEConfig(), refiner=None, sampler=SamplerConfig(), trained_steps=16
    )
    parts = {"dit": DiT(config.dit), "vae": TinyVAE(config.vae)}
    tensors = {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    save_checkpoint(folder / "random.safetensors", tensors, {"world": config.to_dict()})


class Single:
    """`reset`, `step`, `restore`, `set_prompt`, `observe` and `branch` of single environments."""

    def __init__(self, only: str | None = None) -> None:
        self.only = only
        kinds = ("keys", "multikeys", "camera", "camera_sequence")
        self.envs: list[Any] = [gym.make(ID, action_type=kind).unwrapped for kind in kinds]
        for env in self.envs:
            env.reset(seed=3)
        self.env, self.start = self.envs[0], [env.snapshot() for env in self.envs]

    def attempt(self, rng: np.random.Generator) -> Attempt:
        which = int(rng.integers(len(self.envs)))
        env = self.env = self.envs[which]
        value = anything(rng)
        names = {
            str(n): anything(rng) for n in rng.choice([*RESET_OPTIONS, "scene", "x"], size=rng.integers(1, 3))
        }
        calls: dict[str, tuple[Any, Callable[[], Any]]] = {
            "step": (value, lambda: env.step(value)),
            "reset seed": (value, lambda: env.reset(seed=value)),
            "reset options": (value, lambda: env.reset(seed=1, options=value)),
            "reset option": (names, lambda: env.reset(seed=1, options=names)),
            "set_prompt": (value, lambda: env.set_prompt(value)),
            "observe": (value, lambda: env.observe(value)),
        }
        mine = [name for name in calls if self.only is None or name.startswith(self.only)]
        name = mine[rng.integers(len(mine))]
        return words_of(f"{name} ({env.config.action_type})", calls[name][0]), calls[name][1]

    def state(self) -> Any:
        return [
            (
                id(env._state),
                env._prompt,
                env._np_random_seed,
                env._np_random.bit_generator.state["state"]["state"],
            )
            for env in self.envs
        ]

    def settle(self) -> str | None:
        env = self.env
        sound = bool(np.isfinite(env.state.start_c2w.numpy()).all())
        env.restore(self.start[self.envs.index(env)])
        return None if sound else "poses that are not finite"


class Vector:
    """`reset`, `step`, `set_prompt` and `observe` of a vector environment, and PettingZoo's `step`."""

    def __init__(self) -> None:
        self.envs: Any = gym.make_vec(ID, num_envs=2)
        self.cameras: Any = parallel_env(world="twin")
        self._begin()

    def _begin(self) -> None:
        self.envs.reset(seed=3)
        self.cameras.reset(seed=3)

    def attempt(self, rng: np.random.Generator) -> Attempt:
        envs, value = self.envs, anything(rng)
        pair = [value, anything(rng)]
        both = {"mover": value, "looker": 0}
        calls: dict[str, tuple[Any, Callable[[], Any]]] = {
            "vector step": (value, lambda: envs.step(value)),
            "vector step pair": (pair, lambda: envs.step(pair)),
            "vector reset seed": (value, lambda: envs.reset(seed=value)),
            "vector reset seeds": (pair, lambda: envs.reset(seed=pair)),
            "vector reset options": (value, lambda: envs.reset(options=value)),
            "vector reset mask": (value, lambda: envs.reset(options={"reset_mask": value})),
            "vector reset option": (value, lambda: envs.reset(options={"scene": value})),
            "vector set_prompt": (value, lambda: envs.set_prompt(value)),
            "vector observe": (value, lambda: envs.observe(value)),
            "vector observe pair": (pair, lambda: envs.observe(pair)),
            "cameras step": (value, lambda: self.cameras.step(value)),
            "cameras step one": (both, lambda: self.cameras.step(both)),
        }
        name = list(calls)[rng.integers(len(calls))]
        return words_of(name, calls[name][0]), calls[name][1]

    def state(self) -> Any:
        generators = [g.bit_generator.state["state"]["state"] for g in self.envs._generators]
        return id(self.envs._state), self.envs.prompts, self.envs._seeds, generators, id(self.cameras._state)

    def settle(self) -> str | None:
        self._begin()
        return None


class SnapshotFiles:
    """Files of `Snapshot.save`, damaged: bytes flipped, cut, added, and entries of the header exchanged."""

    def __init__(self, folder: Path) -> None:
        self.env: Any = gym.make(ID).unwrapped
        self.env.reset(seed=3)
        self.start = self.env.snapshot()
        self.frames = self.env.state.frames.clone()
        self.path = folder / "hostile.safetensors"
        self.start.save(folder / "sound.safetensors")
        self.sound = (folder / "sound.safetensors").read_bytes()

    def attempt(self, rng: np.random.Generator) -> Attempt:
        kinds = [self._flipped, self._cut, self._header, self._fact]
        kind = kinds[rng.integers(len(kinds))]
        self.path.write_bytes(kind(rng))
        return f"snapshot {kind.__name__}", lambda: self.env.restore(wm_env.load_snapshot(self.path))

    def _flipped(self, rng: np.random.Generator) -> bytes:
        data = np.frombuffer(self.sound, np.uint8).copy()
        data[rng.integers(len(data), size=rng.integers(1, 9))] ^= np.uint8(1 << rng.integers(8))
        return data.tobytes()

    def _cut(self, rng: np.random.Generator) -> bytes:
        at = int(rng.integers(len(self.sound)))
        return (
            self.sound[:at]
            if rng.random() < 0.5
            else self.sound[:at] + b"\0" * int(rng.integers(64)) + self.sound[at:]
        )

    def _parts(self) -> tuple[dict[str, Any], bytes]:
        length = struct.unpack("<Q", self.sound[:8])[0]
        return json.loads(self.sound[8 : 8 + length]), self.sound[8 + length :]

    def _whole(self, header: dict[str, Any], data: bytes) -> bytes:
        text = json.dumps(header).encode("utf-8", "replace")
        return struct.pack("<Q", len(text)) + text + data

    def _header(self, rng: np.random.Generator) -> bytes:
        header, data = self._parts()
        entry = header[str(rng.choice([name for name in header if name != "__metadata__"]))]
        entry[str(rng.choice(["dtype", "shape", "data_offsets"]))] = json_value(rng)
        return self._whole(header, data)

    def _fact(self, rng: np.random.Generator) -> bytes:
        header, data = self._parts()
        name = str(rng.choice(list(header["__metadata__"])))
        text = header["__metadata__"][name]
        try:
            facts = json.loads(text)
        except ValueError:
            facts = None
        if isinstance(facts, dict) and facts and rng.random() < 0.8:
            facts[str(rng.choice(list(facts)))] = json_value(rng)
            header["__metadata__"][name] = json.dumps(facts)
        else:
            header["__metadata__"][name] = str(json_value(rng))[:5000]
        return self._whole(header, data)

    def state(self) -> Any:
        return (
            id(self.env._state),
            self.env._prompt,
            self.env._np_random.bit_generator.state["state"]["state"],
        )

    def settle(self) -> str | None:
        same = bool((self.env.state.frames == self.frames).all())
        self.env.restore(self.start)
        return None if same else "another episode"


class Cards:
    """The card of a world's folder with one entry exchanged."""

    def __init__(self, world: Path) -> None:
        self.card = next(path for path in world.glob("*.json"))
        self.sound = json.loads(self.card.read_text(encoding="utf-8"))
        self.world = world

    def attempt(self, rng: np.random.Generator) -> Attempt:
        card = json.loads(json.dumps(self.sound))
        place = card
        while True:
            name = str(rng.choice(list(place)))
            if isinstance(place[name], dict) and place[name] and rng.random() < 0.8:
                place = place[name]
                continue
            place[name] = json_value(rng)
            break
        self.card.write_text(json.dumps(card), encoding="utf-8")
        return words_of(f"card {name}", place[name]), lambda: load_embedded(str(self.world))

    def state(self) -> Any:
        return None

    def settle(self) -> str | None:
        return None


class Clips:
    """The camera file of a clip's folder with one entry exchanged, and nonsense instead of it."""

    def __init__(self, folder: Path) -> None:
        c2w = np.tile(np.eye(4), (9, 1, 1))
        c2w[:, 2, 3] = 0.05 * np.arange(9)
        frames = np.random.default_rng(0).integers(0, 256, size=(9, 32, 32, 3), dtype=np.uint8)
        self.clip = PosedClip(frames, c2w, [24.0, 24, 16, 16], 16.0, "a room")  # type: ignore[arg-type]
        self.folder = self.clip.save(folder / "clip")
        self.sound = json.loads((self.folder / "camera.json").read_text(encoding="utf-8"))

    def attempt(self, rng: np.random.Generator) -> Attempt:
        values = json.loads(json.dumps(self.sound))
        name = str(
            rng.choice(["c2w", "intrinsics", "fps", "caption", "k1", "distortion", "row", "entry", "text"])
        )
        value = json_value(rng)
        if name == "row":
            values["c2w"][rng.integers(9)] = value
        elif name == "entry":
            values["c2w"][rng.integers(9)][rng.integers(4)][rng.integers(4)] = value
        else:
            values[name] = value
        text = json.dumps(values) if name != "text" else str(value)
        (self.folder / "camera.json").write_text(text, encoding="utf-8")
        return words_of(f"clip {name}", value), lambda: self._loaded(name)

    def _loaded(self, name: str) -> None:
        self.read = PosedClip.load(self.folder)

    def state(self) -> Any:
        return None

    def settle(self) -> str | None:
        sound = np.isfinite(self.read.c2w).all() and np.isfinite(self.read.intrinsics).all()
        return None if sound and len(self.read) == 9 else "a clip that cannot be"


class Messages:
    """What a page sends: nonsense, and commands with fields that are none."""

    QUIET = ("keys", "prompt", "take", "pause", "save", "restore", "policy")

    def __init__(self, folder: Path) -> None:
        self.session = Session(PlaySettings(environment={"world": "twin"}, out=folder))

    def attempt(self, rng: np.random.Generator) -> Attempt:
        value = json_value(rng)
        kinds: list[Callable[[], Any]] = [
            lambda: json.dumps(value),
            lambda: json.dumps({"do": value}),
            lambda: json.dumps(
                {"do": str(rng.choice(self.QUIET)), "held": value, "text": value, "slot": value}
            ),
            lambda: "[" * int(rng.integers(1, 200_000)),
            lambda: str(json.dumps({"do": str(rng.choice(COMMANDS))}))[: int(rng.integers(20))],
            lambda: rng.bytes(int(rng.integers(64))).decode("latin-1"),
            lambda: rng.bytes(8),
        ]
        said = kinds[rng.integers(len(kinds))]()

        def tell() -> None:
            self.session.handle(read_message(said))

        return words_of("message", said), tell

    def state(self) -> Any:
        return id(self.session._env._state), self.session._held, self.session.paused, self.session._env.prompt

    def settle(self) -> str | None:
        long = len(json.dumps(self.session.view().facts)) > 40_000
        return "facts of more than 40,000 characters" if long else None


def targets(folder: Path) -> dict[str, Any]:
    """Return every target by name; folder: for the files that are attacked."""
    world = folder / "world"
    world.mkdir()
    write_random_world(world)
    return {
        "reset": Single("reset"),
        "step": Single("step"),
        "vector": Vector(),
        "play messages": Messages(folder),
        "clip folders": Clips(folder),
        "snapshot files": SnapshotFiles(folder),
        "cards": Cards(world),
    }
