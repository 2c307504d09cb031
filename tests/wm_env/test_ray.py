"""Vector environments over Ray: the local one's answers, whoever dies, and clear words where it cannot be."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded

import wm_env  # noqa: F401  (registers the ids)
from wm_env.export.collect import Job, collect, episodes_in
from wm_env.export.episode import load_recording

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.slow
MODES = ["next_step", "same_step", "disabled"]
BASE: dict[str, Any] = {"task": "objectnav", "max_episode_steps": 4, "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster of four CPUs for all tests."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def spread() -> Iterator[Callable[..., Any]]:
    """Make environments over two workers of two slots; they are closed at the end."""
    from wm_env.distributed import RayVectorEnv

    made = []

    def make(**settings: Any) -> Any:
        made.append(RayVectorEnv(2, 2, **{"world": "twin", **BASE, **settings}))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def local(**settings: Any) -> Any:
    return gym.make_vec("SanaWM-v0", num_envs=4, **{"world": "twin", **BASE, **settings})


def same(a: Any, b: Any, where: str = "") -> None:
    """Fail naming the place where two answers differ, in structure, dtype or a bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for name in a:
            same(a[name], b[name], f"{where}/{name}")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}/{index}")
    elif isinstance(a, np.ndarray) and a.dtype == object:
        same(list(a), list(b), where)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape, where
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), where
    else:
        assert type(a) is type(b) and (a == b or (a != a and b != b)), where


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, size=(count, 4))


@pytest.mark.parametrize("mode", MODES)
def test_every_answer_is_the_local_ones(spread: Callable[..., Any], mode: str) -> None:
    far, near = spread(autoreset_mode=mode), local(autoreset_mode=mode)
    for name in ("num_envs", "action_space", "observation_space", "metadata", "autoreset_mode"):
        assert getattr(far, name) == getattr(near, name)
    same(far.reset(seed=3), near.reset(seed=3))
    for row in rows(6):
        answer = far.step(row)
        same(answer, near.step(row))
        ended = answer[2] | answer[3]
        if mode == "disabled" and ended.any():
            with pytest.raises(ResetNeeded, match=r"slots \[.*\] have ended"):
                far.step(row)
            same(far.reset(options={"reset_mask": ended}), near.reset(options={"reset_mask": ended}))
    mask = np.array([False, False, False, True])
    seeds = [None, None, None, 9]
    same(
        far.reset(seed=seeds, options={"reset_mask": mask}),
        near.reset(seed=seeds, options={"reset_mask": mask}),
    )
    assert far.call("prompt") == near.call("prompt") and far.get_attr("task") == near.get_attr("task")


@pytest.mark.parametrize("world", ["twin", "memory_world"])
def test_a_worker_that_is_killed_changes_nothing(
    spread: Callable[..., Any], world: str, request: pytest.FixtureRequest
) -> None:
    folder = world if world == "twin" else request.getfixturevalue(world)
    settings = {"world": folder, "autoreset_mode": "same_step"}
    far, near = spread(snapshot_every=3, **settings), local(**settings)
    same(far.reset(seed=3), near.reset(seed=3))
    far.set_prompt(["a red room", "b", "c", "d"])
    near.set_prompt(["a red room", "b", "c", "d"])
    for step, row in enumerate(rows(9)):
        if step in (0, 4, 7):  # before the first snapshot has come, after one, after another
            os.kill(far.pids()[step % 2], signal.SIGKILL)
        same(far.step(row), near.step(row), f"step {step}")
    near_slot = near.snapshot(3)
    assert far.snapshot(3).facts == near_slot.facts


