"""Navigation: reward, success, goals and SPL by their formulas."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from wm_env.agents.scripted import go_to_goal
from wm_env.core import task_context
from wm_env.env import SanaWMEnv
from wm_env.model.contact import Surfaces
from wm_env.model.kinematics import KEYS
from wm_env.model.scenes.layouts import HEAD_RADIUS
from wm_env.model.scenes.materials import BEACON_COLORS
from wm_env.model.scenes.raycast import cast, render
from wm_env.tasks import PointNav, TaskContext
from wm_env.tasks.navigation import ImageNav, ObjectNav, ObjectNavState, beacon_in_view
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


@pytest.mark.slow
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


def test_spl_counts_every_metre_walked_detours_included() -> None:
    env = SanaWMEnv(world="twin", task="pointnav", action_type="multikeys")
    _, info = env.reset(seed=0)
    shortest, walked, place = info["distance_to_goal"], 0.0, np.zeros((1, 3))
    detour = [np.array([key == held for key in KEYS], np.int8) for held in "swjjll"]
    for _ in range(120):
        held = [key in go_to_goal(env.state) for key in KEYS]
        _, _, terminated, _, info = env.step(detour.pop(0) if detour else np.array(held, np.int8))
        path = np.concatenate([place, info["c2w_frames"][:, :3, 3]])
        walked += np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
        place = path[-1:]
        if terminated:
            break
    assert info["is_success"] and info["spl"] == pytest.approx(shortest / walked) and info["spl"] < 0.9


def test_goals_are_as_far_away_as_the_task_says() -> None:
    env = SanaWMEnv(world="twin", task=dataclasses.replace(PointNav(), near=2.0, far=3.0))
    distances = [env.reset(seed=seed)[1]["distance_to_goal"] for seed in range(12)]
    assert all(2.0 - 0.15 <= distance <= 3.0 + 0.15 for distance in distances)  # a cell's diagonal


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


def seen_by(env: SanaWMEnv) -> TaskContext:
    """Return what a task of this environment may look at now."""
    return task_context(env.config.rules(env.world), env.state)


def turned(here: TaskContext, degrees: float) -> TaskContext:
    """Return the same place with the newest pose turned to the right."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]], dtype=torch.float64)
    return here._replace(c2w=here.c2w @ turn)


def test_objectnav_wants_the_beacon_in_view_and_not_only_near() -> None:
    env = SanaWMEnv(world="twin", task="objectnav", action_type="multikeys")
    env.reset(seed=0)
    walk_to_goal(env)
    assert isinstance(env.state.task, ObjectNavState) and bool(env.state.task.route.success)
    here, away = seen_by(env), turned(seen_by(env), 180)
    assert bool(beacon_in_view(here)) and not bool(beacon_in_view(away))
    for place, success in ((here, True), (away, False)):
        after, outcome = ObjectNav().step(env.state.task, place)
        assert bool(after.route.success) == bool(outcome.terminated) == success


def test_a_beacon_is_in_view_where_its_centre_is_in_the_picture_and_nothing_stands_before_it() -> None:
    env = SanaWMEnv(world="twin", task="objectnav")
    outcomes = []
    for seed in range(12):
        env.reset(seed=seed)
        for degrees in (0, 60, 120, 180, 240, 300):
            here = turned(seen_by(env), degrees)
            pose, beacon = here.absolute()[:, -1], here.scene.beacon.double()
            local = pose[0, :3, :3].T @ (beacon[0] - pose[0, :3, 3])
            fx, fy, cx, cy = here.intrinsics[0].tolist()
            x, y, z = local.tolist()
            shown = z > 0 and 0 <= fx * x / z + cx <= 64 and 0 <= fy * y / z + cy <= 64
            far = local.norm()
            ray = (beacon - pose[:, :3, 3]) / far
            reach = float(cast(here.scene, pose[:, None, :3, 3], ray[:, None])[0, 0])
            free = reach >= float(far) - HEAD_RADIUS - 0.02
            assert bool(beacon_in_view(here)) == (shown and free)
            outcomes.append((shown, free))
    assert {(True, True), (True, False), (False, True)} <= set(outcomes)


