"""State is a value: snapshots, branches and noise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playing import make, play

import wm_env
from wm_env.model.state import leaves

ACTIONS = st.lists(st.integers(0, 8), min_size=1, max_size=6)
quick = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@pytest.mark.slow
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


REPLAY = """
import sys, gymnasium as gym, numpy as np, torch, wm_env
torch.set_num_threads(int(sys.argv[1]))
for folder, world in zip(sys.argv[2::2], sys.argv[3::2]):
    env = gym.make('SanaWM-v0', world=world, obs_type='rgb_sequence')
    wm_env.restore(env, wm_env.load_snapshot(folder + '/moment.safetensors'))
    np.save(folder + '/frames.npy', env.step(1)[0])
"""


@pytest.mark.slow
def test_a_saved_snapshot_replays_in_another_process(
    pure_world: str, memory_world: str, tmp_path: Path
) -> None:
    expected, words = {}, []
    for name, world in (("twin", "twin"), ("pure", pure_world), ("memory", memory_world)):
        (tmp_path / name).mkdir()
        env = make(world)
        env.reset(seed=3)
        play(env, [1, 4])
        env.unwrapped.snapshot().save(tmp_path / name / "moment.safetensors")
        expected[name] = env.step(1)[0]
        words += [str(tmp_path / name), world]
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", REPLAY, threads, *words], check=True, timeout=120)
    for name, frames in expected.items():
        assert np.array_equal(np.load(tmp_path / name / "frames.npy"), frames), name


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


@pytest.mark.slow
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