def test_fragments_are_the_steps_of_their_worker_and_count(spread: Callable[..., Any]) -> None:
    far, near = spread(), local()
    far.reset(seed=3), near.reset(seed=3)

    def policy(seen: Any, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(1, 5, len(seen["image"]))

    fragments = sorted(far.collect(3, policy, seed=1), key=lambda fragment: fragment.worker)
    actions = np.concatenate([fragment.actions for fragment in fragments], axis=1)
    assert [list(fragment.slots) for fragment in fragments] == [[0, 1], [2, 3]]
    seen = near.reset(seed=3)[0]
    for step, row in enumerate(actions):
        for fragment in fragments:
            same(fragment.observations["image"][step], seen["image"][fragment.slots])
        seen, rewards, *_ = near.step(row)
        assert np.array_equal(rewards, np.concatenate([f.rewards[step] for f in fragments]))
    for fragment in fragments:
        same(fragment.bootstrap, {name: values[fragment.slots] for name, values in seen.items()})
    os.kill(far.pids()[0], signal.SIGKILL)  # what was collected is not lost
    row = rows(1)[0]
    same(far.step(row), near.step(row))


def test_what_is_refused_changes_nothing(spread: Callable[..., Any]) -> None:
    far, near = spread(), local()
    with pytest.raises(ResetNeeded):
        far.step(rows(1)[0])
    far.reset(seed=3), near.reset(seed=3)
    for bad in (np.array([0, 0, 0, 9]), np.zeros(3, int), "wasd"):
        with pytest.raises(InvalidAction):
            far.step(bad)
    with pytest.raises(ValueError, match="scene"):
        far.reset(options={"scene": "kitchen"})
    with pytest.raises(ValueError, match="3 prompts were given for 4 envs"):
        far.set_prompt(["a", "b", "c"])
    with pytest.raises(ValueError, match="2 seeds were given for 4 envs"):
        far.reset(seed=[1, 2])
    row = rows(1)[0]
    same(far.step(row), near.step(row))
    far.close()
    with pytest.raises(ClosedEnvironmentError):
        far.step(row)


def test_where_one_worker_refuses_none_has_changed(spread: Callable[..., Any]) -> None:
    far, near = spread(world="twin"), local()
    far.reset(seed=3), near.reset(seed=3)
    row = rows(1)[0]
    same(far.step(row), near.step(row))
    with pytest.raises(ValueError, match="1 prompts were given for 2 envs"):
        far.crew.change("ask", [("set_prompt", ["other", "other"]), ("set_prompt", ["one"])])
    assert far.call("prompt") == near.call("prompt")
    same(far.step(row), near.step(row))


def test_what_a_worker_cannot_make_is_said_in_its_own_words(spread: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="unknown world 'tinny'"):
        spread(world="tinny")
    with pytest.raises(ValueError, match=r"2 workers of 1 GPU need 2, and the cluster has 0"):
        spread(gpus_per_worker=1)
    with pytest.raises(ValueError, match="leave output out"):
        spread(output="torch")
    with pytest.raises(ValueError, match="workers=0"):
        from wm_env.distributed import RayVectorEnv

        RayVectorEnv(0)


def test_a_worker_that_always_dies_is_given_up(
    spread: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = spread(max_failures=2)
    far.reset(seed=0)
    original = far.crew._actor

    def doomed(member: Any) -> Any:
        actor = original(member)
        os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
        return actor

    monkeypatch.setattr(far.crew, "_actor", doomed)
    os.kill(far.pids()[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker 1 died 3 times in a row"):
        far.step(rows(1)[0])


def test_another_package_on_a_worker_is_refused(
    spread: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wm_env.distributed.ray_env.package_sha256", lambda: "0" * 64)
    with pytest.raises(ValueError, match="worker 0 has another package than the driver"):
        spread()


def _player(policy: str, seed: int) -> Any:
    """Walk forward; the process of episode 2 ends once, at its first step."""
    folder = Path(policy)

    def play(env: Any) -> np.ndarray:
        if seed == 2 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        return np.array([1, 0, 0, 0, 0, 0, 0, 0])

    return play


def test_episodes_are_recorded_once_each_whoever_dies(tmp_path: Path) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    settings, out = {"world": "twin", "task": "explore", "action_type": "multikeys"}, tmp_path / "set"
    job = Job(settings=settings, make_player=_player, policy=str(tmp_path), steps=2, seed=0, out=out)
    done = list(collect(job, 5, 2, ray="local"))
    assert sorted(path.name for path in done) == [f"episode_{index:06d}" for index in range(5)]
    assert (tmp_path / "died").exists() and sorted(episodes_in(out)) == sorted(done)
    near = dataclasses.replace(job, out=tmp_path / "near")
    for one, other in zip(sorted(done), sorted(collect(near, 5, 1)), strict=True):
        assert np.array_equal(load_recording(one).frames, load_recording(other).frames)
    assert list(collect(job, 5, 2, ray="local")) == sorted(done)  # nothing is left to do


def test_an_address_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from wm_env.distributed.cluster import enter

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at .*ray start --head"):
        enter(f"127.0.0.1:{port}", 1)
    with pytest.raises(ValueError, match="must be 'auto', 'host:port'"):
        enter("somewhere", 1)
