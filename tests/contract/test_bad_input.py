"""Bad input: one clear sentence each, and the state as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from playing import make

import wm_env
from wm_env.env import SanaWMEnv
from wm_env.snapshots import Snapshot
from wm_env.twin import TwinWorld

CALLS: list[tuple[str, Callable[[Any, Path], Any], type[Exception], str]] = [
    ("an action outside", lambda env, _: env.step(9), InvalidAction, "leaves the space"),
    ("a fractional action", lambda env, _: env.step(0.5), InvalidAction, "integer"),
    ("an unknown split", lambda env, _: env.reset(options={"split": "test"}), ValueError, "val"),
    ("a scene that is no seed", lambda env, _: env.reset(options={"scene": "x"}), ValueError, "integer"),
    ("a negative seed", lambda env, _: env.reset(options={"scene": -1}), ValueError, "seed"),
    (
        "both image and scene",
        lambda env, _: env.reset(options={"scene": 1, "image": "a"}),
        ValueError,
        "not both",
    ),
    (
        "a missing image",
        lambda env, _: env.reset(options={"image": "none.png"}),
        ValueError,
        "does not exist",
    ),
    (
        "an image with alpha",
        lambda env, _: env.reset(options={"image": np.zeros((64, 64, 4), np.uint8)}),
        ValueError,
        "alpha",
    ),
    (
        "a tiny image",
        lambda env, _: env.reset(options={"image": np.zeros((8, 8, 3), np.uint8)}),
        ValueError,
        "at least 32x32",
    ),
    (
        "impossible intrinsics",
        lambda env, _: env.reset(options={"intrinsics": (1.0, 1.0, 32.0, 32.0)}),
        ValueError,
        "field of view",
    ),
    (
        "a scene seed and picture that exclude each other with a new seed",
        lambda env, _: env.reset(seed=5, options={"scene": 2, "image": np.zeros((64, 64, 3), np.uint8)}),
        ValueError,
        "not both",
    ),
    ("a prompt that is no text", lambda env, _: env.set_prompt(3), ValueError, "string"),
    ("an unknown noise kind", lambda env, _: env.branch(2, noise="loud"), ValueError, "independent, shared"),
    (
        "a snapshot into nowhere",
        lambda env, path: env.snapshot().save(path / "absent" / "a.safetensors"),
        OSError,
        "does not exist",
    ),
    ("a snapshot onto a folder", lambda env, path: env.snapshot().save(path), OSError, "folder"),
    (
        "a snapshot that is none",
        lambda env, path: wm_env.load_snapshot(_write(path / "a.safetensors", b"no tensors")),
        ValueError,
        "not a readable snapshot",
    ),
    (
        "a missing snapshot",
        lambda env, path: wm_env.load_snapshot(path / "b.safetensors"),
        FileNotFoundError,
        "does not exist",
    ),
    (
        "a snapshot of another configuration",
        lambda env, _: env.restore(_foreign(env.snapshot())),
        ValueError,
        "another configuration",
    ),
]


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _foreign(snapshot: Snapshot) -> Snapshot:
    config = {**snapshot.config, "world": "elsewhere"}
    return Snapshot(config=config, facts=snapshot.facts, tensors=snapshot.tensors)


@pytest.mark.parametrize(("_name", "call", "error", "says"), CALLS, ids=[case[0] for case in CALLS])
def test_bad_input_is_refused_in_one_sentence_and_changes_nothing(
    world: str,
    tmp_path: Path,
    _name: str,
    call: Callable[[Any, Path], Any],
    error: type[Exception],
    says: str,
) -> None:
    env = make(world).unwrapped
    env.reset(seed=0)
    env.step(1)
    state, generator = env.state, env.np_random.bit_generator.state
    with pytest.raises(error, match=says) as raised:
        call(env, tmp_path)
    assert "\n" not in str(raised.value)
    assert env.state is state and env.np_random.bit_generator.state == generator
    assert not [file for file in tmp_path.iterdir() if file.name != "a.safetensors"]


def test_a_world_that_needs_a_scene_refuses_a_picture_and_keeps_its_state() -> None:
    env = make("twin").unwrapped
    env.reset(seed=0)
    state, generator = env.state, env.np_random.bit_generator.state
    with pytest.raises(ValueError, match="needs a scene"):
        env.reset(seed=1, options={"image": np.zeros((64, 64, 3), np.uint8)})
    assert env.state is state and env.np_random.bit_generator.state == generator


def test_a_pose_sequence_of_the_wrong_length_is_refused(pure_world: str) -> None:
    env = make(pure_world, action_type="camera_sequence").unwrapped
    env.reset(seed=0)
    state = env.state
    with pytest.raises(InvalidAction, match=r"shape \(5, 6\).*needs \(4, 6\)"):
        env.step(np.zeros((5, 6), np.float32))
    assert env.state is state


def test_corrupted_and_missing_weights_are_refused(pure_world: str, tmp_path: Path) -> None:
    for file in Path(pure_world).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "random.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(ValueError, match="corrupted: sha256"):
        make(str(tmp_path))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="weight file"):
        make(str(tmp_path))


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"world": "huge"}, "tiny, tiny-pure, twin"),
    ({"world": 3}, "int"),
    ({"world": "twin", "ablate": "dit"}, "ablate"),
    ({"world": "tiny", "ablate": "everything"}, "dit, gdn_state, memory"),
    ({"world": "sana-wm-bidirectional"}, "wm-env record"),
    ({"world": "twin", "task": "dance"}, "explore"),
    ({"world": "twin", "action_type": "joystick"}, "keys, multikeys"),
    ({"world": "twin", "obs_type": "smell"}, "rgb, rgb_sequence"),
    ({"world": TwinWorld(), "obs_type": "latent"}, "no latents"),
    ({"world": "twin", "dtype": "bfloat16"}, "is the twin and takes latents, detail; got dtype"),
    ({"world": "tiny[bfloat16]"}, "write world='tiny' with dtype='bfloat16'"),
    ({"world": "tiny", "dtype": "int8"}, "float32, bfloat16"),
    ({"world": "tiny", "offload": ()}, "takes dtype, refiner, ablate; got offload"),
    ({"world": "twin", "obs_size": 0}, "positive"),
    ({"world": "twin", "collision": "bounce"}, "block, terminate, ignore"),
    ({"world": "twin", "split": "test"}, "train, val, heldout"),
    ({"world": "twin", "temperature": -1.0}, "temperature"),
    ({"world": "twin", "max_translation": float("nan")}, "max_translation"),
    ({"world": "twin", "device": "toaster"}, "device"),
    ({"world": "twin", "render_mode": "human3d"}, "rgb_array"),
]


@pytest.mark.parametrize(("kwargs", "says"), SETTINGS)
def test_impossible_settings_are_refused_when_the_environment_is_made(
    kwargs: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        SanaWMEnv(**kwargs)


def test_released_weights_that_are_not_there_name_the_download_command() -> None:
    with pytest.raises(FileNotFoundError, match="wm-env download sana-wm-streaming"):
        gym.make("SanaWM-v0", world="sana-wm-streaming")


def test_a_failed_save_leaves_the_old_file_whole(tmp_path: Path, disk_with: Any) -> None:
    env = make("twin").unwrapped
    env.reset(seed=0)
    path = tmp_path / "moment.safetensors"
    env.snapshot().save(path)
    before = path.read_bytes()

    for size in (0, 1, len(before) // 2, len(before) - 1):
        with disk_with(size), pytest.raises(OSError, match=r"moment\.safetensors"):
            env.snapshot().save(path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["moment.safetensors"]
