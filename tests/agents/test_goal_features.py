"""What the small policy sees: the goal's colour, where it is; and which starts it is trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_env.agents.episode_starts import evaluation_seeds, fits, training_scenes
from wm_env.agents.goal_features import BRIGHT_GRID, MATCH_GRID, GoalFeatures, color_match
from wm_env.agents.key_combinations import RandomTurns, held_table
from wm_env.core import task_context
from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.model.scenes.materials import BEACON_COLORS
from wm_env.sb3 import SanaWMVecEnv
from wm_env.tasks.navigation import beacon_in_view

COLORS = torch.tensor(list(BEACON_COLORS.values()))


def test_a_glowing_colour_matches_itself_and_no_other_beacon_nor_dark_or_grey_things() -> None:
    def matches(pictures: torch.Tensor) -> torch.Tensor:
        """How much each of `pictures` (n, 3), pixels, looks like each beacon, (n, 6)."""
        shown = pictures[:, :, None, None]  # (n, 3, 1, 1)
        return torch.stack([color_match(shown, c.expand(len(shown), 3))[:, 0, 0] for c in COLORS], 1)

    for scale in (0.8, 1.0):
        found = matches(scale * COLORS)
        assert (found.diagonal() > 0.8).all() and not (found - found.diagonal().diag()).any()
    assert not matches(0.3 * COLORS).any()  # a dark thing of the same hue
    assert not matches(torch.full((1, 3), 0.7)).any()


def test_sight_says_in_which_column_the_goals_colour_is() -> None:
    box = spaces.Dict({"image": spaces.Box(0, 255, (3, 48, 64), np.uint8), "goal": spaces.Box(0, 1, (6,))})
    sight = GoalFeatures(box)
    picture = torch.zeros(2, 3, 48, 64)
    picture[0, :, 20:24, 40:44] = COLORS[2][:, None, None]  # row 1 of 3, column 10 of 16
    picture[1, :, 20:24, 40:44] = COLORS[3][:, None, None]
    seen = sight({"image": picture, "goal": torch.eye(6)[[2, 2]]})
    where = seen[:, : math.prod(MATCH_GRID)].unflatten(1, MATCH_GRID)
    assert seen.shape == (2, math.prod(MATCH_GRID) + math.prod(BRIGHT_GRID)) == (2, sight.features_dim)
    assert where[0].argmax() == 1 * 16 + 10 and (where[0] > 0).sum() == 1
    assert not where[1].any()  # another beacon's colour
    assert not sight({"image": torch.zeros(1, 3, 48, 64), "goal": torch.eye(6)[:1]}).any()  # blind
    grey = torch.zeros(1, 3, 48, 64)
    grey[0, :, 16:32, 16:32] = 0.5  # row 1 of 3, column 1 of 4, and no hue
    (bright,) = sight({"image": grey, "goal": torch.eye(6)[:1]})[:, math.prod(MATCH_GRID) :]
    assert bright.tolist() == pytest.approx([0.5 * (cell == 1 * 4 + 1) for cell in range(12)])
    with pytest.raises(ValueError, match="objectnav"):
        GoalFeatures(spaces.Dict({"image": box["image"]}))


def beacon_seen(env: SanaWMEnv) -> bool:
    return bool(beacon_in_view(task_context(env.config.rules(env.world), env.state)))


def test_starts_are_what_their_rule_says() -> None:
    seeds = training_scenes("in-view", 4, "train")
    assert training_scenes("any", 4, "train") is None and seeds is not None
    env = SanaWMEnv(world="twin", task="objectnav", split="train", scene=seeds[0])
    for seed in seeds:
        _, info = env.reset(seed=0, options={"scene": seed})
        assert beacon_seen(env) and fits(seed, "train", "near")
        assert info["distance_to_goal"] <= 30 * 0.25 + 1 and int(env.state.scene.counts[0, 0]) <= 2
    (seed,) = evaluation_seeds("in-view", 1, "val")
    env = SanaWMEnv(world="twin", task="objectnav")
    env.reset(seed=seed)
    assert beacon_seen(env)
    assert evaluation_seeds("any", 2, "val") == [1_000_000, 1_000_001]


def test_near_starts_are_30_steps_from_their_beacon_by_turning_and_walking() -> None:
    env = SanaWMEnv(world="twin", task="objectnav", split="train")
    kinds = set()
    for seed in range(36, 48):
        _, info = env.reset(seed=0, options={"scene": seed})
        state = env.state
        ahead = state.start_c2w[0, :3, :3].T @ (state.scene.beacon[0].double() - state.start_c2w[0, :3, 3])
        bearing = abs(math.degrees(math.atan2(float(ahead[0]), float(ahead[2]))))
        steps = bearing / 14.4 + max(0.0, info["distance_to_goal"] - 1) / 0.25
        small = int(state.scene.counts[0, 0]) <= 2
        if abs(steps - 30) > 1:  # the walking distances of rule and task are of two grids
            assert fits(seed, "train", "near") == (small and steps <= 30), seed
            kinds.add((small, steps <= 30))
    assert {(True, True), (True, False)} <= kinds


def test_a_lead_in_turns_to_one_side_and_then_lets_go() -> None:
    envs = RandomTurns(
        SanaWMVecEnv(4, world="twin", max_episode_steps=5, action_type="multikeys"), most=3, seed=0
    )
    envs.seed(0)
    envs.reset()
    forward = np.tile(np.eye(8, dtype=np.int8)[0], (4, 1))
    turned, moved = [], []
    for step in range(9):
        _, _, dones, infos = envs.step(forward)
        yaw = [math.degrees(math.atan2(info["c2w"][0, 2], info["c2w"][2, 2])) for info in infos]
        turned.append(np.round(np.array(yaw) / 14.4, 1))
        moved.append([np.linalg.norm(info["c2w"][:3, 3]) > 0 for info in infos])
        assert dones.all() == (step == 4)
    for slot in range(4):
        for first, last in ((0, 4), (5, 8)):
            walks = [moved[step][slot] for step in range(first, last + 1)]
            away = abs(turned[last][slot])
            assert walks == sorted(walks) and away <= 4 and abs(away - walks.index(True)) < 1
    assert len({abs(round(float(value))) for value in turned[4]}) > 1  # not every episode the same
    assert {float(np.sign(value)) for value in (*turned[4], *turned[8])} >= {-1.0, 1.0}  # to both sides


def test_moves_are_rows_of_held_keys() -> None:
    assert held_table("w,a,wd,").tolist() == [[key in move for key in KEYS] for move in ("w", "a", "wd", "")]
    for bad in ("w", "w,w", "w,x", "ww,a"):
        with pytest.raises(ValueError, match="key combinations"):
            held_table(bad)
