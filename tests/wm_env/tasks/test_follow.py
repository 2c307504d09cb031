"""Follow: the reference path, what is shown of it and what leaving it costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wm_env.env import SanaWMEnv
from wm_env.model.scenes.free_space import is_free
from wm_env.tasks import Follow


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
        _, reward, terminated, _, info = env.step(0)
        wanted = env.state.task.path[0, step]
        angle = math.degrees(math.acos(max(-1.0, min(1.0, (float(torch.trace(wanted[:3, :3])) - 1) / 2))))
        assert reward == pytest.approx(-(float(wanted[:3, 3].norm()) + angle / 30), abs=1e-4)
    assert terminated and not info["is_success"] and info["spl"] == 0.0


def test_follow_shows_the_next_pose_of_its_path_from_the_camera() -> None:
    env = SanaWMEnv(world="twin", task=Follow(steps=12))
    seen, info = env.reset(seed=1)
    for step in range(1, 8):
        ahead = np.linalg.inv(info["c2w"]) @ env.state.task.path[0, step].numpy()
        told = np.concatenate([ahead[:3, 3], ahead[:3, 2], ahead[:3, 0]])  # translation, forward, right
        assert seen["goal"] == pytest.approx(told, abs=1e-6)
        seen, *_, info = env.step(4 if step % 2 else 1)


def test_reference_paths_slide_along_walls_and_never_go_through_them() -> None:
    env = SanaWMEnv(world="twin", task="follow")
    slid = 0
    for seed in range(6):
        env.reset(seed=seed)
        path, state = env.state.task.path[0], env.state
        places = (state.start_c2w[0] @ path)[:, :3, 3]  # (N + 1, 3)
        assert bool(is_free(state.scene, places[None])[0].all())
        steps = (path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=-1)
        slid += int(((steps > 1e-6) & (steps < 0.24)).sum())  # shorter than a free step of 0.25 m
    assert slid > 0


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
