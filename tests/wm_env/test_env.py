"""The Gymnasium interface, on the twin."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from PIL import Image

from wm_env.actions import ACTION_TYPES
from wm_env.env import SanaWMEnv
from wm_env.model.state import leaves
from wm_env.snapshots import Snapshot
from wm_env.twin import TwinWorld

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.slow
@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("obs_type", ["rgb", "rgb_sequence"])
def test_gymnasium_finds_nothing_to_say(action_type: str, obs_type: str) -> None:
    env = gym.make("SanaWM-Twin-v0", action_type=action_type, obs_type=obs_type, render_mode="rgb_array")
    check_env(env.unwrapped)


def test_make_needs_no_second_import() -> None:
    assert gym.make("wm_env:SanaWM-Twin-v0").spec.id == "SanaWM-Twin-v0"


def test_reset_returns_the_start_image_and_a_sequence_repeats_it(make_twin: Callable[..., Any]) -> None:
    image, info = make_twin().reset(seed=3)
    sequence, _ = make_twin(obs_type="rgb_sequence").reset(seed=3)
    assert image.shape == (64, 64, 3) and sequence.shape == (4, 64, 64, 3)
    assert all(np.array_equal(frame, image) for frame in sequence)
    assert np.array_equal(info["c2w"], np.eye(4)) and info["frame_index"] == 0


def test_a_step_returns_the_frames_its_own_action_drives(make_twin: Callable[..., Any]) -> None:
    env = make_twin(obs_type="rgb_sequence")
    env.reset(seed=0)
    still, *_ = env.step(0)
    turned, _, _, _, info = env.step(4)  # yaw right
    assert not np.array_equal(turned[0], still[-1])  # the first returned frame already moved
    angle = np.rad2deg(np.arctan2(info["c2w_frames"][:, 0, 2], info["c2w_frames"][:, 2, 2]))
    assert angle == pytest.approx([3.6, 7.2, 10.8, 14.4])


def test_one_forward_step_in_the_open_moves_a_quarter_metre(make_twin: Callable[..., Any]) -> None:
    env = make_twin(collision="ignore")
    env.reset(seed=0)
    info = env.step(1)[4]
    assert info["c2w"][:3, 3] == pytest.approx([0, 0, 0.25], abs=1e-5)


def test_camera_actions_reach_the_world_speeds(make_twin: Callable[..., Any]) -> None:
    env = make_twin(action_type="camera", collision="ignore")
    env.reset(seed=0)
    info = env.step(np.array([0, 0, 1, 0, 0, 0], np.float32))[4]
    assert info["c2w"][:3, 3] == pytest.approx([0, 0, 0.25], abs=1e-9)
    fast = make_twin(action_type="camera", collision="ignore", max_translation=0.125)
    fast.reset(seed=0)
    assert fast.step(np.array([0, 0, 1, 0, 0, 0], np.float32))[4]["c2w"][2, 3] == pytest.approx(0.5)


def test_equal_seeds_give_equal_episodes_and_other_seeds_other_scenes(twin: Any) -> None:
    def play(seed: int) -> list[np.ndarray]:
        frames = [twin.reset(seed=seed)[0]]
        return frames + [twin.step(action)[0] for action in (1, 4, 1)]

    first, again, other = play(5), play(5), play(6)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_the_global_generators_are_left_alone(twin: Any) -> None:
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    twin.reset(seed=0)
    twin.step(1)
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("obs_type", ["rgb", "rgb_sequence"])
def test_writing_into_observations_and_infos_changes_no_state(
    obs_type: str, make_twin: Callable[..., Any]
) -> None:
    env = make_twin(obs_type=obs_type, obs_size=64)
    for observed, info in (env.reset(seed=0), env.step(1)[::4]):
        kept = {name: tensor.clone() for name, tensor in leaves(env.state)}
        for array in (observed, *(value for value in info.values() if isinstance(value, np.ndarray))):
            assert array.any()
            array[:] = 0
        assert all(torch.equal(tensor, kept[name]) for name, tensor in leaves(env.state))


def test_info_holds_python_numbers(twin: Any) -> None:
    _, info = twin.reset(seed=0)
    kinds = {key: type(info[key]) for key in ("chunk_index", "frame_index", "is_success", "spl", "collision")}
    assert kinds == {
        "chunk_index": int,
        "frame_index": int,
        "is_success": bool,
        "spl": float,
        "collision": bool,
    }
    _, reward, terminated, truncated, info = twin.step(1)
    assert (type(reward), terminated, truncated) == (float, False, False)
    assert (info["chunk_index"], info["frame_index"]) == (1, 4)


def test_obs_size_changes_observations_and_not_the_render(make_twin: Callable[..., Any]) -> None:
    env = make_twin(obs_size=84, render_mode="rgb_array")
    observed, _ = env.reset(seed=0)
    assert observed.shape == env.observation_space.shape == (84, 84, 3)
    assert env.render().shape == (64, 64, 3)
    assert make_twin(obs_size=(36, 48)).observation_space.shape == (36, 48, 3)


def test_resized_observations_are_the_picture_smoothed_to_their_size(make_twin: Callable[..., Any]) -> None:
    whole, half = (make_twin(obs_size=size).reset(seed=0)[0] for size in (64, 32))
    expected = Image.fromarray(whole).resize((32, 32), Image.Resampling.BILINEAR)  # also antialiased
    assert np.abs(half.astype(int) - np.asarray(expected)).max() <= 1


def test_the_observation_and_the_render_are_the_newest_frame_of_the_step(
    make_twin: Callable[..., Any],
) -> None:
    newest = make_twin(render_mode="rgb_array")
    every = make_twin(obs_type="rgb_sequence")
    for env in (newest, every):
        env.reset(seed=0)
    seen, frames = newest.step(4)[0], every.step(4)[0]
    assert np.array_equal(seen, frames[-1]) and np.array_equal(newest.render(), frames[-1])
    assert not np.array_equal(frames[0], frames[-1])


def test_rgb_array_list_holds_all_pixel_frames_since_the_last_call(make_twin: Callable[..., Any]) -> None:
    env = make_twin(render_mode="rgb_array_list", obs_type="rgb_sequence")
    start, _ = env.reset(seed=0)
    first, second = env.step(1)[0], env.step(4)[0]
    frames = env.render()
    assert np.array_equal(np.stack(frames), np.concatenate([start[:1], first, second]))
    assert env.render() == []
    env.step(1)
    again, _ = env.reset(seed=1)
    assert np.array_equal(np.stack(env.render()), again[:1])  # nothing of the episode before


def test_walls_block_and_say_so(make_twin: Callable[..., Any]) -> None:
    env = make_twin()
    env.reset(seed=0)
    hits = [env.step(1)[4]["collision"] for _ in range(60)]
    before = env.step(1)[4]["c2w"]
    assert hits[-1] and np.allclose(env.step(1)[4]["c2w"], before, atol=1e-2)


def test_a_collision_can_end_the_episode(make_twin: Callable[..., Any]) -> None:
    env = make_twin(collision="terminate")
    env.reset(seed=0)
    for _ in range(60):
        _, _, terminated, _, info = env.step(1)
        if terminated:
            break
    assert terminated and info["collision"]
    with pytest.raises(ResetNeeded, match="ended"):
        env.step(1)


def test_collisions_can_be_ignored(make_twin: Callable[..., Any]) -> None:
    env = make_twin(collision="ignore")
    env.reset(seed=0)
    info = [env.step(1) for _ in range(60)][-1][4]
    assert info["c2w"][2, 3] == pytest.approx(15.0, abs=1e-3)


def test_several_scene_seeds_are_drawn_from(twin: Any) -> None:
    first = [twin.reset(seed=seed, options={"scene": (3, 11)})[0] for seed in range(6)]
    alone = [twin.reset(seed=seed, options={"scene": seed})[0] for seed in (3, 11)]
    drawn = [next(i for i in range(2) if np.array_equal(alone[i], picture)) for picture in first]
    assert set(drawn) == {0, 1}
    with pytest.raises(ValueError, match="no scene seed"):
        twin.reset(options={"scene": ()})


def test_reset_options_choose_scene_split_prompt_and_intrinsics(twin: Any) -> None:
    chosen, _ = twin.reset(seed=0, options={"scene": 11})
    again, _ = twin.reset(seed=1, options={"scene": 11})
    assert np.array_equal(chosen, again)
    heldout, _ = twin.reset(seed=0, options={"scene": 11, "split": "heldout"})
    assert not np.array_equal(chosen, heldout)
    wide, info = twin.reset(seed=0, options={"scene": 11, "intrinsics": (20.0, 20.0, 32.0, 32.0)})
    assert info["intrinsics"].tolist() == [20.0, 20.0, 32.0, 32.0] and not np.array_equal(wide, chosen)
    twin.reset(seed=0, options={"prompt": "one room, dim light"})
    assert twin.prompt == "one room, dim light"


def test_overriding_one_start_condition_leaves_the_others_to_the_seed(twin: Any) -> None:
    twin.reset(seed=4)
    noise = int(twin.state.noise_seed[0])
    twin.reset(seed=4, options={"scene": 3})
    assert int(twin.state.noise_seed[0]) == noise
    twin.reset(seed=4, options={"noise_seed": 17})
    assert int(twin.state.noise_seed[0]) == 17


def test_unknown_reset_options_are_named_in_a_warning(twin: Any) -> None:
    with pytest.warns(UserWarning, match="colour"):
        twin.reset(seed=0, options={"colour": "red"})


def test_a_prompt_changes_the_twin_from_the_next_step(twin: Any) -> None:
    def mean_after(prompt: str | None) -> float:
        twin.reset(seed=0, options={"prompt": "bright light"})
        if prompt is not None:
            twin.set_prompt(prompt)
        return float(twin.step(0)[0].mean())

    assert mean_after("dim light") < mean_after(None)


def test_stepping_before_reset_or_after_close_is_refused(twin: Any) -> None:
    with pytest.raises(ResetNeeded, match="reset"):
        twin.step(0)
    with pytest.raises(ResetNeeded, match="reset"):
        twin.snapshot()
    twin.reset(seed=0)
    twin.close()
    twin.close()
    for call in (lambda: twin.step(0), lambda: twin.reset(seed=0)):
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            call()


def test_profile_counts_world_calls_apart_from_info(twin: Any) -> None:
    twin.reset(seed=0)
    twin.step(0)
    measured = twin.profile()
    assert (measured["steps"], measured["world_calls"]) == (1, 1)
    assert 0 < measured["world_seconds"] <= measured["seconds"]
    assert not any("second" in key for key in twin.step(0)[4])


def test_a_single_episode_works_on_one_thread_and_leaves_torchs_number_alone(
    make_twin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watch(name: str) -> None:
        method = getattr(TwinWorld, name)

        def watched(self: TwinWorld, *args: Any) -> Any:
            seen.append(torch.get_num_threads())
            return method(self, *args)

        monkeypatch.setattr(TwinWorld, name, watched)

    watch("begin")
    watch("step_chunk")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for threads in (1, None):
            env = make_twin(threads=threads)
            env.reset(seed=0)
            env.step(1)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 2, 2]  # reset and step, twice
    with pytest.raises(ValueError, match="threads"):
        make_twin(threads=0)


def test_play_finds_its_keyboard_map_through_the_wrappers() -> None:
    env = gym.make("SanaWM-Twin-v0", render_mode="rgb_array")
    mapping = env.get_wrapper_attr("get_keys_to_action")()
    assert mapping["w"] == 1 and type(env.metadata["render_fps"]) is int


@pytest.mark.parametrize("mode", ["sync", "async"])  # async: in worker processes
def test_gymnasiums_own_vectorisation_gives_each_slot_its_single_environment(mode: str) -> None:
    envs = gym.make_vec("wm_env:SanaWM-Twin-v0", num_envs=2, vectorization_mode=mode)
    started, _ = envs.reset(seed=0)
    observed, rewards, *_, infos = envs.step(np.array([1, 4]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        envs.close()
    for slot, action in enumerate((1, 4)):
        alone = gym.make("SanaWM-Twin-v0")
        assert np.array_equal(started[slot], alone.reset(seed=slot)[0])
        image, reward, *_, info = alone.step(action)
        assert np.array_equal(observed[slot], image) and rewards[slot] == reward
        assert np.array_equal(infos["c2w"][slot], info["c2w"])
    assert not np.array_equal(started[0], started[1]) and not np.array_equal(observed[0], started[0])


def test_stock_wrappers_accept_the_environment() -> None:
    env = gym.make("SanaWM-Twin-v0")
    env = gym.wrappers.FrameStackObservation(gym.wrappers.GrayscaleObservation(env), 3)
    env = gym.wrappers.RecordEpisodeStatistics(env)
    observed, _ = env.reset(seed=0)
    grey = np.array([0.2125, 0.7154, 0.0721]) @ gym.make("SanaWM-Twin-v0").reset(seed=0)[0].reshape(-1, 3).T
    assert observed.shape == (3, 64, 64)
    assert np.abs(observed[-1].ravel() - grey).max() <= 1  # Gymnasium's weights, cut to whole numbers
    moved, *_ = env.step(1)
    assert np.array_equal(moved[1], observed[2]) and not np.array_equal(moved[2], observed[2])


def test_a_snapshot_with_tensors_of_another_shape_is_refused() -> None:
    env = SanaWMEnv(world="twin")
    env.reset(seed=0)
    state, moment = env.state, env.snapshot()
    tensors = {**moment.tensors, "chunk": moment.tensors["chunk"].repeat(2)}
    with pytest.raises(ValueError, match=r"differ in the tensors \['chunk'\]"):
        env.restore(Snapshot(config=moment.config, facts=moment.facts, tensors=tensors))
    assert env.state is state
