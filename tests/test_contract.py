"""The environment's promises: state is a value, noise is a function, bad input changes nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wm_env
from wm_env.model.dit import DiT
from wm_env.model.state import leaves
from wm_env.snapshots import Snapshot
from wm_env.twin import TWIN_SPEC, TwinWorld

ACTIONS = st.lists(st.integers(0, 8), min_size=1, max_size=6)
WORLDS = ["twin", "pure_world", "memory_world"]  # the latter two: random weights, every part
quick = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return "twin" if request.param == "twin" else request.getfixturevalue(request.param)


def make(world: str, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("SanaWM-v0", world=world, obs_type="rgb_sequence", **kwargs)


def play(env: gym.Env[Any, Any], actions: list[int]) -> list[tuple[bytes, float, bytes]]:
    """Return frames, reward and poses of every step, as comparable bytes."""
    steps = [env.step(action) for action in actions]
    return [(frames.tobytes(), reward, info["c2w_frames"].tobytes()) for frames, reward, _, _, info in steps]


@quick
@given(before=ACTIONS, after=ACTIONS)
def test_restoring_a_snapshot_replays_the_same_frames(
    world: str, before: list[int], after: list[int]
) -> None:
    env = make(world)
    env.reset(seed=1)
    play(env, before)
    snapshot = env.unwrapped.snapshot()
    first = play(env, after)
    env.unwrapped.restore(snapshot)
    assert play(env, after) == first


@quick
@given(before=ACTIONS, after=ACTIONS)
def test_a_saved_snapshot_replays_in_a_fresh_environment(
    world: str, before: list[int], after: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("moment") / "moment.safetensors"
    env = make(world)
    env.reset(seed=2)
    play(env, before)
    env.unwrapped.snapshot().save(path)
    first = play(env, after)
    fresh = make(world)
    wm_env.restore(fresh, wm_env.load_snapshot(path))
    assert play(fresh, after) == first


def test_a_saved_snapshot_replays_in_another_process(world: str, tmp_path: Path) -> None:
    path = tmp_path / "moment.safetensors"
    env = make(world)
    env.reset(seed=3)
    play(env, [1, 4])
    env.unwrapped.snapshot().save(path)
    expected = env.step(1)[0]
    code = (
        "import sys, gymnasium as gym, numpy as np, torch, wm_env\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        f"env = gym.make('SanaWM-v0', world={world!r}, obs_type='rgb_sequence')\n"
        "wm_env.restore(env, wm_env.load_snapshot(sys.argv[1]))\n"
        "np.save(sys.argv[2], env.step(1)[0])\n"
    )
    out = tmp_path / "frames.npy"
    subprocess.run([sys.executable, "-c", code, str(path), str(out)], check=True, timeout=120)
    assert np.array_equal(np.load(out), expected)


def test_a_snapshot_also_rewinds_the_random_numbers_of_later_episodes(world: str) -> None:
    env = make(world)
    env.reset(seed=4)
    snapshot = env.unwrapped.snapshot()
    first, _ = env.reset()
    env.unwrapped.restore(snapshot)
    again, _ = env.reset()
    assert np.array_equal(first, again)


def test_restore_rewinds_the_time_limit(world: str) -> None:
    env = make(world, max_episode_steps=3)
    env.reset(seed=0)
    env.step(0)
    snapshot = env.unwrapped.snapshot()
    assert [env.step(0)[3] for _ in range(2)] == [False, True]
    wm_env.restore(env, snapshot)
    assert [env.step(0)[3] for _ in range(2)] == [False, True]
    fresh = make(world, max_episode_steps=3)
    wm_env.restore(fresh, snapshot)
    assert [fresh.step(0)[3] for _ in range(2)] == [False, True]


def test_a_snapshot_shares_tensors_and_stepping_never_writes_into_it(world: str) -> None:
    env = make(world)
    env.reset(seed=0)
    env.step(1)
    snapshot = env.unwrapped.snapshot()
    live = dict(leaves(env.unwrapped.state))
    assert all(tensor.data_ptr() == live[name].data_ptr() for name, tensor in snapshot.tensors.items())
    copies = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    play(env, [1, 4, 2])
    assert all(torch.equal(tensor, copies[name]) for name, tensor in snapshot.tensors.items())


@quick
@given(actions=ACTIONS)
def test_shared_noise_branches_answer_equal_actions_equally(world: str, actions: list[int]) -> None:
    env = make(world)
    env.reset(seed=5)
    env.step(1)
    envs = env.unwrapped.branch(3, noise="shared")
    for action in actions:
        frames = envs.step(np.full(3, action))[0]
        assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])


def test_branches_start_where_the_environment_is_and_leave_it_there(world: str) -> None:
    env, control = make(world), make(world)
    for each in (env, control):
        each.reset(seed=6)
        each.step(1)
    envs = env.unwrapped.branch(4)
    futures = envs.step(np.array([1, 2, 3, 4]))[0]
    assert futures.shape == (4, 4, 64, 64, 3)
    assert np.array_equal(env.step(2)[0], control.step(2)[0])


def test_branches_share_large_tensors_until_they_diverge(world: str) -> None:
    env = make(world)
    env.reset(seed=6)
    start = env.unwrapped.state
    envs = env.unwrapped.branch(8, noise="shared")
    assert all(
        one.data_ptr() == many.data_ptr()
        for (_, one), (_, many) in zip(leaves(start), leaves(envs.state), strict=True)
    )


def test_independent_branches_of_a_learned_world_differ_by_its_own_uncertainty(pure_world: str) -> None:
    env = make(pure_world)
    env.reset(seed=6)
    envs = env.unwrapped.branch(3)
    assert len(set(envs.state.noise_seed.tolist())) == 3
    frames = envs.step(np.zeros(3, np.int64))[0]
    assert not np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[1], frames[2])


def test_without_temperature_independent_branches_agree(pure_world: str) -> None:
    env = make(pure_world, temperature=0.0)
    env.reset(seed=6)
    frames = env.unwrapped.branch(2).step(np.zeros(2, np.int64))[0]
    assert np.array_equal(frames[0], frames[1])


def test_noise_is_a_function_of_its_seed_and_the_chunk(pure_world: str) -> None:
    def frames(noise_seed: int) -> bytes:
        env = make(pure_world)
        env.reset(seed=7, options={"noise_seed": noise_seed})
        return b"".join(step[0] for step in play(env, [1, 0]))

    assert frames(1) == frames(1) != frames(2)


def test_a_prompt_acts_from_the_next_chunk_on_and_not_before(pure_world: str) -> None:
    def frames(first: str | None, second: str | None) -> list[bytes]:
        env = make(pure_world)
        env.reset(seed=8, options={"prompt": "bright light"})
        seen = []
        for prompt in (first, second):
            if prompt is not None:
                env.unwrapped.set_prompt(prompt)
            seen.append(play(env, [0])[0][0])
        return seen

    assert frames(None, "dim light")[0] == frames(None, None)[0]
    assert frames(None, "dim light")[1] != frames(None, None)[1]
    assert frames(None, "bright light")[1] == frames(None, None)[1]


# A learned world is told the picture, its intrinsics, a prompt and a seed -----------------------------------


def test_the_twin_and_a_learned_world_start_alike(world: str) -> None:
    truth, _ = make("twin").reset(seed=9)
    image, _ = make(world).reset(seed=9)
    assert np.array_equal(image, truth)


def test_one_picture_gives_one_future_however_it_is_reached(pure_world: str) -> None:
    scene = make(pure_world, collision="ignore")
    start, info = scene.reset(seed=10)
    given = make(pure_world)
    options = {
        "image": start[0],
        "intrinsics": info["intrinsics"],
        "prompt": scene.unwrapped.prompt,
        "noise_seed": int(scene.unwrapped.state.noise_seed[0]),
    }
    again, _ = given.reset(seed=77, options=options)
    assert np.array_equal(again, start)
    assert [step[0] for step in play(given, [1, 4, 1])] == [step[0] for step in play(scene, [1, 4, 1])]


def test_a_learned_world_is_never_handed_the_scene_or_the_absolute_pose() -> None:
    from wm_env.env import SanaWMEnv
    from wm_env.twin import TwinWorld

    told: list[Any] = []

    class Listener(TwinWorld):
        def begin(self, starts: Any) -> Any:
            told.extend(starts)
            return super().begin(starts)

    blind = Listener(dataclasses.replace(TWIN_SPEC, sees_scene=False))
    with pytest.raises(ValueError, match="needs the scene"):  # the renderer, made blind, says so
        SanaWMEnv(world=blind).reset(seed=0)
    assert told[0].scene is None and told[0].start_c2w is None


def test_tasks_and_collisions_are_the_same_in_the_twin_and_in_a_learned_world(pure_world: str) -> None:
    actions = [1, 1, 1, 4, 4, 1, 1, 1, 1, 1]
    learned, truth = make(pure_world), make("twin")
    for env in (learned, truth):
        env.reset(seed=11)
    assert [step[1:] for step in play(learned, actions)] == [step[1:] for step in play(truth, actions)]


def test_batched_learned_frames_are_within_a_grey_level_of_solo_ones(pure_world: str) -> None:
    solo = make(pure_world)
    solo.reset(seed=12)
    envs = gym.make_vec("SanaWM-v0", num_envs=3, world=pure_world, obs_type="rgb_sequence")
    envs.reset(seed=12)
    for action in (1, 4, 0):
        batched = envs.step(np.array([action, 2, 3]))[0]
        alone = solo.step(action)[0]
        assert np.abs(batched[0].astype(int) - alone).max() <= 1


def test_the_twin_shows_the_truth_in_the_latents_of_a_learned_world() -> None:
    learned, twin = (gym.make("SanaWM-v0", world=world, obs_type="latent") for world in ("tiny", "twin"))
    assert learned.observation_space == twin.observation_space
    start, true_start = learned.reset(seed=1)[0], twin.reset(seed=1)[0]
    np.testing.assert_allclose(start, true_start, atol=1e-5)
    after, true_after = learned.step(1)[0], twin.step(1)[0]
    moved = np.abs(true_after - true_start).mean()
    assert np.abs(after - true_after).mean() < moved  # nearer the truth than where the camera came from


def test_bfloat16_products_leave_the_state_in_float32_and_the_pictures_alike(memory_world: str) -> None:
    exact, coarse = (gym.make("SanaWM-v0", world=memory_world, dtype=dtype) for dtype in (None, "bfloat16"))
    assert (
        coarse.unwrapped.world is gym.make("SanaWM-v0", world=memory_world, dtype="bfloat16").unwrapped.world
    )
    for env in (exact, coarse):
        env.reset(seed=1)
        env.step(1)
    state = coarse.unwrapped.state
    assert {leaf.dtype for _, leaf in leaves(state.world)} == {
        leaf.dtype for _, leaf in leaves(exact.unwrapped.state.world)
    }
    moment = coarse.unwrapped.snapshot()
    once, other = coarse.step(3)[0], exact.step(3)[0]
    coarse.unwrapped.restore(moment)
    assert (coarse.step(3)[0] == once).all()
    difference = np.abs(once.astype(int) - other.astype(int))
    assert 0 < difference.mean() < 3  # grey levels


def test_latents_are_observed_within_finite_bounds(pure_world: str) -> None:
    env = gym.make("SanaWM-v0", world=pure_world, obs_type="latent")
    observed, _ = env.reset(seed=0)
    assert observed.dtype == np.float32 and env.observation_space.contains(observed)
    assert np.isfinite(env.observation_space.low).all()
    assert env.observation_space.contains(env.step(1)[0])


def test_gymnasium_finds_nothing_to_say_about_a_learned_world(memory_world: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("SanaWM-v0", world=memory_world).unwrapped, skip_render_check=True)


# Bad input: one clear sentence each, and the state as it was ------------------------------------------------

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
    ({"world": "twin", "dtype": "bfloat16"}, "is the twin and takes latents; got dtype"),
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
    from wm_env.env import SanaWMEnv

    with pytest.raises(ValueError, match=says):
        SanaWMEnv(**kwargs)


def test_released_weights_that_are_not_there_name_the_download_command() -> None:
    with pytest.raises(FileNotFoundError, match="wm-env download sana-wm-streaming"):
        gym.make("SanaWM-v0", world="sana-wm-streaming")


def test_a_failed_save_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: Any) -> None:
    env = make("twin").unwrapped
    env.reset(seed=0)
    path = tmp_path / "moment.safetensors"
    env.snapshot().save(path)
    before = path.read_bytes()

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("wm_env.snapshots.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        env.snapshot().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["moment.safetensors"]


@pytest.mark.parametrize("number", [1, 3])
def test_the_number_of_transformer_passes_does_not_depend_on_the_number_of_envs(
    number: int, memory_world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    forward = DiT.forward

    def counted(self: DiT, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(DiT, "forward", counted)
    envs = gym.make_vec("SanaWM-v0", num_envs=number, world=memory_world, max_episode_steps=2)
    envs.reset(seed=0)
    for _ in range(4):  # crosses an end and a reset of every slot
        envs.step(np.zeros(number, np.int64))
    assert len(passes) == 4