@pytest.mark.slow
def test_objectnav_names_the_colour_that_the_beacon_has_in_the_picture() -> None:
    env = SanaWMEnv(world="twin", task="objectnav", action_type="multikeys")
    palette = np.array(list(BEACON_COLORS.values()))
    named = set()
    for seed in range(4):
        seen, _ = env.reset(seed=seed)
        walk_to_goal(env)
        pose, beacon = seen_by(env).absolute()[0, -1], env.state.scene.beacon[0].double()
        x, y, z = (pose[:3, :3].T @ (beacon - pose[:3, 3])).tolist()
        fx, fy, cx, cy = env.state.intrinsics[0].tolist()
        pixel = env.state.frames[0, -1, min(63, int(fy * y / z + cy)), min(63, int(fx * x / z + cx))].numpy()
        hue, hues = pixel - pixel.min(), palette - palette.min(1, keepdims=True)
        nearest = int((hues @ hue / np.linalg.norm(hues, axis=1)).argmax())
        assert seen["goal"].tolist() == np.eye(len(palette))[nearest].tolist()
        named.add(nearest)
    assert len(named) > 1


@pytest.mark.slow
def test_imagenav_shows_the_goal_picture_and_the_expert_ends_where_it_was_taken() -> None:
    env = SanaWMEnv(world="twin", task="imagenav", action_type="multikeys")
    at_start, at_end = 0.0, 0.0
    for seed in range(2):
        seen, _ = env.reset(seed=seed)
        assert seen["goal"].shape == (64, 64, 3) and seen["goal"].dtype == np.uint8
        last = walk_to_goal(env)
        assert last[-1][1] and last[-1][2]["is_success"]
        at_start += np.abs(seen["image"].astype(int) - seen["goal"]).mean()
        at_end += np.abs(env.state.frames[0, -1].numpy().astype(int) - seen["goal"]).mean()
    assert at_end < at_start


def test_imagenav_wants_the_place_and_the_heading_of_its_picture() -> None:
    env = SanaWMEnv(world="twin", task="imagenav")
    seen, _ = env.reset(seed=1)
    here, task = seen_by(env), env.state.task
    goal = torch.eye(4, dtype=torch.float64)
    goal[:3, :3], goal[:3, 3] = task.rotation[0], task.route.goal[0]
    picture, _ = render(here.scene, goal[None, None], here.intrinsics, 64, 64)
    assert np.array_equal(picture[0, 0].numpy(), seen["goal"])
    there = here._replace(c2w=(torch.linalg.inv(here.start_c2w) @ goal)[:, None].expand_as(here.c2w))
    aside = torch.eye(4, dtype=torch.float64)
    for degrees, metres, success in (
        (0, 0, True),
        (19, 0.29, True),
        (21, 0, False),
        (-21, 0, False),
        (0, 0.31, False),
    ):
        aside[0, 3] = metres
        place = turned(there._replace(c2w=there.c2w @ aside), degrees)
        assert bool(ImageNav().step(task, place)[0].route.success) == success, (degrees, metres)


def test_goals_on_a_users_picture_lie_on_ground_that_its_depth_shows(pure_world: str) -> None:
    """An eighth of the turn either way is in the picture; without depth a goal is anywhere around."""

    ahead = np.full((64, 64, 3), 90, np.uint8)
    env = SanaWMEnv(world=pure_world, task=PointNav(near=1.0, far=2.0), image=ahead)
    rows = ((torch.arange(64) + 0.5 - 32) / 32).abs()
    hall = (1.4 / rows.clamp_min(1e-3)).clamp_max(3.0)[:, None].repeat(1, 64)
    env.reset(seed=0)
    context = seen_by(env)
    still = torch.eye(4, dtype=torch.float64).expand(1, 1, 4, 4)
    for metres, bound in ((hall, 2.0), (hall.clamp_max(1.2), 0.8)):
        known = context._replace(surfaces=Surfaces(metres[None, None], still, torch.ones(1, 1).bool()))
        goals = torch.cat([env.config.task.begin(known, [seed]).goal for seed in range(40)])
        assert float(goals[:, 2].max()) <= bound + 0.01 and float(goals.norm(dim=-1).min()) > 0.99
        assert float(goals.norm(dim=-1).max()) <= 2.0
        assert bool((goals[:, 0].abs() <= goals[:, 2] * 1.15 + 0.05).all())
        assert torch.equal(env.config.task.begin(known, [7]).goal, goals[7:8])
    anywhere = torch.cat([env.config.task.begin(context, [seed]).goal for seed in range(40)])
    assert float(anywhere[:, 2].min()) < -1.0
    before_a_wall = context._replace(
        surfaces=Surfaces(hall[None, None].clamp_max(0.4), still, torch.ones(1, 1).bool())
    )
    assert torch.equal(env.config.task.begin(before_a_wall, [3]).goal[0], anywhere[3])


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
