"""What the caller has set for its own work never reaches a result, and is as it was afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wm_env
from wm_env.env import SanaWMEnv
from wm_env.model.data.posed_clip import PosedClip


@contextmanager
def changed(put: Callable[[Any], Any], get: Callable[[], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
        assert get() == value  # ours to put back, and nobody else's
    finally:
        put(before)


@contextmanager
def other_seeds() -> Iterator[None]:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (the global one is what this is about)
    random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


@contextmanager
def one_default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


DISTURBANCES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype float64": lambda: changed(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "default dtype bfloat16": lambda: changed(
        torch.set_default_dtype, torch.get_default_dtype, torch.bfloat16
    ),
    "default device, for all": one_default_device,
    "default device, in a block": lambda: torch.device("meta"),  # a GPU that the tests have everywhere
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "anomaly detection": torch.autograd.detect_anomaly,
    "deterministic algorithms": lambda: changed(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True
    ),
    "fast products": lambda: changed(
        torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"
    ),
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "two threads": lambda: changed(torch.set_num_threads, torch.get_num_threads, 2),
    "errors of numpy": lambda: np.errstate(all="raise"),
    "silence of numpy": lambda: np.errstate(all="ignore"),
    "random generators": other_seeds,
}


def lived(world: str, folder: Path, around: Callable[[], AbstractContextManager[Any]]) -> list[str]:
    """Return digests of everything that an episode shows, in an environment made and used in a block."""
    found: list[str] = []

    def note(*values: Any) -> None:
        found.append(hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in values)).hexdigest())

    with around():
        env = SanaWMEnv(world=world, task="pointnav", obs_size=48, render_mode="rgb_array")
        seen, info = env.reset(seed=3)
        note(seen["image"], seen["goal"], info["c2w"])
        for action in (1, 3):
            seen, reward, ended, _, info = env.step(action)
            note(seen["image"], seen["goal"], info["c2w_frames"], reward, ended, env.render())
        futures = env.branch(2)
        seen, rewards, *_ = futures.step(np.array([1, 2]))
        note(seen["image"], rewards)
        env.snapshot().save(folder / "moment.safetensors")
        env.restore(wm_env.load_snapshot(folder / "moment.safetensors"))
        env.set_prompt("one room, bright light")
        note(env.step(4)[0]["image"], (folder / "moment.safetensors").read_bytes())
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    known: dict[str, list[str]] = {}

    def expected(world: str) -> list[str]:
        if world not in known:
            known[world] = lived(world, tmp_path_factory.mktemp("plain"), nullcontext)
        return known[world]

    return expected


@pytest.mark.parametrize("name", DISTURBANCES)
def test_no_setting_of_the_caller_changes_a_byte(
    name: str, world: str, undisturbed: Callable[[str], list[str]], tmp_path: Path
) -> None:
    used = world
    if world != "twin":  # a folder of its own is loaded within the block, not taken from memory
        used = str(shutil.copytree(world, tmp_path / "world"))
    assert lived(used, tmp_path, DISTURBANCES[name]) == undisturbed(world)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_clips_are_the_same_for_every_caller(name: str) -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (9, 96, 128, 3), np.uint8)
    c2w = np.tile(np.eye(4), (9, 1, 1))
    c2w[:, 2, 3] = 0.1 * np.arange(9)

    def made() -> tuple[np.ndarray, ...]:
        clip = PosedClip(frames, c2w, np.array([100.0, 100, 64, 48]), 32.0).resampled(16).resized(64, 64)
        return clip.frames, clip.c2w, clip.intrinsics, clip.from_last()

    expected = made()
    with DISTURBANCES[name]():
        found = made()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


HOSTILE = {
    "LC_ALL": "C",
    "LANG": "tr_TR.ISO-8859-9",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
    "TZ": "Asia/Kathmandu",
    "PYTHONHASHSEED": "5",
    "COLUMNS": "20",
}


@pytest.mark.slow
def test_a_command_gives_the_same_bytes_in_another_surrounding(tmp_path: Path) -> None:
    found = []
    for name, extra, mask in (("plain", {}, 0o022), ("höstile", HOSTILE, 0o077)):
        home = tmp_path / name
        home.mkdir()
        gone = ("HOME", "USER", "LOGNAME", "USERNAME") if extra else ()
        inherited = {key: value for key, value in os.environ.items() if key not in gone}
        words = ["record", "--world", "twin", "--steps", "1", "--prompt", "käse, red light"]
        done = subprocess.run(
            [sys.executable, "-m", "wm_env.cli", *words, "--out", "walk.mp4", "--json", "r.json"],
            cwd=home,
            env={**inherited, **extra},
            umask=mask,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        result = json.loads((home / "r.json").read_text(encoding="utf-8"))
        assert result.pop("seconds") > 0
        found.append((result, (home / "walk.mp4").read_bytes(), (home / "walk.png").read_bytes()))
    assert found[0] == found[1]
