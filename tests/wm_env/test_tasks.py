"""Tasks: reward, success and goals by their formulas, and the same on every world."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from wm_env.agents.scripted import go_to_goal
from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.tasks import TASKS, Explore, Follow, PointNav, make_task
from wm_env.tasks.navigation import ObjectNavState, beacon_in_view
from wm_env.tasks.route import route_facts, walking_distance

NAVIGATION = ("pointnav", "objectnav", "imagenav")


def walk_to_goal(env: SanaWMEnv, limit: int = 120) -> list[tuple[float, bool, dict[str, Any]]]:
    """Let the expert play; return reward, terminated and info of every step."""
    steps = []
    for _ in range(limit):
        keys = go_to_goal(env.state)
        _, reward, terminated, _, info = env.step(np.array([key in keys for key in KEYS], np.int8))
        steps.append((reward, terminated, info))
        if terminated:
            break
    return steps


@pytest.mark.parametrize("task", TASKS)
def test_every_task_id_is_clean_to_gymnasiums_checker(task: str) -> None:
    name = {"pointnav": "PointNav", "objectnav": "ObjectNav", "imagenav": "ImageNav"}.get(task, task.title())
    env = gym.make(f"SanaWM-{name}-v0", world="twin")
    assert env.unwrapped.config.task == task
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("task", NAVIGATION)
def test_the_expert_reaches_the_goals_so_they_are_solvable(task: str) -> None:
    env = SanaWMEnv(world="twin", task=task, action_type="multikeys")
    outcomes = []
    for seed in range(12):
        _, info = env.reset(seed=1000 + seed)
        assert math.isfinite(info["distance_to_goal"])
        last = walk_to_goal(env)[-1][2]
        outcomes.append(last["is_success"])
        assert (0 < last["spl"] <= 1) == last["is_success"]
    assert sum(outcomes) >= 11


def test_pointnav_pays_progress_in_metres_and_ten_on_success() -> None:
    env = SanaWMEnv(world="twin", task="pointnav", action_type="multikeys")
    _, info = env.reset(seed=0)
    distance = info["distance_to_goal"]
    for reward, terminated, info in walk_to_goal(env):
        expected = distance - info["distance_to_goal"] - 0.01 + (10.0 if terminated else 0.0)
        assert reward == pytest.approx(expected)
        distance = info["distance_to_goal"]
    assert terminated and info["is_success"] and distance <= 0.3 + 0.1


def test_pointnav_shows_range_and_bearing() -> None:
    env = SanaWMEnv(world="twin", task="pointnav", collision="ignore")
    seen, _ = env.reset(seed=0)
    reach, bearing = seen["goal"]
    goal = env.state.task.goal[0] - env.state.start_c2w[0, :3, 3]
    local = (env.state.start_c2w[0, :3, :3].T @ goal).numpy()
    assert reach == pytest.approx(math.hypot(local[0], local[2]), abs=1e-5)
    assert bearing == pytest.approx(math.atan2(local[0], local[2]), abs=1e-5)
    turned = env.step(4)[0]["goal"][1]  # yaw right by 14.4 degrees
    difference = (turned - bearing + math.pi) % (2 * math.pi) - math.pi
    assert difference == pytest.approx(-math.radians(14.4), abs=1e-4)


def test_spl_is_the_shortest_way_over_the_walked_one() -> None:
    env = SanaWMEnv(world="twin", task="pointnav")
    env.reset(seed=0)
    route = env.state.task._replace(success=torch.tensor([True]))
    longer = route._replace(walked=2 * route.shortest)
    assert float(route_facts(longer)["spl"]) == pytest.approx(0.5)
    assert float(route_facts(route)["spl"]) == pytest.approx(1.0)
    assert float(route_facts(longer._replace(success=torch.tensor([False])))["spl"]) == 0.0


def test_walking_distances_bend_around_walls_and_never_undercut_the_straight_line() -> None:
    env = SanaWMEnv(world="twin", task="pointnav")
    longer = 0
    for seed in range(20):
        env.reset(seed=seed)
        route = env.state.task
        straight = (route.goal - route.position)[:, [0, 2]].norm(dim=-1)
        assert float(route.shortest) >= float(straight) - 1e-6
        longer += float(route.shortest) > 1.1 * float(straight)
        assert float(walking_distance(route, route.goal)) == pytest.approx(0.0, abs=1e-6)
    assert longer >= 2


def test_objectnav_wants_the_beacon_in_view_and_not_only_near() -> None:
    env = SanaWMEnv(world="twin", task="objectnav", action_type="multikeys")
    env.reset(seed=0)
    walk_to_goal(env)
    assert isinstance(env.state.task, ObjectNavState) and bool(env.state.task.route.success)
    from wm_env.core import situation

    here = situation(env.config.rules(env.world), env.state)
    assert bool(beacon_in_view(here))
    flip = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    assert not bool(beacon_in_view(here._replace(c2w=here.c2w @ flip)))  # looking the other way


def test_imagenav_shows_the_goal_picture_and_wants_its_heading() -> None:
    env = SanaWMEnv(world="twin", task="imagenav", action_type="multikeys")
    at_start, at_end = 0.0, 0.0
    for seed in range(4):
        seen, _ = env.reset(seed=seed)
        assert seen["goal"].shape == (64, 64, 3) and seen["goal"].dtype == np.uint8
        last = walk_to_goal(env)
        assert last[-1][1] and last[-1][2]["is_success"]
        at_start += np.abs(seen["image"].astype(int) - seen["goal"]).mean()
        at_end += np.abs(env.state.frames[0, -1].numpy().astype(int) - seen["goal"]).mean()
    assert at_end < at_start


def test_explore_pays_newly_seen_floor_once() -> None:
    env = SanaWMEnv(world="twin")
    env.reset(seed=0)
    turn = [env.step(4)[1] for _ in range(25)]
    again = [env.step(4)[1] for _ in range(25)]
    assert sum(turn) > 1.0 and sum(again) < 0.1 * sum(turn)
    assert all(reward / 0.0625 == round(reward / 0.0625) for reward in turn)


def test_explore_without_a_scene_pays_visited_cells(pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, image=np.zeros((64, 64, 3), np.uint8))
    _, info = env.reset(seed=0)
    assert "collision" not in info
    rewards = [env.step(1)[1] for _ in range(8)]  # 2 m forward, cells of 0.5 m
    assert sum(rewards) in (3.0, 4.0) and set(rewards) <= {0.0, 1.0}


def test_following_the_reference_exactly_costs_nothing_and_succeeds() -> None:
    env = SanaWMEnv(world="twin", task=Follow(steps=12), action_type="camera_sequence", collision="ignore")
    env.reset(seed=0)
    rewards = []
    for _ in range(12):
        state = env.state
        wanted = state.task.path[0, int(state.task.step) + 1]
        motion = torch.linalg.inv(state.c2w[0, -1]) @ wanted
        reached = _steps_towards(motion, env)
        _, reward, terminated, _, info = env.step(reached)
        rewards.append(reward)
    assert terminated and info["is_success"] and info["spl"] == 1.0
    assert max(rewards) <= 0 and min(rewards) > -0.05


def _steps_towards(motion: torch.Tensor, env: SanaWMEnv) -> np.ndarray:
    """Return the action that goes along the line and turn of `motion` within one step, as far as it may."""
    yaw = math.atan2(float(motion[0, 2]), float(motion[2, 2])) / 4
    rows = np.zeros((4, 6), np.float32)
    rows[:, 4] = math.degrees(yaw) / env.world.spec.max_rotation_deg
    x, z = float(motion[0, 3]), float(motion[2, 3])
    for row in range(4):  # shares of the straight line, in the axes the camera then has
        c, s = math.cos(yaw * row), math.sin(yaw * row)
        rows[row, 0] = (c * x - s * z) / 4 / env.world.spec.max_translation
        rows[row, 2] = (s * x + c * z) / 4 / env.world.spec.max_translation
    return rows.clip(-1, 1)


def test_standing_still_on_a_path_is_paid_by_the_distance_and_angle_to_it() -> None:
    env = SanaWMEnv(world="twin", task=Follow(steps=5))
    env.reset(seed=0)
    for step in range(1, 6):
        _, reward, terminated, _, _ = env.step(0)
        wanted = env.state.task.path[0, step]
        angle = math.degrees(math.acos(max(-1.0, min(1.0, (float(torch.trace(wanted[:3, :3])) - 1) / 2))))
        assert reward == pytest.approx(-(float(wanted[:3, 3].norm()) + angle / 30), abs=1e-4)
    assert terminated


@pytest.mark.parametrize("task", TASKS)
def test_goals_and_rewards_are_the_same_on_a_learned_world(task: str, pure_world: str) -> None:
    def play(world: str) -> list[Any]:
        env = SanaWMEnv(world=world, task=task)
        env.reset(seed=7)
        steps = [env.step(action) for action in (1, 1, 4, 1, 3)]
        return [(reward, ended, info["distance_to_goal"], info["spl"]) for _, reward, ended, _, info in steps]

    assert play("twin") == play(pure_world)


@pytest.mark.parametrize("task", TASKS)
def test_a_batched_slot_is_rewarded_as_it_is_alone(task: str) -> None:
    envs = gym.make_vec("SanaWM-v0", num_envs=2, world="twin", task=task)
    envs.reset(seed=20)
    solo = SanaWMEnv(world="twin", task=task)
    for slot in range(2):
        solo.reset(seed=20 + slot)
        rewards = [solo.step(action)[1] for action in (1, 4, 1)]
        envs.reset(seed=20)
        batched = [envs.step(np.array([action, action]))[1][slot] for action in (1, 4, 1)]
        assert batched == pytest.approx(rewards, abs=1e-9)


@pytest.mark.parametrize("task", ["objectnav", "imagenav"])
def test_tasks_that_need_a_scene_say_so_for_a_users_image(task: str, pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, task=task, image=np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=f"task '{task}' needs a scene"):
        env.reset(seed=0)


def test_pointnav_from_a_users_image_pays_the_way_in_a_straight_line(pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, task="pointnav", image=np.zeros((64, 64, 3), np.uint8))
    env.reset(seed=0)
    goal, before = env.state.task.goal[0, [0, 2]].numpy(), np.zeros(2)
    for action in (1, 1, 4, 2):
        _, reward, terminated, _, info = env.step(action)
        after = info["c2w"][[0, 2], 3]
        progress = np.linalg.norm(goal - before) - np.linalg.norm(goal - after)
        assert reward == pytest.approx(progress - 0.01) and abs(progress) >= 0.02 * (action != 4)
        assert not terminated
        before = after


def test_follow_from_a_users_image_pays_the_error_to_its_path(pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, task="follow", image=np.zeros((64, 64, 3), np.uint8))
    env.reset(seed=0)
    for step in (1, 2, 3):
        _, reward, _, _, info = env.step(2)  # backwards, which no path goes
        wanted = env.state.task.path[0, step].numpy()
        turn = (np.trace(info["c2w"][:3, :3].T @ wanted[:3, :3]) - 1) / 2
        away, angle = (
            np.linalg.norm(info["c2w"][:3, 3] - wanted[:3, 3]),
            math.degrees(math.acos(min(1, turn))),
        )
        assert reward == pytest.approx(-(away + angle / 30), abs=1e-4) and reward < -0.2 * step


def test_the_same_seed_draws_the_same_goal_and_another_another() -> None:
    env = SanaWMEnv(world="twin", task="pointnav")

    def goal(seed: int) -> list[float]:
        env.reset(seed=seed, options={"scene": 5})
        return env.state.task.goal[0].tolist()

    assert goal(1) == goal(1) != goal(2)


def test_a_users_own_task_is_used_as_it_is(make_twin: Callable[..., Any]) -> None:
    class Calm(Explore):
        """Pay one for every step without a collision."""

        name = "calm"

        def step(self, state: Any, situation: Any) -> Any:
            after, verdict = super().step(state, situation)
            return after, verdict._replace(reward=(~situation.collided).double())

    env = make_twin(task=Calm())
    env.reset(seed=0)
    assert env.step(0)[1] == 1.0
    near = dataclasses.replace(PointNav(), near=0.5, far=1.0)
    env = make_twin(task=near)
    _, info = env.reset(seed=0)
    assert info["distance_to_goal"] < 1.5


def test_an_unknown_task_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="explore, pointnav, objectnav, imagenav, follow"):
        make_task("dance")
