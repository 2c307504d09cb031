"""A task and a world of one's own: any tree of tensors is a state, the first slip is one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import wm_env
from wm_env.env import SanaWMEnv
from wm_env.model.state import cat, leaves, put, select, tree_map, unflatten
from wm_env.model.world import Chunk, WorldSpec
from wm_env.tasks.protocol import TaskOutcome, no_goal_facts
from wm_env.vector import SanaWMVectorEnv


@dataclasses.dataclass(frozen=True)
class Walked:
    steps: Tensor
    parts: Any


class Count:
    """A task that counts its steps, in every kind of node a state may have."""

    name, needs_scene = "count", False

    def spaces(self, frame_size: tuple[int, int]) -> dict[str, gym.Space[Any]]:
        return {"steps": gym.spaces.Box(0, 100, (1,), np.float32)}

    def begin(self, context: Any, seeds: Any) -> Any:
        zero = torch.zeros(len(seeds))
        return {"walked": Walked(zero, [zero, (zero, None)]), "bumped": None}

    def step(self, state: Any, context: Any) -> Any:
        more = tree_map(lambda leaf: leaf + 1, state)
        steps = more["walked"].steps
        return more, TaskOutcome(reward=steps.double(), terminated=steps >= 3)

    def observe(self, state: Any, context: Any) -> Any:
        return {"steps": state["walked"].steps[:, None].numpy().copy()}

    def facts(self, state: Any) -> Any:
        return {**no_goal_facts(len(state["walked"].steps)), "steps": state["walked"].parts[0]}


class Grey:
    """A world that brightens by one grey level a chunk."""

    spec = WorldSpec(
        name="grey", frames_per_step=2, frame_size=(8, 8), max_translation=0.1, max_rotation_deg=3.0,
        trained_steps=9, latent_shape=None,
    )  # fmt: skip

    def begin(self, starts: Any) -> Any:
        pictures = torch.from_numpy(np.stack([start.image for start in starts]))[:, None]
        return Chunk(pictures, None, None), {"level": [torch.zeros(len(starts), 1, dtype=torch.uint8)]}

    def step_chunk(self, state: Any, c2w: Tensor) -> Any:
        level = state["level"][0] + 1
        frames = level[:, :, None, None, None].expand(-1, 2, 8, 8, 3).contiguous()
        return Chunk(frames, None, None), {"level": [level]}

    def set_prompt(self, state: Any, prompts: Any) -> Any:
        return state

    def set_noise_seed(self, state: Any, noise_seeds: Any) -> Any:
        return state


def test_any_tree_of_tensors_is_kept_branched_saved_and_restored(tmp_path: Path) -> None:
    env = gym.make("SanaWM-v0", world=Grey(), task=Count())
    env.reset(seed=0)
    env.step(1)
    wm_env.snapshot(env).save(tmp_path / "moment.safetensors")
    seen, reward, *_ = env.step(1)
    moment = wm_env.load_snapshot(tmp_path / "moment.safetensors")
    wm_env.restore(env, moment)
    again, reward_again, *_ = env.step(1)
    assert np.array_equal(seen["image"], again["image"]) and seen["steps"] == again["steps"] == [2.0]
    assert reward == reward_again == 2.0
    wm_env.restore(env, moment)
    branches = wm_env.branch(env, 3)
    assert branches.step([1, 2, 3])[0]["steps"].tolist() == [[2.0]] * 3


def test_slots_of_any_tree_are_reset_one_by_one() -> None:
    envs = SanaWMVectorEnv(2, world=Grey(), task=Count(), autoreset_mode="disabled")
    envs.reset(seed=0)
    envs.step([1, 1])
    seen, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert seen["steps"].tolist() == [[0.0], [1.0]]
    assert envs.step([1, 1])[0]["steps"].tolist() == [[1.0], [2.0]]


def test_the_operations_on_states_know_every_node() -> None:
    tree = {"b": Walked(torch.arange(3), [torch.ones(3, 2), None]), "a": (torch.zeros(3),)}
    assert [name for name, _ in leaves(tree)] == ["a.0", "b.steps", "b.parts.0"]
    both = cat([tree, {"a": tree["a"], "b": tree["b"]}])  # the order of a dict does not matter
    assert both["b"].steps.tolist() == [0, 1, 2, 0, 1, 2] and both["b"].parts[1] is None
    assert list(select(tree, [2])) == ["b", "a"] and select(tree, [2])["b"].steps.tolist() == [2]
    assert put(tree, [0], select(tree, [2]))["b"].steps.tolist() == [2, 1, 2]
    again = unflatten(tree, dict(leaves(tree)))
    assert isinstance(again["b"], Walked) and isinstance(again["b"].parts, list)


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, r"one has \['a'\], another \['b'\]"),
        ([torch.ones(1)], (torch.ones(1),), "a list in one is a tuple in another"),
        ((torch.ones(1),), (torch.ones(1), torch.ones(1)), "states differ in structure"),
    ],
)
def test_states_of_other_structure_are_refused(one: Any, other: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cat([one, other])


def answers(cls: type, call: str, answer: Callable[..., Any]) -> Any:
    """Return an object of `cls` whose `call` answers what `answer(the right answer)` makes of it."""
    right = vars(cls)[call]

    def wrong(self: Any, *given: Any) -> Any:
        return answer(right(self, *given))

    return type(cls.__name__, (cls,), {call: wrong})()


def frames(change: Callable[[Tensor], Any]) -> Callable[[Any], Any]:
    return lambda answer: (answer[0]._replace(frames=change(answer[0].frames)), answer[1])


def outcome(**changed: Any) -> Callable[[Any], Any]:
    return lambda answer: (answer[0], answer[1]._replace(**changed))


WORLDS = {
    "begin": [
        (lambda answer: answer[0], r"begin returned a Chunk; expected the pair \(Chunk, state\)"),
        (frames(lambda x: x.float()), r"begin: frames is a tensor \(1, 1, 8, 8, 3\) float32; .* uint8"),
        (frames(lambda x: x[:, 0]), r"\(1, 8, 8, 3\) uint8; expected \(1, 1, 8, 8, 3\) uint8"),
        (frames(lambda x: x.numpy()), r"frames is a NumPy array .*; expected a tensor \(1, 1, 8, 8, 3\)"),
        (lambda answer: (answer[0], {"level": 3}), "the state cannot be kept: .*not int at 'level'"),
        (lambda answer: (answer[0], {"level": torch.zeros(2)}), r"level has shape \(2,\); .* batch, 1 here"),
        (lambda answer: (answer[0], {1: torch.zeros(1)}), "names without a dot as keys, not 1"),
    ],
    "step_chunk": [
        (
            frames(lambda x: x[:, :1]),
            r"step_chunk: frames is .*\(1, 1, 8, 8, 3\).*expected \(1, 2, 8, 8, 3\)",
        ),
        (frames(lambda x: x / 255), "float32; expected"),
        (
            lambda answer: (answer[0]._replace(latent=torch.zeros(1, 3)), answer[1]),
            "spec.latent_shape is None",
        ),
        (lambda answer: (answer[0], {}), r"the state: level.0 was \(1, 1\) uint8 and is absent"),
    ],
}
TASKS = {
    "spaces": [
        (lambda answer: [], "task count: spaces returned a list of 0; expected a dict"),
        (
            lambda answer: {"steps": 1},
            "task count: spaces returned a dict; expected a dict of Gymnasium spaces",
        ),
    ],
    "begin": [(lambda answer: {"steps": [0]}, "begin: the state cannot be kept: .*not int at 'steps.0'")],
    "observe": [
        (lambda answer: {}, r"observe returned the entries \[\]; spaces has \['steps'\]"),
        (
            lambda answer: {"steps": answer["steps"][:, 0]},
            r"'steps' is a NumPy array \(1,\) float32; .*\(1, 1\)",
        ),
        (lambda answer: {"steps": torch.zeros(1, 1)}, "is a tensor .*; expected a NumPy array"),
    ],
    "facts": [
        (lambda answer: {}, "distance_to_goal, is_success, spl missing; .*no_goal_facts"),
        (lambda answer: {**answer, "steps": 1.0}, r"'steps' is a float; expected a tensor \(1,\)"),
    ],
    "step": [
        (lambda answer: answer[1], "step returned a TaskOutcome; expected the pair"),
        (outcome(reward=1.0), r"step: the reward is a float; expected a tensor \(1,\) float32"),
        (outcome(terminated=torch.zeros(1)), r"terminated is a tensor \(1,\) float32; expected \(1,\) bool"),
        (lambda answer: ({**answer[0], "more": torch.ones(1)}, answer[1]), r"more was absent and is \(1,\)"),
    ],
}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        *(({"world": answers(Grey, call, a)}, says) for call, rows in WORLDS.items() for a, says in rows),
        *(({"task": answers(Count, call, a)}, says) for call, rows in TASKS.items() for a, says in rows),
        ({"world": Grey}, r"world=Grey is a class; give an object of it, as in world=Grey\(\)"),
        ({"task": Count}, r"task=Count is a class; give an object of it, as in task=Count\(\)"),
        (
            {"world": type("Half", (), {"spec": Grey.spec, "begin": None})()},
            "without set_noise_seed, set_prompt",
        ),
        (
            {"task": type("Half", (), {"name": "half", "spaces": None})()},
            "a Half without begin, facts, needs_",
        ),
        ({"world": 3}, "world is an int; expected a preset"),
        (
            {"world": type("Odd", (Grey,), {"spec": {}})()},
            r"world\.spec is a dict; expected a wm_env\.WorldSpec",
        ),
    ],
)
def test_the_first_slip_is_named_in_one_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says) as told:
        env = SanaWMEnv(**{"world": Grey(), "task": Count(), **settings})
        env.reset(seed=0)
        env.step(1)
    assert "\n" not in str(told.value)


def test_what_is_right_is_taken(memory_world: str) -> None:
    for settings in ({"world": memory_world}, {"world": "twin"}, {"world": Grey()}):
        env = SanaWMEnv(**{**settings, "task": Count()})
        env.reset(seed=0)
        assert [env.step(1)[2] for _ in range(3)] == [False, False, True]
